"""The weight of the epistemic term, and what the world model says of actions that were not taken."""

import numpy as np
import pytest
import torch as th
from helpers import action_spaces, make, step_inputs
from worlds import N_ACTIONS, N_STATES, Chain, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.efe import Transition
from sb3_dai.learning.batch import sample_transitions
from sb3_dai.learning.losses import efe_targets, epistemic_weight_loss


def test_the_end_of_an_episode_counts_as_the_average_state():
    model = make(Chain(), gamma=0.9, seed=0).learn(60)
    (sampled,) = sample_transitions(model.replay_buffer, 16)
    policy = model.policy
    targets = []
    for ended in (0.0, 1.0):
        sampled.one_step.dones[:] = ended
        batch, coefficients = step_inputs(model, sampled)
        belief = policy.belief(sampled.one_step.next_observations)
        seen = Transition(
            *[th.zeros(16, 1)] * 7, prediction=policy.world_model.predict(belief, th.eye(2)[[0] * 16]), outcome=0
        )
        targets.append(
            efe_targets(policy, batch, coefficients, seen, belief)[1][:, 1] - policy.terms["epistemic"].cost(seen)[:, 0]
        )
    assert targets[0].std() > 0
    th.testing.assert_close(targets[1], (0.9 * policy.terms["epistemic"].elsewhere.mean).expand(16), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gain, reference, rises", [(0.2, 0.5, True), (0.5, 0.2, False)])
def test_an_automatic_weight_rises_while_the_policy_gains_less_than_its_target(monkeypatch, gain, reference, rises):
    model = make(Chain(), epistemic_weight="auto", seed=0)
    monkeypatch.setattr(
        model.policy, "novelty_of_actions", lambda belief, target=False: th.full((32, 1), reference if target else gain)
    )
    model.learn(70, log_interval=1000)
    log_weight = model.policy.log_epistemic_weight.item()
    assert abs(log_weight) > 1e-3 and (log_weight > 0) == rises
    logged = model.logger.name_to_value
    assert logged["train/epistemic_weight"] == pytest.approx(np.exp(log_weight), rel=0.01)
    assert "train/epistemic_weight_loss" in logged


def test_an_automatic_weight_learns_from_nothing_else():
    policy = make(Chain(), epistemic_weight="auto", seed=0).learn(60).policy
    loss = epistemic_weight_loss(policy, policy.belief(th.arange(N_STATES)))
    (gradient,) = th.autograd.grad(loss, [policy.log_epistemic_weight], retain_graph=True)
    nets = [parameter for parameter in policy.net_parameters() if parameter.requires_grad]
    assert gradient.isfinite().all()
    assert all(found is None for found in th.autograd.grad(loss, nets, allow_unused=True))


@action_spaces("discrete", "multi-discrete", "box")
def test_an_automatic_weight_moves_and_is_saved(tmp_path, action_space):
    env = SampledEnv(action_space=action_space)
    model = make(env, epistemic_weight="auto", seed=0).learn(70)
    log_weight = model.policy.log_epistemic_weight.item()
    (coefficients,) = model._coefficients(1)
    assert log_weight != 0.0 and coefficients.head_weights[1].item() == pytest.approx(np.exp(log_weight))
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.epistemic_weight == "auto" and loaded.policy.log_epistemic_weight.item() == log_weight
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.policy.log_epistemic_weight.item() != log_weight


def test_a_given_weight_is_logged_and_stays():
    model = make(Chain(), epistemic_weight=0.25, seed=0)
    model.learn(60, log_interval=1000)
    assert model.logger.name_to_value["train/epistemic_weight"] == pytest.approx(0.25)
    assert "train/epistemic_weight_loss" not in model.logger.name_to_value
    assert model.policy.log_epistemic_weight.item() == 0.0


@pytest.mark.parametrize("value", ["Auto", "much", None])
def test_other_words_for_the_weight_are_refused(value):
    with pytest.raises(ValueError, match=r'epistemic_weight \(or a schedule or "auto"\)='):
        make(Chain(), epistemic_weight=value)


# ----- Actions that were not taken -----


@pytest.mark.parametrize(
    "policy_kwargs", [dict(net_arch=[16], lookahead=True), dict(net_arch=[16], transition_model="dirichlet")], ids=str
)
def test_novelty_of_every_action_is_part_of_its_efe(policy_kwargs):
    model = make(Chain(), policy_kwargs=policy_kwargs, prediction_error_weight=1.0, seed=0).learn(80)
    policy = model.policy
    belief = policy.belief(th.arange(N_STATES))
    table = policy.efe(belief).table
    learned = policy.value_net(belief.features).unflatten(-1, (3, 1, N_ACTIONS))
    for action in range(N_ACTIONS):
        codes = policy.encode(th.full((N_STATES, 1), action))
        novelty = policy.terms["epistemic"].scale.scaled(policy.novelty_of(policy.world_model.predict(belief, codes)))
        assert novelty.max() > 0.0
        known = (table - learned)[:, :, :, 0, action]
        th.testing.assert_close(known[:, :, 1], -novelty[:, 0].expand(2, -1), rtol=1e-4, atol=1e-5)
        assert (known[:, :, [0, 2]] == 0.0).all()


def test_the_ensemble_is_not_evaluated_for_all_actions_by_default():
    policy = make(Chain(), seed=0).policy
    assert policy._known_efe(policy.belief(th.arange(N_STATES))) == 0.0


@pytest.mark.parametrize("policy_kwargs", [dict(lookahead=True), dict(transition_model="dirichlet")], ids=str)
def test_without_the_term_nothing_is_added_to_the_efe(policy_kwargs):
    model = make(Chain(), policy_kwargs=dict(net_arch=[16], **policy_kwargs), epistemic_weight=0.0, seed=0).learn(60)
    policy = model.policy
    assert policy.term_names == ["extrinsic"]
    assert policy._known_efe(policy.belief(th.arange(N_STATES))) == 0.0


@action_spaces("box", "multi-discrete")
def test_lookahead_needs_discrete_actions(action_space):
    with pytest.raises(ValueError, match="lookahead=True asks about each action of a Discrete space"):
        make(SampledEnv(action_space=action_space), policy_kwargs=dict(lookahead=True))
