"""What native/update.h has to know of an agent, and where it finds it."""

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_dai import free_energy as fe
from sb3_dai.actions import GaussianActions
from sb3_dai.compilation import UpdateInputs
from sb3_dai.native_library import c_sizes, library
from sb3_dai.networks import BatchedLayerNorm, EnsembleMLP, RunningMean, RunningNorm
from sb3_dai.packing import LearnedTogether, PackedNets
from sb3_dai.perceptrons import EPS, c_layers, can_be_read, sizes_of
from sb3_dai.transitions import GaussianTransitions

if TYPE_CHECKING:
    from sb3_dai.dai import DAI
    from sb3_dai.policies import DAIPolicy

INT, FLOAT, DOUBLE, PLACE = ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_void_p


class Net(ctypes.Structure):
    """As in update.h, like the following."""

    _fields_ = (("n_members", INT), ("n_layers", INT), ("sizes", PLACE), ("layers", PLACE), ("gradients", PLACE))


class Norm(ctypes.Structure):
    _fields_ = (("mean", PLACE), ("var", PLACE), ("n_batches", PLACE), ("horizon", FLOAT), ("clip", FLOAT))


class Mean(ctypes.Structure):
    _fields_ = (("mean", PLACE), ("n_batches", PLACE), ("horizon", FLOAT))


class Adam(ctypes.Structure):
    _fields_ = (
        *((name, PLACE) for name in ("nets", "gradients", "mean", "square", "step")),
        *((name, INT) for name in ("size", "n_steps")),
    )


def named(kind: Any, names: str) -> list[tuple[str, Any]]:
    """
    :param kind: type of fields
    :param names: theirs, with spaces between them
    :return: the fields
    """
    return [(name, kind) for name in names.split()]


NAMES = (
    *("loss", "transition_loss", "value_loss", "policy_loss", "precision_loss", "precision", "epistemic_weight"),
    *("vfe", "prediction_error", "information_gain", "extrinsic_value", "epistemic_value", "entropy"),
)
"""Of what is logged if all learns."""

OF_TRANSITIONS = {"transition_loss", "prediction_error", "information_gain", "epistemic_value"}

OF_POLICY = {"policy_loss", "precision_loss", "entropy"}


@functools.cache
def names_of(learns_transitions: bool, learns_policy: bool, learns_precision: bool) -> tuple[str, ...]:
    """
    :param learns_transitions: whether the transition net learns in a gradient step
    :param learns_policy: whether the policy does
    :param learns_precision: whether the precision is automatic
    :return: of what is logged, in its order
    """
    missing = set() if learns_transitions else OF_TRANSITIONS | {"vfe"}
    missing |= set() if learns_policy else OF_POLICY | {"vfe"}
    missing |= set() if learns_precision else {"precision_loss"}
    return tuple(name for name in NAMES if name not in missing)


class Update(ctypes.Structure):
    _fields_ = (
        *named(Net, "transition policy value value_target"),
        *named(Norm, "features_norm change_norm"),
        *named(Mean, "epistemic_mean gain_mean"),
        *named(PLACE, "gain_peak"),
        *named(Adam, "always policies transitions precision"),
        *named(PLACE, "target average"),
        *named(INT, "n_target n_average"),
        *named(INT, "batch n_features n_actions"),
        *named(INT, "normalizes precision_learns transitions_learn policy_learns nets_learn"),
        *named(FLOAT, "gamma epistemic_gamma tau max_norm preference_weight bootstrap_entropy"),
        *named(FLOAT, "pessimism surprise_sign resolution eps"),
        *named(DOUBLE, "beta1 beta2 adam_eps learning_rate"),
        *named(FLOAT, "averaging_rate target_entropy"),
        *named(PLACE, "head_weights log_prior"),
        *named(PLACE, "observations next_observations has_successor choices actions next_noise noise"),
        *named(PLACE, "ends last_observations last_ends discounts log_preference"),
        *((f"to_{name}", PLACE) for name in NAMES),
    )


TOLERANCE = 0.01
"""Share by which rounding may change a term or a gradient."""

STATISTICS = ("features_norm.", "transition_model.", "novelty_scale.", "mean_epistemic_efe.")
"""Parts of a policy whose buffers a gradient step reads and writes."""


def nets_of(policy: "DAIPolicy") -> list[EnsembleMLP]:
    """
    :param policy: an agent's
    :return: the nets that a gradient step evaluates
    """
    assert policy.transition_net is not None
    return [policy.transition_net, policy.policy_net, policy.value_net, policy.value_net_target]


def places_of(model: "DAI", packed: PackedNets) -> tuple[Any, ...]:
    """
    :param model: an agent
    :param packed: its nets
    :return: where all lies that a plan points at, and the numbers that it holds
    """
    policy = model.policy
    assert isinstance(policy.transition_model, GaussianTransitions)
    norms = policy.features_norm, policy.transition_model.change_norm
    means = policy.mean_epistemic_efe, policy.novelty_scale.running
    state = packed.optimizer.state.get(policy.log_precision, {})
    tensors = [*(part.flat for part in packed.parts), policy.log_precision, *state.values(), policy.novelty_scale.peak]
    tensors += [tensor for module in (*norms, *means) for tensor in module._buffers.values() if tensor is not None]
    constants = [(module.horizon, module.clip) for module in norms], [module.horizon for module in means], fe.RESOLUTION
    return *constants, *map(th.Tensor.data_ptr, tensors)


def can_be_planned(model: "DAI") -> bool:
    """
    :param model: an agent that update.h knows
    :return: whether its nets and statistics lie in memory as update.h reads them
    """
    policy = model.policy
    buffers = (buffer for name, buffer in policy.named_buffers() if name.startswith(STATISTICS))
    return all(net.learned() is not None for net in nets_of(policy)) and can_be_read([*buffers, policy.log_precision])


class Plan:
    """
    What update.h has to know of an agent, as long as its nets are packed as they are.

    :param model: the agent
    :param packed: its nets
    :param places: of ``places_of``
    """

    def __init__(self, model: "DAI", packed: PackedNets, places: tuple[Any, ...]) -> None:
        self.model, self.packed, self.places = model, packed, places
        self.n_weights = max(net.n_weights for net in nets_of(model.policy))
        policy = model.policy
        assert isinstance(policy.transition_model, GaussianTransitions) and policy.transition_net is not None
        parameters = [x for together in packed.learned for x in together.nets.tensors]
        self.gradient_of = dict(zip(map(id, parameters), packed.gradient_views, strict=True))
        self.alive: list[Any] = []
        name_of = {id(parameter): name for name, parameter in policy.named_parameters()}
        self.named_parameters = [(name_of[id(parameter)], parameter) for parameter in model.learned_parameters]
        always, policies, transitions = map(adam, packed.learned, packed.gradient_parts)
        change_norm, gain = policy.transition_model.change_norm, policy.novelty_scale
        self.update = Update(
            transition=self.net(policy.transition_net),
            policy=self.net(policy.policy_net),
            value=self.net(policy.value_net),
            value_target=self.net(policy.value_net_target),
            features_norm=norm(policy.features_norm),
            change_norm=norm(change_norm),
            epistemic_mean=mean(policy.mean_epistemic_efe),
            gain_mean=mean(gain.running),
            gain_peak=gain.peak.data_ptr(),
            always=always,
            policies=policies,
            transitions=transitions,
            precision=self.adam_of_precision(),
            target=packed.target.flat.data_ptr(),
            average=packed.average.flat.data_ptr(),
            n_target=len(packed.target.flat),
            n_average=len(packed.average.flat),
            n_features=policy.features_norm.mean.numel(),
            n_actions=policy.action_model.code_dim,
            resolution=fe.RESOLUTION,
            eps=EPS,
            beta1=packed.betas[0],
            beta2=packed.betas[1],
            adam_eps=packed.eps,
        )

    def net(self, net: EnsembleMLP) -> Net:
        """
        :param net: one of the agent's
        :return: as update.h reads it
        """
        parameters, normed = [*net.parameters()], BatchedLayerNorm in net.kinds
        sizes, layers = sizes_of(parameters, normed), c_layers(parameters, normed)
        gradients = [self.gradient_of[id(x)] for x in parameters if id(x) in self.gradient_of]
        of_layers = c_layers(gradients, normed) if gradients else None
        self.alive += [layers, of_layers]
        places = (None if part is None else ctypes.addressof(part) for part in (c_sizes(sizes), layers, of_layers))
        return Net(net.n_members, len(sizes) - 1, *places)

    def adam_of_precision(self) -> Adam:
        """
        :return: of an automatic precision, or the precision alone
        """
        policy = self.model.policy
        state = policy.optimizer.state.get(policy.log_precision)
        place = policy.log_precision.data_ptr()
        if not state:
            return Adam(nets=place)
        gradient = self.gradient_of[id(policy.log_precision)] = th.zeros(1)
        policy.log_precision.grad = gradient.detach()
        moments = (state[name].data_ptr() for name in ("exp_avg", "exp_avg_sq", "step"))
        return Adam(place, gradient.data_ptr(), *moments, 1, 1)

    def refresh(self) -> None:
        """What the agent is set to, which may change between ``train`` calls."""
        model, update = self.model, self.update
        update.normalizes, update.precision_learns = model.policy.normalize_features, model.precision == "auto"
        update.gamma, update.epistemic_gamma = model.gamma, model.epistemic_gamma
        update.tau = model.tau if model.target_update_interval is None else 0.0
        update.max_norm = float("inf") if model.max_grad_norm is None else model.max_grad_norm
        update.preference_weight, update.bootstrap_entropy = model.preference_weight, model.bootstrap_entropy
        update.pessimism = model.policy.pessimism.item()
        update.surprise_sign = 1.0 if model.prediction_error_weight >= 0.0 else -1.0
        update.learning_rate = self.packed.optimizer.param_groups[0]["lr"]

    def difference(self, inputs: UpdateInputs) -> str:
        """
        :param inputs: of a gradient step
        :return: what the library computes otherwise than ``DAI._gradients``, which someone may have changed; nothing if the
            losses, all else that is logged and the gradients are the same up to rounding, or not finite
        """
        model, policy = self.model, self.model.policy
        before = [buffer.clone() for buffer in policy.buffers()]

        def put_back() -> None:
            for buffer, value in zip(policy.buffers(), before, strict=True):
                buffer.copy_(value)

        with th.random.fork_rng(devices=[]):
            names, terms, gradients = model._gradients(model.learned_parameters, inputs)
        put_back()
        with th.random.fork_rng(devices=[]):  # The same random numbers, and again those in the step itself
            names_here, terms_here = self.run(inputs, learn=False)
        put_back()
        if {*names} != {*names_here}:
            return f"{names} are logged"
        if not math.isfinite(terms[0].item()) or (policy.normalize_features and loses_digits(policy.features_norm)):
            return ""
        if isinstance(policy.action_model, GaussianActions) and is_all_but_certain(policy, inputs.batch.one_step.observations):
            return ""
        # The sum of the losses, which comes first, says least
        here = dict(zip(names_here, terms_here.tolist(), strict=True))
        for name, one in zip(names[1:], terms[1:].tolist(), strict=True):
            other = here[name]
            if not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-5):
                return f"{name} is {other:.5g} instead of {one:.5g}"
        # Those of the last layers: a hidden unit that is all but 0 passes a gradient on or does not, by rounding
        of_net: dict[str, list[tuple[th.Tensor, th.Tensor]]] = {}
        for (name, parameter), gradient in zip(self.named_parameters, gradients, strict=True):
            if gradient is not None:
                of_net.setdefault(name.split(".")[0], []).append((gradient, self.gradient_of[id(parameter)]))
        for name, pairs in of_net.items():
            largest = max(float(one.abs().max()) for one, _ in pairs[-2:])
            if not all(bool(((one - other).abs() <= TOLERANCE * largest + 1e-6).all()) for one, other in pairs[-2:]):
                return f"the gradient of {name}"
        return ""

    def run(self, inputs: UpdateInputs, learn: bool = True) -> tuple[tuple[str, ...], th.Tensor]:
        """
        :param inputs: all that the update reads beside the nets
        :param learn: whether the nets learn, or their gradients alone are computed
        :return: names of what is logged, and the values, shape (len(names),); the first is not finite if the nets stay
            as they were
        """
        model, update = self.model, self.update
        one_step, n_step = inputs.batch.one_step, inputs.batch.n_step
        batch = len(one_step.observations)
        alive: list[th.Tensor] = []

        def place(tensor: Any, dtype: th.dtype = th.float32) -> int | None:
            if not isinstance(tensor, th.Tensor):  # A number that stands for all
                return None
            if tensor.dtype != dtype or not tensor.is_contiguous():
                alive.append(tensor := tensor.to(dtype).contiguous())
            return tensor.data_ptr()

        learns = inputs.learns_transitions, inputs.learns_policy
        update.batch, (update.transitions_learn, update.policy_learns), update.nets_learn = batch, learns, learn
        update.averaging_rate, update.target_entropy = inputs.averaging_rate.item(), inputs.target_entropy.item()
        prior = inputs.log_habit_prior
        if isinstance(prior, th.Tensor):
            prior = prior.expand(batch, 1, -1)
        update.head_weights, update.log_prior = place(inputs.head_weights), place(prior)
        update.observations, update.next_observations = place(one_step.observations), place(one_step.next_observations)
        update.has_successor = place(inputs.batch.has_successor)
        update.ends = place(one_step.dones)
        same = n_step.rewards is one_step.rewards
        if isinstance(model.policy.action_model, GaussianActions):
            # As GaussianHabit draws it: at next states, all together, and then where the policy learns
            dim = update.n_actions
            n_drawn = (batch if same else 2 * batch, batch)[: 1 + inputs.learns_policy]
            alive += (noises := [th.randn(n_rows, dim, dtype=th.float32) for n_rows in n_drawn])
            update.actions, update.next_noise, update.noise = place(one_step.actions), place(noises[0]), place(noises[-1])
        else:
            update.choices = place(one_step.actions, th.int64)
        update.last_observations = update.next_observations if same else place(n_step.next_observations)
        update.last_ends, update.discounts = place(n_step.dones), place(n_step.discounts)
        update.log_preference = place(inputs.log_preference)
        names = names_of(*learns, bool(update.precision_learns))
        terms = th.empty(len(names))
        first = terms.data_ptr()
        for i, name in enumerate(names):
            setattr(update, f"to_{name}", first + i * terms.element_size())
        lib = library()
        assert lib is not None
        if lib.gradient_step(ctypes.byref(update)):
            raise ValueError(
                f"The replay buffer has actions that are not of {model.action_space}: load another, or mend its wrapper"
            )
        return names, terms


def loses_digits(of: RunningNorm) -> bool:
    """
    :param of: a module
    :return: whether rounding decides what some of its outputs are: a mean is so large beside its deviation
    """
    rounding = of.mean.abs() * th.finfo(of.mean.dtype).eps
    return bool((rounding > 1e-3 * (of.var + 1e-8).sqrt()).any())


@th.no_grad()
def is_all_but_certain(policy: "DAIPolicy", observations: Any) -> bool:
    """
    :param policy: of ``Box`` actions
    :param observations: of a batch
    :return: whether rounding decides what torch's gradient of a density is: a standard deviation is so small that what
        cancels in it is much larger than what remains, or beside its mean
    """
    assert isinstance(policy.action_model, GaussianActions)
    mean, log_std = policy.action_model._gaussian(policy.policy_net(policy.features(observations))[0])
    return bool((th.finfo(mean.dtype).eps * (1.0 + mean.abs()) > 1e-3 * log_std.exp()).any())


def norm(of: RunningNorm) -> Norm:
    """
    :param of: a module
    :return: as update.h reads it
    """
    return Norm(of.mean.data_ptr(), of.var.data_ptr(), of.n_batches.data_ptr(), of.horizon, of.clip)


def mean(of: RunningMean) -> Mean:
    """
    :param of: a module
    :return: as update.h reads it
    """
    return Mean(of.mean.data_ptr(), of.n_batches.data_ptr(), of.horizon)


def adam(of: LearnedTogether, gradients: th.Tensor) -> Adam:
    """
    :param of: parameters that learn together
    :param gradients: theirs
    :return: as update.h reads it
    """
    flat = (of.nets.flat, gradients, of.exp_avg.flat, of.exp_avg_sq.flat, of.step.flat)
    return Adam(*(tensor.data_ptr() for tensor in flat), len(of.nets.flat), len(of.step.flat))
