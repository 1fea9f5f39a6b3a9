"""Collecting experience: observations are checked, models that count learn, and beliefs go on from step to step."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn

from sb3_dai.acceleration import ChosenStep, one_thread
from sb3_dai.learning.batch import end_returns
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.learning.episodes import last_step, read_episodes
from sb3_dai.learning.observations import check_step, last_observations
from sb3_dai.learning.sequences import end_sequences, keep_memory
from sb3_dai.policy import DAIPolicy
from sb3_dai.policy_hidden_states import HiddenStatesPolicy
from sb3_dai.policy_recurrent import RecurrentPolicy
from sb3_dai.preferences.base import Preference
from sb3_dai.saving import CrashSafeSaving
from sb3_dai.world_model import DirichletWorldModel


class Rollouts(CrashSafeSaving):
    """
    SB3's hooks of collecting experience. Arguments are those of ``OffPolicyAlgorithm``.
    """

    policy: DAIPolicy
    preference: Preference
    preference_weight: float
    _step: ChosenStep
    _coefficients: Callable[[int], Iterator[Coefficients]]
    _last_state: tuple[np.ndarray, ...] | None = None
    """What a recurrent policy carries from step to step of the training environments, each part of shape (n_envs, ...)."""
    _n_episodes = 0
    """Number of episodes that a model of hidden states has seen the end of."""
    _smooths_at = 1
    """The number at which it learns from all of them again."""
    _draws_at = 0
    """The number from which it draws another world at the next start of an episode."""

    _last_memory: np.ndarray | None = None
    """What its filter carried to the last observations, shape (n_envs, size)."""

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As :meth:`OffPolicyAlgorithm.set_env`, and goals of hindsight are rewarded by the new environment as well.

        :param env: The environment for learning a policy
        :param force_reset: Force call to ``reset()`` before training
        """
        super().set_env(env, force_reset)
        if isinstance(self.replay_buffer, HerReplayBuffer):
            self.replay_buffer.env = self.env

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # The environment is about to be reset
            end_returns(self.replay_buffer)
            if isinstance(self.policy, RecurrentPolicy):
                end_sequences(self.replay_buffer)
            self.preference.reset()
        if isinstance(self.policy, HiddenStatesPolicy) and self.replay_buffer is not None and self.replay_buffer.size() == 0:
            self.policy.states.keep()
        self._step.reset()
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        check_step(self.observation_space, self._last_obs)
        return result

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # Steps may overshoot the total, as whole episodes do: no schedule is read beyond its end
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """
        As :meth:`OffPolicyAlgorithm.collect_rollouts`.

        :raises RuntimeError: if the process of an environment died
        """
        try:
            return super().collect_rollouts(*args, **kwargs)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            assert self.env is not None
            processes = getattr(self.env.unwrapped, "processes", [])
            codes = {i: process.exitcode for i, process in enumerate(processes) if not process.is_alive()}
            if not codes:
                raise
            raise RuntimeError(
                f"the process of environment {', '.join(map(str, codes))} died, exit code "
                f"{', '.join(map(str, codes.values()))} (-9: killed, perhaps for lack of memory), at step "
                f"{self.num_timesteps}. The model can still be saved: train on with new environments"
            ) from error

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(self.policy, RecurrentPolicy):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None
        before = self.policy.carried(self._last_state, self._last_episode_starts, n_envs)
        self._last_memory = self.policy.flattened(before[:-1]).cpu().numpy()
        if isinstance(self.policy, HiddenStatesPolicy) and self.policy.plans and np.any(self._last_episode_starts):
            self._draw_world(self.policy)
        # The belief goes on in the random steps as well
        actions, state = self.policy.predict(self._last_obs, self._last_state, self._last_episode_starts)
        if self.num_timesteps < learning_starts:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        buffer_actions = actions
        if isinstance(self.action_space, spaces.Box):
            buffer_actions = self.policy.scale_action(actions)
            if action_noise is not None:
                buffer_actions = np.clip(buffer_actions + action_noise(), -1, 1)
            actions = self.policy.unscale_action(buffer_actions)
        assert state is not None
        taken = th.as_tensor(buffer_actions.reshape(n_envs, -1), device=self.device)
        self._last_state = (*state[:-1], self.policy.encode(taken).cpu().numpy())
        return actions, buffer_actions

    def _store_transition(self, replay_buffer, buffer_action, new_obs, reward, dones, infos) -> None:
        check_step(self.observation_space, new_obs, reward, dones, infos)
        rewards = reward if self._vec_normalize_env is None else self._vec_normalize_env.get_original_reward()
        with one_thread():  # It may learn a small net
            self.preference.observe(new_obs, rewards, dones, infos)
        if isinstance(self.policy.world_model, DirichletWorldModel):
            assert isinstance(self._last_obs, np.ndarray)
            ends = last_observations(self.observation_space, new_obs, dones, infos)
            self.policy.world_model.count(self._last_obs, buffer_action, ends)
        if isinstance(self.policy, RecurrentPolicy):
            assert self._last_memory is not None
            keep_memory(replay_buffer, self._last_memory)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if isinstance(self.policy, HiddenStatesPolicy):
            self._count_states(self.policy, replay_buffer, dones)
        self._last_episode_starts = dones

    def _draw_world(self, policy: HiddenStatesPolicy) -> None:
        """
        Draw the world to plan in for the next episodes: one, and more when there have been so many that it hardly changes.

        :param policy: with a model of hidden states
        """
        if self._n_episodes >= self._draws_at and self.num_timesteps >= self.learning_starts:
            # What it acts by, precision and weights, which it gets nowhere else if its nets do not learn
            [*self._coefficients(0)]
            with one_thread():
                policy.draw()
            self._draws_at = self._n_episodes + 1 + self._n_episodes // 20

    def _count_states(self, policy: HiddenStatesPolicy, replay_buffer: ReplayBuffer, dones: np.ndarray) -> None:
        """
        Learn from the last step, and from all episodes when their number has grown by a tenth.

        :param policy: with a model of hidden states
        :param replay_buffer: that has the step
        :param dones: whether an episode ended with it, shape (n_envs,)
        """
        assert self._last_state is not None
        last = last_step(replay_buffer)
        log_preference = self.preference_weight * replay_buffer.rewards[replay_buffer.pos - 1]
        seen = last.outcomes, last.next_outcomes, np.asarray(self._last_episode_starts, dtype=bool)
        targets = np.stack([log_preference, last.ended], axis=1).astype(np.float32)
        *state, before, after, starts, paid = (
            th.as_tensor(part, device=policy.device) for part in (*self._last_state, *seen, targets)
        )
        with one_thread():
            policy.count(tuple(state), before, after, starts, paid)
        self._n_episodes += int(dones.sum())
        # A buffer that has been overwritten does not know all that was counted
        if self._n_episodes >= self._smooths_at and not replay_buffer.full:
            with one_thread():
                log_preferences = self.preference_weight * replay_buffer.rewards[: replay_buffer.size()]
                episodes, paid = read_episodes(replay_buffer, log_preferences)
                episodes = episodes.each(lambda part: part.to(policy.device))
                policy.learn_episodes(episodes, paid.to(policy.device))
            self._draws_at = self._n_episodes  # States may have other numbers now
            self._smooths_at = self._n_episodes + max(1, self._n_episodes // 10)
