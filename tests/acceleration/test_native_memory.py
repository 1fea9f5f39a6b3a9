"""Which policies with a memory C++ takes, and what it leaves to torch."""

import copy

import numpy as np
import pytest
import torch as th
from helpers import BatchNormDropout, make

from sb3_dai import RecurrentPolicy
from sb3_dai.acceleration.native import step as native_step
from sb3_dai.acceleration.native.library import library
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.world_model.recurrent import LstmFilter

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not made")


@pytest.fixture
def model():
    model = make(policy="MlpLstmPolicy", batch_size=4, seed=0, backend="auto").learn(70)
    assert model.backend == "native"
    return model


class Other(LstmFilter):
    """What a user may derive from it."""


class Logarithm(RunningNorm):
    def forward(self, inputs):
        return super().forward(inputs).abs().log1p()


def other_norm(policy):
    policy.reward_norm = Logarithm(1)


def other_center(policy):
    policy.reward_norm.center = False


def other_center_of_features(policy):
    policy.features_norm.center = False


def other_forward(policy):
    policy.belief_filter.lstm.forward = policy.belief_filter.lstm.forward


def other_forward_of_a_net(policy):
    policy.value_net.forward = policy.value_net.forward


def more_members(policy):
    n_inputs = policy.reward_net.layers[0].weight.shape[1]
    policy.reward_net = EnsembleMLP(3, n_inputs, 1, [16], th.nn.ReLU, False)
    policy.optimizer = policy._make_optimizer(1e-3)


@pytest.mark.filterwarnings("ignore:Gradient steps by the eager backend")
@pytest.mark.parametrize(
    "change",
    [other_norm, other_center, other_center_of_features, other_forward, other_forward_of_a_net, more_members],
    ids=lambda change: change.__name__,
)
def test_what_is_exchanged_is_not_for_it(model, change):
    change(model.policy)
    model.train(2, 4)
    assert model.backend == "eager"


def test_a_filter_that_is_derived_from_the_lstm_is_evaluated_by_torch(model):
    for name in ("belief_filter", "belief_filter_target"):
        other = copy.deepcopy(model)
        getattr(other.policy, name).__class__ = Other
        other.train(2, 4)
        assert other.backend == "native" and not other._step.native.plan.has_filter
    model.train(2, 4)
    assert model._step.native.plan.has_filter


@pytest.mark.parametrize("kind", ["no sequences", "other memories"])
def test_batches_that_are_not_usual_are_torchs(model, kind, monkeypatch):
    """It says what is wrong with them."""
    batch = next(model._batches(1, 4))
    (coefficients,) = model._coefficients(1)
    windows = batch.windows._replace(memory=th.zeros(len(batch.windows.memory), 6))
    monkeypatch.setattr(native_step, "library", lambda: pytest.fail("not of the library"))
    with pytest.raises((RuntimeError, TypeError)):
        model._step.native(batch._replace(windows=None if kind == "no sequences" else windows), coefficients)


@pytest.mark.parametrize("name", ["features_extractor", "features_extractor_target"])
def test_features_of_another_shape(name, monkeypatch):
    model = make(policy="MlpLstmPolicy", backend="native", policy_kwargs=dict(features_extractor_class=BatchNormDropout))
    model.learn(70)
    monkeypatch.setattr(getattr(model.policy, name), "forward", lambda observations: observations[:, :2])
    with pytest.raises(ValueError, match=r"BatchNormDropout returned features of shape \(\d+, 2\) for \d+ observations"):
        model.train(1, 4)


def test_transitions_of_sequences_are_counted(model):
    """Those of all sequences say whether layers are wide enough for several threads."""
    assert model._step.is_small(4) and model._step.n_rows == 4 * model.policy.sequence_length
    assert not model._step.is_small(10_000)


class Halved(RecurrentPolicy):
    """Starts from half of what was carried."""

    def unflattened(self, rows):
        return tuple(0.5 * part for part in super().unflattened(rows))


def test_an_overridden_method_runs():
    with pytest.warns(UserWarning, match="RecurrentPolicy.unflattened is not what the native step was built for"):
        assert make(policy=Halved, backend="auto").learn(60).backend == "eager"


def test_training_goes_on_as_eagerly(tmp_path):
    """With sequences that begin in the midst of episodes, saved and loaded in between."""
    models = [make("Pendulum-v1", "MlpLstmPolicy", batch_size=4, seed=5, backend="native").learn(70) for _ in range(2)]
    models[1].backend = "eager"
    for model in models:
        for _ in range(2):
            np.random.seed(0)
            th.manual_seed(0)
            model.train(3, 4)
            parameters = model.get_parameters()
            model.set_parameters(parameters)
        assert model.backend == ("native" if model is models[0] else "eager")
    for name, tensor in models[0].policy.state_dict().items():
        th.testing.assert_close(
            tensor, models[1].policy.state_dict()[name], rtol=1e-3, atol=3e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
