"""What several test files need: a small model and ways to look into it."""

import copy
import dataclasses

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from worlds import BOX, DISCRETE, IMAGE, N_ACTIONS, N_STATES, transition

from sb3_dai.dai import DAI
from sb3_dai.learning.batch import Batch

ACTIONS = {
    "discrete": DISCRETE,
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
    "box": BOX,
}


def action_spaces(*names):
    """Run a test with each kind of actions, or with those that are named."""
    names = names or tuple(ACTIONS)
    return pytest.mark.parametrize("action_space", [ACTIONS[name] for name in names], ids=names)


def make(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    """A small model that starts to train at step 51. What a test counts on is given, so that defaults may change."""
    small = dict(
        learning_rate=1e-3,
        buffer_size=1000,
        learning_starts=50,
        batch_size=32,
        gamma=0.99,
        gradient_steps=1,
        policy_delay=1,
        precision="auto",
        policy_kwargs=dict(net_arch=[16]),
        backend="eager",
        device="cpu",
    )
    given = {**small, **kwargs}
    return DAI(policy, env, **{**given, "policy_kwargs": {"transition_delay": 1, **given["policy_kwargs"]}})


def policy_for(space):
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if space == IMAGE else "MlpPolicy"


def step_inputs(model, transitions, **changes):
    """A batch of sampled transitions and the coefficients of a gradient step on it, in which all parts learn."""
    batch = Batch(*transitions, model.preference.log_prob(transitions.n_step))
    (coefficients,) = model._coefficients(1)
    learning = dict(learns_world_model=True, learns_policy=True, averaging_rate=0.5)
    return batch, dataclasses.replace(coefficients, **{**learning, **changes})


def filled(model, repeats=40):
    """A model of the chain with every transition in its buffer, and a silent logger."""
    for _ in range(repeats):
        for state in range(N_STATES):
            for action in range(N_ACTIONS):
                next_state, reward, terminated = transition(state, action)
                row = (np.array([[state]]), np.array([[next_state]]), np.array([[action]]), np.array([reward]))
                model.replay_buffer.add(*row, np.array([terminated]), [{}])
    model.set_logger(configure(None, []))
    return model


def spy(monkeypatch, owner, name):
    """Keep what a function is called with and what it returns, as (arguments, result)."""
    calls, function = [], getattr(owner, name)

    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append((args, result))
        return result

    monkeypatch.setattr(owner, name, wrapper)
    return calls


def each_step(note):
    """A function for learn(callback=...) that notes something at each step and never stops the training."""
    return lambda locals_, globals_: note() or True


def user_warnings(caught):
    """Texts of the warnings meant for users; deprecations depend on the versions that are installed."""
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(left, right):
    """Names of the tensors that are not equal bit for bit."""
    assert left.keys() == right.keys()
    return {name for name in left if not th.equal(left[name], right[name])}


def assert_same(one, other, atol=1e-5):
    """Two models are the same after a few gradient steps, rounding apart."""
    states = one.policy.state_dict(), other.policy.state_dict()
    for name, tensor in states[0].items():
        th.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in one.logger.name_to_value.items():
        if name.startswith("train/"):
            assert other.logger.name_to_value[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    pairs = zip(one.policy.optimizer.state.values(), other.policy.optimizer.state.values(), strict=True)
    for ours, its in pairs:
        for name, value in ours.items():
            th.testing.assert_close(value, its[name], rtol=1e-3, atol=1e-5)


def close(value, expected):
    """A tensor has the values that were worked out by hand."""
    th.testing.assert_close(value, th.as_tensor(expected), rtol=1e-5, atol=1e-6)


def is_finite(policy):
    return all(th.isfinite(value).all() for value in policy.state_dict().values())


def stack(space, n):
    """A batch of observations, as a vectorised environment returns it; always the same."""
    space = copy.deepcopy(space)
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


class BatchNormDropout(BaseFeaturesExtractor):
    """Both kinds of layer that behave differently in training and in evaluation."""

    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        size = int(np.prod(observation_space.shape))
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, features_dim), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)
