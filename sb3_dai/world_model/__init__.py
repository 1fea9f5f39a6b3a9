"""World models p(s'|s,a), and how the spaces choose one."""

from collections.abc import Callable

from gymnasium import spaces

from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.world_model.base import WorldModel
from sb3_dai.world_model.categorical import CategoricalWorldModel
from sb3_dai.world_model.dirichlet import DirichletWorldModel
from sb3_dai.world_model.gaussian import GaussianWorldModel

MakeEnsemble = Callable[[int, int, bool], EnsembleMLP]
"""From the sizes of inputs and outputs, and whether inputs are numbered, to an ensemble."""


def make_world_model(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    features_dim: int,
    code_dim: int,
    make_ensemble: MakeEnsemble,
    kind: str = "ensemble",
    is_one_hot: bool = True,
    prior_scale: float = 0.0,
    prior_count: float | None = None,
    memory_dim: int = 0,
) -> WorldModel:
    """
    :param observation_space: Observation space
    :param action_space: Action space
    :param features_dim: number of features that are extracted from an observation
    :param code_dim: size of a coded action
    :param make_ensemble: makes the nets
    :param kind: "ensemble", or "dirichlet" to count numbered states
    :param is_one_hot: whether the features of a numbered state are its one-hot code
    :param prior_scale: factor of a fixed random net that is added to each member's outputs
    :param prior_count: of each next state before anything was seen, for "dirichlet"
    :param memory_dim: size of what the model reads of a recurrent belief beside the features
    :return: the world model
    :raises ValueError: if what is to be counted has no numbers
    """
    is_numbered = isinstance(observation_space, spaces.Discrete) and isinstance(action_space, spaces.Discrete) and is_one_hot
    is_numbered = is_numbered and memory_dim == 0
    if kind == "dirichlet":
        if memory_dim > 0:
            raise ValueError(
                'transition_model="dirichlet" counts states, which a recurrent policy does not see: use "ensemble"'
            )
        if not (isinstance(observation_space, spaces.Discrete) and isinstance(action_space, spaces.Discrete)):
            raise ValueError(
                f'transition_model="dirichlet" counts Discrete observations and actions, not {observation_space} and '
                f'{action_space}: use "ensemble"'
            )
        if not is_one_hot:
            raise ValueError(
                'transition_model="dirichlet" reads one-hot codes of states: leave features_extractor_class out, or '
                'use "ensemble"'
            )
        return DirichletWorldModel(int(observation_space.n), int(action_space.n), prior_count)
    n_states = int(observation_space.n) if isinstance(observation_space, spaces.Discrete) else None
    input_dim = features_dim * code_dim if is_numbered else features_dim + memory_dim + code_dim
    output_dim = 2 * features_dim if n_states is None else n_states
    net = make_ensemble(input_dim, output_dim, is_numbered)
    prior = make_ensemble(input_dim, output_dim, is_numbered).requires_grad_(False) if prior_scale > 0.0 else None
    model = GaussianWorldModel if n_states is None else CategoricalWorldModel
    return model(features_dim, net, prior, prior_scale)


__all__ = ["CategoricalWorldModel", "DirichletWorldModel", "GaussianWorldModel", "WorldModel", "make_world_model"]
