"""Hidden states made of several factors, of which a table needs some alone: states that agree in these share their counts."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch as th

from sb3_dai.checks import check_number


def factor_sizes(n_hidden_states: int | Sequence[int]) -> tuple[int, ...]:
    """
    :param n_hidden_states: number of hidden states, or of values of each of the factors that a state is made of
    :return: number of values of each factor
    :raises ValueError: if it is none
    """
    sizes = tuple(n_hidden_states) if isinstance(n_hidden_states, list | tuple) else (n_hidden_states,)
    if not sizes:
        raise ValueError("n_hidden_states=[]: give a number of hidden states, or one for each factor")
    for size in sizes:
        check_number("n_hidden_states", size, 1, whole=True)
    return tuple(int(size) for size in sizes)


def checked_dependencies(name: str, dependencies: Any, n_tables: int, n_factors: int) -> list[tuple[int, ...]]:
    """
    :param name: of the argument
    :param dependencies: for each table the numbers of the factors that it depends on; None for all of them
    :param n_tables: number of tables
    :param n_factors: number of factors
    :return: the same, sorted
    :raises ValueError: if they do not fit
    """
    if dependencies is None:
        return [tuple(range(n_factors))] * n_tables
    given = dependencies if isinstance(dependencies, list | tuple) else ()
    rows = [tuple(row) if isinstance(row, list | tuple) else None for row in given]
    if len(rows) != n_tables or not all(row is not None and set(row) <= set(range(n_factors)) for row in rows):
        raise ValueError(
            f"{name}={dependencies!r}: give {n_tables} list(s) of factors, numbered from 0 to {n_factors - 1} in the order of "
            "n_hidden_states"
        )
    return [tuple(sorted(set(row))) for row in rows if row is not None]


class Sharing:
    """
    Which states have the same column of a table, because they agree in the factors that it depends on.

    :param sizes: number of values of each factor; the last one changes fastest from a state to the next
    :param factors: numbers of those that the table depends on
    """

    def __init__(self, sizes: Sequence[int], factors: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.others = [factor for factor in range(len(sizes)) if factor not in factors]
        self.is_trivial = not self.others
        numbers = th.arange(prod(sizes)).reshape(self.sizes)
        for factor in self.others:
            numbers = numbers.narrow(factor, 0, 1).expand(self.sizes)
        self._first = numbers.flatten()

    def pooled(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: probability of each state, shape (n, n_states)
        :return: that of all states with the same column, same shape
        """
        if self.is_trivial:
            return states
        together = states.unflatten(1, self.sizes).sum(dim=[1 + factor for factor in self.others], keepdim=True)
        return together.expand(-1, *self.sizes).flatten(start_dim=1)

    def of_first(self, table: th.Tensor) -> th.Tensor:
        """
        :param table: shape (n, n_states, ...)
        :return: with the column of the first state for all that share it, same shape
        """
        return table if self.is_trivial else table[:, self._first.to(table.device)]
