"""Arguments, attributes and tensors of version 0.1."""

import sys

import pytest
import torch as th
from helpers import differing, make, state_of
from worlds import BOX, TWO, VECTOR, Chain, SampledEnv, SpaceEnv

from sb3_dai import legacy
from sb3_dai.dai import DAI
from sb3_dai.preferences import RewardPreference

# ----- Arguments -----

REMEDIES = {
    "compile": 'give backend="compile"',
    "use_sde": "leave it out",
    "exploration_fraction": "give target_entropy",
    "exploration_initial_entropy": "give target_entropy",
    "exploration_final_entropy": "give target_entropy",
    "transition_delay": r"give policy_kwargs=dict\(transition_delay=",
    "action_precision": r"give policy_kwargs=dict\(action_precision=",
    "epistemic_gamma": "give gamma",
}


@pytest.mark.parametrize(("name", "remedy"), REMEDIES.items())
def test_an_argument_of_before_is_named_with_what_has_taken_its_place(name, remedy):
    assert legacy.RENAMED.keys() == REMEDIES.keys()
    with pytest.raises(ValueError, match=rf"^{name}=0\.5 is no argument any more: {remedy}"):
        DAI("MlpPolicy", SpaceEnv(), **{name: 0.5})


def test_what_never_was_an_argument_gets_the_error_of_python():
    with pytest.raises(TypeError, match="unexpected keyword argument 'curiosity'"):
        DAI("MlpPolicy", SpaceEnv(), curiosity=1.0)


# ----- Attributes of a loaded model -----


def attributes(action_space=TWO, preference=None, **changes):
    given = dict(
        **dict(
            exploration_fraction=0.5, exploration_initial_entropy=0.7, exploration_final_entropy=0.2, entropy_schedule=None
        ),
        **dict(action_precision=1.0, transition_delay=None, epistemic_gamma=0.95, compile=False, preference_weight=2.0),
        action_space=action_space,
        preference=preference or RewardPreference(),
        policy_kwargs=dict(net_arch=[8]),
    )
    return {**given, **changes}


def test_attributes_of_before_become_those_of_now():
    data = attributes()
    assert legacy.upgrade(data) == ["extrinsic", "epistemic", "prediction_error"]
    assert data.keys() == {"target_entropy", "backend", "preference", "preference_weight", "policy_kwargs", "action_space"}
    assert (data["target_entropy"], data["backend"]) == ("auto", "auto")
    assert data["policy_kwargs"] == dict(net_arch=[8]) and data["preference_weight"] == 2.0


def test_what_was_chosen_is_kept():
    preference = RewardPreference()
    preference.scale = 3.0
    data = attributes(
        **dict(compile=True, action_precision=4.0, transition_delay=2, preference=preference),
        policy_kwargs=dict(net_arch=[8], greedy="habit"),
        exploration_final_entropy=0.1,
    )
    legacy.upgrade(data)
    assert data["backend"] == "compile"
    assert data["policy_kwargs"] == dict(net_arch=[8], greedy="policy", action_precision=4.0, transition_delay=2)
    assert data["preference_weight"] == 6.0 and not vars(preference)
    schedule, most = data["target_entropy"], th.tensor(2.0).log().item()
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([0.7 * most, 0.1 * most, 0.1 * most])


def test_shares_of_the_entropy_never_were_of_box_actions():
    data = attributes(BOX, exploration_final_entropy=0.1)
    legacy.upgrade(data)
    assert data["target_entropy"] == "auto"


def test_what_is_given_at_loading_wins():
    data = attributes(exploration_final_entropy=0.1, target_entropy=0.4, compile=True, backend="eager")
    legacy.upgrade(data)
    assert (data["target_entropy"], data["backend"]) == (0.4, "eager")


def test_attributes_of_now_are_left_alone():
    data = dict(target_entropy=0.3, policy_kwargs={}, term_names=["extrinsic"])
    assert legacy.upgrade(data) == ["extrinsic"]
    assert data == dict(target_entropy=0.3, policy_kwargs={})
    assert legacy.upgrade(data) is None, "a model that was not loaded"


def test_classes_that_were_pickled_are_found_where_they_are_now():
    with legacy.old_modules():
        from sb3_dai.networks import RunningNorm, SmallCNN
        from sb3_dai.policies import MlpPolicy
        from sb3_dai.preference_learning import LearnedPreference
    assert {found.__module__ for found in (RunningNorm, SmallCNN, MlpPolicy, LearnedPreference)} == {
        *("sb3_dai.nets.statistics", "sb3_dai.nets.extractors", "sb3_dai.policy", "sb3_dai.preferences.learned")
    }
    assert not any(name in sys.modules for name in legacy.MOVED), "nobody else finds the old names"


# ----- Tensors -----


def old_state(policy):
    """As version 0.1 named the tensors of a policy with three heads."""
    state = state_of(policy)
    for old, new in legacy.PREFIXES.items():
        state = {old + name.removeprefix(new) if name.startswith(new) else name: value for name, value in state.items()}
    return state


@pytest.mark.parametrize("env", [SampledEnv(VECTOR, BOX), SampledEnv(VECTOR, TWO), Chain()], ids=["box", "choice", "numbered"])
def test_old_names_of_tensors_are_understood(env):
    kwargs = dict(prediction_error_weight=1.0, policy_kwargs=dict(net_arch=[8], prior_scale=1.0), buffer_size=10)
    policy, other = (make(env, seed=seed, **kwargs).policy for seed in (0, 1))
    state = old_state(policy)
    assert any(name.startswith("transition_net.") for name in state) and "novelty_scale.peak" in state
    assert not any(name.startswith(("world_model.net.", "terms.")) for name in state)
    other.load_state_dict(state)
    assert not differing(state_of(policy), state_of(other))


@pytest.mark.parametrize("action_space", [TWO, BOX], ids=["choice", "box"])
def test_heads_of_terms_that_are_off_are_left_out(action_space):
    """Version 0.1 had three heads whatever the weights."""
    env = SampledEnv(VECTOR, action_space)
    three = make(env, prediction_error_weight=1.0, seed=0, buffer_size=10).policy
    one = make(env, epistemic_weight=0.0, seed=1, buffer_size=10).policy
    one.load_state_dict(old_state(three))
    observations, actions = th.rand(4, 3), three.encode(th.zeros(4, 1) if action_space is TWO else th.zeros(4, 2))
    values = [policy.efe(policy.belief(observations))(actions) for policy in (three, one)]
    assert values[0].shape[2] == 3 and values[1].shape[2] == 1
    th.testing.assert_close(values[1], values[0][:, :, :1])
    assert one.head_weights.shape == (1,)


def test_heads_are_found_by_their_names():
    # Two options for each head, on the last axis
    saved, own = th.arange(6.0).reshape(1, 6), th.full((1, 4), -1.0)
    fitted = legacy.fit_heads(saved, own, ["extrinsic", "epistemic", "prediction_error"], ["extrinsic", "prediction_error"])
    assert fitted.tolist() == [[0.0, 1.0, 4.0, 5.0]]
    new = legacy.fit_heads(
        saved[:, :4], th.full((1, 6), -1.0), ["extrinsic", "epistemic"], ["epistemic", "effort", "extrinsic"]
    )
    assert new.tolist() == [[2.0, 3.0, -1.0, -1.0, 0.0, 1.0]], "a head that is new begins as it was made"


def test_moments_of_the_optimizer_follow_their_heads():
    kwargs = dict(policy_kwargs=dict(net_arch=[8]), seed=0)
    three, two = make(Chain(), prediction_error_weight=1.0, **kwargs).learn(60), make(Chain(), **kwargs)
    parameters = three.get_parameters()
    names = three.policy.term_names
    converted = legacy.convert_parameters(parameters, two.policy, names)
    two.set_parameters(converted)
    last = [policy.value_net.layers[-1].weight for policy in (three.policy, two.policy)]
    moments = [model.policy.optimizer.state[weight]["exp_avg"] for model, weight in zip((three, two), last, strict=True)]
    assert moments[0].shape[-1] == 6 and moments[1].shape[-1] == 4
    assert th.equal(moments[1], moments[0][..., :4]) and moments[1].abs().max() > 0
    assert th.equal(last[1], last[0][..., :4])
    two.learn(60)


def test_a_memory_that_was_saved_with_one_learning_rate_for_all_keeps_it():
    """Before, what dual descent learns had no learning rate of its own with a memory."""
    old = make(Chain(), "MlpLstmPolicy", policy_kwargs=dict(net_arch=[8], lr_multipliers=dict(dual=1.0)), seed=0).learn(60)
    new = make(Chain(), "MlpLstmPolicy", policy_kwargs=dict(net_arch=[8]), seed=1).learn(60)
    assert [len(model.policy.optimizer.param_groups) for model in (old, new)] == [1, 2]
    new.set_parameters(old.get_parameters())
    assert not differing(state_of(old.policy), state_of(new.policy))
    (group,), (saved,) = (model.policy.optimizer.param_groups for model in (new, old))
    states = [model.policy.optimizer.state for model in (new, old)]
    for parameter, other in zip(group["params"], saved["params"], strict=True):
        assert states[0][parameter].keys() == states[1][other].keys()
        assert all(th.equal(moment, states[1][other][name]) for name, moment in states[0][parameter].items())
    new.learn(60)


def test_parameters_of_now_are_left_alone():
    model = make(Chain(), seed=0).learn(60)
    parameters = model.get_parameters()
    converted = legacy.convert_parameters(parameters, model.policy, None)
    assert not differing(parameters["policy"], converted["policy"])
    assert converted["policy.optimizer"] is parameters["policy.optimizer"]
