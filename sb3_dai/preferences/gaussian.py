"""A goal as a prior preference: a Gaussian around wanted observations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dai.checks import check_number
from sb3_dai.equations import preference as equations
from sb3_dai.preferences.base import OutcomePreference, PreferenceContext

Numbers = float | Sequence[float] | np.ndarray


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

    def setup(self, model: PreferenceContext) -> None:
        """
        :param model: its spaces, discount, replay buffer and device
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
        return equations.gaussian_preference(chosen, goal, std, self.floor)


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
