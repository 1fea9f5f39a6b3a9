"""The nets of deep active inference as an SB3 policy."""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_dai.actions import make_action_model
from sb3_dai.actions.base import ActionPosterior, Aggregation
from sb3_dai.checks import check_net_arch, check_policy_arguments
from sb3_dai.efe import EpistemicTerm, PreferenceTerm, Term
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.extractors import SmallCNN
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.policy_base import BaseDAIPolicy
from sb3_dai.world_model import WorldModel, make_world_model
from sb3_dai.world_model.base import Belief, Prediction


class DAIPolicy(BaseDAIPolicy):
    """
    World model p_k(s'|s,a), policy Q(a|s) and critics G(s,a) (expected free energy) with their target.

    The world model predicts the change of the features, in units of its running standard deviation, as a diagonal
    Gaussian. For vector observations the features are the observation itself. For ``Discrete`` observations it predicts the
    next one as a categorical distribution.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: Sizes of the hidden layers of each net, by default two of 64, none after ``NatureCNN``; or a dictionary
        with those of the policy net "pi", the critics "qf" and the world model "transition" (that of "qf" if absent)
    :param activation_fn: Activation function
    :param layer_norm: Whether the hidden layers of the policy net and the critics are layer-normalised. Bootstrapping needs
        it; the world model learns by plain regression from inputs that are normalised already.
    :param normalize_features: Whether the nets read the features in units of their running standard deviation
    :param transition_model: "ensemble", or "dirichlet" to count instead: for ``Discrete`` observations and actions, exact
    :param prior_count: Of each next state in the "dirichlet" model before anything was seen, by default 1 / number of states
    :param ensemble_size: Number of members of the world model's ensemble; one alone has no information gain
    :param bootstrap_share: Share of each batch that a member of the ensemble learns from, drawn afresh for each member
        ("online bootstrap", Osband & Van Roy 2015, arXiv:1507.00300), so that members differ by more than their start
    :param prior_scale: Factor of a fixed random net that is added to each member's output (randomised priors, Osband et al.
        2018, arXiv:1806.03335), so that members disagree where there is no data; 0 for none
    :param novelty: What the epistemic term is about: "information_gain", or the ensemble's "variance" whatever the noise
    :param transition_delay: The world model learns once every so many gradient steps, and with it the heads of the terms that
        read its prediction. ``None`` is every fourth one for ``Box`` actions and for ``NatureCNN`` without a memory, and each
        one for others.
    :param n_critics: Number of critics
    :param lookahead: Whether the ensemble is asked for the novelty of every action of a ``Discrete`` space, tried or not, so
        that the critics learn only what comes after. It costs twice a forward pass of the ensemble for each action.
    :param greedy: What ``predict(deterministic=True)`` takes: the most probable action under the "average" of the policy
        net over the last part of training, or under the "policy" net as it is, or the best by the "extrinsic" value alone,
        without curiosity (of 32 samples and the median for ``Box`` actions)
    :param deliberation: Probability with which ``predict(deterministic=False)``, and so training, draws an action from
        softmax(-precision G(s,.)) itself instead of from the policy net, which follows it with a delay. Not for ``Box``
        actions, nor beside a ``habit_prior``.
    :param lr_multipliers: Factors on the learning rate of "transition", "policy" (with the features extractor), "value" (1 if
        absent), and "dual", an automatic precision and epistemic weight (as "policy" if absent)
    :param action_precision: alpha of pymdp, how decided samples of the policy are: they are drawn from Q(a|s)^alpha,
        normalised. For ``Box`` actions it divides the standard deviation before squashing by sqrt(alpha). What is learned
        remains Q(a|s).
    :param terms: Terms of the expected free energy. :class:`sb3_dai.dai.DAI` puts its own three before those that are given to
        it here.
    :param features_extractor_class: Features extractor to use. All nets read it; the policy net and the critics train it.
    :param features_extractor_kwargs: Keyword arguments to pass to the features extractor.
    :param normalize_images: Whether to normalize images or not, dividing by 255.0 (True by default)
    :param optimizer_class: The optimizer to use, ``th.optim.Adam`` by default (fused)
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer
    :raises ValueError: if an argument cannot describe a net
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = True,
        normalize_features: bool = True,
        transition_model: str = "ensemble",
        prior_count: float | None = None,
        ensemble_size: int = 5,
        bootstrap_share: float = 1.0,
        prior_scale: float = 0.0,
        novelty: str = "information_gain",
        transition_delay: int | None = None,
        n_critics: int = 2,
        lookahead: bool = False,
        greedy: str = "average",
        deliberation: float = 0.0,
        lr_multipliers: dict[str, float] | None = None,
        action_precision: float = 1.0,
        terms: Sequence[Term] | None = None,
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
        self.net_arch = check_net_arch(net_arch, [] if features_extractor_class == NatureCNN else [64, 64])
        self.activation_fn = activation_fn
        self.layer_norm = layer_norm
        self.normalize_features = normalize_features
        self.transition_model = transition_model
        self.prior_count = prior_count
        self.ensemble_size = ensemble_size
        self.bootstrap_share = bootstrap_share
        self.prior_scale = prior_scale
        self.novelty = novelty
        # With Box actions and large images most of the arithmetic of a gradient step is the world model's
        by_default = 4 if isinstance(action_space, spaces.Box) or features_extractor_class is NatureCNN else 1
        self.transition_delay = by_default if transition_delay is None else transition_delay
        self.n_critics = n_critics
        self.lookahead = lookahead
        self.greedy = greedy
        self.deliberation = deliberation
        self.lr_multipliers = dict(lr_multipliers or {})
        self.action_precision = action_precision
        check_policy_arguments(self)
        given = [PreferenceTerm(), EpistemicTerm(novelty=novelty)] if terms is None else terms
        # Whatever cannot know what it does not know has no use for that head
        self._build(lr_schedule, [term for term in given if term.name != "epistemic" or self.can_gain_information])

    @property
    def can_gain_information(self) -> bool:
        """Whether the world model says what it does not know: one member alone cannot disagree."""
        return self.ensemble_size > 1 or self.transition_model == "dirichlet"

    def lacks(self, name: str, weight: Any) -> bool:
        """
        :param name: of a term of the EFE without a head
        :param weight: that it is to have
        :return: whether it should have a head
        """
        is_on = callable(weight) or isinstance(weight, str) or float(weight) != 0.0
        return is_on and (name != "epistemic" or self.can_gain_information)

    def _make_nets(self, features_dim: int, n_terms: int) -> None:
        """
        :param features_dim: number of features that are extracted from an observation
        :param n_terms: number of terms of the EFE, each of which has a head of the critics
        """
        self.action_model = make_action_model(self.action_space)
        code_dim = self.action_model.code_dim

        def ensemble(input_dim: int, output_dim: int, numbered: bool) -> EnsembleMLP:
            arch = self.net_arch["transition"]
            return EnsembleMLP(self.ensemble_size, input_dim, output_dim, arch, self.activation_fn, False, numbered)

        self.world_model: WorldModel = make_world_model(
            self.observation_space,
            self.action_space,
            features_dim,
            code_dim,
            ensemble,
            self.transition_model,
            issubclass(self.features_extractor_class, FlattenExtractor),
            self.prior_scale,
            self.prior_count,
            self.memory_dim,
        )
        arch, input_dim = self.net_arch, features_dim + self.memory_dim
        value_input_dim = input_dim + code_dim * self.action_model.reads_actions
        options = self.activation_fn, self.layer_norm
        self.policy_net = EnsembleMLP(1, input_dim, self.action_model.policy_dim, arch["pi"], *options)
        value_dim = n_terms * self.action_model.value_dim
        self.value_net = EnsembleMLP(self.n_critics, value_input_dim, value_dim, arch["qf"], *options)
        self.features_norm = RunningNorm(features_dim)

    def belief(self, obs: PyTorchObs, target: bool = False) -> Belief:
        """
        Infer the state. Where it is observed, the belief is what is extracted of the observation.

        :param obs: observations
        :param target: whether to use the target's extractor
        :return: what the nets read
        """
        raw = self.extract_features(obs, self.features_extractor_target if target else self.features_extractor)
        return Belief(self.scaled(raw), raw)

    def scaled(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: as extracted, shape (batch, features_dim)
        :return: in units of their running standard deviation, unless ``normalize_features`` is off, same shape
        """
        return self.features_norm(features) if self.normalize_features else features

    @th.no_grad()
    def observe(
        self, obs: PyTorchObs, next_obs: PyTorchObs, has_successor: th.Tensor | float, learns_world_model: bool = True
    ) -> tuple[Belief, th.Tensor | None]:
        """
        See a transition as the target's extractor does. Updates the running statistics.

        :param obs: observations
        :param next_obs: observations one step later
        :param has_successor: (batch, 1), 0 where they are not
        :param learns_world_model: whether somebody asks for the outcome
        :return: belief about ``next_obs``, and the outcome that the world model is to predict, if it is asked for or costs no
            evaluation of an extractor
        """
        next_raw = self.extract_features(next_obs, self.features_extractor_target)
        if not (learns_world_model or self.extracts_nothing):
            self.features_norm.update(next_raw)
            return Belief(self.scaled(next_raw), next_raw), None
        raw = self.extract_features(obs, self.features_extractor_target)
        self.features_norm.update(raw)
        belief, next_belief = (Belief(self.scaled(features), features) for features in (raw, next_raw))
        return next_belief, self.world_model.outcome(belief, next_belief, next_obs, has_successor)

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: as the replay buffer holds them, shape (batch, action_dim)
        :return: what the nets read of them: one-hot, or in [-1, 1], shape (batch, code_dim)
        """
        return self.action_model.encode(actions)

    @th.no_grad()
    def imagine(self, belief: Belief, actions: th.Tensor) -> Belief:
        """
        Draw what comes after an action from the world model.

        :param belief: about s
        :param actions: coded actions, shape (batch, code_dim)
        :return: a belief about s', whose raw features are the next observation where the nets read vectors
        """
        outcome = self.world_model.predict(belief, actions).sample()
        raw = self.world_model.successor(belief, outcome)
        return self.world_model.observe(belief, actions, Belief(self.scaled(raw), raw))

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
        :param prediction: of the world model
        :return: what the epistemic term is about, shape (batch, 1)
        """
        return prediction.information_gain() if self.novelty == "information_gain" else prediction.variance()

    @th.no_grad()
    def novelty_of_actions(self, belief: Belief, target: bool = False) -> th.Tensor:
        """
        :param belief: about s
        :param target: whether the target of the policy acts
        :return: novelty of one action drawn from the policy in each state, shape (batch, 1)
        """
        net = self.policy_net_target if target else self.policy_net
        actions = self.encode(self.action_model.act(net(belief.features)[0], deterministic=False))
        return self.novelty_of(self.world_model.predict(belief, actions))

    def posterior(self, belief: Belief) -> ActionPosterior:
        """
        The policy net.

        :param belief: about s
        :return: Q(.|s)
        """
        return self.action_model.posterior(self.policy_net(belief.features)[0])

    def efe(self, belief: Belief, target: bool = False) -> Any:
        """
        The critics.

        :param belief: about s
        :param target: whether to use the target net
        :return: G(s,.)
        """
        net = self.value_net_target if target else self.value_net
        return self.action_model.efe(
            net, belief.features, len(self.terms), Aggregation(self.averages, self.pessimism), self._known_efe(belief)
        )

    @th.no_grad()
    def _known_efe(self, belief: Belief) -> th.Tensor | float:
        """
        A world model can be asked about all actions, tried or not, what is to be learned by taking them now. The critics
        then have to learn only what follows. A table of counts always is; an ensemble with ``lookahead``.

        :param belief: about s
        :return: one-step part of G(s,.), shape (batch, n_terms, 1, n_actions), or 0 where nobody asks
        """
        if "epistemic" not in self.term_names:
            return 0.0
        novelty = self.world_model.gains_of_actions(belief)
        if novelty is None and self.lookahead:
            n_actions = self.action_model.code_dim
            actions = th.eye(n_actions, device=self.device).repeat(len(belief.features), 1)
            repeated = Belief(*(part.repeat_interleave(n_actions, dim=0) for part in belief))
            novelty = self.novelty_of(self.world_model.predict(repeated, actions)).reshape(-1, n_actions)
        if novelty is None:
            return 0.0
        known = novelty.new_zeros(len(novelty), len(self.terms), 1, novelty.shape[1])
        scale: Any = self.terms["epistemic"].scale
        known[:, self.term_names.index("epistemic"), 0] = -scale.scaled(novelty)
        return known

    def forward(self, obs: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        averaged = deterministic and self.greedy == "average"
        raw = self.extract_features(observation, self.features_extractor_average if averaged else self.features_extractor)
        return self.choose(Belief(self.scaled(raw), raw), deterministic)

    def choose(self, belief: Belief, deterministic: bool) -> th.Tensor:
        """
        :param belief: by the averaged extractor, if the averaged policy net chooses
        :param deterministic: the best action by ``greedy``, or a sample
        :return: actions, ``Box`` ones in [-1, 1], shape (batch, ...)
        """
        if deterministic and self.greedy == "average":
            actions = self.action_model.act(self.policy_net_average(belief.features)[0], True)
        else:
            outputs = self.policy_net(belief.features)[0]
            if deterministic and self.greedy == "extrinsic":
                actions = self.action_model.best(outputs, self.efe(belief))
            elif deterministic:
                actions = self.action_model.act(outputs, True)
            else:
                actions = self.action_model.act(self._deliberated(belief, outputs), False, self.action_precision)
        if isinstance(self.action_space, spaces.Box):
            return actions
        if actions.dtype != self.action_dtype:  # A space does not contain the actions of a larger type
            actions = actions.to(self.action_dtype)
        return actions.squeeze(1) if isinstance(self.action_space, spaces.Discrete) else actions

    def _deliberated(self, belief: Belief, outputs: th.Tensor) -> th.Tensor:
        """
        :param belief: about s
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: the same or, for each state with the probability ``deliberation``, the logits of softmax(-precision G(s,.))
        """
        if self.deliberation == 0.0:
            return outputs
        deliberate = th.rand(len(outputs), 1, device=outputs.device) < self.deliberation
        if not deliberate.any():
            return outputs
        weighed = -self.precision * self.efe(belief).total(self.head_weights).flatten(start_dim=1)
        return weighed if deliberate.all() else th.where(deliberate, weighed, outputs)


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
