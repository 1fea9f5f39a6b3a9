"""
Small worlds with known optima. Importing this package registers them with gymnasium under ``sb3_dai/``, for example
``sb3_dai/GridWorld-v0``. docs/worlds.md describes each.
"""

from typing import Any

import gymnasium as gym

from sb3_dai.envs.belief_programming import BeliefPlan, belief_update, observation_likelihood, plan_over_beliefs
from sb3_dai.envs.chains import Bandit, ThreeStateChain
from sb3_dai.envs.deep_sea import DeepSea
from sb3_dai.envs.dynamic_programming import backward_induction, optimal_return, policy_return
from sb3_dai.envs.grids import GridWorld, TreacherousGrid
from sb3_dai.envs.hidden import HiddenTabularEnv
from sb3_dai.envs.hidden_grids import AliasedGrid, CueChaining
from sb3_dai.envs.mazes import PassiveTMaze, TMaze
from sb3_dai.envs.noisy_tv import NoisyTV
from sb3_dai.envs.recall import Recall
from sb3_dai.envs.sparse import SparseMountainCarContinuous, SparsePendulum
from sb3_dai.envs.tabular import Outcome, TabularEnv
from sb3_dai.envs.tiger import Tiger

__all__ = [
    "AliasedGrid",
    "Bandit",
    "BeliefPlan",
    "CueChaining",
    "DeepSea",
    "GridWorld",
    "HiddenTabularEnv",
    "NoisyTV",
    "Outcome",
    "PassiveTMaze",
    "Recall",
    "SparseMountainCarContinuous",
    "SparsePendulum",
    "TMaze",
    "TabularEnv",
    "ThreeStateChain",
    "Tiger",
    "TreacherousGrid",
    "backward_induction",
    "belief_update",
    "observation_likelihood",
    "optimal_return",
    "plan_over_beliefs",
    "policy_return",
]


def _register(name: str, entry_point: str, **kwargs: Any) -> None:
    """
    :param name: of the world, without namespace
    :param entry_point: ``module:class``
    :param kwargs: of ``gymnasium.register``
    """
    # gymnasium warns when an id is registered twice, as it would be when this module is reloaded
    if f"sb3_dai/{name}" not in gym.registry:
        gym.register(id=f"sb3_dai/{name}", entry_point=entry_point, **kwargs)


_register("GridWorld-v0", "sb3_dai.envs.grids:GridWorld", max_episode_steps=50)
_register("TreacherousGrid-v0", "sb3_dai.envs.grids:TreacherousGrid", max_episode_steps=300)
_register("Bandit-v0", "sb3_dai.envs.chains:Bandit", max_episode_steps=500)
_register("ThreeStateChain-v0", "sb3_dai.envs.chains:ThreeStateChain", max_episode_steps=100)
_register("NoisyTV-v0", "sb3_dai.envs.noisy_tv:NoisyTV", max_episode_steps=100)
_register("DeepSea-v0", "sb3_dai.envs.deep_sea:DeepSea")
for _size in (10, 20, 30):
    _register(f"DeepSea{_size}-v0", "sb3_dai.envs.deep_sea:DeepSea", kwargs={"size": _size})
_register("TMaze-v0", "sb3_dai.envs.mazes:TMaze", max_episode_steps=10)
_register("CueChaining-v0", "sb3_dai.envs.hidden_grids:CueChaining", max_episode_steps=50)
_register("Tiger-v0", "sb3_dai.envs.tiger:Tiger", max_episode_steps=20)
_register("TigerOnce-v0", "sb3_dai.envs.tiger:Tiger", max_episode_steps=20, kwargs={"ends": True})
_register("AliasedGrid-v0", "sb3_dai.envs.hidden_grids:AliasedGrid", max_episode_steps=50)
_register("PassiveTMaze-v0", "sb3_dai.envs.mazes:PassiveTMaze")
for _length in (10, 20, 50):
    _register(f"PassiveTMaze{_length}-v0", "sb3_dai.envs.mazes:PassiveTMaze", kwargs={"length": _length})
_register("Recall-v0", "sb3_dai.envs.recall:Recall", max_episode_steps=64)
for _k in (4, 16):
    _register(f"Recall{_k}-v0", "sb3_dai.envs.recall:Recall", max_episode_steps=64, kwargs={"k": _k})
_register(
    "MountainCarContinuousSparse-v0",
    "gymnasium.envs.classic_control:Continuous_MountainCarEnv",
    max_episode_steps=999,
    additional_wrappers=(SparseMountainCarContinuous.wrapper_spec(),),
)
_register(
    "PendulumSparse-v0",
    "gymnasium.envs.classic_control:PendulumEnv",
    max_episode_steps=200,
    additional_wrappers=(SparsePendulum.wrapper_spec(),),
)
