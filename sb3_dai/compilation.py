"""The whole update of the nets as one compiled function: losses, gradients, clipping, Adam and the targets."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th
from torch import nn
from torch.utils import _pytree as pytree

from sb3_dai.checks import check_losses
from sb3_dai.replay import TransitionBatch

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

SETTINGS = (
    "gamma", "tau", "max_grad_norm", "preference_weight", "epistemic_gamma", "bootstrap_entropy", "target_update_interval",
)  # fmt: skip
"""Constants of a compiled update: another value is another graph."""


NORMS = {th.ops.aten._foreach_norm.Scalar: lambda tensors: [tensor.square().sum().sqrt() for tensor in tensors]}
"""A call for each tensor's norm costs more than the arithmetic."""


class UpdateInputs(NamedTuple):
    """All that a gradient step reads beside the nets and what is set at the agent's construction."""

    batch: TransitionBatch
    log_preference: th.Tensor
    """log p~(o') of the n-step transitions, shape (batch, 1)"""
    log_habit_prior: th.Tensor | float
    """log E(a|s), shape (1, n_actions) or (batch, 1, n_actions), or 0"""
    head_weights: th.Tensor
    """Weights in G of the value net's heads, shape (n_heads,)"""
    target_entropy: th.Tensor
    """What an automatic precision aims at, shape ()"""
    averaging_rate: th.Tensor
    """Share of the newest policy net in the average of all, shape ()"""


class AdamState(NamedTuple):
    """What Adam keeps of a parameter."""

    step: th.Tensor
    """Number of steps, shape ()"""
    exp_avg: th.Tensor
    """Running mean of the gradient, of the parameter's shape"""
    exp_avg_sq: th.Tensor
    """Running mean of its square"""


@th.no_grad()
def adam_step(
    parameter: th.Tensor,
    gradient: th.Tensor,
    state: AdamState,
    learning_rate: th.Tensor | float,
    betas: tuple[float, float],
    eps: float,
    apply: th.Tensor,
) -> None:
    """
    Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), in place.

    :param parameter: any shape
    :param gradient: same shape
    :param state: of the parameter
    :param learning_rate: a number or shape ()
    :param betas: decays of the running means
    :param eps: added to the denominator
    :param apply: whether to do it, shape ()
    """
    step = state.step + 1.0
    mean = state.exp_avg.lerp(gradient, 1.0 - betas[0])
    square = state.exp_avg_sq * betas[1] + gradient.square() * (1.0 - betas[1])
    root = square.sqrt() / (1.0 - betas[1] ** step).sqrt() + eps
    moved = parameter - learning_rate / (1.0 - betas[0] ** step) * mean / root
    for old, new in zip((parameter, *state), (moved, step, mean, square), strict=True):
        old.copy_(th.where(apply, new, old))


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: any
    :return: whether ``adam_step`` is what it does
    """
    variants = ("weight_decay", "amsgrad", "maximize")
    return type(optimizer) is th.optim.Adam and not any(group[name] for group in optimizer.param_groups for name in variants)


class _Call(nn.Module):
    """A function of a policy as a module, so that torch can run it on other tensors than the policy's own."""

    def __init__(self, policy: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.policy = policy
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class CompiledUpdate:
    """
    One gradient step of an agent. Its Python runs once, on stand-ins, to record what it does to tensors; TorchInductor makes
    machine code of the record, or finds in its cache what it made before. If the optimizer is not a plain Adam, it and the
    targets stay outside.

    Where this fails one warning says why, and training goes on without.

    :param model: the agent
    """

    def __init__(self, model: "DAI") -> None:
        self.model = model
        self.graphs: dict[Any, Callable[..., Any]] = {}
        self.seen: set[Any] = set()
        self.adam_states: Any = None
        self.failed = False

    def __getstate__(self) -> dict[str, Any]:
        """A graph works on the tensors of this agent: a copy of the agent, pickled or deep, compiles its own."""
        return {"model": self.model, "graphs": {}, "seen": set(), "adam_states": None, "failed": self.failed}

    def __call__(self, given: UpdateInputs) -> tuple[tuple[str, ...], th.Tensor]:
        """
        As ``DAI._update``.

        :param given: all that the update reads beside the nets
        :return: names of what is logged, and the values, shape (len(names),)
        """
        if self.failed:
            return self.model._update(given)
        leaves, spec = pytree.tree_flatten(given)
        # A tensor in two places is one input
        inputs = list({id(leaf): leaf for leaf in leaves if isinstance(leaf, th.Tensor)}.values())
        place = {id(tensor): i for i, tensor in enumerate(inputs)}
        form = tuple((place[id(x)], x.shape, x.stride(), x.dtype) if isinstance(x, th.Tensor) else x for x in leaves)
        automatic = self.model.precision == "auto", self.model.epistemic_weight == "auto"
        key = (spec, form, automatic, *(getattr(self.model, name) for name in SETTINGS))
        # Adam makes the state of a parameter at its first step, and loading a model replaces all states
        if self.adam_states is not self.model.policy.optimizer.state:
            self.adam_states = self.model.policy.optimizer.state
            self.seen.clear()
        if key not in self.seen:
            self.seen.add(key)
            return self.model._update(given)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._compile(given, inputs)
            # Whatever keeps a compiler from its work: there is none, a net of the user's branches on values, torch is too old
            except Exception as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                warnings.warn(f"compile=True: training goes on without it, because of {type(error).__name__}: {reason}")
                self.failed = True
                return self.model._update(given)
        names, terms, gradients = self.graphs[key](inputs)
        check_losses(names, terms)
        if gradients:
            self.model._optimize(gradients, given.averaging_rate)
        return names, terms

    def _compile(self, given: UpdateInputs, inputs: list[th.Tensor]) -> Callable[..., Any]:
        """
        :param given: an example
        :param inputs: the tensors in it, each once
        :return: function of such tensors: names of the terms, the terms, and the gradients if the optimizer is outside
        """
        from torch._guards import TracingContext, tracing
        from torch._inductor.compile_fx import compile_fx
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        model, policy, optimizer = self.model, self.model.policy, self.model.policy.optimizer
        call = _Call(policy, model._gradients)
        nets_by_name = {**dict(call.named_parameters()), **dict(call.named_buffers())}
        name_of = {tensor.data_ptr(): name for name, tensor in nets_by_name.items()}
        learned = [name_of[parameter.data_ptr()] for parameter in model.learned_parameters]
        stats = model.batch_norm_stats, model.batch_norm_stats_target
        lerped, averaged, copied = (
            [(name_of[one.data_ptr()], name_of[other.data_ptr()]) for one, other in zip(*pair, strict=True)]
            for pair in (policy.target_pairs(), policy.average_pairs(), stats)
        )
        inside = is_plain_adam(optimizer)
        group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        place = {id(tensor): i for i, tensor in enumerate(inputs)}
        names: list[str] = []
        has_gradient: list[bool] = []

        def update(
            nets: list[th.Tensor], states: list[AdamState | None], rates: list[th.Tensor], tensors: list[th.Tensor]
        ) -> Any:
            net = dict(zip(nets_by_name, nets, strict=True))
            leaf = {name: net[name].detach().requires_grad_() for name in learned}
            args = pytree.tree_map(lambda x: tensors[place[id(x)]] if isinstance(x, th.Tensor) else x, given)
            logged, terms, gradients = th.func.functional_call(call, {**net, **leaf}, ([*leaf.values()], args))
            names[:] = logged
            has_gradient[:] = [gradient is not None for gradient in gradients]
            if not inside:
                return terms, *(gradient for gradient in gradients if gradient is not None)
            apply = th.isfinite(terms[0])
            for i, (name, gradient) in enumerate(zip(learned, gradients, strict=True)):
                state = states[i]
                if gradient is not None and state is not None:
                    number = group_of[id(model.learned_parameters[i])]
                    group = optimizer.param_groups[number]
                    adam_step(net[name], gradient, state, rates[number], group["betas"], group["eps"], apply)
            with th.no_grad():
                for online, average in averaged:
                    net[average].lerp_(net[online], args.averaging_rate * apply)
                if model.target_update_interval is None:
                    for online, target in lerped:
                        net[target].lerp_(net[online], model.tau * apply)
                    for online, target in copied:
                        net[target].copy_(th.where(apply, net[online], net[target]))
            return (terms,)

        def states_now() -> list[AdamState | None]:
            # What never had a gradient has no state
            found = [optimizer.state.get(parameter) if inside else None for parameter in model.learned_parameters]
            return [AdamState(s["step"], s["exp_avg"], s["exp_avg_sq"]) if s else None for s in found]

        def rates_now() -> list[th.Tensor]:
            return [th.tensor(group["lr"], device=model.device) for group in optimizer.param_groups]

        def flat_state() -> list[th.Tensor]:
            return [*nets_by_name.values(), *(tensor for state in states_now() if state is not None for tensor in state)]

        has_state = [state is not None for state in states_now()]
        n_rates, n_inputs = len(optimizer.param_groups), len(inputs)

        def flat_update(*flat: th.Tensor) -> Any:
            rest = iter(flat)
            nets = [next(rest) for _ in nets_by_name]
            states = [AdamState(next(rest), next(rest), next(rest)) if has else None for has in has_state]
            return update(nets, states, [next(rest) for _ in range(n_rates)], [next(rest) for _ in range(n_inputs)])

        flat = [tensor.detach() for tensor in (*flat_state(), *rates_now(), *inputs)]

        def compiled_with(options: dict[str, Any]) -> Callable[..., Any]:
            random_state = th.get_rng_state()
            with th.enable_grad():
                graph = make_fx(flat_update, NORMS, tracing_mode="fake")(*flat)
            th.set_rng_state(random_state)
            # Without an environment of shapes, even of constant ones, TorchInductor does not use its cache
            context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv())))
            # Random numbers are torch's own
            config = th._inductor.config.patch(fallback_random=True, size_asserts=False, **options)
            with th.no_grad(), context, config:
                return compile_fx(graph, flat)  # type: ignore[return-value]

        # On a CPU what calls the kernels is C++ as well. Before torch 2.11 that cannot be had of such a graph
        options = {"cpp_wrapper": True} if model.device.type == "cpu" else {}
        try:
            compiled = compiled_with(options)
        except Exception:
            if not options:
                raise
            compiled = compiled_with({})

        # Loading a model replaces the optimizer's state, and nothing else does
        known: list[Any] = [optimizer.state, flat_state()]

        def run(tensors: list[th.Tensor]) -> tuple[tuple[str, ...], th.Tensor, list[th.Tensor | None]]:
            if known[0] is not optimizer.state:
                known[:] = [optimizer.state, flat_state()]
            with th.no_grad():
                terms, *rest = compiled(*known[1], *rates_now(), *tensors)
            gradients = iter(rest)
            return tuple(names), terms, [next(gradients) if has else None for has in has_gradient] if rest else []

        return run
