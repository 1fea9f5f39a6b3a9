"""What predict returns, of what shape and type, and that it is the same whoever asks."""

import copy
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTIONS, action_spaces, differing, make, policy_for, stack, state_of
from worlds import IMAGE, VECTOR, SampledEnv

OBSERVATIONS = {
    "vector": VECTOR,
    "image": IMAGE,
    "discrete": spaces.Discrete(4),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict(a=VECTOR, b=spaces.Discrete(3)),
}


@pytest.mark.parametrize("observations", OBSERVATIONS)
@action_spaces()
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict(observations, action_space, deterministic):
    space = copy.deepcopy(OBSERVATIONS[observations])
    space.seed(0)
    model = make(SampledEnv(space, action_space), policy_for(space), buffer_size=10, seed=0)
    action, state = model.predict(space.sample(), deterministic=deterministic)
    assert action_space.contains(action[()])
    assert action.shape == action_space.shape
    assert state is None

    many = stack(space, 50)
    actions, _ = model.predict(many, deterministic=deterministic)
    assert actions.shape == (50, *action_space.shape)
    assert all(action_space.contains(action) for action in actions)
    again = [model.predict(many, deterministic=deterministic)[0] for _ in range(5)]
    assert all(np.array_equal(actions, other) for other in again) == deterministic


@pytest.mark.parametrize("name", ["discrete", "multi-discrete", "multi-binary"])
def test_every_option_is_tried(name):
    model = make(SampledEnv(action_space=ACTIONS[name]), buffer_size=10, seed=0)
    actions = model.predict(stack(VECTOR, 300))[0].reshape(300, -1)
    n_options = {"discrete": [3], "multi-discrete": [2, 3], "multi-binary": [2, 2]}[name]
    assert [set(choice) for choice in actions.T] == [set(range(n)) for n in n_options]


def test_box_actions_are_stretched_to_their_bounds():
    space = ACTIONS["box"]
    model = make(SampledEnv(action_space=space), buffer_size=10, seed=0)
    for sign in (-1, 1):  # to either end
        model.policy.policy_net_average.layers[-1].bias.data[..., :2] = sign * 100.0
        actions = model.predict(stack(VECTOR, 20), deterministic=True)[0]
        assert np.array_equal(actions, np.broadcast_to(space.high if sign > 0 else space.low, (20, 2)))


@pytest.mark.parametrize("observation", [2, np.int64(2), np.array(2)], ids=["int", "numpy scalar", "0-d array"])
@action_spaces("discrete", "box")
def test_predict_of_a_scalar_observation(observation, action_space):
    model = make(SampledEnv(spaces.Discrete(4), action_space), buffer_size=10, seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == action_space.shape
    np.testing.assert_allclose(action, model.predict(np.arange(4), deterministic=True)[0][2], rtol=1e-5)


@action_spaces()
def test_single_and_vectorised_prediction_agree(action_space):
    model = make(SampledEnv(action_space=action_space), buffer_size=10, seed=0)
    many = stack(VECTOR, 40)
    actions = model.predict(many, deterministic=True)[0]
    assert len(np.unique(actions, axis=0)) > 1, "one action only shows little"
    # A matrix product of one row rounds in another order
    np.testing.assert_allclose([model.predict(one, deterministic=True)[0] for one in many], actions, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "observation", [(np.zeros(4), {}), np.zeros(5), np.zeros((2, 5))], ids=["gym reset", "long", "long batch"]
)
def test_predict_refuses_what_is_no_observation(observation):
    with pytest.raises(ValueError):
        make(buffer_size=10).predict(observation)


@pytest.mark.parametrize("observations", ["vector", "image", "discrete"])
@action_spaces()
def test_traced_policy_acts_like_the_policy(observations, action_space):
    space = spaces.Discrete(20) if observations == "discrete" else OBSERVATIONS[observations]
    model = make(SampledEnv(space, action_space), policy_for(space), buffer_size=10, seed=0)
    model.policy.set_training_mode(False)
    obs, _ = model.policy.obs_to_tensor(stack(space, 32))
    with th.no_grad():  # without a favourite action
        outputs = model.policy.policy_net_average(model.policy.belief(obs).features)
        model.policy.policy_net_average.layers[-1].bias -= outputs.mean(dim=1, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the tracer, and it warns of Python branches
        traced = th.jit.trace(model.policy, obs[:2])
    actions = traced(obs).detach().numpy()
    if isinstance(action_space, spaces.Box):
        actions = model.policy.unscale_action(actions)
    np.testing.assert_allclose(actions, model.policy.predict(obs.numpy(), deterministic=True)[0], rtol=1e-5)
    assert len(np.unique(actions, axis=0)) > 1, "one action only shows little"


@action_spaces("discrete", "box")
def test_same_seed_same_weights_whatever_wraps_the_observation(action_space):
    plain = make(SampledEnv(VECTOR, action_space), "MlpPolicy", seed=5)
    wrapped = make(SampledEnv(spaces.Dict(only=VECTOR), action_space), "MultiInputPolicy", seed=5)
    assert not differing(state_of(plain.policy), state_of(wrapped.policy))
    many = stack(VECTOR, 30)
    actions = plain.predict(many, deterministic=True)[0]
    assert np.array_equal(actions, wrapped.predict({"only": many}, deterministic=True)[0])
    assert len(np.unique(actions, axis=0)) > 1
