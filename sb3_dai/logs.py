"""Reading many logged terms at once."""

from collections.abc import Mapping, Sequence

import torch as th


def summary(scalars: dict[str, th.Tensor], samples: dict[str, th.Tensor]) -> tuple[tuple[str, ...], th.Tensor]:
    """
    What is logged of a gradient step, as one tensor.

    :param scalars: of one element each, by name
    :param samples: of batch elements each, by name
    :return: the names, and the scalars and means of samples in their order, shape (len(names),)
    """
    means_of_samples = th.stack([value.detach().reshape(-1) for value in samples.values()], dim=1).mean(dim=0)
    return (*scalars, *samples), th.cat([*(value.detach().reshape(1) for value in scalars.values()), means_of_samples])


def means(logged: Mapping[tuple[str, ...], Sequence[th.Tensor]]) -> dict[str, float]:
    """
    :param logged: what several gradient steps returned: by the names of the terms, shapes (len(names),)
    :return: of each term the mean over the steps that have it
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for names, terms in logged.items():
        rows = th.stack([*terms]).tolist()
        for name, *values in zip(names, *rows, strict=True):
            sums[name] = sums.get(name, 0.0) + sum(values)
            counts[name] = counts.get(name, 0) + len(rows)
    return {name: value / counts[name] for name, value in sums.items()}
