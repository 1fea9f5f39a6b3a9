"""Policies that remember: a belief filter carries what was observed and done from step to step."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import LinearSchedule
from torch import nn
from torch.nn import functional as F

from sb3_dai.actions import make_action_model
from sb3_dai.actions.base import ActionPosterior
from sb3_dai.checks import check_number
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.policy import CnnPolicy, DAIPolicy, MultiInputPolicy
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.filters import BeliefFilter, Memory
from sb3_dai.world_model.recurrent import LstmFilter
from sb3_dai.world_model.state_space import StateSpaceFilter


class RecurrentPolicy(DAIPolicy):
    """
    As :class:`sb3_dai.policy.DAIPolicy`, for worlds whose state is hidden. All nets read the features of the observation
    beside a belief, which a filter makes of all observations and actions of the episode so far.

    What is carried from step to step is a tuple of arrays: the filter's memory, and the last action in code.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule (could be constant)
    :param lstm_hidden_size: Number of hidden units of the LSTM
    :param sequence_length: Length of the sequences that are learned from, in steps of the environment
    :param burn_in: Number of steps at the beginning of a sequence that only bring the belief up to date, where the sequence
        does not start with its episode
    :param action_dropout: Share of the sequences without past actions, at random (after Bansal et al. 2019, arXiv:1812.03079):
        where actions are random, the filter would learn episodes by heart by them
    :param state_dim: Size of a hidden state with a distribution, by which the filter learns the variational free energy; 0 for
        the LSTM's own state alone
    :param kwargs: the other arguments of :class:`sb3_dai.policy.DAIPolicy`, of which ``transition_delay`` is 1 by default and
        ``lr_multipliers`` has a "dual" of 4, or of 5 with exact beliefs
    :raises ValueError: if an argument cannot describe a net
    """

    belief_filter: BeliefFilter
    belief_filter_target: BeliefFilter
    belief_filter_average: BeliefFilter
    # A sequence is many transitions. Few of them and many gradient steps learn more than the opposite at the same cost
    learning_defaults: ClassVar[dict[str, Any]] = dict(
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0), batch_size=4, tau=0.05, train_freq=1, gradient_steps=2, pessimism=1.0
    )
    dual_multiplier: ClassVar[float] = 4.0
    """Of the learning rate, for what dual descent learns: an automatic precision and epistemic weight."""
    followed_by_targets = (*DAIPolicy.followed_by_targets, "belief_filter")
    followed_by_averages = (*DAIPolicy.followed_by_averages, "belief_filter")

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        lstm_hidden_size: int = 64,
        sequence_length: int = 64,
        burn_in: int = 16,
        action_dropout: float = 0.5,
        state_dim: int = 0,
        **kwargs: Any,
    ) -> None:
        check_number("lstm_hidden_size", lstm_hidden_size, low=1, whole=True)
        check_number("sequence_length", sequence_length, low=2, whole=True)
        check_number("burn_in", burn_in, low=0, high=sequence_length - 1, whole=True)
        check_number("action_dropout", action_dropout, low=0, high=1)
        check_number("state_dim", state_dim, low=0, whole=True)
        self.lstm_hidden_size = lstm_hidden_size
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self.action_dropout = action_dropout
        self.state_dim = state_dim
        if kwargs.get("transition_delay") is None:  # There are fewer gradient steps, and the filter learns by them
            kwargs["transition_delay"] = 1
        # Else the precision lags behind the target entropy for most of training
        kwargs["lr_multipliers"] = {"dual": self.dual_multiplier, **(kwargs.get("lr_multipliers") or {})}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _make_filter(self, features_dim: int) -> BeliefFilter:
        """
        :param features_dim: number of features that are extracted from an observation
        :return: the belief filter
        """
        sizes = features_dim, self.action_model.code_dim, self.lstm_hidden_size, self.sequence_length
        if self.state_dim == 0:
            return LstmFilter(*sizes)
        is_categorical = isinstance(self.observation_space, spaces.Discrete) and self.extracts_nothing
        return StateSpaceFilter(*sizes, self.state_dim, self.net_arch["transition"], is_categorical)

    def _make_nets(self, features_dim: int, n_terms: int) -> None:
        self.action_model = make_action_model(self.action_space)
        self.belief_filter = self._make_filter(features_dim)
        self.memory_dim = self.belief_filter.belief_dim
        super()._make_nets(features_dim, n_terms)
        arch, options = self.net_arch["transition"], (self.activation_fn, False)
        # The reward is one more outcome: what a belief has to hold is what tells the rewards to come
        input_dim = features_dim + self.memory_dim + self.action_model.code_dim
        self.reward_net = EnsembleMLP(1, input_dim, 1, arch, *options)
        self.reward_norm = RunningNorm(1)

    def filter_parameters(self) -> list[nn.Parameter]:
        """The filter, and the nets that only it learns by."""
        return [*self.belief_filter.parameters(), *self.reward_net.parameters()]

    def seen_by_world_model(self, belief: Belief) -> Belief:
        """
        :param belief: about s
        :return: the same, of which the world model's loss shapes the filter and not the features
        """
        features, memory = self._split(belief.features)
        return Belief(th.cat([features.detach(), memory], dim=1), belief.raw.detach())

    def _split(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param features: that the nets read, shape (batch, features_dim + memory_dim)
        :return: those of the observation, and the filter's
        """
        return features[:, : -self.memory_dim], features[:, -self.memory_dim :]

    def posterior(self, belief: Belief) -> ActionPosterior:
        """
        The policy net reads the belief and does not shape it: it follows the critics, and one filter for the gradients of both
        learns worse than one for each (Ni et al. 2022, arXiv:2110.05038). The critics' and the world model's are enough.

        :param belief: about s
        :return: Q(.|s)
        """
        features, memory = self._split(belief.features)
        return self.action_model.posterior(self.policy_net(th.cat([features, memory.detach()], dim=1))[0])

    def belief(self, obs: PyTorchObs, target: bool = False) -> Belief:
        """
        :param obs: first observations of episodes
        :param target: whether to use the targets
        :return: what the nets read after them
        """
        raw = self.extract_features(obs, self.features_extractor_target if target else self.features_extractor)
        features, state = self.scaled(raw), self.initial_state(raw.shape[0])
        belief_filter = self.belief_filter_target if target else self.belief_filter
        return Belief(th.cat([features, belief_filter.step(state[:-1], features, state[-1])[0]], dim=1), raw)

    def imagine(self, belief: Belief, actions: th.Tensor) -> Belief:
        """
        :raises NotImplementedError: always: what a filter carries is not a part of a belief
        """
        raise NotImplementedError(f"{type(self).__name__}.imagine: give a policy without a memory, such as MlpPolicy")

    # ----- Learning -----

    def replay(self, windows: Any, pairs: Any, learns_world_model: bool) -> tuple[Belief, Belief, Any, Belief]:
        """
        Infer the states of sequences. Updates the running statistics.

        :param windows: a :class:`sb3_dai.learning.sequences.Windows`
        :param pairs: the transitions to learn from
        :param learns_world_model: whether somebody asks for the outcome
        :return: beliefs about s, and about s' by the targets, the outcome that the world model is to predict, and the belief
            about s' that learns
        """
        here = windows.rows
        with th.no_grad():
            target_raw = self.extract_features(windows.observations, self.features_extractor_target)
            self.features_norm.update(target_raw[here])
            target_beliefs = self._replayed(windows, target_raw, self.belief_filter_target)
            after = here + 1
            next_belief = Belief(target_beliefs[after], target_raw[after])
            outcome = None
            if learns_world_model:
                seen = Belief(target_beliefs[here], target_raw[here])
                outcome = self.world_model.outcome(seen, next_belief, pairs.next_observations, 1.0)
        raw = target_raw if self.extracts_nothing else self.extract_features(windows.observations)
        beliefs = self._replayed(windows, raw, self.belief_filter)
        return Belief(beliefs[here], raw[here]), next_belief, outcome, Belief(beliefs[after], raw[after])

    def _replayed(self, windows: Any, raw: th.Tensor, belief_filter: BeliefFilter) -> th.Tensor:
        """
        :param windows: sequences
        :param raw: features of their observations, shape (n_rows, features_dim)
        :param belief_filter: the filter, or its target
        :return: what the nets read, shape (n_rows, features_dim + memory_dim)
        """
        features, place = self.scaled(raw), (windows.time, windows.window)
        inputs = th.cat([features, self.encode(windows.actions) * windows.has_action], dim=1)
        size = int(windows.time.max()) + 1, int(windows.window.max()) + 1
        # What is beyond the end of a sequence comes after all of it, and is not read again
        padded = inputs.new_zeros(*size, inputs.shape[1]).index_put(place, inputs)
        observed, acted = padded.split([features.shape[1], inputs.shape[1] - features.shape[1]], dim=2)
        memory = None if windows.memory is None else self.unflattened(windows.memory)
        beliefs = belief_filter.replay(observed, acted, memory)
        return th.cat([features, beliefs[place]], dim=1)

    def filter_losses(
        self, batch: Any, belief: Belief, next_belief: Belief, actions: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        :param batch: transitions
        :param belief: about s
        :param next_belief: about s'
        :param actions: coded actions, shape (batch, code_dim)
        :return: losses that shape the filter alone, scalars by name, and what is logged of each sample
        """
        rewards = batch.one_step.rewards
        self.reward_norm.update(rewards)
        predicted = self.reward_net(th.cat([belief.features, actions], dim=1))[0]
        errors = F.mse_loss(predicted, self.reward_norm(rewards), reduction="none")
        (_, before), (features, after) = map(self._split, (belief.features, next_belief.features))
        losses, samples = self.belief_filter.losses(before, after, actions, features.detach())
        return {"reward_loss": errors.mean(), **losses}, samples

    # ----- Acting -----

    def initial_state(self, n: int) -> Memory:
        """
        :param n: number of environments
        :return: what is carried before the first observation: the filter's memory, and no action, each shape (n_envs, ...)
        """
        no_action = th.zeros(n, self.action_model.code_dim, device=self.device)
        return (*self.belief_filter.initial(n, self.device), no_action)

    def flattened(self, memory: Memory) -> th.Tensor:
        """
        :param memory: of the filter, parts of shapes (n, ...)
        :return: the same as rows, shape (n, size)
        """
        return th.cat([part.flatten(start_dim=1) for part in memory], dim=1)

    def unflattened(self, rows: th.Tensor) -> Memory:
        """
        :param rows: shape (n, size)
        :return: the memory of the filter that they stand for, parts of shapes (n, ...)
        """
        likes = self.belief_filter.initial(len(rows), rows.device)
        parts = rows.split([like[0].numel() for like in likes], dim=1)
        return tuple(part.reshape(like.shape).to(like.dtype) for part, like in zip(parts, likes, strict=True))

    def carried(self, state: Any, episode_starts: Any, n: int) -> Memory:
        """
        :param state: what the last prediction returned, arrays; None to start anew
        :param episode_starts: whether an episode starts, shape (n_envs,); None if none does
        :param n: number of environments
        :return: what is carried to the next observation, tensors
        """
        if state is None:
            return self.initial_state(n)
        tensors = tuple(th.as_tensor(part, device=self.device) for part in state)
        if episode_starts is None or not np.any(episode_starts):
            return tensors
        return self.restarted(tensors, th.as_tensor(np.asarray(episode_starts), device=self.device))

    def restarted(self, state: Memory, episode_starts: th.Tensor) -> Memory:
        """
        :param state: what is carried
        :param episode_starts: 1 where an episode starts, shape (n_envs,)
        :return: the same, as it is initially where an episode starts
        """
        starts = episode_starts.bool()
        initial = self.initial_state(starts.shape[0])
        return tuple(
            th.where(starts.reshape(-1, *[1] * (part.dim() - 1)), first, part)
            for part, first in zip(state, initial, strict=True)
        )

    def remember(self, state: Memory, actions: th.Tensor) -> Memory:
        """
        :param state: what is carried
        :param actions: that are taken, as the replay buffer holds them, shape (n_envs, action_dim)
        :return: the same with these actions
        """
        return (*state[:-1], self.encode(actions))

    def act(self, obs: PyTorchObs, state: Memory, deterministic: bool) -> tuple[th.Tensor, Memory]:
        """
        :param obs: observations
        :param state: what is carried, as it is initially where an episode starts
        :param deterministic: the best action by ``greedy``, or a sample
        :return: actions, ``Box`` ones in [-1, 1], and what is carried on, these actions included
        """
        averaged = deterministic and self.greedy == "average"
        raw = self.extract_features(obs, self.features_extractor_average if averaged else self.features_extractor)
        features, belief_filter = self.scaled(raw), self.belief_filter_average if averaged else self.belief_filter
        belief, memory = belief_filter.step(state[:-1], features, state[-1])
        actions = self.choose(Belief(th.cat([features, belief], dim=1), raw), deterministic)
        return actions, self.remember((*memory, state[-1]), actions.reshape(actions.shape[0], -1))

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, *state: th.Tensor, deterministic: bool = True
    ) -> tuple[th.Tensor, ...]:
        """
        :param obs: observations
        :param state: what is carried, one tensor after the other; then where an episode starts, shape (n_envs,)
        :param deterministic: the best action by ``greedy``, or a sample
        :return: actions, and what is carried on
        """
        *carried, episode_starts = state
        actions, carried_on = self.act(obs, self.restarted(tuple(carried), episode_starts), deterministic)
        return (actions, *carried_on)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        :param observation: of one environment or of several
        :param state: what the call before returned; None to start anew
        :param episode_start: whether the observation is the first of an episode, shape (n_envs,): the belief of that
            environment alone starts anew
        :param deterministic: the best action by ``greedy``, or a sample
        :return: actions, and what to give to the next call: arrays of shapes (n_envs, ...)
        """
        self.set_training_mode(False)
        obs, is_vectorized = self.obs_to_tensor(observation)
        n_envs = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        with th.no_grad():
            acted, carried = self.act(obs, self.carried(state, episode_start, n_envs), deterministic)
        actions = acted.cpu().numpy().reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        if isinstance(self.action_space, spaces.Box):
            actions = self.unscale_action(actions)
        return actions if is_vectorized else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in carried)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        names = "lstm_hidden_size", "sequence_length", "burn_in", "action_dropout", "state_dim"
        data.update({name: getattr(self, name) for name in names})
        return data


MlpLstmPolicy = RecurrentPolicy


class CnnLstmPolicy(CnnPolicy, RecurrentPolicy):
    """As :class:`RecurrentPolicy`, for images, with the extractors of :class:`sb3_dai.policy.CnnPolicy`."""


class MultiInputLstmPolicy(MultiInputPolicy, RecurrentPolicy):
    """As :class:`RecurrentPolicy`, for dictionaries of observations, with the ``CombinedExtractor``."""
