"""What a features extractor reads of observations."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs


def extractor_inputs(observations: PyTorchObs, space: spaces.Space, normalize_images: bool) -> PyTorchObs:
    """
    :param observations: as the replay buffer returns them
    :param space: Observation space
    :param normalize_images: Whether images are divided by 255
    :return: what a features extractor reads, numbered states as one-hot codes of shape (batch, n_states)
    """
    if isinstance(space, spaces.Dict):
        assert isinstance(observations, dict)
        return {key: extractor_inputs(observations[key], part, normalize_images) for key, part in space.spaces.items()}  # type: ignore[misc]
    inputs = preprocess_obs(observations, space, normalize_images)
    assert isinstance(inputs, th.Tensor)
    return inputs if isinstance(space, spaces.Box) else inputs.flatten(start_dim=1)
