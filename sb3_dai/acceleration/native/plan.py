"""What the C++ step has to know of an agent as long as its tensors lie where they are."""

import ctypes
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_dai.acceleration.native.structures import (
    TERMS,
    Filter,
    Group,
    Head,
    Lstm,
    Mean,
    Net,
    Norm,
    Novelty,
    Optimize,
    Source,
    Tensor,
    Update,
    WorldModel,
)
from sb3_dai.actions import CategoricalActions, categorical, gaussian
from sb3_dai.efe import EpistemicTerm, PredictionErrorTerm
from sb3_dai.equations import information_gain
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.nets import ensembles, statistics
from sb3_dai.nets.ensembles import BatchedLayerNorm, BatchedTable, EnsembleMLP
from sb3_dai.nets.statistics import RunningMean, RunningNorm
from sb3_dai.world_model import CategoricalWorldModel, DirichletWorldModel, GaussianWorldModel
from sb3_dai.world_model import gaussian as gaussian_world_model
from sb3_dai.world_model.recurrent import LstmFilter

CLIP_EPS = 1e-6
"""Added to the norm by ``torch.nn.utils.clip_grad_norm_``, which has no name for it."""


class Plan:
    """
    The structures that the C++ step reads, whose pointers are of the tensors of one agent.

    :param policy: the nets, a :class:`sb3_dai.policy.DAIPolicy`
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.alive: list[Any] = []
        """Arrays that the structures point at."""
        self.gradients: dict[nn.Parameter, th.Tensor] = {}
        self.has_filter = has_filter(policy)
        self.by_torch = evaluated_by_torch(policy)
        self.learned_by_torch = [parameter for parameter in self.by_torch if parameter.requires_grad]
        pairs = zip(*policy.average_pairs(), strict=True), zip(*policy.target_pairs(), strict=True)
        self.average_of, self.target_of = ({p: q for nets in kind for p, q in parameters_of(*nets)} for kind in pairs)
        self.rate_of = {p: i for i, group in enumerate(policy.optimizer.param_groups) for p in group["params"]}
        self.kept = [*map(with_buffers, (policy.average_pairs(), policy.target_pairs()))]
        """Nets that keep something, and their averages; then nets and their targets"""
        self.heads = (Head * len(policy.terms))()
        self.settings: list[Any] = []
        self.optimize = self._optimize()
        self.update = self._update()
        self.widest = max((p[0] if p.dim() == 3 else p).numel() for p in self.gradients)
        """Number of weights of the largest layer of a member, or of an LSTM"""
        self.refresh()

    def _array(self, kind: Any, values: Iterable[Any]) -> int:
        """
        :param kind: of the elements, in C
        :param values: the elements
        :return: where the array is
        """
        elements = [*values]
        self.alive.append(array := (kind * max(len(elements), 1))(*elements))
        return ctypes.addressof(array)

    def _optimize(self) -> Optimize:
        """
        :return: what clipping, Adam and the followers need
        """
        policy = self.policy
        nets = [
            (Group.VALUES, policy.value_net),
            (Group.POLICY, policy.policy_net),
            (Group.TRANSITION, policy.world_model.net),
        ]
        if self.has_filter:
            nets += [(Group.VALUES, policy.belief_filter), (Group.TRANSITION, policy.reward_net)]
        learned = [(p, group) for group, net in nets if net is not None for p in net.parameters()]
        for parameter, _ in learned:
            self.gradients[parameter] = th.zeros_like(parameter)
        dual = self.gradients[policy.log_precision] = th.zeros_like(policy.log_precision)
        if policy.optimizer.state.get(policy.log_precision):
            learned.append((policy.log_precision, Group.DUAL))
        # The gradients of what torch evaluates come with each step
        self.first_by_torch = len(learned)
        extracted = [(p, Group.VALUES) for p in self.learned_by_torch]
        extracted += [(p, Group.FROZEN) for p in self.by_torch if not p.requires_grad]
        rows = [self._tensor(p, group) for p, group in [*learned, *extracted]]
        self.tensors = (Tensor * len(rows))(*rows)
        group = policy.optimizer.param_groups[0]
        self.rates = (ctypes.c_double * len(policy.optimizer.param_groups))()
        self.of_log_precision = dual.data_ptr()
        return Optimize(
            tensors=ctypes.addressof(self.tensors),
            n_tensors=len(rows),
            learning_rates=ctypes.addressof(self.rates),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            norm_eps=CLIP_EPS,
        )

    def _tensor(self, parameter: nn.Parameter, group: Group) -> Tensor:
        """
        :param parameter: that learns or is followed
        :param group: with what it learns
        :return: where it and what belongs to it lies
        """
        state = self.policy.optimizer.state[parameter] if group != Group.FROZEN else {}
        others = [self.gradients.get(parameter), *(state.get(name) for name in ("exp_avg", "exp_avg_sq", "step"))]
        others += [self.target_of.get(parameter), self.average_of.get(parameter)]
        places = (None if tensor is None else tensor.data_ptr() for tensor in others)
        return Tensor(parameter.data_ptr(), *places, parameter.numel(), group, self.rate_of.get(parameter, 0))

    def _update(self) -> Update:
        """
        :return: what the losses need, as far as it does not change from step to step
        """
        policy = self.policy
        world_model, actions = policy.world_model, policy.action_model
        update = Update(
            policy=self._net(policy.policy_net),
            value=self._net(policy.value_net),
            value_target=self._net(policy.value_net_target),
            heads=ctypes.addressof(self.heads),
            n_heads=len(self.heads),
            log_precision=policy.log_precision.data_ptr(),
            of_log_precision=self.of_log_precision,
            n_features=policy.features_norm.mean.numel(),
            n_inputs=policy.features_norm.mean.numel() + policy.memory_dim,
            n_actions=actions.code_dim,
            world_model=kind_of(world_model),
        )
        if world_model.net is not None:
            update.transition = self._net(world_model.net)
        if world_model.prior is not None:
            update.transition_prior = self._net(world_model.prior)
        if self.has_filter:
            update.filter = self._filter()
        if isinstance(actions, CategoricalActions):
            update.n_choices, update.n_options = actions.shape
            update.options = self._array(ctypes.c_int64, actions.possible.sum(dim=1).tolist())
        return update

    def _filter(self) -> Filter:
        """
        :return: the belief filter and its reward net, as C++ reads them
        """
        policy = self.policy
        online, target = (each.lstm.all_weights[0] for each in (policy.belief_filter, policy.belief_filter_target))
        gradients = [self.gradients[weight] for weight in online]
        weights = (Lstm(*(tensor.data_ptr() for tensor in part)) for part in (online, target, gradients))
        return Filter(*weights, self._net(policy.reward_net), hidden_size=policy.memory_dim)

    def _net(self, net: EnsembleMLP) -> Net:
        """
        :param net: an ensemble
        :return: as C++ reads it
        """
        layers: list[list[Any]] = []
        for layer in net.layers:
            if isinstance(layer, BatchedLayerNorm):
                layers[-1][2:] = layer.weight, layer.bias
            elif isinstance(layer, BatchedTable):
                layers.append([layer.rows, None, None, None])
            elif not isinstance(layer, nn.ReLU):
                layers.append([layer.weight, layer.bias, None, None])
        weights = [layer[0] for layer in layers]
        sizes = [weights[0].shape[1], *(weight.shape[2] for weight in weights)]
        flat = [tensor for layer in layers for tensor in layer]
        gradients = None
        if weights[0] in self.gradients:
            gradients = self._pointers(tensor if tensor is None else self.gradients[tensor] for tensor in flat)
        places = self._array(ctypes.c_int64, sizes), self._pointers(flat), gradients
        return Net(net.n_members, len(layers), net.numbered, *places)

    def _pointers(self, tensors: Iterable[th.Tensor | None]) -> int:
        """
        :param tensors: of the layers of a net
        :return: where their places are
        """
        return self._array(ctypes.c_void_p, (None if tensor is None else tensor.data_ptr() for tensor in tensors))

    def refresh(self) -> None:
        """Read again what a user may set between calls of ``train``."""
        policy, terms = self.policy, self.policy.terms.values()
        for i, group in enumerate(policy.optimizer.param_groups):
            self.rates[i] = group["lr"]
        statistics_of = [policy.features_norm, getattr(policy.world_model, "change_norm", policy.features_norm)]
        if self.has_filter:
            statistics_of.append(policy.reward_norm)
        settings = [
            *(policy.normalize_features, policy.novelty, policy.world_model.prior_scale, *policy.averages),
            *(ensembles.LAYER_NORM_EPS, information_gain.RESOLUTION, statistics.EPS, statistics.LARGEST),
            *(gaussian_world_model.MIN_LOG_VAR, gaussian_world_model.MAX_LOG_VAR, categorical.NEVER),
            *(gaussian.MIN_LOG_STD, gaussian.MAX_LOG_STD),
            *((norm.horizon, norm.clip) for norm in statistics_of),
            *((term.of_returns, term.reads_prediction, term.elsewhere and term.elsewhere.horizon) for term in terms),
            *(term.scale.running.horizon for term in terms if isinstance(term, EpistemicTerm)),
        ]
        if settings != self.settings:
            self.settings = settings
            self._set()

    def _set(self) -> None:
        """Hand over what ``refresh`` has read."""
        policy, update, world_model = self.policy, self.update, self.policy.world_model
        update.features_norm = norm(policy.features_norm)
        if isinstance(world_model, GaussianWorldModel):
            update.change_norm = norm(world_model.change_norm)
        if self.has_filter:
            update.filter.reward_norm = norm(policy.reward_norm)
        update.normalizes = policy.normalize_features
        update.novelty = Novelty.INFORMATION_GAIN if policy.novelty == "information_gain" else Novelty.VARIANCE
        update.prior_scale = world_model.prior_scale
        update.layer_norm_eps = ensembles.LAYER_NORM_EPS
        update.resolution = information_gain.RESOLUTION
        update.min_log_var, update.max_log_var = gaussian_world_model.MIN_LOG_VAR, gaussian_world_model.MAX_LOG_VAR
        update.min_log_std, update.max_log_std = gaussian.MIN_LOG_STD, gaussian.MAX_LOG_STD
        update.never = categorical.NEVER
        self.sources = [source_of(term) for term in policy.terms.values()]
        parts = zip(self.heads, policy.terms.values(), self.sources, policy.averages, strict=True)
        for head, term, source, averages in parts:
            head.source, head.of_returns, head.reads_prediction = source, term.of_returns, term.reads_prediction
            head.averages, head.continues = averages, term.elsewhere is not None
            if term.elsewhere is not None:
                head.running_mean = mean(term.elsewhere)
            if source == Source.NOVELTY:
                update.gain_mean, update.gain_peak = mean(term.scale.running), term.scale.peak.data_ptr()
        self.logged: dict[Any, tuple[tuple[str, ...], int]] = {}

    def names_of(
        self, c: Coefficients, filter_losses: Iterable[str] = (), filter_samples: Iterable[str] = ()
    ) -> tuple[tuple[str, ...], int]:
        """
        :param c: of a gradient step
        :param filter_losses: names of what a belief filter learns by
        :param filter_samples: names of what is logged of it
        :return: names of what is logged of it, in the order of ``EagerStep.summary``, and where the places of C++'s terms
            among them are
        """
        key = c.learns_world_model, c.learns_policy, c.learns_precision, (*filter_losses,), (*filter_samples,)
        if key not in self.logged:
            terms = self.policy.terms.values()
            losses = {
                "transition_loss": key[0],
                **({"reward_loss": key[0]} if self.has_filter else dict.fromkeys(key[3], True)),
                "value_loss": True,
                "policy_loss": key[1],
                "precision_loss": key[1] and key[2],
            }
            weights = [f"{name}_weight" for name in self.policy.term_names]
            values = [f"{name}_value" for name in self.policy.term_names]
            learned = (value for value, term in zip(values, terms, strict=True) if key[0] or not term.reads_prediction)
            names = (
                *("loss", *(name for name, is_known in losses.items() if is_known), "precision"),
                *(weight for weight in weights if weight != "extrinsic_weight"),
                *(("prediction_error", "information_gain") if key[0] else ()),
                *key[4],
                *learned,
                *(("entropy",) if key[1] else ()),
                *(("vfe",) if key[0] and key[1] else ()),
            )
            places = (names.index(name) if name in names else -1 for name in (*TERMS, *values, *weights))
            self.logged[key] = names, self._array(ctypes.c_int64, places)
        return self.logged[key]


def parameters_of(net: nn.Module, follower: nn.Module) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
    """
    :param net: that is trained
    :param follower: its target or average
    :return: pairs of their parameters
    """
    return zip(net.parameters(), follower.parameters(), strict=True)


def has_filter(policy: Any) -> bool:
    """
    :param policy: the nets of an agent
    :return: whether C++ evaluates its belief filter, which is an LSTM and nothing else
    """
    filters = (policy.belief_filter, policy.belief_filter_target) if policy.memory_dim > 0 else ()
    if {type(each) for each in filters} != {LstmFilter} or {type(each.lstm) for each in filters} != {nn.LSTM}:
        return False
    sizes = policy.features_norm.mean.numel() + policy.action_model.code_dim, policy.memory_dim
    usual = (*sizes, 1, True, False, False, 0)
    names = "input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size"
    return all(tuple(getattr(each.lstm, name) for name in names) == usual for each in filters)


def evaluated_by_torch(policy: Any) -> list[nn.Parameter]:
    """
    :param policy: the nets of an agent
    :return: parameters of the features extractor, and of another belief filter with the nets that only it learns by
    """
    return [*policy.features_extractor.parameters(), *([] if has_filter(policy) else policy.filter_parameters())]


def with_buffers(pairs: tuple[list[nn.Module], list[nn.Module]]) -> list[tuple[nn.Module, nn.Module]]:
    """
    :param pairs: nets, and those that follow them
    :return: pairs of those that keep what they do not learn, such as the statistics of batch norm
    """
    return [(net, follower) for net, follower in zip(*pairs, strict=True) if any(True for _ in net.buffers())]


def kind_of(world_model: Any) -> WorldModel | None:
    """
    :param world_model: of an agent
    :return: how C++ predicts by it, or None if it does not
    """
    kinds = (
        (DirichletWorldModel, WorldModel.GIVEN),
        (CategoricalWorldModel, WorldModel.CATEGORICAL),
        (GaussianWorldModel, WorldModel.GAUSSIAN),
    )
    return next((kind for cls, kind in kinds if isinstance(world_model, cls)), None)


def source_of(term: Any) -> Source | None:
    """
    :param term: of the EFE
    :return: where its cost comes from, or None if C++ does not know it
    """
    if isinstance(term, EpistemicTerm):
        return Source.NOVELTY
    if isinstance(term, PredictionErrorTerm):
        return Source.ERROR
    return None if term.reads_prediction or reads(term.cost, ("prediction", "outcome")) else Source.COST


def reads(method: Any, names: Sequence[str]) -> bool:
    """
    :param method: of a term
    :param names: of attributes
    :return: whether one of them occurs in it
    """
    code = getattr(inspect.unwrap(method), "__code__", None)
    return code is None or not set(names).isdisjoint(code.co_names)


def norm(of: RunningNorm) -> Norm:
    """
    :param of: a module
    :return: as C++ reads it
    """
    places = of.mean.data_ptr(), of.var.data_ptr(), of.n_batches.data_ptr()
    return Norm(*places, of.horizon, of.clip, statistics.EPS, statistics.LARGEST)


def mean(of: RunningMean) -> Mean:
    """
    :param of: a module
    :return: as C++ reads it
    """
    return Mean(of.mean.data_ptr(), of.n_batches.data_ptr(), of.horizon)
