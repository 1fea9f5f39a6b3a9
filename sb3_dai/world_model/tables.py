"""Tables of a world of numbered hidden states: what is given, what is counted, what was seen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_dai.checks import check_number

MAX_SUM_ERROR = 1e-4
"""Of given probabilities, whose sum is to be one."""
MIN_PRIOR = 1e-3
"""Sum of the prior counts of a distribution, at least: random draws of less are not exact."""


class Episodes(NamedTuple):
    """What was seen and done, padded at the end to the same length."""

    outcomes: th.Tensor
    """Number of the outcome of each modality, shape (n_episodes, time, n_modalities)."""
    actions: th.Tensor
    """Number of the action between each step and the next, shape (n_episodes, time - 1)."""
    mask: th.Tensor
    """Whether a step belongs to its episode, shape (n_episodes, time)."""
    payments: th.Tensor | None = None
    """Number of what each action paid, shape (n_episodes, time - 1); None if nobody knows."""
    times: th.Tensor | None = None
    """How often each of them happened, shape (n_episodes,); None for once."""

    def distinct(self) -> "Episodes":
        """
        :return: each different one once, and how often it happened
        """
        parts = [part.flatten(start_dim=1).long() for part in self[:4] if part is not None]
        rows, where, times = th.cat(parts, dim=1).unique(dim=0, return_inverse=True, return_counts=True)
        if len(rows) == len(where):
            return self
        first = th.full_like(times, len(where)).scatter_reduce_(0, where, th.arange(len(where), device=where.device), "amin")
        return self.each(lambda part: part[first])._replace(times=times.float())

    def chunks(self, size: int) -> list["Episodes"]:
        """
        :param size: number of episodes, at most
        :return: the same in parts; if there are several, each is of episodes of similar length and padded to its longest
        """
        if len(self.outcomes) <= size:
            return [self]
        lengths, order = self.mask.sum(dim=1).sort(stable=True)
        parts = []
        for chosen, longest in zip(order.split(size), lengths.split(size), strict=True):
            time = int(longest.max())
            part = self.each(lambda values, chosen=chosen: values[chosen])  # type: ignore[misc]
            outcomes, actions, mask, payments, times = part
            payments = None if payments is None else payments[:, : time - 1]
            parts.append(Episodes(outcomes[:, :time], actions[:, : time - 1], mask[:, :time], payments, times))
        return parts

    def each(self, function: Callable[[th.Tensor], th.Tensor]) -> "Episodes":
        """
        :param function: of a part, whose first axis is that of the episodes
        :return: the same with this function of each part
        """
        return Episodes(*(None if part is None else function(part) for part in self))  # type: ignore[arg-type]


def checked_tables(name: str, given: Any, prior: Any, shapes: list[tuple[int, ...]]) -> list[th.Tensor]:
    """
    :param name: A, B or D
    :param given: probabilities, one array or a list of them, or None
    :param prior: counts, likewise; or a number that those of each distribution sum to
    :param shapes: that they are to have
    :return: the probabilities, or the prior counts, flat ones if neither is given
    :raises ValueError: if they do not fit
    """
    if given is not None and prior is not None:
        raise ValueError(f"{name} and p{name}: give either the probabilities {name}, which are held, or prior counts p{name}")
    if given is None and prior is None:
        return [th.full(shape, 1.0 / shape[0]) for shape in shapes]
    if isinstance(prior, int | float):
        check_number(f"p{name}", prior, MIN_PRIOR)
        return [th.full(shape, float(prior) / shape[0]) for shape in shapes]
    named, tables = (name, given) if prior is None else (f"p{name}", prior)
    is_one = len(shapes) == 1 and not (isinstance(tables, list | tuple) and np.ndim(tables[0]) == len(shapes[0]))
    arrays = [np.asarray(table, dtype=np.float64) for table in ([tables] if is_one else tables)]
    if [array.shape for array in arrays] != shapes:
        found = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{named} of shape {found}: give {', '.join(map(str, shapes))}")
    for array in arrays:
        if prior is None and not ((array >= 0.0).all() and np.allclose(array.sum(axis=0), 1.0, atol=MAX_SUM_ERROR)):
            raise ValueError(f"{named}: give probabilities, which sum to one over the first axis")
        if prior is not None and not ((array > 0.0).all() and np.isfinite(array).all()):
            raise ValueError(f"{named}: give positive counts")
    return [th.tensor(array, dtype=th.float32) for array in arrays]
