"""How well any agent, with a memory or without, foretells what it will see next."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_dai.dai import DAI
from sb3_dai.diagnostics.vectors import codes_of, normalized
from sb3_dai.policy_recurrent import RecurrentPolicy
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.gaussian import GaussianWorldModel


def one_step_log_likelihood(model: DAI, observations: Sequence[np.ndarray], actions: Sequence[np.ndarray]) -> float:
    """
    ``log p(o_t+1 | o_0..t, a_0..t)``, the mean over all steps of all episodes, by the mixture of the ensemble. A policy with a
    memory reads each episode from its start.

    :param model: a DAI model with vectors or numbers as observations, exact beliefs among them
    :param observations: of each episode, as the environment returns them, shape (length + 1, *observation_shape)
    :param actions: of each episode, as the environment takes them, shape (length, *action_shape)
    :return: in nats; for vectors the logarithm of a density, in the units that the nets read (``VecNormalize``)
    :raises ValueError: if there is not one observation more than actions, or the world model predicts features of images or
        dictionaries instead of the observation
    """
    policy = model.policy
    if isinstance(policy.world_model, GaussianWorldModel) and not policy.reads_vectors:
        raise ValueError(f"observation_space={model.observation_space}: the world model predicts features of it. Give vectors")
    policy.set_training_mode(False)
    pairs = zip(observations, actions, strict=True)
    return float(np.concatenate([_of_episode(model, np.asarray(seen), np.asarray(taken)) for seen, taken in pairs]).mean())


@th.no_grad()
def _of_episode(model: DAI, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    :param model: a DAI model
    :param observations: of one episode
    :param actions: of it
    :return: log-likelihood of each observation but the first, shape (length,)
    """
    if len(observations) != len(actions) + 1:
        raise ValueError(f"{len(observations)} observations and {len(actions)} actions: an episode has one observation more")
    policy: Any = model.policy
    obs, codes = policy.obs_to_tensor(normalized(model, observations))[0], codes_of(model, actions)
    raw = policy.extract_features(obs, policy.features_extractor)
    features = policy.scaled(raw)
    if isinstance(policy, RecurrentPolicy):
        before = th.cat([th.zeros_like(codes[:1]), codes])
        memory = policy.belief_filter.replay(features.unsqueeze(1), before.unsqueeze(1))
        features = th.cat([features, memory.squeeze(1)], dim=1)
    here, after = (Belief(features[part], raw[part]) for part in (slice(None, -1), slice(1, None)))
    world_model = policy.world_model
    prediction = world_model.predict(here, codes)
    if isinstance(world_model, GaussianWorldModel):
        change = after.raw - here.raw
        scale = world_model.change_norm.inverse(th.ones_like(change))
        # Its likelihood is a mean over dimensions
        logs = -prediction.nll(change / scale) * change.shape[1] - scale.log().sum(dim=1, keepdim=True)
    else:
        logs = -prediction.nll(world_model.outcome(here, after, obs[1:], 1.0))
    return (th.logsumexp(logs, dim=0) - math.log(len(logs)))[:, 0].cpu().numpy()
