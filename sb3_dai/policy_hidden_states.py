"""A policy with exact beliefs about numbered hidden states."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_dai.checks import check_number
from sb3_dai.equations.hidden_states import filtered_states
from sb3_dai.equations.point_values import Decisions, action_values, branches
from sb3_dai.policy import DAIPolicy
from sb3_dai.policy_recurrent import RecurrentPolicy
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.filters import BeliefFilter, Memory
from sb3_dai.world_model.hidden_filter import ExactFilter, HiddenStatesWorldModel, outcome_numbers, parts_of_free_energy
from sb3_dai.world_model.hidden_states import HiddenStateModel
from sb3_dai.world_model.planning import MAX_GAMMA, KeptPlan, Plan, make_plan
from sb3_dai.world_model.restarts import learn_from_many_starts
from sb3_dai.world_model.tables import Episodes

MAX_BRANCHES = 64
"""Outcomes of an action that are told apart when acting."""
NOISE = 0.1
"""Standard deviation of the random factors of the first counts: states of which nothing is known would stay the same."""


def modalities(observation_space: spaces.Space) -> tuple[int, ...]:
    """
    :param observation_space: of the environment
    :return: number of outcomes of each modality
    :raises ValueError: if observations are not numbered
    """
    parts = list(observation_space.spaces.values()) if isinstance(observation_space, spaces.Dict) else [observation_space]
    sizes: list[int] = []
    for part in parts:
        if isinstance(part, spaces.Discrete):
            sizes.append(int(part.n))
        elif isinstance(part, spaces.MultiDiscrete):
            sizes += [int(n) for n in part.nvec.ravel()]
        else:
            raise ValueError(
                f"observation_space={observation_space}: exact beliefs need numbered observations (Discrete, MultiDiscrete, "
                'or a Dict of them). Use "MlpLstmPolicy" for others'
            )
    return tuple(sizes)


class HiddenStatesPolicy(RecurrentPolicy):
    """
    As :class:`sb3_dai.policy.DAIPolicy`, for worlds of numbered states that are hidden. All nets read the exact belief
    p(s_t | o_1..t, a_1..t-1) beside the observation. A, B and D are those of pymdp: each is given and held, or learned from
    counts, while acting and by smoothing of all episodes, whenever their number has grown by a tenth, and what is paid is one
    more outcome that is counted. What is to be learned of an action is its salience and the novelty of A, B and payments.

    :param observation_space: Observation space: ``Discrete``, or several modalities as ``MultiDiscrete`` or a ``Dict`` of them
    :param action_space: Action space: ``Discrete``
    :param lr_schedule: Learning rate schedule (could be constant)
    :param n_hidden_states: Number of hidden states; or of values of each factor that a state is made of, of which the last one
        changes fastest from a state to the next
    :param A: Probability of each outcome, shape (n_outcomes, n_hidden_states), or a list of these, one a modality; held
    :param B: Probability of the next state, shape (n_hidden_states, n_hidden_states, n_actions) as B[s', s, a]; held
    :param D: Probability of the first state, shape (n_hidden_states,); held
    :param pA: Prior counts of A, shape of A, or what they sum to for each state; one by default
    :param pB: Prior counts of B, shape of B, or what they sum to for each state and action; one by default
    :param pD: Prior counts of D, shape of D, or their sum; one by default. In the ``policy_kwargs`` of
        :class:`sb3_dai.dai.DAI`, A, B and D may be "env" for the environment's own, and ``n_hidden_states`` is then theirs.
    :param assignment: "soft", or "hard" where neither A nor B is known, see
        :class:`sb3_dai.world_model.hidden_states.HiddenStateModel`
    :param A_dependencies: For each modality the numbers of the factors that it depends on, as in pymdp: states that agree in
        these share what is learned. By default it depends on all
    :param R_dependencies: Numbers of the factors that payments and ends depend on. By default all
    :param n_starts: Number of random starts from which smoothing tries to learn A and B better, each time. Where neither is
        known, or states look the same, it finds a poor optimum from one alone. States made of factors are tried with other
        labels as well
    :param plans: whether actions are planned through the model, over all outcomes, and taken by softmax(-precision G), or the
        best by G. Else the policy net acts. Plans see rewards alone, no other preferences
    :param kwargs: the other arguments of :class:`sb3_dai.policy_recurrent.RecurrentPolicy`
    :raises ValueError: if a space or an argument does not fit
    """

    belief_filter: ExactFilter
    gamma: th.Tensor
    # Where plans act, nets matter little, and their gradient steps are eager: few are enough
    learning_defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": LinearSchedule(2e-3, 0.0, 1.0),
        "batch_size": 16,
        "tau": 0.1,
        "train_freq": 2,
        "gradient_steps": 1,
    }
    dual_multiplier = 5.0
    # No nets that could lag behind: targets and averages read the same belief
    followed_by_targets = DAIPolicy.followed_by_targets
    followed_by_averages = DAIPolicy.followed_by_averages

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        n_hidden_states: int | Sequence[int] = 2,
        A: Any = None,
        B: Any = None,
        D: Any = None,
        pA: Any = None,
        pB: Any = None,
        pD: Any = None,
        assignment: str = "soft",
        A_dependencies: Any = None,
        R_dependencies: Any = None,
        n_starts: int = 0,
        plans: bool = True,
        **kwargs: Any,
    ) -> None:
        check_number("n_starts", n_starts, 0, whole=True)
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"action_space={action_space}: exact beliefs need Discrete actions")
        if kwargs.setdefault("normalize_features", False):
            raise ValueError("normalize_features=True: exact beliefs read the numbers of outcomes. Leave it out")
        if kwargs.setdefault("action_dropout", 0.0):
            raise ValueError(f"action_dropout={kwargs['action_dropout']}: exact beliefs need each action. Leave it out")
        if kwargs.get("novelty", "information_gain") != "information_gain":
            raise ValueError(f'novelty={kwargs["novelty"]!r}: exact beliefs know their "information_gain". Leave it out')
        if isinstance(observation_space, spaces.Dict):
            kwargs.setdefault("features_extractor_class", CombinedExtractor)
        self.n_hidden_states = n_hidden_states
        self.plans, self.n_starts = plans, n_starts
        self.given = dict(A=A, B=B, D=D, pA=pA, pB=pB, pD=pD, assignment=assignment)
        self.given.update(A_dependencies=A_dependencies, R_dependencies=R_dependencies)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @property
    def can_gain_information(self) -> bool:
        """Whether the world model says what it does not know: counts always do."""
        return True

    def _make_nets(self, features_dim: int, n_terms: int) -> None:
        n_outcomes, n_actions = modalities(self.observation_space), int(self.action_space.n)  # type: ignore[attr-defined]
        self.states = HiddenStateModel(self.n_hidden_states, n_outcomes, n_actions, **self.given)
        self.states.scatter(NOISE)
        self.belief_filter, self.memory_dim = ExactFilter(self.states), self.states.n_states
        DAIPolicy._make_nets(self, features_dim, n_terms)
        self.world_model = HiddenStatesWorldModel(self.states)
        self._plan: Plan | None = None
        self.drawn = KeptPlan()
        self.register_buffer("gamma", th.tensor(0.99))  # The algorithm's

    @property
    def belief_filter_target(self) -> BeliefFilter:  # type: ignore[override]
        """The filter itself, which has no weights that could lag behind."""
        return self.belief_filter

    @property
    def belief_filter_average(self) -> BeliefFilter:  # type: ignore[override]
        """The filter itself, likewise."""
        return self.belief_filter

    def filter_parameters(self) -> list[nn.Parameter]:
        """None: the filter learns by counting."""
        return []

    def filter_losses(
        self, batch: Any, belief: Belief, next_belief: Belief, actions: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        :param batch: transitions
        :param belief: about s
        :param next_belief: about s'
        :param actions: coded actions
        :return: no losses, since the filter learns by counting, and what is logged of each sample
        """
        here, after = (self._split(part.features)[1] for part in (belief, next_belief))
        outcomes = outcome_numbers(next_belief.raw, self.states.n_outcomes)
        return {}, parts_of_free_energy(self.states, here, after, actions.argmax(dim=1), outcomes)

    def _world(self, draws: bool) -> Decisions:
        """
        :param draws: whether to draw what is not known for certain from its posterior, instead of the mean
        :return: the world to decide in. Beside what is paid, what would be learned in a state counts, in nats
        """
        world = self.states.decisions(draws)
        epistemic = self._epistemic_weight()
        if epistemic == 0.0:
            return world
        return world._replace(rewards=world.rewards + epistemic * self.states.gains_of_seen_states())

    def _epistemic_weight(self) -> float:
        return dict(zip(self.term_names, self.head_weights.tolist(), strict=True)).get("epistemic", 0.0)

    @th.no_grad()
    def draw(self) -> None:
        """
        Draw a world from the posterior of all that is learned, and plan in it: what is done until the next draw explores by it
        (posterior sampling: Osband et al. 2013, "(More) efficient reinforcement learning via posterior sampling").
        """
        before = self.drawn.plan
        seed, points = int(th.randint(2**31, ())), None if before is None else before.points
        self.drawn.keep(make_plan(self._world(draws=True), float(self.gamma), seed, points))

    @th.no_grad()
    def plan(self, draws: bool) -> Plan:
        """
        :param draws: whether it is that of the last draw, or that of the mean
        :return: the plan
        """
        if draws:
            if self.drawn.plan is None:
                self.draw()
            drawn = self.drawn.plan
            assert drawn is not None
            return drawn
        world = self._world(draws=False)
        if self._plan is None or not all(th.equal(*pair) for pair in zip(world, self._plan.world, strict=True)):
            self._plan = make_plan(world, float(self.gamma), seed=0)
        return self._plan

    @th.no_grad()
    def planned_efe(self, belief: Belief, draws: bool = False) -> th.Tensor:
        """
        What each action and the plan after it are worth, over all outcomes. Information is in nats.

        :param belief: about s
        :param draws: whether to plan in the world of the last draw, or in that of the mean
        :return: G(s,.), shape (batch, n_actions)
        """
        world, vectors, _ = self.plan(draws)
        states = belief.features[:, -self.states.n_states :]
        seen = branches(states, world, MAX_BRANCHES)
        values, _ = action_values(states, seen, world, min(float(self.gamma), MAX_GAMMA), vectors)
        epistemic = self._epistemic_weight()
        return -values if epistemic == 0.0 else -values - epistemic * self.states.information_gains(states).salience

    def choose(self, belief: Belief, deterministic: bool) -> th.Tensor:
        if not self.plans:
            return super().choose(belief, deterministic)
        logits = -self.precision * self.planned_efe(belief, draws=not deterministic)
        actions = self.action_model.act(logits, deterministic, self.action_precision)
        return actions.to(self.action_dtype).squeeze(1)

    @th.no_grad()
    def learn_episodes(self, episodes: Episodes, targets: th.Tensor) -> None:
        """
        Learn anew: A, B, D, what is paid and what ends episodes.

        :param episodes: all that is to be remembered
        :param targets: weighted log-preference of each step's outcome, and 1 where it ended the episode, shape
            (n_episodes, time - 1, 2)
        """
        valid = episodes.mask[:, 1:]
        payments = th.zeros_like(episodes.actions)
        payments[valid] = self.states.payments.number(targets[valid])
        learn_from_many_starts(self.states, episodes._replace(payments=payments).distinct(), self.n_starts)

    @th.no_grad()
    def count(
        self,
        state: Memory,
        outcomes: th.Tensor,
        next_outcomes: th.Tensor,
        episode_starts: th.Tensor,
        targets: th.Tensor,
    ) -> None:
        """
        Learn from a step as it happens.

        :param state: what is carried: the belief about s and the action taken, coded
        :param outcomes: number of each modality's outcome at s, shape (n_envs, n_modalities)
        :param next_outcomes: at s', same shape
        :param episode_starts: whether an episode starts with s, shape (n_envs,)
        :param targets: weighted log-preference of the step's outcome, and 1 where it truly ended the episode, shape
            (n_envs, 2)
        """
        belief, actions = state[0], state[1].argmax(dim=1)
        payments = self.states.payments.number(targets)
        if episode_starts.any():
            self.states.count_first(belief[episode_starts], outcomes[episode_starts])
        # What was paid says more about s
        belief, _ = filtered_states(belief, self.states.payments.log_likelihood(payments, actions))
        self.states.payments.count(payments, actions, belief)
        predicted = self.states.predict_states(belief)[th.arange(len(actions), device=actions.device), actions]
        self.states.count(belief, actions, self.states.infer(predicted, next_outcomes)[0], next_outcomes)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(n_hidden_states=self.n_hidden_states, plans=self.plans, n_starts=self.n_starts, **self.given)
        return data
