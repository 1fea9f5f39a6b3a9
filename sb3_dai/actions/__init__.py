"""The kinds of actions, and how the action space chooses one."""

import numpy as np
from gymnasium import spaces

from sb3_dai.actions.categorical import CategoricalActions
from sb3_dai.actions.gaussian import GaussianActions

ActionModel = CategoricalActions | GaussianActions


def make_action_model(space: spaces.Space) -> ActionModel:
    """
    :param space: Action space
    :return: its kind of actions
    :raises ValueError: if there is none
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalActions([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return CategoricalActions([int(n) for n in np.ravel(space.nvec)])
    if isinstance(space, spaces.MultiBinary):
        return CategoricalActions([2] * int(np.prod(space.shape)))
    if isinstance(space, spaces.Box):
        return GaussianActions(int(np.prod(space.shape)))
    raise ValueError(f"action_space={space} is not supported: give Discrete, MultiDiscrete, MultiBinary or Box")
