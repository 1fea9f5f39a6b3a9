"""Reading many logged terms at once."""

import torch as th


def summary(scalars: dict[str, th.Tensor], samples: dict[str, th.Tensor]) -> tuple[tuple[str, ...], th.Tensor]:
    """
    What is logged of a gradient step, as one tensor.

    :param scalars: of one element each, by name
    :param samples: of shape (batch, 1) each, by name
    :return: the names, and the scalars and means of samples in their order, shape (len(names),)
    """
    means = th.cat(list(samples.values()), dim=1).detach().mean(dim=0)
    return (*scalars, *samples), th.cat([*(value.detach().reshape(1) for value in scalars.values()), means])
