"""The C++ step is the eager step, for every kind of agent: many steps in a row, on batches with all that is rare in them."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import BatchNormDropout, make
from stable_baselines3.common.torch_layers import FlattenExtractor
from worlds import BOX, VECTOR, SampledEnv

from sb3_dai import RecurrentPolicy
from sb3_dai.acceleration.native.library import library
from sb3_dai.acceleration.native.step import NativeStep
from sb3_dai.efe import Term
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.sequences import sampled
from sb3_dai.world_model.filters import BeliefFilter

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not made")

IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
NUMBERED, FOUR = spaces.Discrete(9), spaces.Discrete(4)
UNEVEN = spaces.MultiDiscrete([2, 3, 5])
DICT = spaces.Dict({"vector": VECTOR, "number": spaces.Discrete(3)})


class Effort(Term):
    """A term of the user's, of each step, that goes on after the end of an episode."""

    name = "effort"
    reads_prediction = False
    continues = True

    def cost(self, transition):
        return transition.actions.square().sum(dim=1, keepdim=True) + transition.rewards


class Regret(Term):
    """A term of the user's, of returns, whose critics are averaged."""

    name = "regret"
    reads_prediction = False
    averages = of_returns = True

    def cost(self, transition):
        return -transition.log_preference.clamp(max=0.0)


class Average(BeliefFilter):
    """A filter without parameters."""

    def __init__(self, belief_dim):
        super().__init__(belief_dim)
        self.factors = 0.9

    def initial(self, n, device="cpu"):
        return (th.zeros(n, self.belief_dim, device=device),)

    def step(self, memory, features, actions):
        average = self.factors * memory[0] + 0.1 * features
        return average, (average,)


class AveragePolicy(RecurrentPolicy):
    filter_class = Average

    def _make_filter(self, features_dim):
        return self.filter_class(features_dim)


class Leaky(Average):
    """A filter that learns by one loss under two names, of a shape of its own, and logs what has a gradient."""

    def __init__(self, belief_dim):
        super().__init__(belief_dim)
        del self.factors
        self.factors = th.nn.Parameter(th.full((belief_dim,), 0.9))

    def losses(self, beliefs, next_beliefs, actions, next_features):
        errors = (next_beliefs - next_features).square().mean(dim=1, keepdim=True)
        loss = errors.mean().reshape(1)
        return {"first_loss": loss, "second_loss": loss}, {"error": errors}


class LeakyPolicy(AveragePolicy):
    filter_class = Leaky


class Turned(FlattenExtractor):
    """Features whose numbers do not lie one after the other, and a buffer that is another one after each call."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.weight = th.nn.Parameter(th.eye(self.features_dim) + 0.1)
        self.register_buffer("mean", th.zeros(self.features_dim))

    def forward(self, observations):
        flat = super().forward(observations)
        self.mean = 0.9 * self.mean + 0.1 * flat.mean(dim=0)
        return (self.weight @ flat.T).T


AGENTS = {
    "two hidden layers of 64": dict(policy_kwargs=dict(net_arch=[64, 64])),
    "wide and narrow layers without norm": dict(policy_kwargs=dict(net_arch=[40, 17], layer_norm=False)),
    "no hidden layer": dict(policy_kwargs=dict(net_arch=[], n_critics=3, ensemble_size=2)),
    "one of each": dict(policy_kwargs=dict(n_critics=1, ensemble_size=1)),
    "nets of different sizes": dict(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[24, 12], transition=[10, 10, 10]))),
    "features as they are": dict(policy_kwargs=dict(normalize_features=False)),
    "returns of three steps": dict(n_steps=3, bootstrap_entropy=0.5),
    "habit": dict(precision=2.0, habit_prior=[0.2, 0.8]),
    "habit of each state": dict(
        precision=2.0, habit_prior=lambda obs: th.softmax(th.stack([obs[:, 0], obs[:, 1]], dim=1), dim=1)
    ),
    "prediction error sought": dict(prediction_error_weight=-0.3, preference_weight=2.0),
    "prediction error shunned": dict(prediction_error_weight=0.7, pessimism=0.7, policy_kwargs=dict(n_critics=3)),
    "no epistemic term": dict(epistemic_weight=0.0),
    "the preference alone": dict(epistemic_weight=0.0, prediction_error_weight=0.0, n_steps=2, bootstrap_entropy=1.0),
    "variance": dict(policy_kwargs=dict(novelty="variance")),
    "bootstrap and priors": dict(policy_kwargs=dict(bootstrap_share=0.5, prior_scale=1.5)),
    "two learning rates": dict(policy_kwargs=dict(lr_multipliers=dict(value=2.0, transition=0.5))),
    "constants of Adam": dict(policy_kwargs=dict(optimizer_kwargs=dict(betas=(0.8, 0.99), eps=1e-4))),
    "targets by steps of the environment": dict(target_update_interval=7),
    "the target is the net": dict(tau=1.0),
    "no clipping": dict(max_grad_norm=None),
    "rare learning": dict(policy_delay=2, prediction_error_weight=0.5, policy_kwargs=dict(transition_delay=3)),
    "no successors": dict(
        optimize_memory_usage=True,
        replay_buffer_kwargs=dict(handle_timeout_termination=False),
        prediction_error_weight=0.5,
    ),
    "terms of the user's": dict(n_steps=3, policy_kwargs=dict(transition_delay=2, terms=[Effort(0.5), Regret(-0.2, 0.8)])),
    "numbered states": dict(spaces=(NUMBERED, FOUR), prediction_error_weight=0.3),
    "numbered states, no hidden layer": dict(spaces=(NUMBERED, FOUR), n_steps=2, policy_kwargs=dict(net_arch=[])),
    "numbered states, variance": dict(
        spaces=(NUMBERED, FOUR),
        n_steps=2,
        policy_kwargs=dict(novelty="variance", prior_scale=1.0, bootstrap_share=0.4, transition_delay=2),
    ),
    "numbered states, several choices": dict(spaces=(NUMBERED, UNEVEN), n_steps=2),
    "numbered states, Box actions": dict(spaces=(NUMBERED, BOX)),
    "Dirichlet": dict(spaces=(NUMBERED, FOUR), n_steps=2, policy_kwargs=dict(transition_model="dirichlet")),
    "Dirichlet, variance": dict(
        spaces=(NUMBERED, FOUR),
        prediction_error_weight=0.3,
        policy_kwargs=dict(transition_model="dirichlet", novelty="variance"),
    ),
    "several choices": dict(spaces=(VECTOR, UNEVEN), pessimism=0.4, prediction_error_weight=0.3),
    "eight switches": dict(spaces=(VECTOR, spaces.MultiBinary(8)), n_steps=3, bootstrap_entropy=0.3),
    "seventy options": dict(spaces=(spaces.Box(0, 255, (5,), np.uint8), spaces.Discrete(70))),
    "Box actions": dict(spaces=(VECTOR, BOX), n_steps=3, bootstrap_entropy=0.5),
    "Box actions, pessimism": dict(spaces=(VECTOR, BOX), pessimism=0.3, policy_kwargs=dict(n_critics=3, layer_norm=False)),
    "Box actions, all options": dict(
        spaces=(VECTOR, BOX),
        policy_delay=2,
        precision=3.0,
        prediction_error_weight=-0.5,
        policy_kwargs=dict(novelty="variance", bootstrap_share=0.5, prior_scale=0.5, transition_delay=3),
    ),
    "images": dict(spaces=(IMAGE, spaces.Discrete(3)), policy="CnnPolicy", n_steps=2),
    "images, Box actions": dict(
        spaces=(IMAGE, BOX),
        policy="CnnPolicy",
        policy_delay=2,
        policy_kwargs=dict(normalize_features=False, transition_delay=3),
    ),
    "dictionaries": dict(spaces=(DICT, spaces.MultiDiscrete([2, 2])), policy="MultiInputPolicy"),
    "vectors of choices": dict(spaces=(spaces.MultiDiscrete([3] * 5), spaces.Discrete(3))),
    "matrices": dict(spaces=(spaces.Box(-1.0, 1.0, (2, 2)), spaces.Discrete(3))),
    "batch norm and dropout": dict(
        spaces=(VECTOR, BOX), n_steps=2, policy_kwargs=dict(features_extractor_class=BatchNormDropout)
    ),
    "turned features": dict(policy_kwargs=dict(features_extractor_class=Turned)),
    "memory, turned features": dict(policy="MlpLstmPolicy", policy_kwargs=dict(features_extractor_class=Turned)),
    "memory": dict(policy="MlpLstmPolicy", prediction_error_weight=0.3),
    "memory, rare learning": dict(
        policy="MlpLstmPolicy", policy_delay=2, policy_kwargs=dict(transition_delay=3, prior_scale=0.5, bootstrap_share=0.5)
    ),
    "memory, Box actions": dict(spaces=(VECTOR, BOX), policy="MlpLstmPolicy", pessimism=0.4, bootstrap_entropy=0.5),
    "memory, several choices": dict(spaces=(VECTOR, UNEVEN), policy="MlpLstmPolicy"),
    "memory, numbered observations": dict(spaces=(NUMBERED, FOUR), policy="MlpLstmPolicy"),
    "memory, free energy": dict(policy="MlpLstmPolicy", policy_kwargs=dict(state_dim=3, normalize_features=False)),
    "memory, numbered observations, free energy": dict(
        spaces=(NUMBERED, BOX), policy="MlpLstmPolicy", policy_kwargs=dict(state_dim=3)
    ),
    "memory, images": dict(spaces=(IMAGE, spaces.Discrete(3)), policy="CnnLstmPolicy"),
    "memory, dictionaries": dict(spaces=(DICT, BOX), policy="MultiInputLstmPolicy", policy_delay=2),
    "memory, a filter that does not learn": dict(
        policy=AveragePolicy, prediction_error_weight=0.3, policy_kwargs=dict(transition_delay=3)
    ),
    "memory, a filter with losses of its own": dict(policy=LeakyPolicy),
    "memory, batch norm and dropout": dict(
        policy="MlpLstmPolicy", policy_kwargs=dict(features_extractor_class=BatchNormDropout)
    ),
}


def agents(**kwargs):
    """Two agents with the same nets and rows in their buffers, with terminals and features beyond the clip."""
    kwargs = {"env": "CartPole-v1", "max_grad_norm": 1.0, "seed": 3, **copy.deepcopy(kwargs)}
    if "spaces" in kwargs:
        kwargs["env"] = SampledEnv(*kwargs.pop("spaces"))
    kwargs["policy_kwargs"] = {"net_arch": [16], **kwargs.get("policy_kwargs", {})}
    eager = make(**kwargs).learn(70, log_interval=1000)
    eager.replay_buffer.dones[: eager.replay_buffer.size() : 7] = 1.0
    eager.policy.features_norm.var.mul_(0.02)
    native = make(**kwargs)
    native._current_progress_remaining = eager._current_progress_remaining
    native.policy.load_state_dict(eager.policy.state_dict())
    native.policy.optimizer.load_state_dict(copy.deepcopy(eager.policy.optimizer.state_dict()))
    for model in (eager, native):
        model.policy.set_training_mode(True)
    return eager, native


def steps_of(model, batches):
    """Batches and coefficients of gradient steps, by the schedules of a model."""
    model._n_updates = 20
    for (transitions, windows), coefficients in zip(batches, model._coefficients(len(batches)), strict=True):
        log_preference = model.preference.log_prob(transitions.n_step)
        prior = model._log_habit_prior(transitions.one_step.observations)
        yield Batch(*transitions, log_preference, prior, windows), coefficients


def assert_close(name, one, other, tolerance):
    size = float(one.abs().max()) if one.numel() else 0.0
    th.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * max(size, 1e-2), msg=lambda text: f"{name}: {text}")


def assert_same(eager, native, tolerance):
    """Nets, targets, averages, statistics and what the optimizer keeps."""
    states = eager.policy.state_dict(), native.policy.state_dict()
    for name, tensor in states[0].items():
        assert_close(name, tensor, states[1][name], tolerance)
    names = {parameter: name for name, parameter in eager.policy.named_parameters()}
    for one, other in zip(eager.policy.parameters(), native.policy.parameters(), strict=True):
        kept = eager.policy.optimizer.state.get(one, {}), native.policy.optimizer.state.get(other, {})
        assert kept[0].keys() == kept[1].keys()
        for name, tensor in kept[0].items():
            assert_close(f"{names[one]} {name}", tensor, kept[1][name], tolerance)


@pytest.mark.parametrize("kwargs", AGENTS.values(), ids=AGENTS)
def test_steps_are_those_of_the_eager_step(kwargs):
    eager, native = agents(**kwargs)
    step = NativeStep(native._step.eager)
    assert step.refusal() is None
    batches = [*sampled(eager.policy, eager.replay_buffer, 32, 12, None)]
    for i, (one, other) in enumerate(zip(steps_of(eager, batches), steps_of(native, batches), strict=True)):
        th.manual_seed(i)
        expected, after = eager._step.eager(*one), th.rand(1)
        th.manual_seed(i)
        metrics = step(*other)
        assert th.equal(th.rand(1), after), "other random numbers were drawn"
        assert metrics.names == expected.names
        for name, value, wanted in zip(expected.names, metrics.values.tolist(), expected.values.tolist(), strict=True):
            assert value == pytest.approx(wanted, rel=1e-3, abs=1e-4), (i, name)
        if i == 0:
            for (name, p), q in zip(eager.policy.named_parameters(), native.policy.parameters(), strict=True):
                if p.grad is not None:
                    assert_close(f"gradient of {name}", p.grad, q.grad, 1e-4)
    assert_same(eager, native, 2e-3)


def compare(eager, native, tolerance=1e-3):
    """Losses and gradients of one step from where two agents are."""
    step = NativeStep(native._step.eager)
    assert step.refusal() is None
    batches = [*sampled(eager.policy, eager.replay_buffer, 40, 1, None)]
    (one,), (other,) = steps_of(eager, batches), steps_of(native, batches)
    th.manual_seed(0)
    metrics, gradients = eager._step.eager.gradients(*one)
    th.manual_seed(0)
    found = step(*other)
    for name, value, wanted in zip(metrics.names, found.values.tolist(), metrics.values.tolist(), strict=True):
        assert value == pytest.approx(wanted, rel=tolerance, abs=1e-4), name
    eager_names = {parameter: name for name, parameter in eager.policy.named_parameters()}
    pairs = zip(eager._step.eager.parameters(), step.eager.parameters(), gradients, strict=True)
    # Clipping apart, by which all but the dual parameter's have one factor
    nets = [
        (eager_names[p], gradient, q.grad) for p, q, gradient in pairs if gradient is not None and "log_" not in eager_names[p]
    ]
    sizes = [float(th.stack([part[i].norm() for part in nets]).norm()) for i in (1, 2)]
    for name, gradient, seen in nets:
        # Those of the last layers: a hidden unit that is all but 0 passes a gradient on or does not, by rounding
        if name.split(".")[-2] in ("3", "lstm"):
            assert_close(f"gradient of {name}", gradient / sizes[0], seen / sizes[1], tolerance)


@pytest.mark.parametrize("length", [2, 7, 64])
@pytest.mark.parametrize("is_kept", [True, False])
def test_sequences_of_any_length(length, is_kept):
    """Whether what was carried to their beginning is known or not, as of a buffer that another policy has filled."""
    kwargs = dict(policy="MlpLstmPolicy", policy_kwargs=dict(sequence_length=length, burn_in=1, lstm_hidden_size=20))
    eager, native = agents(**kwargs)
    if not is_kept:
        del eager.replay_buffer.memories
    compare(eager, native)


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("spaces_", [(VECTOR, FOUR), (VECTOR, UNEVEN), (NUMBERED, FOUR)], ids=["vector", "uneven", "numbered"])
def test_bounds_and_ties(spaces_, size):
    """Bounds of variances and of features, critics that agree, logits that are far apart."""
    eager, native = agents(spaces=spaces_, pessimism=0.3, policy_kwargs=dict(n_critics=3))
    th.manual_seed(1)
    for net in (eager.policy.world_model.net, eager.policy.value_net, eager.policy.policy_net):
        net.layers[-1].bias.data.uniform_(-size, size)
    eager.policy.features_norm.var.mul_(1e-3)
    native.policy.load_state_dict(eager.policy.state_dict())
    compare(eager, native)


@pytest.mark.parametrize("pessimism", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize(
    "mean, log_std", [(0.0, 1.5), (0.0, 2.0), (0.0, 30.0), (8.0, 0.0), (-8.0, -2.0), (300.0, 2.5), (-2.0, -5.0)]
)
def test_bounds_of_box_actions(pessimism, weight, mean, log_std):
    """Without weights the bounds are met exactly. At the ends of tanh actions are the bounds of the space."""
    eager, native = agents(spaces=(VECTOR, BOX), pessimism=pessimism, policy_kwargs=dict(n_critics=3))
    last = eager.policy.policy_net.layers[-1]
    last.weight.data.mul_(weight)
    last.bias.data.copy_(th.tensor([mean, -mean, log_std, log_std - 0.3]))
    native.policy.load_state_dict(eager.policy.state_dict())
    compare(eager, native, 1e-2)
