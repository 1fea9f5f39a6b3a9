"""The whole update of the nets as one compiled function: losses, gradients, clipping, Adam and the targets."""

import operator
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th
from torch import nn
from torch.utils import _pytree as pytree

from sb3_dai.adam import AdamState, adam_step
from sb3_dai.checks import check_losses
from sb3_dai.native_products import compiler_options, native_products
from sb3_dai.packing import PackedNets
from sb3_dai.replay import TransitionBatch

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

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
    learns_transitions: bool
    """Whether the transition net learns, and the parts of the EFE of which it tells"""
    learns_policy: bool
    """Whether the policy net learns, and an automatic precision"""


class _Call(nn.Module):
    """A function of a policy as a module, so that torch can run it on other tensors than the policy's own."""

    def __init__(self, policy: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.policy = policy
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


constants_of = operator.attrgetter(
    *("gamma", "tau", "max_grad_norm", "preference_weight", "epistemic_gamma", "bootstrap_entropy", "target_update_interval"),
    "prediction_error_weight",
)
"""Constants of a compiled update: another value is another graph."""


def setting_of(model: "DAI") -> list[Any]:
    """
    :param model: the agent
    :return: what a graph takes for granted of its nets and its optimizer
    """
    policy, optimizer = model.policy, model.policy.optimizer
    rules = (value for group in optimizer.param_groups for name, value in group.items() if name not in ("params", "lr"))
    free = [parameter.requires_grad for parameter in model.learned_parameters]
    a_buffer = policy.features_norm.mean
    return [a_buffer.device, a_buffer.dtype, sum(map(bool, optimizer.state.values())), *rules, *free]


def leaves(value: Any, found: list[Any] | None = None) -> list[Any]:
    """
    As ``tree_leaves`` of torch, in a fifth of its time, which each gradient step takes.

    :param value: tuples and dictionaries of anything
    :param found: to add to
    :return: what they hold
    """
    found = [] if found is None else found
    if isinstance(value, tuple):
        for part in value:
            leaves(part, found)
    elif isinstance(value, dict):
        for part in value.values():
            leaves(part, found)
    else:
        found.append(value)
    return found


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
        self.ready: dict[Any, tuple[Callable[..., Any], PackedNets | None]] = {}
        self.seen: set[Any] = set()
        self.adam_states: Any = None
        self.settings: list[Any] = []
        self.setting = -1
        self.failed = False

    def __getstate__(self) -> dict[str, Any]:
        """A graph works on the tensors of this agent: a copy of the agent, pickled or deep, compiles its own."""
        copied = CompiledUpdate(self.model)
        copied.failed = self.failed
        return vars(copied)

    def __call__(self, given: UpdateInputs) -> tuple[tuple[str, ...], th.Tensor]:
        """
        As ``DAI._update``.

        :param given: all that the update reads beside the nets
        :return: names of what is logged, and the values, shape (len(names),)
        """
        if self.failed:
            return self.model._update(given)
        model, optimizer = self.model, self.model.policy.optimizer
        # Adam makes the state of a parameter at its first step, and loading a model replaces all states
        setting = setting_of(model)
        if self.adam_states is not optimizer.state or self.settings[self.setting] != setting:
            if setting not in self.settings:
                self.settings.append(setting)
            if self.adam_states is not optimizer.state:
                self.seen.clear()
            self.adam_states, self.setting = optimizer.state, self.settings.index(setting)
            self.ready.clear()
        # A tensor in two places is one input
        place: dict[int, int] = {}
        inputs: list[th.Tensor] = []
        form: list[Any] = []
        for leaf in leaves(given):
            if not isinstance(leaf, th.Tensor):
                form.append(leaf)
                continue
            if id(leaf) not in place:
                place[id(leaf)] = len(inputs)
                inputs.append(leaf)
                form += (leaf.shape, leaf.stride(), leaf.dtype)
            form.append(place[id(leaf)])
        key = (*form, model.precision == "auto", model.epistemic_weight == "auto", *constants_of(model))
        ready = self.ready.get(key) or self._prepare(key, given, inputs)
        if ready is None:
            return model._update(given)
        run, packed = ready
        names, terms, gradients = run(inputs, packed)
        check_losses(names, terms)
        if gradients:
            model._optimize(gradients, given.averaging_rate)
        return names, terms

    def _prepare(
        self, key: Any, given: UpdateInputs, inputs: list[th.Tensor]
    ) -> tuple[Callable[..., Any], PackedNets | None] | None:
        """
        :param key: of inputs of one form
        :param given: an example
        :param inputs: the tensors in it, each once
        :return: what ``_compile`` makes and what it works on; None for the first update of a form, or if there is no compiler
        """
        if key not in self.seen or not self.adam_states:
            self.seen.add(key)
            return None
        packed = self.model._packing.nets()
        kind = key, self.setting, packed is None
        if kind not in self.graphs:
            try:
                self.graphs[kind] = self._compile(given, inputs, packed)
            # Whatever keeps a compiler from its work: there is none, a net of the user's branches on values, torch is too old
            except Exception as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                warnings.warn(
                    f"compile=True: training goes on without it, because of {type(error).__name__}: {reason}. It needs a C++ "
                    "compiler and nets without branches on values; compile=False is without this warning."
                )
                self.failed = True
                return None
        self.ready[key] = self.graphs[kind], packed
        return self.ready[key]

    def _compile(self, given: UpdateInputs, inputs: list[th.Tensor], packed: PackedNets | None) -> Callable[..., Any]:
        """
        :param given: an example
        :param inputs: the tensors in it, each once
        :param packed: the nets, or None to leave the optimizer outside
        :return: function of such tensors and nets: names of the terms, the terms, and gradients if the optimizer is outside
        """
        from torch._guards import TracingContext, tracing
        from torch._inductor.compile_fx import compile_fx
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        model, policy, optimizer = self.model, self.model.policy, self.model.policy.optimizer
        call = _Call(policy, model._gradients)

        def named_tensors() -> dict[str, th.Tensor]:
            return {**dict(call.named_parameters()), **dict(call.named_buffers())}

        tensors_by_name = named_tensors()
        name_of = {tensor.data_ptr(): name for name, tensor in tensors_by_name.items()}
        learned = [name_of[parameter.data_ptr()] for parameter in model.learned_parameters]
        free = {name_of[parameter.data_ptr()]: parameter.requires_grad for parameter in model.learned_parameters}
        extractors = model.average_buffers, model.target_buffers
        names_of = ([[name_of[buffer.data_ptr()] for buffer in buffers] for buffers in pairs] for pairs in extractors)
        averaged, copied = (list(zip(*pairs, strict=True)) for pairs in names_of)
        packed_names = [[name_of[x.data_ptr()] for x in part.tensors] for part in packed.nets_and_copies] if packed else []
        loose = {name: x for name, x in tensors_by_name.items() if not any(name in names for names in packed_names)}
        n_moves = policy.n_moves
        # Of what dual descent learns, all that has learned
        dual = {name_of[p.data_ptr()]: p for p in policy.dual_parameters() if packed and optimizer.state.get(p)}
        group_of = {name_of[p.data_ptr()]: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        place = {id(tensor): i for i, tensor in enumerate(inputs)}
        names: list[str] = []
        has_gradient: list[bool] = []

        def state(packed: PackedNets | None) -> list[th.Tensor]:
            nonlocal loose, n_moves
            if n_moves != policy.n_moves:
                tensors_now, n_moves = named_tensors(), policy.n_moves
                loose = {name: tensors_now[name] for name in loose}
            rates = [group["lr"] for group in optimizer.param_groups]
            corrections = packed.corrections() if packed else []
            scalars = th.tensor(corrections + rates, device=model.device)
            of_dual = [optimizer.state[parameter][field] for parameter in dual.values() for field in AdamState._fields]
            return [scalars, *loose.values(), *of_dual, *(packed.tensors() if packed else [])]

        def update(*flat: th.Tensor) -> Any:
            rest = iter(flat)
            scalars = next(rest)
            tensor = {name: next(rest) for name in loose}
            dual_states = {name: AdamState(next(rest), next(rest), next(rest)) for name in dual}
            flat_of = {part: next(rest) for part in packed.parts} if packed else {}
            if packed:
                for part, its_names in zip(packed.nets_and_copies, packed_names, strict=True):
                    tensor.update(zip(its_names, part.views(flat_of[part]), strict=True))
            given_now = [next(rest) for _ in inputs]

            leaf = {name: tensor[name].detach().requires_grad_(free[name]) for name in learned}
            args = pytree.tree_map(lambda x: given_now[place[id(x)]] if isinstance(x, th.Tensor) else x, given)
            logged, terms, gradients = th.func.functional_call(call, {**tensor, **leaf}, ([*leaf.values()], args))
            names[:] = logged
            has_gradient[:] = [gradient is not None for gradient in gradients]
            if not packed:
                return terms, *(gradient for gradient in gradients if gradient is not None)

            gradients = model._clipped(gradients)
            apply = th.isfinite(terms[0])
            n_corrections = 2 * len(packed.learned)
            corrections, rates = scalars[:n_corrections].chunk(len(packed.learned)), scalars[n_corrections:]
            gradient_of: dict[str, Any] = dict(zip(learned, gradients, strict=True))
            constants = packed.betas, packed.eps, apply
            for name, its_state in dual_states.items():
                if gradient_of[name] is not None:
                    adam_step(tensor[name], gradient_of[name], its_state, rates[group_of[name]], *constants)
            for together, its_names, its_corrections in zip(packed.learned, packed_names, corrections, strict=False):
                if all(gradient_of[name] is None for name in its_names):  # Not in this gradient step
                    continue
                nets, *adam = (flat_of[part] for part in together)
                gradient = together.nets.flattened([gradient_of[name] for name in its_names])
                its_rates = [rates[group_of[name]] for name in its_names]
                rate = together.nets.expanded(its_rates) if len({group_of[name] for name in its_names}) > 1 else its_rates[0]
                adam_step(nets, gradient, AdamState(*adam), rate, *constants, its_corrections)
            with th.no_grad():
                online = th.cat([flat_of[together.nets] for together in packed.learned[:2]])
                flat_of[packed.average].lerp_(online[packed.first_averaged :], args.averaging_rate * apply)
                if model.target_update_interval is None:
                    flat_of[packed.target].lerp_(online, model.tau * apply)
                for buffer, its_copy in averaged + (copied if model.target_update_interval is None else []):
                    now = tensor[its_copy]
                    now.copy_(th.where(apply, tensor[buffer], now))
            return (terms,)

        flat = [tensor.detach() for tensor in (*state(packed), *inputs)]
        products = native_products() if model.device.type == "cpu" else {}

        def compiled_with(options: dict[str, Any]) -> Callable[..., Any]:
            with th.enable_grad():
                graph = make_fx(update, {**NORMS, **products}, tracing_mode="fake")(*flat)
            # Without an environment of shapes, even of constant ones, TorchInductor does not use its cache
            context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv())))
            # Random numbers are torch's own
            config = th._inductor.config.patch(fallback_random=True, size_asserts=False, **options)
            with th.no_grad(), context, config:
                return compile_fx(graph, flat)  # type: ignore[return-value]

        # On a CPU what calls the kernels is C++ as well. Before torch 2.11 that cannot be had of such a graph
        options = {"cpp_wrapper": True, **compiler_options()} if model.device.type == "cpu" else {}
        try:
            compiled = compiled_with(options)
        except Exception:
            if not options:
                raise
            compiled = compiled_with({})

        def run(
            tensors: list[th.Tensor], packed: PackedNets | None
        ) -> tuple[tuple[str, ...], th.Tensor, list[th.Tensor | None]]:
            with th.no_grad():
                terms, *rest = compiled(*state(packed), *tensors)
            gradients = iter(rest)
            return tuple(names), terms, [next(gradients) if has else None for has in has_gradient] if rest else []

        return run
