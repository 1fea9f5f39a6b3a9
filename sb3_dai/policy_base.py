"""
What the policy needs of SB3: features, targets and averages of the nets, one optimizer, training modes, bounds of
actions.
"""

import copy
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn import functional as F

from sb3_dai import legacy
from sb3_dai.efe import Term, check_terms
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.extractors import copy_of, has_modes, is_lazy, materialize
from sb3_dai.nets.preprocessing import extractor_inputs
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.saving import CrashSafePolicy
from sb3_dai.world_model import WorldModel
from sb3_dai.world_model.base import Belief

COPIES = ("_target", "_average")
"""Ends of the names of the nets that follow those that are trained."""


class BaseDAIPolicy(CrashSafePolicy):
    """
    Nets that are trained, their target and their average. Arguments are those of ``BasePolicy`` of Stable-Baselines3.

    The target follows the critics, the extractor and the policy net by Polyak updates. The average is over the policy net and
    the extractor during the last part of training: deterministic predictions come from it.
    """

    optimizer: th.optim.Optimizer
    head_weights: th.Tensor
    pessimism: th.Tensor
    world_model: WorldModel
    policy_net: EnsembleMLP
    value_net: EnsembleMLP
    features_norm: RunningNorm
    features_extractor: BaseFeaturesExtractor
    features_extractor_target: BaseFeaturesExtractor
    features_extractor_average: BaseFeaturesExtractor
    policy_net_target: EnsembleMLP
    policy_net_average: EnsembleMLP
    value_net_target: EnsembleMLP
    action_model: Any
    lr_multipliers: dict[str, float]
    learning_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of arguments of the algorithm that this policy has instead of its own."""
    memory_dim = 0
    """Size of what the nets read of a recurrent belief beside the features of the observation."""
    followed_by_targets: tuple[str, ...] = ("features_extractor", "value_net", "policy_net")
    """Names of the nets that have a target, ``NAME_target``."""
    followed_by_averages: tuple[str, ...] = ("features_extractor", "policy_net")
    """Names of the nets that are averaged over training, in ``NAME_average``."""
    n_device_moves = 0
    """How often all tensors were moved or converted: what keeps some of them has to look them up again."""

    def _make_nets(self, features_dim: int, n_terms: int) -> None:
        """
        Create ``action_model``, ``world_model``, ``policy_net``, ``value_net`` and ``features_norm``.

        :param features_dim: number of features that are extracted from an observation
        :param n_terms: number of terms of the EFE
        """
        raise NotImplementedError

    def _build(self, lr_schedule: Schedule, terms: list[Term]) -> None:
        """
        Create the nets, their target and average, and the one optimizer.

        :param lr_schedule: Learning rate schedule, lr_schedule(1) is the initial learning rate
        :param terms: of the EFE
        :raises ValueError: if two terms share a name, or the extractor cannot read the observations
        """
        names = [term.name for term in check_terms(terms)]
        self.log_precision = nn.Parameter(th.zeros(1))
        self.log_epistemic_weight = nn.Parameter(th.zeros(1))
        self.action_dtype = th.as_tensor(np.empty(0, self.action_space.dtype)).dtype
        # Plain vectors of numbers, of which nothing is left to extract
        vectors = isinstance(self.observation_space, spaces.Box) and len(self.observation_space.shape) == 1
        self.reads_vectors = vectors and self.features_extractor_class is FlattenExtractor
        self.extracts_nothing = self.features_extractor_class is FlattenExtractor
        # Numbered states, of which the features are one-hot codes
        is_numbered = isinstance(self.observation_space, spaces.Discrete) and self.extracts_nothing
        self.n_states = int(self.observation_space.n) if is_numbered else None  # type: ignore[attr-defined]
        self.features_extractor = self._make_extractor()
        self._make_nets(self.features_extractor.features_dim, len(terms))
        self.terms = nn.ModuleDict({term.name: copy.deepcopy(term) for term in terms})
        self.term_names = names
        self.averages = [term.averages for term in terms]

        for end, followed in zip(COPIES, (self.followed_by_targets, self.followed_by_averages), strict=True):
            for name in followed:
                net = getattr(self, name)
                setattr(self, name + end, copy_of(net) if name == "features_extractor" else copy.deepcopy(net))
        for name, module in self.named_children():
            if name.endswith(COPIES):
                module.requires_grad_(False).train(False)

        # Weights of the heads in G at present, and the share of the worst critic
        self.register_buffer("head_weights", th.tensor([float(name == "extrinsic") for name in names]))
        self.register_buffer("pessimism", th.ones(()))
        self.has_modes = any(map(has_modes, self.children()))
        self.optimizer = self._make_optimizer(lr_schedule(1))

    def _make_extractor(self) -> BaseFeaturesExtractor:
        """
        :return: the features extractor, its lazy layers included
        :raises ValueError: if it cannot read the observations
        """
        name, is_dict = self.features_extractor_class.__name__, isinstance(self.observation_space, spaces.Dict)
        if issubclass(self.features_extractor_class, CombinedExtractor) and not is_dict:
            raise ValueError(
                f"observation_space={self.observation_space}: {name} reads dictionaries of observations alone. Give "
                '"MlpPolicy" (or "CnnPolicy" for images) instead of "MultiInputPolicy"'
            )
        try:
            extractor = self.make_features_extractor()
            if is_lazy(extractor):  # Gymnasium cannot draw from every space that the nets can read
                # A copy of the space, whose generator may move on
                sample, _ = self.obs_to_tensor(copy.deepcopy(self.observation_space).sample())
                materialize(extractor, extractor_inputs(sample, self.observation_space, self.normalize_images))
            return extractor
        # Too small an image for convolutions, or a key of a dictionary that torch does not allow as the name of a module
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"observation_space={self.observation_space}: {name} cannot read it ({error}). Wrap the environment to rename "
                "its keys or resize its images (to 36x36 at least), or give another features_extractor_class in policy_kwargs."
            ) from error

    def _make_optimizer(self, learning_rate: float) -> th.optim.Optimizer:
        """
        :param learning_rate: the initial one
        :return: one optimizer of all that is learned, with a group for each multiplier of the learning rate
        """
        chosen = {"fused", "foreach", "differentiable"} & set(self.optimizer_kwargs)
        if self.optimizer_class in (th.optim.Adam, th.optim.AdamW) and not chosen:
            self.optimizer_kwargs["fused"] = True
        nets = {
            "transition": [*self.world_model_parameters(), *self.filter_parameters()],
            "policy": [*self.policy_net.parameters(), *self.features_extractor.parameters()],
            "dual": self.dual_parameters(),
            "value": [*self.value_net.parameters()],
        }
        # What dual descent learns goes with the policy net, unless it is named
        factors = {"dual": self.lr_multipliers.get("policy", 1.0), **self.lr_multipliers}
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameters in nets.items():
            groups.setdefault(factors.get(name, 1.0), []).extend(parameters)
        return self.optimizer_class(
            [{"params": params, "lr": learning_rate * factor, "lr_multiplier": factor} for factor, params in groups.items()],
            lr=learning_rate,  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    @property
    def precision(self) -> th.Tensor:
        """Inverse temperature of the EFE, shape (1,)."""
        return self.log_precision.detach().exp()

    def dual_parameters(self) -> list[nn.Parameter]:
        """What dual descent learns. Its gradient is not to be clipped with the nets'."""
        return [self.log_precision, self.log_epistemic_weight]

    def net_parameters(self) -> list[nn.Parameter]:
        """All that is trained but what dual descent learns."""
        dual = {id(p) for p in self.dual_parameters()}
        return [p for group in self.optimizer.param_groups for p in group["params"] if id(p) not in dual]

    def world_model_parameters(self) -> list[nn.Parameter]:
        """Those of the net parameters that learn once every ``transition_delay`` gradient steps."""
        return [*self.world_model.net.parameters()] if self.world_model.net is not None else []

    def filter_parameters(self) -> list[nn.Parameter]:
        """Those of a belief filter. Their learning rate is the world model's."""
        return []

    def seen_by_world_model(self, belief: Belief) -> Belief:
        """
        The world model reads the features and does not shape them: what is easy to predict is not what tells good actions from
        bad ones.

        :param belief: about s
        :return: the same, without what its loss does not reach
        """
        return Belief(*(part.detach() for part in belief))

    def target_pairs(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The nets that have a target, and the targets, in the same order."""
        return self._pairs(self.followed_by_targets, "_target")

    def average_pairs(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The nets that are averaged over training, and their averages, in the same order."""
        return self._pairs(self.followed_by_averages, "_average")

    def _pairs(self, names: tuple[str, ...], end: str) -> tuple[list[nn.Module], list[nn.Module]]:
        """
        :param names: of nets
        :param end: of the names of those that follow them
        :return: both, in the same order
        """
        return [getattr(self, name) for name in names], [getattr(self, name + end) for name in names]

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None) -> th.Tensor:
        """
        As SB3's, but without checks of vectors and numbers, which take as long as a layer of the nets. An extractor that is
        not SB3's own gets a copy: it may work in place, and several extractors read the same batch.

        :param obs: observations
        :param features_extractor: the extractor to use, ``self.features_extractor`` by default
        :return: shape (batch, features_dim)
        """
        if self.reads_vectors:
            assert isinstance(obs, th.Tensor)
            return obs.float()
        if self.n_states is not None:
            assert isinstance(obs, th.Tensor)
            return F.one_hot(obs.long().flatten(), self.n_states).float()
        extractor = features_extractor or self.features_extractor
        if not type(extractor).__module__.startswith(("stable_baselines3.", "sb3_dai.")):
            obs = {key: part.clone() for key, part in obs.items()} if isinstance(obs, dict) else obs.clone()
        return super().extract_features(obs, extractor)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """
        As Stable-Baselines3's, for bounds of any size.

        :param action: within the bounds of the space
        :return: in [-1, 1], same shape
        """
        low, high = self._bounds()
        # Halves: the distance of two bounds may be more than the largest number
        width = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
        return np.clip((action.astype(np.float64) / 2 - low / 2) / width * 2 - 1, -1.0, 1.0).astype(np.float32)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        As Stable-Baselines3's, for bounds of any size, and never beyond them by rounding.

        :param scaled_action: in [-1, 1]
        :return: within the bounds of the space and of its type, same shape
        """
        low, high = self._bounds()
        share = (np.asarray(scaled_action, dtype=np.float64) + 1) / 2
        action = (low * (1 - share) + high * share).astype(self.action_space.dtype)
        return np.clip(action, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: lowest and highest actions in double precision
        """
        assert isinstance(self.action_space, spaces.Box)
        return self.action_space.low.astype(np.float64), self.action_space.high.astype(np.float64)

    @property
    def device(self) -> th.device:
        """Where the policy lies: asked at each prediction, which is too often for SB3's walk through its modules."""
        return self.log_precision.device

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the trained nets in training or evaluation mode, if some part of them differs; targets stay in evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        # Called with each prediction and each gradient step: a walk through all modules costs more than a small prediction
        if self.training != mode:
            self.training = mode
        if self.has_modes:
            self.train(mode)

    def train(self, mode: bool = True) -> "BaseDAIPolicy":
        """
        As ``set_training_mode``, which is SB3's name for it, for all modules, whether they differ or not.

        :param mode: if true, set to training mode, else set to evaluation mode
        :return: the policy
        """
        self.training = mode
        for name, module in self.named_children():
            module.train(mode and not name.endswith(COPIES))
        return self

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As torch's, also of what version 0.1 saved.

        :param state_dict: parameters and buffers by name
        :param args: as torch's
        :param kwargs: as torch's
        :return: as torch's
        """
        return super().load_state_dict(legacy.convert_state(state_dict, self), *args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> "BaseDAIPolicy":
        self.n_device_moves += 1
        return super()._apply(fn, recurse)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        names = (
            *("net_arch", "activation_fn", "layer_norm", "normalize_features", "transition_model", "prior_count"),
            *("ensemble_size", "bootstrap_share", "prior_scale", "novelty", "transition_delay", "n_critics", "lookahead"),
            *("greedy", "deliberation", "lr_multipliers", "action_precision", "features_extractor_class"),
            *("features_extractor_kwargs", "optimizer_class", "optimizer_kwargs"),
        )
        data.update({name: getattr(self, name) for name in names})
        # A schedule is not needed for loading the policy alone; terms hold what their buffers are saved with
        data.update(lr_schedule=self._dummy_schedule, terms=[*self.terms.values()])
        return data
