"""
Prior preferences log p~(o'): what the agent expects, and therefore wants, to observe. The extrinsic part of the expected free
energy is ``-preference_weight log p~(o')``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_dai import free_energy as fe
from sb3_dai.checks import check_choice, check_number
from sb3_dai.habits import extractor_inputs
from sb3_dai.replay import Samples

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

Numbers = float | Sequence[float] | np.ndarray


@runtime_checkable
class Preference(Protocol):
    """
    What DAI asks of a preference. Derive from this class: only ``log_prob`` has to be written. The object is pickled with the
    model, so what it has learned is saved and resumed.
    """

    def setup(self, model: "DAI") -> None:
        """
        Called when the model has been made or loaded, and when it has loaded a replay buffer.

        :param model: the algorithm, with its replay buffer and policy
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

    def log_prob(self, samples: Samples) -> th.Tensor:
        """
        :param samples: transitions of the replay buffer
        :return: log p~(o'), in nats up to a constant, shape (batch, 1)
        """
        raise NotImplementedError


class RewardPreference(Preference):
    """
    The default: log p~ is proportional to the reward, so that the extrinsic value is the return. It is the only one for
    ``n_steps > 1``.

    :param scale: nats for a unit of reward
    :raises ValueError: if it is no finite number of at least 0
    """

    def __init__(self, scale: float = 1.0) -> None:
        check_number("scale", scale, low=0)
        self.scale = float(scale)

    def log_prob(self, samples: Samples) -> th.Tensor:
        """
        :param samples: transitions, or n-step returns
        :return: shape (batch, 1)
        """
        return samples.rewards if self.scale == 1.0 else self.scale * samples.rewards


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

    def setup(self, model: "DAI") -> None:
        """
        :param model: the algorithm
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

    def log_prob(self, samples: Samples) -> th.Tensor:
        """
        :param samples: transitions
        :return: log p~(o'), or its sum over the rest of time where that is the end, shape (batch, 1)
        """
        log_prob = self.outcome_log_prob(self.vectors(self.part(samples.next_observations)))
        return fe.absorbed(log_prob, samples.dones, self.gamma) if self.terminal == "absorbing" else log_prob


class GaussianPreference(OutcomePreference):
    """
    A goal: a Gaussian around wanted values of some dimensions of a ``Box`` or ``MultiBinary`` observation. The density is
    unnormalised, 1 at the goal, and mixed with a broad background, which bounds ``log p~`` between ``floor`` and 0:
    ``log p~(o') = log((1 - e^floor) exp(-0.5 sum_d ((o'_d - goal_d) / std_d)^2) + e^floor)``.

    Without the background, values grow with the square of the distance, and with them the gradients. Within it, further away
    than about ``sqrt(-2 floor)`` standard deviations (4.5 by default) there is no direction in which it gets better: take a
    ``std`` of a fraction of the distances in the environment.

    With ``VecNormalize``, ``goal`` and ``std`` are in units of the normalised observation.

    :param goal: wanted values, a number or shape (n_dims,), in units of the observation
    :param std: standard deviations around them, a number or shape (n_dims,), in the same units
    :param dims: which dimensions of the (flattened) observation they are of, all by default
    :param floor: log p~ far from the goal, in nats, or None for no background
    :param key: the entry of a dictionary of observations
    :param terminal: what the end of an episode is worth, see :class:`OutcomePreference`
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        goal: Numbers,
        std: Numbers,
        dims: Sequence[int] | None = None,
        floor: float | None = -10.0,
        key: str | None = None,
        terminal: str = "absorbing",
    ) -> None:
        super().__init__(key, terminal)
        self.goal = _numbers("goal", goal)
        self.std = _numbers("std", std, low=1e-6)
        if dims is not None:
            whole = isinstance(dims, Sequence | np.ndarray) and all(isinstance(d, int | np.integer) and d >= 0 for d in dims)
            if not whole or len(dims) == 0 or len(set(dims)) < len(dims):
                raise ValueError(f"dims={dims!r}: give a list of different indices of the observation, for example [0, 1]")
        self.dims = None if dims is None else [int(dim) for dim in dims]
        if floor is not None:
            check_number("floor (or None)", floor, low=-100, high=-1e-3)
        self.floor = None if floor is None else float(floor)

    def setup(self, model: "DAI") -> None:
        """
        :param model: the algorithm
        :raises ValueError: if the goal is not one of its observations
        """
        super().setup(model)
        if not isinstance(self.space, spaces.Box | spaces.MultiBinary):
            raise ValueError(
                f"{self.name} is for Box and MultiBinary observations, not {self.space}: give the preference as rewards"
            )
        size = int(np.prod(self.space.shape))
        dims = list(range(size)) if self.dims is None else self.dims
        if max(dims) >= size:
            raise ValueError(f"{self.name} with dims={self.dims}: give indices below {size}, the size of the observation")
        for name in ("goal", "std"):
            value = getattr(self, name)
            if value.size not in (1, len(dims)):
                raise ValueError(f"{self.name} with {name}={value.tolist()}: give one number, or {len(dims)}, one a dimension")

    def outcome_log_prob(self, outcomes: th.Tensor) -> th.Tensor:
        """
        :param outcomes: o', shape (batch, dim)
        :return: log p~(o'), shape (batch, 1)
        """
        chosen = outcomes if self.dims is None else outcomes[:, self.dims]
        goal, std = (th.as_tensor(value, device=outcomes.device) for value in (self.goal, self.std))
        return fe.gaussian_preference(chosen, goal, std, self.floor)


def _numbers(name: str, value: Any, low: float = -np.inf) -> np.ndarray:
    """
    :param name: the argument
    :param value: what it got
    :param low: smallest allowed value
    :return: shape () or (n,)
    :raises ValueError: if it is no finite number or list of them
    """
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if isinstance(value, str | bool) or array.ndim > 1 or array.size == 0 or not (np.isfinite(array) & (array >= low)).all():
        bound = f" of at least {low:g}" if np.isfinite(low) else ""
        raise ValueError(f"{name}={value!r}: give finite numbers{bound}")
    return array
