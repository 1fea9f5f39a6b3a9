"""Batch normalisation and dropout: training mode in training alone."""

import numpy as np
import pytest
import torch as th
from helpers import ACTIONS, BatchNormDropout, action_spaces, differing, make, stack, state_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from worlds import VECTOR, SampledEnv


def with_batch_norm(action_space, **kwargs):
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    return make(SampledEnv(action_space=action_space), policy_kwargs=policy_kwargs, seed=0, **kwargs)


@pytest.fixture(params=["discrete", "box"])
def batch_norm_model(request):
    # A momentum of the statistics' own: a target that took part of them would differ
    return with_batch_norm(ACTIONS[request.param], tau=0.01)


def statistics(extractor):
    return {name: value.clone() for name, value in extractor.named_buffers() if "running" in name}


@pytest.mark.parametrize("interval", [None, 1])
@action_spaces()
def test_batch_norm_statistics_change_in_training_and_the_target_follows(interval, action_space):
    model = with_batch_norm(action_space, target_update_interval=interval)
    extractor, target = model.policy.features_extractor, model.policy.features_extractor_target
    before = statistics(extractor)
    model.learn(49)
    assert not differing(before, statistics(extractor)), "acting changed them"
    model.learn(30, reset_num_timesteps=False)
    assert model._n_updates == 29
    assert len(differing(before, statistics(extractor))) == 2
    # Once for each gradient step, with the observations of the batch alone
    assert extractor.layers[1].num_batches_tracked == 29
    if interval:
        model._update_target()  # the last gradient step comes after the last step of the environment
    assert not differing(statistics(extractor), statistics(target))


def test_batch_norm_and_dropout_rest_in_prediction(batch_norm_model):
    model = batch_norm_model.learn(80)
    before = state_of(model.policy)
    many = stack(VECTOR, 60)
    actions = model.predict(many, deterministic=True)[0]
    assert all(np.array_equal(actions, model.predict(many, deterministic=True)[0]) for _ in range(5))
    assert len(np.unique(actions, axis=0)) > 1
    env = make_vec_env(SampledEnv, env_kwargs=dict(action_space=model.action_space))
    assert evaluate_policy(model, env, n_eval_episodes=1)
    assert not differing(before, state_of(model.policy))


def test_set_training_mode_leaves_the_targets_alone(batch_norm_model):
    policy = batch_norm_model.policy
    many = th.randn(60, 3)
    for mode in (True, False, False, True, True, False):
        policy.set_training_mode(mode)
        assert policy.training is mode
        for net in (policy.features_extractor, policy.transition_net, policy.policy_net, policy.value_net):
            assert all(module.training is mode for module in net.modules())
        for net in (policy.features_extractor_target, policy.value_net_target):
            assert not any(module.training for module in net.modules())
        assert th.equal(policy.features(many), policy.features(many)) is not mode, "dropout belongs to training"
        assert th.equal(policy.features(many, target=True), policy.features(many, target=True))


def test_training_and_acting_each_set_their_mode(batch_norm_model, monkeypatch):
    model = batch_norm_model
    modes = []

    def note(*args):
        modes.append(model.policy.features_extractor.training)
        return True

    monkeypatch.setattr(model, "_optimize", note)
    model.learn(60, callback=lambda locals_, globals_: note())
    # In turn: a step of the environment, then a gradient step
    assert modes == [False] * 51 + [True, False] * 9 + [True]


@pytest.mark.parametrize("mode", [True, False])
def test_targets_rest_even_if_torch_sets_the_mode(batch_norm_model, mode):
    """policy.train() and policy.eval() are torch's words for it, and reach every module."""
    model = batch_norm_model
    model.policy.train(mode)
    model.learn(60)
    targets = (model.policy.features_extractor_target, model.policy.value_net_target)
    assert not any(module.training for net in targets for module in net.modules())


def test_where_nothing_heeds_the_mode_no_module_is_walked(monkeypatch):
    """Twice for each step of the environment, that costs more than a prediction."""
    model = make("CartPole-v1")
    walked = []
    monkeypatch.setattr(type(model.policy), "train", lambda self, mode: walked.append(mode))
    model.learn(60)
    assert not walked and model.policy.training
    model.predict(np.zeros(4, dtype=np.float32))
    assert not walked and not model.policy.training
