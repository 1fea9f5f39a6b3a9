"""When the nets learn and when their targets follow."""

import warnings

import pytest
import torch as th
from helpers import BatchNormDropout, action_spaces, differing, each_step, filled, make, state_of, step_inputs, user_warnings
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from worlds import BOX, Chain, CounterEnv, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.learning.batch import sample_transitions
from sb3_dai.learning.losses import all_losses
from sb3_dai.learning.step import Metrics, means, polyak


def changed_parts(before, policy):
    """Parts of the policy that have changed since; of the world model its net alone, which has running statistics besides."""
    names = differing(before, state_of(policy))
    return {"world_model.net" if name.startswith("world_model.net.") else name.split(".")[0] for name in names}


class TargetWatch(BaseCallback):
    """Steps of the environment after which the target net had moved."""

    def __init__(self):
        super().__init__()
        self.moved, self.last = [], None

    def _on_step(self):
        now = state_of(self.model.policy.value_net_target)
        if self.last and differing(now, self.last):
            # Called before the model's own counting, so it sees what the step before it did
            self.moved.append(self.num_timesteps - self.model.n_envs)
        self.last = now
        return True


@pytest.mark.parametrize(
    ("kwargs", "n_envs", "moved"),
    [
        (dict(target_update_interval=20), 1, [60, 80, 100]),
        (dict(target_update_interval=20), 2, [60, 80, 100]),
        (dict(target_update_interval=21), 2, [60, 80, 100]),
        # Not once per rollout or per so many gradient steps: an episode has three steps
        (dict(target_update_interval=7, train_freq=(1, "episode"), gradient_steps=5), 1, [56, 63, 70, 77, 84, 91, 98, 105]),
        (dict(target_update_interval=None, train_freq=16), 1, [64, 80, 96]),
    ],
)
def test_target_follows_steps_of_the_environment(kwargs, n_envs, moved):
    model = make(make_vec_env(CounterEnv, n_envs, env_kwargs=dict(length=3)), tau=1.0, seed=0, **kwargs)
    model.learn(108, callback=(watch := TargetWatch()))
    assert watch.moved == moved


def test_tau_is_the_share_of_the_online_nets():
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    model = make(tau=0.25, target_update_interval=10_000, policy_kwargs=policy_kwargs, seed=0).learn(70)
    for name in ("value_net", "policy_net", "features_extractor"):
        online, target = getattr(model.policy, name), getattr(model.policy, f"{name}_target")
        pairs = [*zip(online.parameters(), target.parameters(), strict=True)]
        assert not any(th.equal(new, old) for new, old in pairs)
        expected = [0.25 * new + 0.75 * old for new, old in pairs]
        if name == "value_net":
            before = {
                other: state_of(getattr(model.policy, f"{other}_target")) for other in ("policy_net", "features_extractor")
            }
            polyak(model.policy.target_pairs(), model.tau)
            continue
        # One update served all nets
        expected = [0.25 * new + 0.75 * before[name][key] for key, new in online.named_parameters()]
        for value, wanted in zip(target.parameters(), expected, strict=True):
            th.testing.assert_close(value, wanted)


def test_target_net_follows_each_gradient_step_by_default():
    model = filled(make(Chain(), seed=0, tau=0.25))
    before = [parameter.clone() for parameter in model.policy.value_net_target.parameters()]
    model.train(gradient_steps=1, batch_size=16)
    online = model.policy.value_net.parameters()
    for old, target, new in zip(before, model.policy.value_net_target.parameters(), online, strict=True):
        th.testing.assert_close(target, 0.75 * old + 0.25 * new)


@pytest.mark.parametrize(("n_envs", "interval", "warns"), [(4, 3, True), (4, 4, False), (1, 1, False), (4, None, False)])
def test_target_interval_below_the_number_of_environments_warns(n_envs, interval, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(make_vec_env(CounterEnv, n_envs), target_update_interval=interval)
    assert ["target network update interval (4 > 3)" in text for text in user_warnings(caught)] == [True] * warns


@pytest.mark.parametrize(
    "schedule", [LinearSchedule(1e-3, 1e-4, 1.0), lambda progress: 1e-4 + 9e-4 * progress], ids=["linear", "own"]
)
def test_learning_rate_schedule_keeps_the_ratio_of_the_nets(schedule):
    policy_kwargs = dict(net_arch=[16], lr_multipliers=dict(transition=3.0, policy=0.5))
    model = make(CounterEnv(), learning_rate=schedule, policy_kwargs=policy_kwargs, seed=0)
    rates = {}

    def note():
        rates[model.num_timesteps] = [group["lr"] for group in model.policy.optimizer.param_groups]

    model.learn(100, callback=each_step(note), log_interval=1000)
    for step, progress in ((1, 1.0), (61, 0.4), (81, 0.2)):
        # The step after a gradient step sees its learning rate
        assert sorted(rates[step]) == pytest.approx([schedule(progress) * factor for factor in (0.5, 1.0, 3.0)])
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(1e-4)


@action_spaces("discrete", "box")
def test_multipliers_reach_the_nets_they_name(action_space):
    """A multiplier of 0 freezes one net and no other; the features extractor belongs to the policy's group."""
    for frozen in ("transition", "policy", "value", "dual"):
        env = SampledEnv(action_space=action_space)
        model = make(env, policy_kwargs=dict(net_arch=[16], lr_multipliers={frozen: 0.0}), seed=0)
        before = state_of(model.policy)
        model.learn(60)
        changed = changed_parts(before, model.policy)
        nets = dict(transition="world_model.net", policy="policy_net", value="value_net", dual="log_precision")
        # What dual descent learns goes with the policy net, unless it is named
        assert {*nets.values()} - changed == {nets[frozen], *(["log_precision"] if frozen == "policy" else [])}


@pytest.mark.parametrize(("given", "expected"), [({}, 4.0), (dict(policy=0.5), 4.0), (dict(dual=5.0), 5.0)], ids=str)
def test_with_a_memory_the_precision_learns_faster(given, expected):
    model = make(SampledEnv(), "MlpLstmPolicy", policy_kwargs=dict(lr_multipliers=given))
    (group,) = (g for g in model.policy.optimizer.param_groups if any(p is model.policy.log_precision for p in g["params"]))
    assert group["lr_multiplier"] == expected
    assert {id(p) for p in group["params"]} == {id(p) for p in model.policy.dual_parameters()}


OF_TRANSITIONS = {"transition_loss", "prediction_error", "information_gain", "epistemic_value"}

OF_POLICY = {"policy_loss", "precision_loss", "entropy"}


def terms_of(model):
    """What a train call has logged of its losses and samples."""
    names = {name.removeprefix("train/") for name in model.logger.name_to_value}
    return names & (OF_TRANSITIONS | OF_POLICY | {"vfe", "value_loss", "extrinsic_value"})


@action_spaces("discrete", "box")
def test_nets_that_learn_once_every_so_many_gradient_steps(tmp_path, action_space):
    env = SampledEnv(action_space=action_space)
    model = make(env, policy_delay=2, policy_kwargs=dict(net_arch=[16], transition_delay=3), seed=0).learn(54)
    assert model._n_updates == 4
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model = DAI.load(tmp_path / "model", env=env)
    model.load_replay_buffer(tmp_path / "buffer")
    model.set_logger(configure(None, []))
    learned = []
    for step in range(4, 10):
        before = state_of(model.policy)
        model.train(gradient_steps=1, batch_size=32)
        learned.append(changed_parts(before, model.policy))
        transitions, policy = step % 3 == 0, step % 2 == 0
        wanted = {"value_loss", "extrinsic_value"}
        wanted |= (OF_TRANSITIONS if transitions else set()) | (OF_POLICY if policy else set())
        assert terms_of(model) == wanted | ({"vfe"} if transitions and policy else set())
        model.logger.dump()
    assert {"value_net", "value_net_target", "policy_net_average"} <= set.intersection(*learned), "in each"
    assert ["world_model.net" in names for names in learned] == [False, False, True] * 2, "it goes on where it was saved"
    assert ["terms" in names for names in learned] == [False, False, True] * 2
    assert ["policy_net" in names for names in learned] == [True, False] * 3
    assert ["log_precision" in names for names in learned] == [True, False] * 3
    steps = [
        {int(model.policy.optimizer.state[parameter]["step"]) for parameter in net.parameters()}
        for net in (model.policy.value_net, model.policy.policy_net, model.policy.world_model.net)
    ]
    assert steps == [{10}, {5}, {4}]


def test_several_steps_log_the_mean_of_those_that_have_a_term():
    both, one = Metrics(("loss", "gain"), th.tensor([1.0, 5.0])), Metrics(("loss",), th.tensor([3.0]))
    assert means([both, one, one, both]) == dict(loss=2.0, gain=5.0)


def test_what_is_not_known_in_a_step_teaches_the_critics_nothing():
    """Without the world model there is no target of the epistemic value and of the prediction error."""
    kwargs = dict(epistemic_weight=0.5, prediction_error_weight=0.5, policy_kwargs=dict(net_arch=[]))
    model = make(SampledEnv(), **kwargs, seed=0).learn(54)
    (samples,) = sample_transitions(model.replay_buffer, 16)
    weight = model.policy.value_net.layers[-1].weight
    for learns in (True, False):
        losses, _ = all_losses(model.policy, *step_inputs(model, samples, learns_world_model=learns))
        (gradient,) = th.autograd.grad(losses["value_loss"], [weight])
        by_term = gradient.unflatten(-1, (3, -1)).abs().amax(dim=(0, 1, 3))
        assert [bool(size > 0) for size in by_term] == [True, learns, learns]


@action_spaces()
def test_by_default_all_learns_in_each_gradient_step_but_for_box_actions(action_space):
    kwargs = dict(policy_delay=None, policy_kwargs=dict(net_arch=[16], transition_delay=None))
    model = make(SampledEnv(action_space=action_space), **kwargs, seed=0).learn(54)
    nets = model.policy.value_net, model.policy.policy_net, model.policy.world_model.net
    steps = [{int(model.policy.optimizer.state[parameter]["step"]) for parameter in net.parameters()} for net in nets]
    assert model._n_updates == 4 and steps == ([{4}, {2}, {1}] if action_space == BOX else [{4}] * 3)


def test_what_is_counted_has_no_delay():
    kwargs = dict(net_arch=[16], transition_model="dirichlet", transition_delay=4)
    model = make(Chain(), policy_delay=2, policy_kwargs=kwargs, seed=0)
    learns = [(each.learns_world_model, each.learns_policy) for each in model._coefficients(4)]
    assert learns == [(True, True), (True, False)] * 2, "a second kind of gradient step would be compiled for nothing"


def test_rare_large_errors_count_as_their_squares():
    """A critic that takes them for outliers believes in states from which the rest is lost."""
    kwargs = dict(gamma=0.0, epistemic_weight=0.0, learning_starts=100, policy_kwargs=dict(net_arch=[16], n_critics=1))
    model = make(SampledEnv(), seed=0, **kwargs).learn(100)
    model.replay_buffer.rewards[:] = 0.0
    model.replay_buffer.rewards[:100:20] = 1000.0
    (samples,) = sample_transitions(model.replay_buffer, 400)
    losses, _ = all_losses(model.policy, *step_inputs(model, samples))
    share = (samples.one_step.rewards > 500.0).float().mean().item()
    assert 0.01 < share < 0.2 and losses["value_loss"].item() == pytest.approx(share * 1000.0**2, rel=0.02)
