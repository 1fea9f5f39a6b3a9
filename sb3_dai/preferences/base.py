"""
Prior preferences log p~(o'): what the agent expects, and therefore wants, to observe. The extrinsic term of the expected free
energy is ``-preference_weight log p~(o')``.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_dai.checks import check_choice
from sb3_dai.equations import preference as equations
from sb3_dai.nets.preprocessing import extractor_inputs


class Outcome(NamedTuple):
    """What a preference scores: a batch of the replay buffer has these fields, and imagined outcomes are made of them."""

    next_observations: PyTorchObs
    """o', as the replay buffer returns it."""
    rewards: th.Tensor | None
    """Shape (batch, 1); None where nobody predicts them."""
    dones: th.Tensor
    """1 where the episode truly ended, shape (batch, 1)."""


@dataclass(frozen=True)
class PreferenceContext:
    """What a preference is told of the model that uses it."""

    observation_space: spaces.Space
    gamma: float
    replay_buffer: ReplayBuffer | None
    device: th.device


@runtime_checkable
class Preference(Protocol):
    """
    What DAI asks of a preference. Derive from this class: only ``log_prob`` has to be written. The object is pickled with the
    model, so what it has learned is saved and resumed.
    """

    def setup(self, model: PreferenceContext) -> None:
        """
        Called when the model has been made or loaded, and when it has loaded a replay buffer.

        :param model: its spaces, discount, replay buffer and device
        :raises ValueError: if the preference cannot be used with it
        """
        return

    def reset(self) -> None:
        """The environments are about to be reset: the episodes they were in will not be finished."""
        return

    def observe(self, next_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        One step of each environment, for preferences that learn.

        :param next_obs: observations after the step, those of the next episode where one ended, shape (n_envs, ...)
        :param rewards: as the environment gives them, whatever a ``VecNormalize`` makes of them, shape (n_envs,)
        :param dones: whether an episode ended or was cut off, shape (n_envs,)
        :param infos: of each environment; an episode's last observation is its ``terminal_observation``
        """
        return

    def log_prob(self, samples: Any) -> th.Tensor:
        """
        :param samples: transitions of the replay buffer, or an :class:`Outcome`
        :return: log p~(o'), in nats up to a constant, shape (batch, 1)
        """
        raise NotImplementedError


class RewardPreference(Preference):
    """
    The default: log p~ is the reward in nats, so that the extrinsic value is the return. ``preference_weight`` scales it. It
    is the only one for ``n_steps > 1``.
    """

    def log_prob(self, samples: Any) -> th.Tensor:
        """
        :param samples: transitions, or n-step returns
        :return: shape (batch, 1)
        :raises ValueError: if nobody says what the rewards are
        """
        if samples.rewards is None:
            raise ValueError(
                "preference=RewardPreference: an imagined outcome has no reward unless it is predicted. Give a preference of "
                "outcomes, such as GaussianPreference"
            )
        return samples.rewards


def check_preference(preference: Any) -> None:
    """
    :param preference: the argument
    :raises ValueError: if it is no preference
    """
    if not isinstance(preference, Preference) or isinstance(preference, type):
        raise ValueError(
            f"preference={preference!r}: give an object of a class derived from sb3_dai.Preference, such as "
            "GaussianPreference(goal=0.0, std=1.0)"
        )


class OutcomePreference(Preference):
    """
    A preference for observations, whatever the reward is.

    What an episode's end is worth: a log-density is at most 0 and has no zero point of its own, so if nothing followed the
    end, any end would beat the best of lives. With ``terminal="absorbing"`` the last observation lasts for ever: ending at the
    goal is the best and ending far from it the worst there is, and a constant added to log p~ changes no choice.

    :param key: the entry of a dictionary of observations
    :param terminal: "absorbing", or "end" for no value after the end, which suits environments that never end by themselves
        and those whose every end is wanted
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, key: str | None = None, terminal: str = "absorbing") -> None:
        check_choice("terminal", terminal, "absorbing", "end")
        self.key = key
        self.terminal = terminal

    @property
    def name(self) -> str:
        """What to call it in an error."""
        return f"preference={type(self).__name__}"

    def setup(self, model: PreferenceContext) -> None:
        """
        :param model: its spaces, discount, replay buffer and device
        :raises ValueError: if its replay buffer hides what comes next, its observations are no vectors, or values diverge
        """
        n_steps = getattr(model.replay_buffer, "n_steps", 1)
        if n_steps > 1:
            raise ValueError(f"{self.name} with n_steps={n_steps}: returns are sums of rewards, give n_steps=1")
        if getattr(model.replay_buffer, "optimize_memory_usage", False):
            raise ValueError(
                f"{self.name} with optimize_memory_usage=True: that buffer does not keep the last observation of an episode. "
                "Leave it out"
            )
        if self.terminal == "absorbing" and model.gamma == 1:
            raise ValueError(f'{self.name} with gamma=1: an end that lasts for ever has no value, give terminal="end"')
        self.gamma = model.gamma
        self.space: spaces.Space = model.observation_space
        if isinstance(model.observation_space, spaces.Dict):
            if self.key not in model.observation_space.spaces:
                keys = ", ".join(map(repr, model.observation_space.spaces))
                raise ValueError(f"{self.name} with key={self.key!r}: give the key of an observation, one of {keys}")
            self.space = model.observation_space[self.key]
        elif self.key is not None:
            raise ValueError(f"{self.name} with key={self.key!r}: the observations are no dictionary, leave it out")
        if is_image_space(self.space):
            raise ValueError(f"{self.name} cannot read images, {self.space}: give the preference as rewards, in a wrapper")

    def part(self, observations: Any) -> Any:
        """
        :param observations: one or more
        :return: what the preference is about
        """
        return observations if self.key is None else observations[self.key]

    def vectors(self, outcomes: th.Tensor) -> th.Tensor:
        """
        :param outcomes: that part of a batch of observations
        :return: numbers as they are, numbered states as one-hot codes, shape (batch, dim)
        """
        inputs = extractor_inputs(outcomes, self.space, normalize_images=False)
        assert isinstance(inputs, th.Tensor)
        return inputs.flatten(start_dim=1)

    def outcome_log_prob(self, outcomes: th.Tensor) -> th.Tensor:
        """
        :param outcomes: o', shape (batch, dim)
        :return: log p~(o'), shape (batch, 1)
        """
        raise NotImplementedError

    def log_prob(self, samples: Any) -> th.Tensor:
        """
        :param samples: transitions, or an :class:`Outcome`
        :return: log p~(o'), or its sum over the rest of time where that is the end, shape (batch, 1)
        """
        log_prob = self.outcome_log_prob(self.vectors(self.part(samples.next_observations)))
        return equations.absorbed(log_prob, samples.dones, self.gamma) if self.terminal == "absorbing" else log_prob
