"""The library's gradient step does what ``DAI._update`` does, and is taken only where it does."""

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import assert_same, differing, inputs_of, make
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import BOX, VECTOR, SampledEnv

from sb3_dai import DAI, native_plan, native_update
from sb3_dai import free_energy as fe
from sb3_dai.actions import GaussianActions
from sb3_dai.compilation import CompiledUpdate
from sb3_dai.native_library import library
from sb3_dai.native_update import NativeUpdate, Plan
from sb3_dai.replay import sample_transitions

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not made")

SMALL = dict(net_arch=[16])

KINDS = {"discrete": dict(env="CartPole-v1"), "box": dict(env=SampledEnv(VECTOR, BOX))}

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
"""Run a test with each kind of actions that the library knows."""

SETTINGS = {
    "default": dict(policy_kwargs=dict()),
    "without layer norm": dict(policy_kwargs=dict(net_arch=[40, 17], layer_norm=False)),
    "no hidden layer, three value nets, two members": dict(policy_kwargs=dict(net_arch=[], n_critics=3, ensemble_size=2)),
    "one of each": dict(policy_kwargs=dict(net_arch=[8], n_critics=1, ensemble_size=1)),
    "features as they are": dict(policy_kwargs=dict(net_arch=[16], normalize_features=False)),
    "returns of three steps": dict(n_steps=3, bootstrap_entropy=0.5, policy_kwargs=SMALL),
    "a fixed precision and a habit": dict(precision=2.0, habit_prior=[0.2, 0.8], policy_kwargs=SMALL),
    "a habit of each state": dict(
        precision=2.0, habit_prior=lambda obs: th.softmax(th.stack([obs[:, 0], obs[:, 1]], dim=1), dim=1), policy_kwargs=SMALL
    ),
    "a schedule of the precision": dict(precision=lambda progress: 1.0 + progress, policy_kwargs=SMALL),
    "seeking surprise": dict(prediction_error_weight=-0.3, preference_weight=2.0, policy_kwargs=SMALL),
    "shunning surprise": dict(prediction_error_weight=0.7, epistemic_weight=0.2, epistemic_gamma=0.8, policy_kwargs=SMALL),
    "hopeful value nets": dict(pessimism=0.0, policy_kwargs=dict(net_arch=[16], n_critics=3)),
    "doubtful value nets": dict(pessimism=0.7, prediction_error_weight=0.5, policy_kwargs=SMALL),
    "targets by the step of the environment": dict(target_update_interval=7, tau=1.0, policy_kwargs=SMALL),
    "no clipping": dict(max_grad_norm=None, policy_kwargs=SMALL),
    "much clipping": dict(max_grad_norm=0.1, policy_kwargs=SMALL),
    "other constants of Adam": dict(policy_kwargs=dict(**SMALL, optimizer_kwargs=dict(betas=(0.8, 0.99), eps=1e-4))),
    "the world model in every third step": dict(transition_delay=3, policy_kwargs=SMALL),
    "the policy in every second step, the world model in every third": dict(
        transition_delay=3, policy_delay=2, prediction_error_weight=0.5, max_grad_norm=0.1, policy_kwargs=SMALL
    ),
    "the policy seldom, with large gradients": dict(
        precision=50.0, policy_delay=3, n_steps=2, max_grad_norm=1.0, policy_kwargs=SMALL
    ),
    "a buffer without next observations": dict(
        optimize_memory_usage=True,
        replay_buffer_kwargs=dict(handle_timeout_termination=False),
        prediction_error_weight=0.5,
        policy_kwargs=SMALL,
    ),
    "scaled by SB3": dict(
        env=lambda: VecNormalize(DummyVecEnv([lambda: SampledEnv(VECTOR, spaces.Discrete(3))])), policy_kwargs=SMALL
    ),
    "huge observations": dict(
        env=SampledEnv(spaces.Box(np.float32(-1e20), np.float32(1e20), (3,)), spaces.Discrete(2)), policy_kwargs=SMALL
    ),
    "many actions and whole numbers as observations": dict(
        env=SampledEnv(spaces.Box(0, 255, (5,), np.uint8), spaces.Discrete(70)), policy_kwargs=SMALL
    ),
}

BOX_SETTINGS = {
    "default": dict(env="Pendulum-v1", policy_kwargs=dict()),
    "two dimensions": dict(),
    "six dimensions, without layer norm": dict(
        # With seed 3 a hidden unit of the transition net is 0 but for rounding
        env=SampledEnv(VECTOR, spaces.Box(-1.0, 1.0, (6,))),
        seed=4,
        policy_kwargs=dict(net_arch=[40, 17], layer_norm=False),
    ),
    "no hidden layer, three value nets, two members": dict(policy_kwargs=dict(net_arch=[], n_critics=3, ensemble_size=2)),
    "one of each": dict(policy_kwargs=dict(net_arch=[8], n_critics=1, ensemble_size=1)),
    "features as they are": dict(policy_kwargs=dict(net_arch=[16], normalize_features=False)),
    "returns of three steps": dict(n_steps=3, bootstrap_entropy=0.5),
    "a soft value": dict(env="Pendulum-v1", bootstrap_entropy=1.0, epistemic_weight=0.0),
    "a fixed precision": dict(precision=2.0, bootstrap_entropy=0.3),
    "a schedule of the precision": dict(precision=lambda progress: 1.0 + progress),
    "seeking surprise": dict(prediction_error_weight=-0.3, preference_weight=2.0),
    "shunning surprise": dict(prediction_error_weight=0.7, epistemic_weight=0.2, epistemic_gamma=0.8),
    "hopeful value nets": dict(pessimism=0.0, policy_kwargs=dict(net_arch=[16], n_critics=3)),
    "doubtful value nets": dict(pessimism=lambda progress: 1.0 - progress, prediction_error_weight=0.5),
    "targets by the step of the environment": dict(target_update_interval=7, tau=1.0),
    "much clipping": dict(max_grad_norm=0.1),
    "other constants of Adam": dict(policy_kwargs=dict(**SMALL, optimizer_kwargs=dict(betas=(0.8, 0.99), eps=1e-4))),
    "what is learned seldom by default": dict(transition_delay=None, policy_delay=None),
    "the policy in every second step, the world model in every third": dict(
        transition_delay=3, policy_delay=2, n_steps=3, prediction_error_weight=-0.5, bootstrap_entropy=0.5
    ),
    "a buffer without next observations": dict(
        optimize_memory_usage=True,
        replay_buffer_kwargs=dict(handle_timeout_termination=False),
        prediction_error_weight=0.5,
    ),
    "scaled by SB3": dict(env=lambda: VecNormalize(DummyVecEnv([lambda: SampledEnv(VECTOR, BOX)]))),
    "bounds of doubles": dict(env=SampledEnv(VECTOR, spaces.Box(-1e300, 1e300, (1, 2), np.float64))),
}

SETTINGS |= {f"Box, {name}": {"env": SampledEnv(VECTOR, BOX), **kwargs} for name, kwargs in BOX_SETTINGS.items()}


def trained(monkeypatch, native, steps=25, **kwargs):
    """A model that took some gradient steps, by the library or without, and how many of them the library took."""
    taken, run = [], Plan.run
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "run", lambda self, inputs, learn=True: taken.append(learn) or run(self, inputs, learn))
        if not native:
            without_library(patch)
        kwargs = {"env": "CartPole-v1", "seed": 3, **copy.deepcopy(kwargs)}
        env = kwargs.pop("env")
        model = make(env() if callable(env) else env, **kwargs).learn(50 + steps, log_interval=1000)
    return model, sum(taken)


def without_library(monkeypatch):
    """Torch does all the work."""
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    monkeypatch.setattr("sb3_dai.perceptrons.library", lambda: None)


@pytest.mark.parametrize("kwargs", SETTINGS.values(), ids=SETTINGS)
def test_native_update_is_the_update(monkeypatch, kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="native/update.h")
        native, taken = trained(monkeypatch, True, **kwargs)
    torchs, not_taken = trained(monkeypatch, False, **kwargs)
    assert taken >= 25 - 2 * (kwargs.get("transition_delay", 1) or 2) and not_taken == 0
    assert_same(native, torchs)


def plan_of(**kwargs):
    """A model with a plan and a batch."""
    model = make(**{"env": "CartPole-v1", "seed": 0, **copy.deepcopy(kwargs)}).learn(60)
    (batch,) = sample_transitions(model.replay_buffer, 40)
    assert model._native_update.plan is not None
    return model, model._native_update.plan, inputs_of(model, batch)


def test_extreme_outputs_and_inputs():
    """Bounds of the variances and of what is normalised, ties and logits far apart."""
    model, plan, inputs = plan_of(policy_kwargs=dict(net_arch=[16], n_critics=3))
    nets = model.policy.transition_net, model.policy.value_net, model.policy.policy_net
    for size in (0.0, 1.0, 30.0, 1000.0):
        for net in nets:
            net.layers[-1].bias.data.uniform_(-size, size)
        model.policy.features_norm.var.mul_(0.01)
        model.policy.transition_model.change_norm.var.mul_(1e-4)
        assert plan.difference(inputs) == "", size


@pytest.mark.parametrize("pessimism", [0.0, 0.3, 1.0])
def test_extreme_box_actions(monkeypatch, pessimism):
    """Bounds of the standard deviation, samples at the ends of tanh, and value nets of which none is the worst."""
    model, plan, inputs = plan_of(**KINDS["box"], pessimism=pessimism, policy_kwargs=dict(net_arch=[16], n_critics=3))
    monkeypatch.setattr(native_plan, "TOLERANCE", 1e-3)
    # Where the noise is rounded away torch's gradient is exact again
    monkeypatch.setattr(native_plan, "is_all_but_certain", lambda policy, observations: False)
    policy, values = model.policy.policy_net.layers[-1], model.policy.value_net.layers[-1]
    for weight in (1.0, 0.0):  # Without weights the bounds are met exactly
        policy.weight.data.mul_(weight)
        for mean, log_std in [(0.0, 1.5), (0.0, 2.0), (0.0, 30.0), (8.0, 0.0), (-8.0, -2.0), (300.0, 2.5), (-2.0, -30.0)]:
            policy.bias.data.copy_(th.tensor([mean, -mean, log_std, log_std - 0.3]))
            assert plan.difference(inputs) == "", (mean, log_std)
    policy.bias.data.zero_()
    values.bias.data.fill_(1e9)  # All else is rounded away, but not from the gradients
    assert plan.difference(inputs) == ""


def test_a_policy_that_is_all_but_certain(monkeypatch):
    """What cancels in torch's gradient of the density is then larger than the rest, and no changed equation."""
    model, plan, inputs = plan_of(**KINDS["box"])
    model.policy.policy_net.layers[-1].bias.data.copy_(th.tensor([0.1, -0.1, -15.0, 0.0]))
    assert plan.difference(inputs) == ""
    monkeypatch.setattr(native_plan, "is_all_but_certain", lambda policy, observations: False)
    assert plan.difference(inputs) == "the gradient of policy_net"


@pytest.mark.parametrize("n_steps", [1, 3])
def test_random_numbers_are_those_of_torch(monkeypatch, n_steps):
    """After as many steps the generator is where torch's steps leave it, and the comparison of the first leaves no trace."""
    states, models = [], []
    for native, compared in ((True, True), (True, False), (False, False)):
        with monkeypatch.context() as patch:
            if not compared:
                patch.setattr(Plan, "difference", lambda self, inputs: "")
            models.append(trained(patch, native, **KINDS["box"], n_steps=n_steps)[0])
            states.append(th.get_rng_state())
    assert th.equal(states[0], states[1]) and th.equal(states[0], states[2])
    assert not differing(*(model.policy.state_dict() for model in models[:2]))


@each_kind
def test_a_changed_equation_is_noticed(monkeypatch, kind):
    """Whoever tries another information gain shall get it, with a word about the copy in C++."""
    gain = fe.information_gain
    monkeypatch.setattr(fe, "information_gain", lambda mean, log_var: 2.0 * gain(mean, log_var))
    with pytest.warns(UserWarning, match="native/update.h does not do what DAI._update does"):
        model, taken = trained(monkeypatch, True, **kind)
    assert taken == 0 and model._native_update.distrusted
    assert_same(model, trained(monkeypatch, False, **kind)[0])


@each_kind
def test_the_world_model_is_compared_when_it_learns(monkeypatch, kind):
    """The first step that the library takes is one in which it does not, with a delay."""
    monkeypatch.setattr(fe, "gaussian_nll", lambda *args: fe_gaussian_nll(*args).detach() + 0.0 * args[0].sum())
    with pytest.warns(UserWarning, match="the gradient of transition_net"):
        model, taken = trained(monkeypatch, True, steps=5, transition_delay=2, **kind)
    assert taken == 1 and model._native_update.distrusted


@each_kind
def test_the_policy_is_compared_when_it_learns(monkeypatch, kind):
    """Likewise, where it has a delay."""
    loss = fe.precision_loss
    monkeypatch.setattr(fe, "precision_loss", lambda *args: 2.0 * loss(*args))
    with pytest.warns(UserWarning, match="precision_loss is"):
        model, taken = trained(monkeypatch, True, steps=5, policy_delay=2, **kind)
    assert taken == 1 and model._native_update.distrusted


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("policy_divergence", lambda *args: 1.1 * fe_policy_divergence(*args), "policy_loss"),
        ("gaussian_nll", lambda *args: fe_gaussian_nll(*args) + 0.1, "transition_loss"),
        ("continuing_efe", lambda efe, *rest: efe, "epistemic_value"),
        ("precision_loss", lambda log_precision, *rest: log_precision.square().mean(), "precision_loss"),
    ],
)
def test_each_term_is_compared(monkeypatch, name, change, what):
    _, plan, inputs = plan_of()
    assert plan.difference(inputs) == ""
    monkeypatch.setattr(fe, name, change)
    assert plan.difference(inputs).startswith(f"{what} is")


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("tanh_gaussian_log_prob", lambda *args: fe_log_prob(*args) + 0.1, "policy_loss is"),
        ("sampled_divergence", lambda *args: 1.1 * fe_sampled_divergence(*args), "policy_loss is"),
        ("judged_parts", lambda efe, *rest: 1.1 * fe_judged_parts(efe, *rest), "value_loss is"),
        ("judged_efe", lambda *args: 1.1 * fe_judged_efe(*args), "policy_loss is"),
        # Of the same value, with another gradient
        ("judged_efe", lambda *args: fe_judged_efe(*args).detach() + 0.0 * args[0].sum(), "the gradient of policy_net"),
        ("tanh_gaussian_log_prob", lambda *args: fe_log_prob(*args).detach(), "the gradient of policy_net"),
    ],
)
def test_each_term_of_box_actions_is_compared(monkeypatch, name, change, what):
    _, plan, inputs = plan_of(**KINDS["box"])
    assert plan.difference(inputs) == ""
    monkeypatch.setattr(fe, name, change)
    assert plan.difference(inputs).startswith(what)


fe_policy_divergence, fe_gaussian_nll = fe.policy_divergence, fe.gaussian_nll
fe_log_prob, fe_sampled_divergence = fe.tanh_gaussian_log_prob, fe.sampled_divergence
fe_judged_parts, fe_judged_efe = fe.judged_parts, fe.judged_efe


@pytest.mark.parametrize("actions", [spaces.Discrete(2), BOX], ids=KINDS)
@pytest.mark.parametrize(("low", "high"), [(-100.0, -99.99999), (1e6 - 1.0, 1e6 + 1.0)])
def test_observations_that_lose_their_digits(low, high, actions):
    """Rounding is no changed equation."""
    env = SampledEnv(spaces.Box(np.float32(low), np.float32(high), (2,)), actions)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="native/update.h")
        for seed in range(5):
            model = make(env, seed=seed).learn(55)
            assert not model._native_update.distrusted and model._native_update.plan is not None


@each_kind
def test_gradients_are_compared_and_statistics_left_alone(monkeypatch, kind):
    model, plan, inputs = plan_of(**kind)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    generator = th.get_rng_state()
    assert plan.difference(inputs) == ""
    assert th.equal(th.get_rng_state(), generator)
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    # Of the same value, with another gradient
    monkeypatch.setattr(fe, "gaussian_nll", lambda *args: fe_gaussian_nll(*args).detach() + 0.0 * args[0].sum())
    assert plan.difference(inputs) == "the gradient of transition_net"


class Subclass(DAI):
    pass


class OtherActions(GaussianActions):
    pass


OTHERS = {
    "several choices": dict(env=SampledEnv(VECTOR, spaces.MultiDiscrete([2, 3]))),
    "numbered states": dict(env=SampledEnv(spaces.Discrete(4), spaces.Discrete(2))),
    "another activation": dict(policy_kwargs=dict(net_arch=[16], activation_fn=th.nn.Tanh)),
    "lookahead": dict(policy_kwargs=dict(net_arch=[16], lookahead=True)),
    "priors": dict(policy_kwargs=dict(net_arch=[16], prior_scale=1.0)),
    "bootstrap": dict(policy_kwargs=dict(net_arch=[16], bootstrap_share=0.5)),
    "variance": dict(policy_kwargs=dict(net_arch=[16], novelty="variance")),
    "an automatic weight": dict(epistemic_weight="auto"),
    "two rates": dict(policy_kwargs=dict(net_arch=[16], lr_multipliers=dict(value=2.0))),
    "another optimizer": dict(policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.SGD)),
    "Box actions, an automatic weight": dict(env=SampledEnv(VECTOR, BOX), epistemic_weight="auto"),
    "Box actions, variance": dict(env=SampledEnv(VECTOR, BOX), policy_kwargs=dict(net_arch=[16], novelty="variance")),
    "weight decay": dict(policy_kwargs=dict(net_arch=[16], optimizer_kwargs=dict(weight_decay=0.1))),
}


@pytest.mark.parametrize("kwargs", OTHERS.values(), ids=OTHERS)
def test_what_the_library_does_not_know(monkeypatch, kwargs):
    model, taken = trained(monkeypatch, True, steps=5, **kwargs)
    assert taken == 0 and not model._native_update.distrusted


def test_compile_compiles_what_the_library_does_not_take(monkeypatch):
    """Nobody waits for a compiler where the update is compiled already."""
    compiled, taken = trained(monkeypatch, True, compile=True)
    assert taken >= 23 and compiled._compiled_update.graphs == {}
    assert_same(compiled, trained(monkeypatch, True)[0], atol=0.0)
    asked = []
    monkeypatch.setattr(CompiledUpdate, "_prepare", lambda self, *args: asked.append(1))
    compiled.policy.novelty = "variance"
    compiled.train(gradient_steps=2, batch_size=32)
    assert len(asked) == 2


def test_an_agent_is_looked_at_once_a_call(monkeypatch):
    """But after a move in between, and after a step that was not taken."""
    model, plan, inputs = plan_of()
    update, looked, is_ready = model._native_update, [], NativeUpdate._is_ready
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: looked.append(1) or is_ready(self))
    model.train(gradient_steps=4, batch_size=32)
    assert len(looked) == 1
    model.train(gradient_steps=2, batch_size=32)
    assert len(looked) == 2
    update(inputs, again=True)
    assert len(looked) == 2
    model.policy.double().float()
    update(inputs, again=True)
    assert len(looked) == 3 and update.plan is not plan
    model.policy.novelty = "variance"
    for _ in range(2):
        model.train(gradient_steps=2, batch_size=32)
    assert len(looked) == 7


def test_other_box_actions(monkeypatch):
    model = plan_of(**KINDS["box"])[0]
    model.policy.action_model = OtherActions(2)
    monkeypatch.setattr(Plan, "run", None)
    model.train(gradient_steps=2, batch_size=32)


def test_hooks_that_come_and_go(monkeypatch):
    model = make(seed=0)
    taken, run = [], Plan.run
    monkeypatch.setattr(Plan, "run", lambda self, inputs, learn=True: taken.append(1) or run(self, inputs, learn))
    layer = model.policy.policy_net.layers[0]
    handle, heard = layer.register_forward_hook(lambda *args: None), []
    model.learn(60)
    assert not taken
    handle.remove()
    model.train(gradient_steps=2, batch_size=32)
    assert taken, "a hook of before the first look is no reason for ever"
    layer._forward_hooks = OrderedDict()  # A way to take all hooks away
    layer.register_forward_hook(lambda *args: heard.append(1))
    taken.clear()
    model.train(gradient_steps=2, batch_size=32)
    assert heard and not taken


def test_what_else_the_optimizer_trains(monkeypatch):
    """Parameters that are no net's: torch's step, in which they have no gradient."""
    model = make(seed=0).learn(60)
    monkeypatch.setattr(Plan, "run", None)
    extra = th.nn.Parameter(th.ones(2))
    model.policy.optimizer.add_param_group({"params": [extra]})
    extra.grad = th.ones(2)
    model.policy.optimizer.step()
    after = extra.clone()
    model.train(gradient_steps=2, batch_size=32)
    assert th.equal(extra, after)


@each_kind
def test_what_may_come_in_between(monkeypatch, kind):
    """Hooks, other methods, frozen parameters, other types of numbers: torch's step, and the library's again after it."""
    model = plan_of(**kind)[0]
    taken, run = [], Plan.run
    monkeypatch.setattr(Plan, "run", lambda self, inputs, learn=True: taken.append(1) or run(self, inputs, learn))

    def is_native():
        taken.clear()
        model.train(gradient_steps=2, batch_size=32)
        return bool(taken)

    assert is_native()
    heard = []
    handle = model.policy.value_net.layers[0].register_forward_hook(lambda *args: heard.append(1))
    assert not is_native() and heard
    handle.remove()
    assert is_native()
    with monkeypatch.context() as patch:
        patch.setattr(model, "_losses", model._losses)
        assert not is_native()
    with monkeypatch.context() as patch:
        patch.setattr(model.policy, "habit", model.policy.habit)
        assert not is_native()
    with monkeypatch.context() as patch:
        patch.setattr(model.policy.action_model, "habit", model.policy.action_model.habit)
        assert not is_native()
    handle = model.policy.optimizer.register_step_post_hook(lambda *args: heard.append(2))
    assert not is_native() and heard[-1] == 2
    handle.remove()
    model.policy.policy_net.requires_grad_(False)
    assert not is_native()
    model.policy.policy_net.requires_grad_(True)
    assert is_native()
    layers = model.policy.value_net.layers
    layers[2], activation = th.nn.Tanh(), layers[2]
    assert not is_native()
    layers[2] = activation
    assert is_native()
    gain = model.policy.value_net.layers[1].weight.requires_grad_(False)
    assert not is_native()
    gain.requires_grad_(True)
    assert not is_native(), "a part of the value net has not learned as often as the rest"
    model.set_parameters(copy.deepcopy(make(seed=1, **copy.deepcopy(kind)).learn(60).get_parameters()))
    assert is_native()
    before = th.get_num_threads()
    th.set_num_threads(2)
    with monkeypatch.context() as patch:
        patch.setattr("sb3_dai.perceptrons.WIDE", 10)
        assert not is_native(), "much work for one thread, where there are two"
    th.set_num_threads(before)
    assert is_native()


def vector_again(policy):
    policy.load_from_vector(policy.parameters_to_vector())


def other_statistics(policy):
    for norm in (policy.features_norm, policy.transition_model.change_norm):
        for name, buffer in norm.named_buffers():
            setattr(norm, name, buffer.clone())


def shared_net(policy):
    policy.policy_net.share_memory()


def other_moments(policy):
    for state in policy.optimizer.state.values():
        state["exp_avg"] = th.zeros_like(state["exp_avg"])


def other_constants(policy):
    policy.features_norm.clip, policy.transition_model.change_norm.horizon, policy.normalize_features = 0.5, 3, False


def twice(policy):
    policy.value_net.double()
    policy.value_net.float()


MOVES = [vector_again, other_statistics, shared_net, other_moments, other_constants, twice]


@each_kind
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_what_lies_elsewhere_is_found(monkeypatch, move, kind):
    """Whatever puts tensors or constants of an agent elsewhere, training goes on from them."""
    models = []
    for native in (True, False):
        with monkeypatch.context() as patch:
            if not native:
                without_library(patch)
            model = make(seed=5, **copy.deepcopy(kind)).learn(60, log_interval=1000)
            move(model.policy)
            taken, run = [], Plan.run
            patch.setattr(
                Plan, "run", lambda self, inputs, learn=True, r=run, t=taken: t.append(learn) or r(self, inputs, learn)
            )
            set_random_seed(0)
            model.train(gradient_steps=5, batch_size=32)
            assert bool(taken) == native
            models.append(model)
    assert_same(*models, atol=2e-4)


def test_a_precision_that_is_set_after_a_move():
    model = make(seed=5, precision=2.0).learn(60)
    vector_again(model.policy)
    model.precision = 5.0
    model.train(gradient_steps=1, batch_size=32)
    assert model.logger.name_to_value["train/precision"] == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["novelty", "bootstrap_share", "lookahead"])
def test_settings_that_change_later(monkeypatch, name):
    model = plan_of()[0]
    setattr(model.policy, name, dict(novelty="variance", bootstrap_share=0.5, lookahead=True)[name])
    monkeypatch.setattr(Plan, "run", None)
    model.train(gradient_steps=2, batch_size=32)


def test_a_frozen_precision_stays(monkeypatch):
    model = plan_of()[0]
    model.policy.log_precision.requires_grad_(False)
    before = model.policy.log_precision.clone()
    model.train(gradient_steps=3, batch_size=32)
    assert th.equal(before, model.policy.log_precision)


def test_hooks_of_parameters_and_parametrisations():
    model, heard = plan_of()[0], []
    handle = model.policy.policy_net.layers[0].weight.register_hook(heard.append)
    model.train(gradient_steps=2, batch_size=32)
    assert len(heard) == 2
    handle.remove()
    th.nn.utils.parametrizations.spectral_norm(model.policy.policy_net.layers[0])
    model.train(gradient_steps=2, batch_size=32)
    assert model._native_update.plan.model is model and model.policy.policy_net.learned() is None


def test_shapes_and_actions_that_are_not_usual(monkeypatch):
    model, plan, inputs = plan_of()
    monkeypatch.setattr(Plan, "run", lambda *args: pytest.fail("not of the library"))
    model._native_update(inputs._replace(log_preference=th.ones(1, 1)))
    never = inputs.batch.one_step._replace(dones=th.zeros(1, 1))
    model._native_update(inputs._replace(batch=inputs.batch._replace(one_step=never, n_step=never)))
    monkeypatch.undo()
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    for wrong in (-1, 2, 2**40):
        actions = inputs.batch.one_step.actions.clone()
        actions[7] = wrong
        pairs = inputs.batch.one_step._replace(actions=actions)
        with pytest.raises(ValueError, match=r"The replay buffer has actions that are not of Discrete\(2\)"):
            plan.run(inputs._replace(batch=inputs.batch._replace(one_step=pairs, n_step=pairs)))
    assert all(map(th.equal, before, model.policy.parameters()))


def test_box_actions_that_are_too_few(monkeypatch):
    """Those of a buffer for another space: torch says what is wrong with them."""
    model, _, inputs = plan_of(**KINDS["box"])
    monkeypatch.setattr(Plan, "run", lambda *args: pytest.fail("not of the library"))
    pairs = inputs.batch.one_step._replace(actions=inputs.batch.one_step.actions[:, :1])
    with pytest.raises(RuntimeError):
        model._native_update(inputs._replace(batch=inputs.batch._replace(one_step=pairs, n_step=pairs)))


@each_kind
def test_gradients_are_seen(kind):
    model = make(max_grad_norm=1e-3, **copy.deepcopy(kind)).learn(60)
    assert model._native_update.plan is not None
    nets = model.policy.net_parameters()
    seen = [parameter.grad.clone() for parameter in nets]
    model.train(gradient_steps=1, batch_size=32)
    assert not all(map(th.equal, seen, [parameter.grad for parameter in nets])), "those of the last step"
    assert float(th.stack([parameter.grad.norm() for parameter in nets]).norm()) == pytest.approx(1e-3, rel=1e-2), "clipped"


def test_a_subclass_does_its_own(monkeypatch):
    monkeypatch.setattr("helpers.DAI", Subclass)
    assert trained(monkeypatch, True, steps=5)[1] == 0


@each_kind
def test_copies_and_loaded_models_go_on(monkeypatch, tmp_path, kind):
    model = plan_of(**kind)[0]
    twin = copy.deepcopy(model)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    assert twin._native_update.model is twin and twin._native_update.plan is None
    twin.train(gradient_steps=3, batch_size=32)
    assert twin._native_update.plan is not None
    assert all(map(th.equal, before, model.policy.parameters())), "a copy has its own nets"

    model.save(tmp_path / "model")
    loaded = [DAI.load(tmp_path / "model", device="cpu") for _ in range(2)]
    for each in loaded:
        each.replay_buffer, each._logger = model.replay_buffer, copy.deepcopy(model.logger)
    with monkeypatch.context() as patch:
        set_random_seed(0)
        loaded[0].train(gradient_steps=5, batch_size=32)
        assert loaded[0]._native_update.plan is not None
        without_library(patch)
        set_random_seed(0)
        loaded[1].train(gradient_steps=5, batch_size=32)
    assert_same(*loaded)


@each_kind
def test_what_is_not_finite_reaches_no_net(kind):
    model = plan_of(**kind)[0]
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    states = copy.deepcopy([*model.policy.optimizer.state.values()])
    model.replay_buffer.rewards[:] = float("nan")
    with pytest.raises(ValueError, match="value_loss is not finite"):
        model.train(gradient_steps=1, batch_size=32)
    assert all(map(th.equal, before, model.policy.parameters()))
    for state, kept in zip(model.policy.optimizer.state.values(), states, strict=True):
        assert all(th.equal(value, kept[name]) for name, value in state.items())


@each_kind
@pytest.mark.parametrize("net", [0, 1])
def test_a_target_that_is_not_finite_is_not_the_better_one(kind, net):
    """Of two value nets the worst counts: what is no number must not hide behind the other."""
    model = plan_of(**kind)[0]
    model.policy.value_net_target.layers[-1].bias.data[net] = float("nan")
    with pytest.raises(ValueError, match="value_loss is not finite"):
        model.train(gradient_steps=1, batch_size=32)


@pytest.mark.parametrize("output", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_policy_of_box_actions_that_is_not_finite(output, value):
    """A mean or a standard deviation. An infinite standard deviation is at its bound, as with torch."""
    model, plan, inputs = plan_of(**KINDS["box"])
    model.policy.policy_net.layers[-1].bias.data[0, 0, output] = value
    terms = plan.run(inputs, learn=False)[1]
    bounded = output >= 2 and value == float("inf")
    assert bool(terms.isfinite().all()) == bounded
    assert plan.difference(inputs) == ""


def test_without_a_library_nothing_is_missed(monkeypatch):
    monkeypatch.setattr(native_update, "library", lambda: None)
    monkeypatch.setattr("sb3_dai.perceptrons.library", lambda: None)
    model = make(seed=0).learn(60)
    assert model._native_update.plan is None and model._packing.packed is not None
