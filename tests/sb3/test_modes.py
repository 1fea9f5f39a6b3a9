"""Batch normalisation and dropout: training mode in training alone."""

import numpy as np
import pytest
import torch as th
from helpers import ACTIONS, BatchNormDropout, action_spaces, differing, each_step, make, stack, state_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from worlds import VECTOR, SampledEnv

from sb3_dai.learning.step import EagerStep, polyak


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
        polyak(model.policy.target_pairs(), model.tau)  # the last gradient step comes after the last step of the environment
    assert not differing(statistics(extractor), statistics(target))


def test_the_average_has_the_statistics_of_its_last_step():
    """It follows in each gradient step, whenever the target does: what acts in the end must not wait for that."""
    model = with_batch_norm(ACTIONS["discrete"], target_update_interval=10_000).learn(70)
    online = statistics(model.policy.features_extractor)
    assert not differing(online, statistics(model.policy.features_extractor_average))
    assert len(differing(online, statistics(model.policy.features_extractor_target))) == 2


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
        for net in (policy.features_extractor, policy.world_model.net, policy.policy_net, policy.value_net):
            assert all(module.training is mode for module in net.modules())
        for net in (policy.features_extractor_target, policy.value_net_target):
            assert not any(module.training for module in net.modules())
        one, other = (policy.belief(many).features for _ in range(2))
        assert th.equal(one, other) is not mode, "dropout belongs to training"
        assert th.equal(*(policy.belief(many, target=True).features for _ in range(2)))


def test_what_was_put_in_another_mode_rests_in_prediction(batch_norm_model):
    policy = batch_norm_model.policy
    policy.set_training_mode(False)
    policy.features_extractor.train()
    policy.set_training_mode(False)
    assert not any(module.training for module in policy.features_extractor.modules())


class Drifting(BaseFeaturesExtractor):
    """Has a buffer of its own, which is no running statistic of torch's."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.register_buffer("seen", th.zeros(()))

    def forward(self, observations):
        if self.training:
            self.seen += 1
        return observations * (1.0 + 0.01 * self.seen)


@pytest.mark.parametrize("interval", [None, 1])
def test_buffers_of_any_name_reach_the_target_and_the_average(interval):
    policy_kwargs = dict(net_arch=[16], features_extractor_class=Drifting)
    model = make(SampledEnv(), policy_kwargs=policy_kwargs, target_update_interval=interval).learn(60)
    polyak(model.policy.target_pairs(), model.tau)
    policy = model.policy
    copies = (policy.features_extractor_target, policy.features_extractor_average)
    assert policy.features_extractor.seen > 0 and all(copied.seen == policy.features_extractor.seen for copied in copies)
    policy.double().float()  # New tensors in the place of the old
    model.train(gradient_steps=3, batch_size=32)
    polyak(model.policy.target_pairs(), model.tau)
    assert all(copied.seen == policy.features_extractor.seen for copied in copies)


def test_what_is_frozen_stays_and_the_rest_learns():
    """A pretrained extractor, say; also if it is frozen, or thawed, in the midst of training."""
    model = with_batch_norm(ACTIONS["discrete"]).learn(60)
    frozen = model.policy.features_extractor
    weight, policy_weight = frozen.layers[2].weight, next(model.policy.policy_net.parameters())
    for free in (False, True):
        frozen.requires_grad_(free)
        before, policy_before = weight.clone(), policy_weight.clone()
        model.train(gradient_steps=5, batch_size=32)
        assert th.equal(before, weight) is not free and not th.equal(policy_before, policy_weight)
    never = with_batch_norm(ACTIONS["discrete"])
    never.policy.features_extractor.requires_grad_(False)
    before = never.policy.features_extractor.layers[2].weight.clone()
    assert th.equal(never.learn(60).policy.features_extractor.layers[2].weight, before)


def test_training_and_acting_each_set_their_mode(batch_norm_model, monkeypatch):
    model = batch_norm_model
    modes = []

    def note(*args):
        modes.append(model.policy.features_extractor.training)

    monkeypatch.setattr(EagerStep, "optimize", note)
    model.learn(60, callback=each_step(note))
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


def test_where_no_layer_has_modes_no_module_is_walked(monkeypatch):
    """Twice for each step of the environment, that costs more than a prediction."""
    model = make("CartPole-v1")
    walked = []
    monkeypatch.setattr(type(model.policy), "train", lambda self, mode: walked.append(mode))
    model.learn(60)
    assert not walked and model.policy.training
    model.predict(np.zeros(4, dtype=np.float32))
    assert not walked and not model.policy.training
