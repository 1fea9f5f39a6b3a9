"""
Models of version 0.1 and the names of its arguments. The files in old_zips were written by commit 332ac8b, as ``save`` and
``policy.save`` write them, with the actions that were predicted of some observations.
"""

from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers import differing, is_finite, make, state_of
from saved import assert_same

from sb3_dai import DAI, GaussianPreference, MlpPolicy
from sb3_dai.legacy import RENAMED

FOLDER = Path(__file__).parent / "old_zips"
ENVIRONMENTS = {"mountain_car": "MountainCar-v0", "pendulum": "Pendulum-v1"}


def expected(name):
    """Some observations and the actions that the old version took there."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return arrays["observations"], arrays["actions"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_old_model_acts_as_it_did_and_learns_on(name, tmp_path):
    model = DAI.load(FOLDER / name, env=ENVIRONMENTS[name], device="cpu", backend="eager")
    observations, actions = expected(name)
    assert len(np.unique(actions)) > 1, "one action only shows little"
    np.testing.assert_allclose(model.predict(observations, deterministic=True)[0], actions, rtol=1e-4, atol=1e-6)
    assert model.num_timesteps == 80 and model._n_updates == 30
    steps = {int(state["step"]) for state in model.policy.optimizer.state.values()}
    assert max(steps) == 30, "the moments of its optimizer are there"
    before = state_of(model.policy)
    model.learn(70, reset_num_timesteps=False)
    assert model._n_updates == 100 and is_finite(model.policy)
    changed = differing(before, state_of(model.policy))
    assert {"policy_net.layers.0.weight", "value_net.layers.0.weight", "world_model.net.layers.0.weight"} <= changed
    model.save(tmp_path / "model")
    again = DAI.load(tmp_path / "model", device="cpu")
    assert_same(again.get_parameters(), model.get_parameters())


def test_old_arguments_become_those_of_today():
    model = DAI.load(FOLDER / "mountain_car", device="cpu")
    ends = [model.target_entropy(progress) / np.log(3) for progress in (1.0, 0.7, 0.0)]
    assert ends == pytest.approx([0.9, 0.1, 0.1])
    assert model.policy.action_precision == 2.0 and model.policy.greedy == "policy" and model.policy.transition_delay == 1
    assert model.backend == "compile" and model.gamma == 0.99 and not hasattr(model, "epistemic_gamma")
    assert isinstance(model.preference, GaussianPreference) and model.preference_weight == 0.1
    assert model.policy.term_names == ["extrinsic", "epistemic"]
    model = DAI.load(FOLDER / "pendulum", device="cpu")
    assert model.target_entropy == "auto" and model.backend == "auto" and model.policy.transition_delay == 2
    assert model.policy.term_names == ["extrinsic", "prediction_error"]


def test_an_old_policy_loads_alone():
    observations, actions = expected("mountain_car")
    policy = MlpPolicy.load(FOLDER / "mountain_car.policy", device="cpu")
    assert policy.greedy == "policy"
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], actions)


def test_parameters_of_an_old_model_fit_a_new_one():
    kwargs = dict(net_arch=[8], ensemble_size=2, greedy="policy")
    model = make("MountainCar-v0", preference=GaussianPreference(0.5, 0.1, dims=[0]), policy_kwargs=kwargs, seed=1)
    model.set_parameters(FOLDER / "mountain_car.zip", device="cpu")
    observations, actions = expected("mountain_car")
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], actions)
    old = DAI.load(FOLDER / "mountain_car", device="cpu")
    assert all(map(th.equal, old.policy.parameters(), model.policy.parameters()))


@pytest.mark.parametrize("name", RENAMED)
def test_old_arguments_name_what_has_taken_their_place(name):
    with pytest.raises(ValueError, match=rf"{name}=0\.5 is no argument any more: (give|leave)"):
        make(**{name: 0.5})
    words = dict(compile="backend", use_sde="action_noise", transition_delay="policy_kwargs", action_precision="policy_kwargs")
    wanted = words.get(name, "gamma" if name == "epistemic_gamma" else "target_entropy")
    with pytest.raises(ValueError, match=wanted):
        make(**{name: 0.5})


def test_arguments_that_never_were_are_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'"):
        make(learning_rat=1e-3)


def test_the_greedy_habit_has_another_name():
    with pytest.raises(ValueError, match=r"greedy='habit' has another name now: choose \"policy\""):
        make(policy_kwargs=dict(greedy="habit"))
