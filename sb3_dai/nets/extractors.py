"""Features extractors: one for small images, and copies of any."""

import copy

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class SmallCNN(BaseFeaturesExtractor):
    """
    Features of images that are too small for ``NatureCNN``, such as those of MinAtar and minigrid: one layer of 16 filters
    of 3 by 3 and one of 128 units (Young & Tian 2019, arXiv:1903.03176, section 4.1).

    :param observation_space: of images of at least 3 by 3 pixels, channels first or last
    :param features_dim: number of features
    :param normalized_image: unused, for ``NatureCNN``'s signature
    :raises ValueError: if the observations are no such images
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim)
        if len(observation_space.shape) != 3:
            raise ValueError(f"observation_space={observation_space}: an image has three axes, use MlpPolicy for vectors")
        self.channels_last = not is_image_space_channels_first(observation_space)
        height, width = observation_space.shape[:2] if self.channels_last else observation_space.shape[1:]
        if min(height, width) < 3:
            raise ValueError(f"observation_space={observation_space}: give images of at least 3 by 3 pixels, or use MlpPolicy")
        n_channels = observation_space.shape[2 if self.channels_last else 0]
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, 16, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (height - 2) * (width - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: shape (batch, channels, height, width), or with the channels last
        :return: shape (batch, features_dim)
        """
        return self.layers(observations.permute(0, 3, 1, 2) if self.channels_last else observations)


def copy_of(extractor: BaseFeaturesExtractor) -> BaseFeaturesExtractor:
    """
    Copy a features extractor with everything that it holds, also a module that the user made (GH#1881 asks for such). Building
    a second one from the same arguments would share that module between the copies.

    :param extractor: materialised, see :func:`materialize`
    :return: an independent copy in evaluation mode, whose parameters get no gradients
    :raises ValueError: if it cannot be copied
    """
    try:
        copied = copy.deepcopy(extractor)
    except Exception as error:  # Whatever a module of the user's holds: a lock, an open file, a tensor with a history
        raise ValueError(
            f"features_extractor_class={type(extractor).__name__} cannot be copied for the target net ({error}): give its "
            "module a __deepcopy__, or keep what cannot be copied out of it"
        ) from error
    return copied.requires_grad_(False).train(False)


def is_lazy(extractor: BaseFeaturesExtractor) -> bool:
    """
    :param extractor: any
    :return: whether it has lazy layers, whose parameters do not exist before it has run once
    """
    return any(nn.parameter.is_lazy(tensor) for tensor in (*extractor.parameters(), *extractor.buffers()))


@th.no_grad()
def materialize(extractor: BaseFeaturesExtractor, inputs: th.Tensor | dict[str, th.Tensor]) -> None:
    """
    Run an extractor once if it has lazy layers.

    :param extractor: any
    :param inputs: a preprocessed batch of one observation
    """
    if is_lazy(extractor):
        mode = extractor.training
        extractor.train(False)(inputs)
        extractor.train(mode)


MODELESS = (
    nn.Conv2d, nn.ELU, nn.Flatten, nn.GELU, nn.Identity, nn.LayerNorm, nn.LeakyReLU, nn.Linear, nn.Module, nn.ModuleDict,
    nn.ModuleList, nn.ReLU, nn.Sequential, nn.SiLU, nn.Tanh,
)  # fmt: skip
"""Modules of torch that compute the same in training and in evaluation mode."""


def has_modes(module: nn.Module) -> bool:
    """
    :param module: a net, or all of them
    :return: whether some part of it may compute something else in training mode than in evaluation mode. Layers of this
        package and of Stable-Baselines3 do not; those of others may.
    """
    ours = ("sb3_dai.", "stable_baselines3.")
    parts = (part for part in module.modules() if not (isinstance(part, nn.RNNBase) and part.dropout == 0.0))
    return any(type(part) not in MODELESS and not type(part).__module__.startswith(ours) for part in parts)
