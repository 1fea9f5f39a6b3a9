"""Reading many logged terms at once."""

import torch as th


def mean_of_terms(steps: list[tuple[dict[str, th.Tensor], dict[str, th.Tensor]]]) -> dict[str, float]:
    """
    Means over gradient steps and samples, moved to the CPU in one transfer.

    :param steps: of each gradient step, scalars by name, each of one element, and samples by name, each (batch, 1)
    :return: the mean of each term
    """
    if not steps:
        return {}
    rows = []
    for scalars, samples in steps:
        means = th.cat(list(samples.values()), dim=1).detach().mean(dim=0)
        rows.append(th.cat([*(value.detach().reshape(1) for value in scalars.values()), means]))
    names = [*steps[0][0], *steps[0][1]]
    return dict(zip(names, th.stack(rows).mean(dim=0).tolist(), strict=True))
