"""The nets of deep active inference as an SB3 policy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_dai.actions import Habit, action_model
from sb3_dai.checks import MIN_PRECISION, check_choice, check_number
from sb3_dai.free_energy import VALUE_HEADS
from sb3_dai.networks import EnsembleMLP, RunningMean, RunningNorm, RunningPeak, SmallCNN, heeds_mode
from sb3_dai.packing import unpack
from sb3_dai.saving import CrashSafePolicy
from sb3_dai.transitions import DirichletTransitions, Prediction, transition_model

NET_NAMES = ("transition", "policy", "value")

COPIES = ("_target", "_average")
"""Ends of the names of what follows the nets that are trained."""


class DAIPolicy(CrashSafePolicy):
    """
    Transition ensemble p_k(s'|s,a), policy Q(a|s) and value (expected free energy) nets with their target.

    The transition net predicts the change of the features, in units of its running standard deviation, as a diagonal
    Gaussian. For vector observations the features are the observation itself. For ``Discrete`` observations it predicts the
    next one as a categorical distribution.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: Sizes of the hidden layers of each net, by default two of 64, none after ``NatureCNN``
    :param activation_fn: Activation function
    :param layer_norm: Whether the hidden layers of the policy and value nets are layer-normalised. Bootstrapping needs it;
        the transition net learns by plain regression from inputs that are normalised already.
    :param normalize_features: Whether the nets read the features in units of their running standard deviation
    :param transition_model: "ensemble", or "dirichlet" to count instead: for ``Discrete`` observations and actions, exact
    :param prior_count: Of each next state in the "dirichlet" model before anything was seen, by default 1 / number of states
    :param ensemble_size: Number of members of the transition ensemble; one alone has no information gain
    :param bootstrap_share: Share of each batch that a member of the ensemble learns from, drawn afresh for each member
        ("online bootstrap", Osband & Van Roy 2015, arXiv:1507.00300), so that members differ by more than their start
    :param prior_scale: Factor of a fixed random net that is added to each member's output (randomised priors, Osband et al.
        2018, arXiv:1806.03335), so that members disagree where there is no data; 0 for none
    :param novelty: What the epistemic value is about: "information_gain", or the ensemble's "variance" whatever the noise
    :param lookahead: Whether the ensemble is asked for the novelty of every action of a ``Discrete`` space, tried or not, so
        that the value net learns only what comes after. It costs twice a forward pass of the ensemble for each action.
    :param n_critics: Number of value nets; G is that of the worst of them by the share ``pessimism`` and of their average by
        the rest, its epistemic part that of the average
    :param lr_multipliers: Factors on the learning rate of the nets "transition", "policy", "value" (1 if absent); that of the
        policy is also that of the features extractor and of an automatic precision and epistemic weight
    :param greedy: What ``predict(deterministic=True)`` takes: the most probable action under the "average" of the policy
        net over the last part of training, or of the "habit" Q(a|s) as it is, or the best by the "extrinsic" value alone,
        without curiosity (of 32 samples and the median for ``Box`` actions)
    :param deliberation: Probability with which ``predict(deterministic=False)``, and so training, draws an action from the
        posterior softmax(-precision G(s,.)) itself instead of from the habit Q(a|s), which follows it with a delay. Not for
        ``Box`` actions, nor beside a ``habit_prior``.
    :param action_precision: As in :class:`sb3_dai.dai.DAI`, which sets it
    :param features_extractor_class: Features extractor to use. All three nets read it; the policy and value nets train it.
    :param features_extractor_kwargs: Keyword arguments to pass to the features extractor.
    :param normalize_images: Whether to normalize images or not, dividing by 255.0 (True by default)
    :param optimizer_class: The optimizer to use, ``th.optim.Adam`` by default (fused)
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer
    :raises ValueError: if an argument cannot describe a net
    """

    optimizer: th.optim.Optimizer
    head_weights: th.Tensor
    pessimism: th.Tensor
    n_moves = 0
    """How often all tensors were moved or converted: who keeps some of them has to look them up again."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = True,
        normalize_features: bool = True,
        transition_model: str = "ensemble",
        prior_count: float | None = None,
        ensemble_size: int = 5,
        bootstrap_share: float = 1.0,
        prior_scale: float = 0.0,
        novelty: str = "information_gain",
        n_critics: int = 2,
        lookahead: bool = False,
        greedy: str = "average",
        deliberation: float = 0.0,
        lr_multipliers: dict[str, float] | None = None,
        action_precision: float = 1.0,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            # Copies: the base class writes into them, and the user's must stay as they were (GH#155)
            dict(features_extractor_kwargs or {}),
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs or {}),
            normalize_images=normalize_images,
            squash_output=isinstance(action_space, spaces.Box),
        )
        if net_arch is None:
            net_arch = [] if features_extractor_class == NatureCNN else [64, 64]
        if not isinstance(net_arch, list):
            raise ValueError(f"net_arch={net_arch!r}: give a list of positive layer sizes, for example [64, 64]")
        for size in net_arch:
            check_number(f"net_arch={net_arch!r} has size", size, low=1, whole=True)
        check_number("ensemble_size", ensemble_size, low=1, whole=True)
        check_number("n_critics", n_critics, low=1, whole=True)
        check_number("bootstrap_share", bootstrap_share, low=1e-3, high=1)
        check_number("prior_scale", prior_scale, low=0)
        if prior_count is not None:
            check_number("prior_count (or None)", prior_count, low=1e-6)
        check_choice("transition_model", transition_model, "ensemble", "dirichlet")
        check_choice("novelty", novelty, "information_gain", "variance")
        if lookahead and not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"lookahead=True asks about each action of a Discrete space, not of {action_space}: leave it out")
        check_choice("greedy", greedy, "average", "habit", "extrinsic")
        check_number("deliberation", deliberation, low=0, high=1)
        if deliberation > 0.0 and isinstance(action_space, spaces.Box):
            raise ValueError(f"deliberation={deliberation!r} is for choices, not for {action_space}: leave it out")
        check_number("action_precision", action_precision, low=MIN_PRECISION)
        unknown = set(lr_multipliers or {}) - set(NET_NAMES)
        if unknown:
            raise ValueError(f"lr_multipliers has unknown nets {sorted(unknown)}: choose from {NET_NAMES}")
        for name, factor in (lr_multipliers or {}).items():
            check_number(f"lr_multipliers[{name!r}]", factor, low=0)

        self.net_arch = net_arch
        self.activation_fn = activation_fn
        self.layer_norm = layer_norm
        self.normalize_features = normalize_features
        self.transition_model_kind = transition_model
        self.prior_count = prior_count
        self.ensemble_size = ensemble_size
        self.bootstrap_share = bootstrap_share
        self.prior_scale = prior_scale
        self.novelty = novelty
        self.n_critics = n_critics
        self.lookahead = lookahead
        self.greedy = greedy
        self.deliberation = deliberation
        self.lr_multipliers = dict(lr_multipliers or {})
        self.action_precision = action_precision
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        """
        Create the nets, their target and the one optimizer.

        :param lr_schedule: Learning rate schedule, lr_schedule(1) is the initial learning rate
        """
        name, is_dict = self.features_extractor_class.__name__, isinstance(self.observation_space, spaces.Dict)
        if issubclass(self.features_extractor_class, CombinedExtractor) and not is_dict:
            raise ValueError(
                f"observation_space={self.observation_space}: {name} reads dictionaries of observations alone. Give "
                '"MlpPolicy" (or "CnnPolicy" for images) instead of "MultiInputPolicy"'
            )
        try:
            self.features_extractor = self.make_features_extractor()
        # Too small an image for convolutions, or a key of a dictionary that torch does not allow as the name of a module
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"observation_space={self.observation_space}: {name} cannot read it ({error}). Wrap the environment to rename "
                "its keys or resize its images (to 36x36 at least), or give another features_extractor_class in policy_kwargs."
            ) from error
        # Plain vectors of numbers, of which nothing is left to extract
        vectors = isinstance(self.observation_space, spaces.Box) and len(self.observation_space.shape) == 1
        self.reads_vectors = vectors and self.features_extractor_class is FlattenExtractor
        features_dim = self.features_extractor.features_dim
        self.action_model = action_model(self.action_space)
        self.action_dtype = th.as_tensor(np.empty(0, self.action_space.dtype)).dtype
        code_dim = self.action_model.code_dim
        value_input_dim = features_dim + code_dim * self.action_model.reads_actions
        value_dim = len(VALUE_HEADS) * self.action_model.value_dim

        def mlp(
            n_members: int, input_dim: int, output_dim: int, layer_norm: bool = self.layer_norm, numbered: bool = False
        ) -> EnsembleMLP:
            return EnsembleMLP(n_members, input_dim, output_dim, self.net_arch, self.activation_fn, layer_norm, numbered)

        counts = self.transition_model_kind == "dirichlet"
        self.transition_model = transition_model(
            self.observation_space, features_dim, self.action_space, counts, self.prior_count
        )
        self.transition_net = self.transition_prior = None
        # The number of a state says nothing about another's: what an action does in one is no hint of what it does there
        numbered = isinstance(self.observation_space, spaces.Discrete) and isinstance(self.action_space, spaces.Discrete)
        self.numbers_pairs = numbered and self.features_extractor_class is FlattenExtractor
        if not isinstance(self.transition_model, DirichletTransitions):
            input_dim = features_dim * code_dim if self.numbers_pairs else features_dim + code_dim
            size = self.ensemble_size, input_dim, self.transition_model.output_dim
            self.transition_net = mlp(*size, layer_norm=False, numbered=self.numbers_pairs)
            if self.prior_scale > 0.0:
                self.transition_prior = mlp(*size, layer_norm=False, numbered=self.numbers_pairs).requires_grad_(False)
        self.policy_net = mlp(1, features_dim, self.action_model.policy_dim)
        self.value_net = mlp(self.n_critics, value_input_dim, value_dim)

        self.features_extractor_target = self.make_features_extractor()
        self.features_extractor_target.load_state_dict(self.features_extractor.state_dict())
        self.value_net_target = mlp(self.n_critics, value_input_dim, value_dim)
        self.value_net_target.load_state_dict(self.value_net.state_dict())
        # What deterministic predictions come from
        self.features_extractor_average = self.make_features_extractor()
        self.features_extractor_average.load_state_dict(self.features_extractor.state_dict())
        self.policy_net_average = mlp(1, features_dim, self.action_model.policy_dim)
        self.policy_net_average.load_state_dict(self.policy_net.state_dict())

        self.features_norm = RunningNorm(features_dim)
        self.novelty_scale = RunningPeak()
        self.mean_epistemic_efe = RunningMean()
        # Weights of the value net's heads in G at present
        self.register_buffer("head_weights", th.tensor([1.0, 0.0, 0.0]))
        # Share of the worst value net in what all of them make of G, at present
        self.register_buffer("pessimism", th.ones(()))
        self.log_precision = nn.Parameter(th.zeros(1))
        self.log_epistemic_weight = nn.Parameter(th.zeros(1))
        # For an automatic weight of the epistemic value, which compares the policy with a slow copy of it
        self.policy_net_target = mlp(1, features_dim, self.action_model.policy_dim)
        self.policy_net_target.load_state_dict(self.policy_net.state_dict())
        for name, module in self.named_children():
            if name.endswith(COPIES):
                module.requires_grad_(False)
                module.train(False)

        self.heeds_mode = any(map(heeds_mode, self.children()))
        chosen = {"fused", "foreach", "differentiable"} & set(self.optimizer_kwargs)
        if self.optimizer_class in (th.optim.Adam, th.optim.AdamW) and not chosen:
            self.optimizer_kwargs["fused"] = True
        learning_rate = lr_schedule(1)
        nets = {
            "transition": [] if self.transition_net is None else [*self.transition_net.parameters()],
            "policy": [*self.policy_net.parameters(), *self.features_extractor.parameters(), *self.dual_parameters()],
            "value": [*self.value_net.parameters()],
        }
        # One group for each multiplier, because each group costs a call of the optimizer
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameters in nets.items():
            groups.setdefault(self.lr_multipliers.get(name, 1.0), []).extend(parameters)
        self.optimizer = self.optimizer_class(
            [{"params": params, "lr": learning_rate * factor, "lr_multiplier": factor} for factor, params in groups.items()],
            lr=learning_rate,  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    @property
    def precision(self) -> th.Tensor:
        """Inverse temperature of the EFE, shape (1,)."""
        return self.log_precision.detach().exp()

    @property
    def can_gain_information(self) -> bool:
        """Whether the world model says what it does not know: one member alone cannot disagree."""
        return self.ensemble_size > 1 or isinstance(self.transition_model, DirichletTransitions)

    def dual_parameters(self) -> list[nn.Parameter]:
        """What dual descent learns. Its gradient is not to be clipped with the nets'."""
        return [self.log_precision, self.log_epistemic_weight]

    def net_parameters(self) -> list[nn.Parameter]:
        """All that is trained but what dual descent learns."""
        dual = {id(p) for p in self.dual_parameters()}
        return [p for group in self.optimizer.param_groups for p in group["params"] if id(p) not in dual]

    def transition_parameters(self) -> list[nn.Parameter]:
        """Those of the net parameters that learn once every ``transition_delay`` gradient steps."""
        return [*self.transition_net.parameters()] if self.transition_net is not None else []

    def target_pairs(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """The parameters that have a target, and the target's, in the same order."""
        online = [self.value_net, self.features_extractor, self.policy_net]
        target = [self.value_net_target, self.features_extractor_target, self.policy_net_target]
        return [p for net in online for p in net.parameters()], [p for net in target for p in net.parameters()]

    def average_pairs(self) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """The parameters that are averaged over training, and their averages, in the same order."""
        online: list[th.Tensor] = [*self.features_extractor.parameters(), *self.policy_net.parameters()]
        return online, [*self.features_extractor_average.parameters(), *self.policy_net_average.parameters()]

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None) -> th.Tensor:
        """
        As SB3's, whose checks of a vector take as long as a layer of the nets.

        :param obs: observations
        :param features_extractor: the extractor to use, ``self.features_extractor`` by default
        :return: shape (batch, features_dim)
        """
        if self.reads_vectors:
            assert isinstance(obs, th.Tensor)
            return obs.float()
        return super().extract_features(obs, features_extractor or self.features_extractor)

    def features(self, obs: PyTorchObs, target: bool = False) -> th.Tensor:
        """
        What all three nets read.

        :param obs: observations
        :param target: whether to use the slow copy of the extractor
        :return: shape (batch, features_dim)
        """
        return self.scaled(self.extract_features(obs, self.features_extractor_target if target else self.features_extractor))

    def scaled(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: as extracted, shape (batch, features_dim)
        :return: in units of their running standard deviation, unless ``normalize_features`` is off, same shape
        """
        return self.features_norm(features) if self.normalize_features else features

    @th.no_grad()
    def observe(self, obs: PyTorchObs, next_obs: PyTorchObs, has_successor: th.Tensor | float) -> tuple[th.Tensor, th.Tensor]:
        """
        What the world model is to predict, as the slow extractor sees it. Updates the running statistics.

        :param obs: observations
        :param next_obs: observations one step later
        :param has_successor: (batch, 1), 0 where they are not
        :return: features of ``next_obs``, shape (batch, features_dim), and the outcome that the transition net is to predict
        """
        features = self.extract_features(obs, self.features_extractor_target)
        next_features = self.extract_features(next_obs, self.features_extractor_target)
        self.features_norm.update(features)
        outcome = self.transition_model.outcome(features, next_features, next_obs, has_successor)
        return self.scaled(next_features), outcome

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        What the transition net reads of actions.

        :param actions: as the replay buffer holds them, shape (batch, action_dim)
        :return: one-hot, or in [-1, 1], shape (batch, code_dim)
        """
        return self.action_model.encode(actions)

    def predict_outcome(self, features: th.Tensor, actions: th.Tensor) -> Prediction:
        """
        The transition ensemble.

        :param features: features of s, shape (batch, features_dim)
        :param actions: coded actions, shape (batch, code_dim)
        :return: p_k(.|s,a) of each member
        """
        if isinstance(self.transition_model, DirichletTransitions):
            return self.transition_model.predict(self._states(features), actions)
        assert self.transition_net is not None
        if self.numbers_pairs:
            inputs = self._states(features) * actions.shape[1] + actions.argmax(dim=1)
        else:
            inputs = th.cat([features, actions], dim=1)
        outputs = self.transition_net(inputs)
        if self.transition_prior is not None:
            outputs = outputs + self.prior_scale * self.transition_prior(inputs)
        return self.transition_model(outputs)

    def _states(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: of numbered states, shape (batch, n_states)
        :return: their numbers, shape (batch,)
        """
        # Scaled, a state of probability p is sqrt((1 - p) / p) where it is and -sqrt(p / (1 - p)) where it is not. Add p, and
        # that is above 0 in the one case and never in the other, also of a state that was always or never there
        return (features + self.features_norm.mean if self.normalize_features else features).argmax(dim=1)

    def bootstrap_weights(self, batch_size: int) -> th.Tensor | float:
        """
        :param batch_size: number of transitions
        :return: weight of each transition in the loss of each member of the ensemble, shape (ensemble_size, batch, 1), of
            mean 1; or 1 if all learn from all
        """
        if self.bootstrap_share == 1.0:
            return 1.0
        drawn = th.rand(self.ensemble_size, batch_size, 1, device=self.device) < self.bootstrap_share
        return drawn / self.bootstrap_share

    def novelty_of(self, prediction: Prediction) -> th.Tensor:
        """
        :param prediction: of the transition ensemble
        :return: what the epistemic value is about, shape (batch, 1)
        """
        return prediction.information_gain() if self.novelty == "information_gain" else prediction.variance()

    @th.no_grad()
    def novelty_of_actions(self, features: th.Tensor, target: bool = False) -> th.Tensor:
        """
        :param features: shape (batch, features_dim)
        :param target: whether the slow copy of the policy acts
        :return: novelty of one action drawn from the policy in each state, shape (batch, 1)
        """
        net = self.policy_net_target if target else self.policy_net
        actions = self.encode(self.action_model.act(net(features)[0], deterministic=False))
        return self.novelty_of(self.predict_outcome(features, actions))

    def habit(self, features: th.Tensor) -> Habit:
        """
        The policy net.

        :param features: shape (batch, features_dim)
        :return: Q(.|s)
        """
        return self.action_model.habit(self.policy_net(features)[0])

    def efe(self, features: th.Tensor, target: bool = False) -> Any:
        """
        The value net.

        :param features: shape (batch, features_dim)
        :param target: whether to use the target net
        :return: G(s,.)
        """
        net = self.value_net_target if target else self.value_net
        efe = self.action_model.efe(net, features, len(VALUE_HEADS), self._known_efe(features))
        efe.pessimism = self.pessimism
        return efe

    @th.no_grad()
    def _known_efe(self, features: th.Tensor) -> th.Tensor | float:
        """
        A world model can be asked about all actions, tried or not, what is to be learned by taking them now. The value net
        then has to learn only what follows. A table of counts always is; an ensemble with ``lookahead``.

        :param features: shape (batch, features_dim)
        :return: one-step part of G(s,.), shape (batch, len(VALUE_HEADS), 1, n_actions), or 0 where nobody asks
        """
        if isinstance(self.transition_model, DirichletTransitions):
            novelty = self.transition_model.gains_of(self._states(features))
        elif self.lookahead:
            n_actions = self.action_model.code_dim
            actions = th.eye(n_actions, device=features.device).repeat(len(features), 1)
            prediction = self.predict_outcome(features.repeat_interleave(n_actions, dim=0), actions)
            novelty = self.novelty_of(prediction).reshape(-1, n_actions)
        else:
            return 0.0
        scaled = self.novelty_scale.scaled(novelty)
        nothing = th.zeros_like(scaled)
        return th.stack([nothing, -scaled, nothing], dim=1).unsqueeze(2)

    def forward(self, obs: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        if deterministic and self.greedy == "average":
            features = self.scaled(self.extract_features(observation, self.features_extractor_average))
            outputs = self.policy_net_average(features)[0]
        else:
            features = self.features(observation)
            outputs = self.policy_net(features)[0] if deterministic else self._outputs_to_sample(features)
        if deterministic and self.greedy == "extrinsic":
            actions = self.action_model.best(outputs, self.efe(features))
        else:
            actions = self.action_model.act(outputs, deterministic, self.action_precision)
        if isinstance(self.action_space, spaces.Box):
            return actions
        if actions.dtype != self.action_dtype:  # A space does not contain the actions of a larger type
            actions = actions.to(self.action_dtype)
        return actions.squeeze(1) if isinstance(self.action_space, spaces.Discrete) else actions

    def _outputs_to_sample(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: shape (batch, features_dim)
        :return: of the policy net or, for each state with the probability ``deliberation``, what it would give if it were the
            posterior under G, shape (batch, policy_dim)
        """
        if self.deliberation == 0.0:
            return self.policy_net(features)[0]
        deliberate = th.rand(len(features), 1, device=features.device) < self.deliberation
        if not deliberate.any():
            return self.policy_net(features)[0]
        posterior = -self.precision * self.efe(features).total(self.head_weights).flatten(start_dim=1)
        return posterior if deliberate.all() else th.where(deliberate, posterior, self.policy_net(features)[0])

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
        Put the trained nets in training or evaluation mode, if some part of them heeds it; targets stay in evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        # Called with each prediction and each gradient step: a walk through all modules costs more than a small prediction
        if self.training != mode:
            self.training = mode
        if self.heeds_mode:
            self.train(mode)

    def train(self, mode: bool = True) -> "DAIPolicy":
        """
        As ``set_training_mode``, which is SB3's name for it, for all modules, whether they heed it or not.

        :param mode: if true, set to training mode, else set to evaluation mode
        :return: the policy
        """
        self.training = mode
        for name, module in self.named_children():
            module.train(mode and not name.endswith(COPIES))
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "DAIPolicy":
        self.n_moves += 1
        return super()._apply(fn, recurse)

    def unpack(self) -> None:
        """Give each tensor of the nets and the optimizer its own memory, which training has in common ones."""
        unpack(self.parameters())
        unpack(value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, th.Tensor))

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return dict(vars(self))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            dict(
                lr_schedule=self._dummy_schedule,  # not needed for loading the policy alone
                net_arch=self.net_arch,
                activation_fn=self.activation_fn,
                layer_norm=self.layer_norm,
                normalize_features=self.normalize_features,
                transition_model=self.transition_model_kind,
                prior_count=self.prior_count,
                ensemble_size=self.ensemble_size,
                bootstrap_share=self.bootstrap_share,
                prior_scale=self.prior_scale,
                novelty=self.novelty,
                n_critics=self.n_critics,
                lookahead=self.lookahead,
                greedy=self.greedy,
                deliberation=self.deliberation,
                lr_multipliers=self.lr_multipliers,
                action_precision=self.action_precision,
                features_extractor_class=self.features_extractor_class,
                features_extractor_kwargs=self.features_extractor_kwargs,
                optimizer_class=self.optimizer_class,
                optimizer_kwargs=self.optimizer_kwargs,
            )
        )
        return data


MlpPolicy = DAIPolicy


class CnnPolicy(DAIPolicy):
    """
    Policy for images: as :class:`DAIPolicy` with the ``NatureCNN`` extractor, or ``SmallCNN`` below 36 by 36 pixels.
    The world model predicts the extractor's features.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param kwargs: the other arguments of :class:`DAIPolicy`
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, lr_schedule: Schedule, **kwargs):
        shape = observation_space.shape or ()
        small = len(shape) == 3 and sorted(shape)[1] < 36
        kwargs.setdefault("features_extractor_class", SmallCNN if small else NatureCNN)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)


class MultiInputPolicy(DAIPolicy):
    """
    Policy for dictionaries of observations: as :class:`DAIPolicy` with the ``CombinedExtractor``.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param kwargs: the other arguments of :class:`DAIPolicy`
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, lr_schedule: Schedule, **kwargs):
        kwargs.setdefault("features_extractor_class", CombinedExtractor)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
