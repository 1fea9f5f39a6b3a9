"""Features extractors: small images, copies for the target, and modules that the user made."""

import threading

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import BatchNormDropout, differing, make, state_of
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn
from worlds import IMAGE, VECTOR, SampledEnv

from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.extractors import SmallCNN, copy_of, has_modes, materialize
from sb3_dai.nets.statistics import RunningNorm


class Wrapped(BaseFeaturesExtractor):
    """Reads observations with a module that the user made, pretrained for example."""

    def __init__(self, observation_space, net, features_dim=8):
        super().__init__(observation_space, features_dim)
        self.net = net

    def forward(self, observations):
        return self.net(observations)


class Shifted(BaseFeaturesExtractor):
    """Works in place."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.shift = nn.Parameter(th.ones(1))

    def forward(self, observations):
        return observations.add_(1.0) * self.shift


def wrapped(net, **kwargs):
    return dict(net_arch=[16], features_extractor_class=Wrapped, features_extractor_kwargs=dict(net=net), **kwargs)


# ----- Small images -----


@pytest.mark.parametrize("shape", [(4, 10, 8), (10, 8, 4)], ids=["channels first", "channels last"])
def test_small_images_of_either_order(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    extractor = SmallCNN(space, features_dim=5)
    assert extractor(th.rand(2, *shape)).shape == (2, 5)
    assert extractor.layers[0].weight.shape == (16, 4, 3, 3)


def test_channels_last_are_the_same_image():
    extractor = SmallCNN(spaces.Box(0, 255, (4, 10, 8), np.uint8), features_dim=5)
    other = SmallCNN(spaces.Box(0, 255, (10, 8, 4), np.uint8), features_dim=5)
    other.load_state_dict(extractor.state_dict())
    images = th.rand(2, 4, 10, 8)
    th.testing.assert_close(other(images.permute(0, 2, 3, 1)), extractor(images))


@pytest.mark.parametrize(("shape", "named"), [((3,), "use MlpPolicy for vectors"), ((1, 2, 9), "at least 3 by 3")])
def test_what_is_no_small_image_is_named(shape, named):
    with pytest.raises(ValueError, match=named):
        SmallCNN(spaces.Box(0, 255, shape, np.uint8))


# ----- Copies -----


def test_a_copy_is_independent_and_does_not_learn():
    extractor = Wrapped(VECTOR, nn.Sequential(nn.Linear(3, 8), nn.Dropout()))
    extractor.train()
    copied = copy_of(extractor)
    assert not differing(state_of(extractor), state_of(copied))
    assert {id(parameter) for parameter in extractor.parameters()}.isdisjoint(map(id, copied.parameters()))
    assert not copied.training and not any(parameter.requires_grad for parameter in copied.parameters())
    assert extractor.training and all(parameter.requires_grad for parameter in extractor.parameters())


def test_what_cannot_be_copied_is_named():
    net = nn.Linear(4, 8)
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"features_extractor_class=Wrapped cannot be copied .*__deepcopy__"):
        make(policy_kwargs=wrapped(net))


def test_lazy_layers_are_made_by_one_evaluation():
    extractor = Wrapped(VECTOR, nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d()))
    materialize(extractor, th.rand(1, 3))
    assert extractor.net[0].weight.shape == (8, 3)
    assert extractor.training, "the mode is as before"
    assert extractor.net[1].num_batches_tracked == 0, "it was no batch to learn from"


def test_extractors_without_lazy_layers_are_not_evaluated():
    calls = []
    extractor = Wrapped(VECTOR, nn.Linear(3, 8))
    extractor.register_forward_hook(lambda *_: calls.append(1))
    materialize(extractor, th.rand(1, 3))
    assert not calls


# ----- Modules of the user's in a model -----


@pytest.mark.parametrize("algorithm", [DQN, None], ids=["DQN", "DAI"])
def test_a_module_of_the_users_is_trained(algorithm):
    """The copies for the target and the average must not freeze it. DQN trains it as well."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    before = net[0].weight.detach().clone()
    kwargs = dict(policy_kwargs=wrapped(net), learning_starts=20, buffer_size=1000, seed=0)
    if algorithm is None:
        model = make(**kwargs, gradient_steps=1).learn(80)
    else:
        model = algorithm("MlpPolicy", "CartPole-v1", device="cpu", train_freq=1, **kwargs).learn(80)
    assert net[0].weight.requires_grad
    assert (net[0].weight - before).abs().max() > 1e-4
    assert model.policy_kwargs["features_extractor_kwargs"]["net"] is net


def test_copies_of_a_module_follow_it():
    policy = make(policy_kwargs=wrapped(nn.Linear(4, 8)), tau=0.5, seed=0).learn(60).policy
    online, *copies = (getattr(policy, f"features_extractor{end}") for end in ("", "_target", "_average"))
    for copied in copies:
        assert copied.net is not online.net
        assert 0 < (copied.net.weight - online.net.weight).abs().max() < 0.1
        assert not copied.net.weight.requires_grad


def test_a_frozen_part_of_a_module_stays_as_it_is():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))
    net[0].requires_grad_(False)
    before = state_of(net)
    make(policy_kwargs=wrapped(net), seed=0).learn(70)
    assert differing(before, state_of(net)) == {"1.weight", "1.bias"}


def test_two_models_may_share_a_module():
    """As with DQN: what the user gave is what both train."""
    net = nn.Linear(4, 8)
    models = [make(policy_kwargs=wrapped(net), seed=seed) for seed in (0, 1)]
    for model in models:
        before = state_of(net)
        model.learn(60)
        assert differing(before, state_of(net)) == {"weight", "bias"}


def test_lazy_layers_of_a_module_train_and_are_saved(tmp_path):
    model = make(policy_kwargs=wrapped(nn.LazyLinear(8)), seed=0)
    before = state_of(model.policy)
    model.learn(60)
    weights = {f"features_extractor{end}.net.weight" for end in ("", "_target", "_average")}
    assert weights <= differing(before, state_of(model.policy))
    model.save(tmp_path / "model")
    assert not differing(state_of(model.policy), state_of(type(model).load(tmp_path / "model", device="cpu").policy))


@pytest.mark.parametrize("is_dict", [False, True], ids=["vector", "dictionary"])
def test_extractors_may_work_in_place(is_dict):
    """Several extractors read the same batch, and the replay buffer and the user keep their arrays."""

    class ShiftedDict(Shifted):
        def forward(self, observations):
            return super().forward(observations["a"])

    space = spaces.Dict(a=VECTOR) if is_dict else VECTOR
    extractor = ShiftedDict if is_dict else Shifted
    kwargs = dict(net_arch=[16], features_extractor_class=extractor)
    model = make(SampledEnv(space), "MultiInputPolicy" if is_dict else "MlpPolicy", policy_kwargs=kwargs, seed=0)
    observation = {"a": np.zeros((1, 3), np.float32)} if is_dict else np.zeros((1, 3), np.float32)
    tensors, _ = model.policy.obs_to_tensor(observation)
    for target in (False, True, False):
        assert model.policy.belief(tensors, target).raw.tolist() == [[1.0, 1.0, 1.0]]
    model.predict(observation)
    assert not (observation["a"] if is_dict else observation).any()
    model.learn(60)
    held = model.replay_buffer.observations
    assert (held["a"] if is_dict else held)[:60].max() <= 1.0, "observations are within the space as before"
    features = model.policy.features_norm
    assert (features.mean.abs() - 1.0).abs().max() < 0.5, "features are shifted once"


# ----- Training and evaluation mode -----


def test_which_modules_differ_between_training_and_evaluation():
    assert not has_modes(EnsembleMLP(2, 3, 4, [8])) and not has_modes(RunningNorm(3))
    assert has_modes(EnsembleMLP(2, 3, 4, [8], activation_fn=nn.RReLU))
    assert has_modes(nn.Sequential(nn.Linear(1, 1), nn.Dropout())) and has_modes(nn.BatchNorm1d(2))
    assert has_modes(BatchNormDropout(VECTOR))
    assert not has_modes(NatureCNN(spaces.Box(0, 255, (1, 36, 36), np.uint8)))
    assert not has_modes(CombinedExtractor(spaces.Dict(a=VECTOR, b=spaces.Box(0, 255, (1, 36, 36), np.uint8))))

    class OfTheUser(nn.Linear):
        """It might."""

    assert has_modes(OfTheUser(1, 1))


def test_images_need_no_other_extractor_than_the_policys():
    assert type(make(SampledEnv(IMAGE), "CnnPolicy", policy_kwargs={}, buffer_size=10).policy.features_extractor) is NatureCNN
    small = spaces.Box(0, 255, (10, 10, 4), np.uint8)
    assert type(make(SampledEnv(small), "CnnPolicy", policy_kwargs={}, buffer_size=10).policy.features_extractor) is SmallCNN
