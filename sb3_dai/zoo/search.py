"""What ``train --optimize`` draws for DAI, and what a trial's raw parameters mean."""

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_dai.zoo.entries import evaluated

if TYPE_CHECKING:
    import optuna

NET_ARCHS = {"small": [64, 64], "medium": [128, 128], "big": [256, 256]}

RISING = "LinearSchedule(0.0, 1.0, 1.0)"
"""The default pessimism for choices."""


def log_options(space: spaces.Space) -> float:
    """
    :param space: of actions
    :return: the entropy of the uniform policy in nats, 0 for ``Box`` actions
    """
    match space:
        case spaces.Discrete():
            return float(np.log(space.n))
        case spaces.MultiDiscrete():
            return float(np.log(space.nvec).sum())
        case spaces.MultiBinary():
            return float(np.prod(space.shape) * np.log(2))
    return 0.0


def sample_dai_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict, action_space: spaces.Space | None = None
) -> dict[str, Any]:
    """
    Draw hyperparameters for one trial of a search. ``n_steps`` keeps its value: goals, hindsight replay, dictionaries of
    observations and the memory-efficient buffer know returns of one step alone.

    :param trial: the trial
    :param n_actions: number of action dimensions
    :param n_envs: number of environments (unused)
    :param additional_args: what the Zoo knows of the replay buffer (unused)
    :param action_space: of the environment; without it the target entropy keeps its value
    :return: arguments of DAI
    """
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_int("batch_size_pow", 4, 9)
    trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True)
    trial.suggest_int("train_freq", 1, 8, log=True)
    trial.suggest_int("gradient_steps", 1, 8, log=True)
    trial.suggest_float("tau", 1e-3, 0.2, log=True)
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_float("epistemic_weight", 0.01, 1.0, log=True)
    trial.suggest_categorical("bootstrap_entropy", [0.0, 1.0])
    trial.suggest_categorical("pessimism", ["rising", 0.0, 0.5, 1.0])
    # Both in every trial, used or not: the Zoo's multivariate sampler cannot model a parameter that comes and goes
    trial.suggest_categorical("auto_precision", [True, False])
    trial.suggest_float("precision", 0.3, 30.0, log=True)
    # What takes the place of DQN's exploration_fraction and exploration_final_eps
    if isinstance(action_space, spaces.Box):
        trial.suggest_float("target_entropy", -2.0 * n_actions, -0.25 * n_actions)
    elif action_space is not None:
        uniform = log_options(action_space)
        # One value alone, so that the raw values of a trial say all
        trial.suggest_float("first_entropy", 0.7 * uniform, 0.7 * uniform)
        trial.suggest_float("target_entropy", 0.02 * uniform, 0.6 * uniform)
        trial.suggest_float("entropy_fraction", 0.1, 1.0)
    # `--trial-id` reads the raw values of the study and converts them again, so the trial holds nothing else
    return evaluated(convert_dai_params(trial.params))


def convert_dai_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: raw parameters of a trial
    :return: arguments of DAI, schedules as expressions
    """
    hyperparams = sampled_params.copy()
    hyperparams["batch_size"] = 2 ** hyperparams.pop("batch_size_pow")
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    hyperparams["policy_kwargs"] = dict(net_arch=NET_ARCHS[hyperparams.pop("net_arch")])
    if hyperparams.pop("auto_precision"):
        hyperparams["precision"] = "auto"
    if hyperparams.get("pessimism") == "rising":
        hyperparams["pessimism"] = RISING
    first = hyperparams.pop("first_entropy", None)
    if first is not None:
        fraction = hyperparams.pop("entropy_fraction")
        hyperparams["target_entropy"] = f"LinearSchedule({first}, {hyperparams['target_entropy']}, {fraction})"
    return hyperparams
