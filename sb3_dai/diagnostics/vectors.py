"""Vectors: predictions beside what was recorded, in the units of the observation."""

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_dai.checks import check_number
from sb3_dai.dai import DAI
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.gaussian import GaussianWorldModel

MAX_ROWS = 4096
"""Rows that are predicted at once."""

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Of the central intervals in which a calibrated model finds as many of the outcomes."""


class PredictionErrors(NamedTuple):
    """Errors of the mean prediction, by the number of steps that it looks ahead."""

    rmse: np.ndarray
    """Root mean squared error in the units of the observation, shape (n_steps, dim)."""
    no_change: np.ndarray
    """The same of a prediction that nothing changes, shape (n_steps, dim)."""
    relative: np.ndarray
    """Share of the latter that is left, shape (n_steps,): 0 is perfect, 1 no better than to predict no change. The root of
    the mean square over dimensions, those left out in which nothing ever changes."""


class Calibration(NamedTuple):
    """Whether outcomes are as far from the prediction as the model expects."""

    levels: np.ndarray
    """Probabilities of the central intervals, shape (n_levels,)."""
    inside: np.ndarray
    """Share of the outcomes found in each, shape (n_levels, dim). Below its level: overconfident."""
    squared_z: np.ndarray
    """Mean squared error in units of the predicted variance, shape (dim,). 1 is calibrated, more is overconfident."""


def _world_of_vectors(model: DAI) -> GaussianWorldModel:
    """
    :param model: a DAI model
    :return: its distribution
    :raises ValueError: if it does not predict the observation itself
    """
    space, policy = model.observation_space, model.policy
    if policy.memory_dim > 0:
        raise ValueError(f"{type(policy).__name__} predicts from what it remembers as well: give a policy without a memory")
    if isinstance(space, spaces.Discrete):
        raise ValueError(f"observation_space={space}: compare transition matrices, see predicted_transitions")
    vector = isinstance(space, spaces.Box) and not is_image_space(space)
    if not vector or not isinstance(policy.features_extractor, FlattenExtractor):
        raise ValueError(
            f"observation_space={space}: the world model predicts features that {type(policy.features_extractor).__name__} "
            "makes of it. Only of Box observations read by FlattenExtractor does it predict the observation itself"
        )
    assert isinstance(policy.world_model, GaussianWorldModel)
    return policy.world_model


def normalized(model: DAI, observations: np.ndarray) -> np.ndarray:
    """
    :param model: a DAI model
    :param observations: as the environment returns them
    :return: as the nets read them: ``VecNormalize`` may be in between
    """
    normalize = model.get_vec_normalize_env()
    return observations if normalize is None else normalize.normalize_obs(observations)  # type: ignore[return-value]


def _rows(model: DAI, observations: np.ndarray) -> th.Tensor:
    """
    :param model: a DAI model
    :param observations: as the environment returns them, shape (n, *observation_shape)
    :return: as the nets read them, shape (n, dim)
    :raises ValueError: if its world model does not predict the observation itself, or they are of another shape
    """
    _world_of_vectors(model)
    array, shape = np.asarray(observations), model.observation_space.shape or ()
    if array.shape[1:] != shape or len(array) == 0:
        raise ValueError(f"observations of shape {array.shape}: give (n, {', '.join(map(str, shape))})")
    return th.as_tensor(normalized(model, array).reshape(len(array), -1), dtype=th.float32, device=model.device)


def codes_of(model: DAI, actions: np.ndarray) -> th.Tensor:
    """
    :param model: a DAI model
    :param actions: as the environment takes them, shape (n, *action_shape)
    :return: as the transition net reads them, shape (n, code_dim)
    """
    rows, policy = np.asarray(actions), model.policy
    if rows.shape[1:] != (model.action_space.shape or ()):
        raise ValueError(f"actions of shape {rows.shape}: give (n, ...) of {model.action_space}")
    if isinstance(model.action_space, spaces.Box):
        rows = policy.scale_action(rows)
    return policy.encode(th.as_tensor(rows.reshape(len(rows), -1), device=policy.device))


@th.no_grad()
def _predict(model: DAI, rows: th.Tensor, codes: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param model: a DAI model
    :param rows: what the nets read of observations, shape (n, dim)
    :param codes: of actions, shape (n, code_dim)
    :return: mean and standard deviation of the next row that each member predicts, shape (ensemble_size, n, dim)
    """
    policy, world_model = model.policy, _world_of_vectors(model)
    norm = world_model.change_norm
    policy.set_training_mode(False)
    means, stds = [], []
    for batch, code in zip(rows.split(MAX_ROWS), codes.split(MAX_ROWS), strict=True):
        prediction = world_model.predict(Belief(policy.scaled(batch), batch), code)
        means.append(batch + norm.inverse(prediction.mean))
        stds.append(norm.inverse(prediction.log_var.div(2.0).exp()))
    return th.cat(means, dim=1), th.cat(stds, dim=1)


def prediction_errors(start: np.ndarray, predicted: np.ndarray, observed: np.ndarray) -> PredictionErrors:
    """
    :param start: from which the prediction starts, shape (n, dim)
    :param predicted: of each step after it, shape (n, n_steps, dim)
    :param observed: what came, same shape
    :return: errors by step
    """
    rmse, no_change = (np.sqrt(np.square(guess - observed).mean(axis=0)) for guess in (predicted, start[:, None]))
    moves = no_change > 0.0
    share = np.divide(rmse, no_change, out=np.zeros_like(rmse), where=moves)
    return PredictionErrors(rmse, no_change, np.sqrt(np.square(share).sum(axis=1) / np.maximum(moves.sum(axis=1), 1)))


def one_step_error(
    model: DAI, observations: np.ndarray, actions: np.ndarray, next_observations: np.ndarray
) -> PredictionErrors:
    """
    Error of the ensemble's mean prediction of the next observation.

    :param model: a DAI model with vector observations
    :param observations: as the environment returns them (raw, if ``VecNormalize`` is used), shape (n, *observation_shape)
    :param actions: as the environment takes them, shape (n, *action_shape)
    :param next_observations: one step later, same shape as ``observations``
    :return: errors, with n_steps = 1
    :raises ValueError: if its world model does not predict the observation itself, or a shape does not fit
    """
    if np.shape(next_observations) != np.shape(observations):
        raise ValueError(
            f"next_observations of shape {np.shape(next_observations)}: observations are {np.shape(observations)}"
        )
    return _open_loop(model, np.stack([observations, next_observations], axis=1), np.asarray(actions)[:, None])


def k_step_error(
    model: DAI, observations: Sequence[np.ndarray], actions: Sequence[np.ndarray], n_steps: int
) -> PredictionErrors:
    """
    Open-loop error: from every observation of the recordings that has ``n_steps`` after it, the recorded actions are played
    to the world model, which reads its own mean prediction from the second step on.

    :param model: a DAI model with vector observations
    :param observations: of each trajectory, as the environment returns them (raw, if ``VecNormalize`` is used), shape
        (length + 1, *observation_shape)
    :param actions: of each trajectory, as the environment takes them, shape (length, *action_shape)
    :param n_steps: how far to look ahead
    :return: errors by step
    :raises ValueError: if its world model does not predict the observation itself, or no trajectory is long enough
    """
    check_number("n_steps", n_steps, 1, whole=True)
    windows, plays = [], []
    for seen, taken in zip(observations, actions, strict=True):
        if len(seen) != len(taken) + 1:
            raise ValueError(f"{len(seen)} observations and {len(taken)} actions: a trajectory has one observation more")
        for first in range(len(taken) - n_steps + 1):
            windows.append(seen[first : first + n_steps + 1])
            plays.append(taken[first : first + n_steps])
    if not windows:
        raise ValueError(
            f"n_steps={n_steps}: no trajectory is that long, the longest has {max(map(len, actions), default=0)} steps"
        )
    return _open_loop(model, np.stack(windows), np.stack(plays))


def _open_loop(model: DAI, windows: np.ndarray, actions: np.ndarray) -> PredictionErrors:
    """
    :param model: a DAI model with vector observations
    :param windows: observations, shape (n, n_steps + 1, *observation_shape)
    :param actions: shape (n, n_steps, *action_shape)
    :return: errors by step
    """
    normalize = model.get_vec_normalize_env()
    n, n_steps = actions.shape[:2]
    row = _rows(model, windows[:, 0])
    observed = windows.reshape(n, n_steps + 1, -1).astype(np.float64)
    predicted = []
    for step in range(n_steps):
        row = _predict(model, row, codes_of(model, actions[:, step]))[0].mean(dim=0)
        guess = row.cpu().numpy().astype(np.float64)
        if normalize is not None:
            guess = normalize.unnormalize_obs(guess.reshape(n, *windows.shape[2:])).reshape(n, -1)  # type: ignore[union-attr]
        predicted.append(guess)
    return prediction_errors(observed[:, 0], np.stack(predicted, axis=1), observed[:, 1:])


def mixture_calibration(
    mean: np.ndarray, std: np.ndarray, outcome: np.ndarray, levels: Sequence[float] = LEVELS
) -> Calibration:
    """
    Of a mixture of Gaussians, each dimension by itself. An outcome is in the central interval of level p where the
    mixture's distribution function is within p / 2 of one half (Gneiting et al. 2007, "Probabilistic forecasts,
    calibration and sharpness"). The variance of the mixture is the members' mean variance plus the variance of their means.

    :param mean: of each member, shape (ensemble_size, n, dim)
    :param std: of each member, same shape
    :param outcome: what came, shape (n, dim)
    :param levels: probabilities of the intervals
    :return: shares of outcomes inside, and the mean squared z
    :raises ValueError: if a level is no probability
    """
    for level in levels:
        check_number("levels", level, 0.0, 1.0)
    z = th.as_tensor((outcome - mean) / std, dtype=th.float64)
    below = th.special.ndtr(z).numpy().mean(axis=0)
    inside = np.stack([(np.abs(below - 0.5) <= level / 2.0).mean(axis=0) for level in levels])
    variance = np.square(std).mean(axis=0) + mean.var(axis=0)
    squared_z = (np.square(outcome - mean.mean(axis=0)) / variance).mean(axis=0)
    return Calibration(np.asarray(levels, dtype=float), inside, squared_z)


def calibration(
    model: DAI,
    observations: np.ndarray,
    actions: np.ndarray,
    next_observations: np.ndarray,
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """
    Whether outcomes are as far from the ensemble's prediction as it expects. A model cannot predict more closely than to
    0.7 % of the typical change in a step: in a world without noise it ends up underconfident.

    :param model: a DAI model with vector observations
    :param observations: as the environment returns them (raw, if ``VecNormalize`` is used), shape (n, *observation_shape)
    :param actions: as the environment takes them, shape (n, *action_shape)
    :param next_observations: one step later, same shape as ``observations``
    :param levels: probabilities of the central intervals
    :return: shares of outcomes inside, and the mean squared z
    :raises ValueError: if its world model does not predict the observation itself, or a shape does not fit
    """
    rows, outcome = _rows(model, observations), _rows(model, next_observations)
    mean, std = _predict(model, rows, codes_of(model, actions))
    # In double precision: the outcome and the mean are close to each other
    parts = [part.double().cpu().numpy() for part in (mean, std, outcome)]
    return mixture_calibration(parts[0], parts[1], parts[2], levels)


def record(
    model: DAI, env: gym.Env, n_episodes: int, deterministic: bool = False, seed: int | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    Trajectories that the policy meets, to compare predictions with.

    :param model: a DAI model
    :param env: an environment of the kind that it was trained in, without ``VecNormalize``
    :param n_episodes: number of episodes
    :param deterministic: whether to take the most probable action, or to draw it
    :param seed: of the environment
    :return: observations of each episode, shape (length + 1, *observation_shape), and actions, (length, *action_shape)
    """
    check_number("n_episodes", n_episodes, 1, whole=True)
    observations, actions = [], []
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        seen, taken, over, state = [obs], [], False, None
        while not over:
            action, state = model.predict(normalized(model, np.asarray(obs)), state, deterministic=deterministic)
            obs, _, terminated, truncated, _ = env.step(action)
            seen.append(obs)
            taken.append(action)
            over = terminated or truncated
        observations.append(np.array(seen))
        actions.append(np.array(taken))
    return observations, actions
