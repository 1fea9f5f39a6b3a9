"""Which agents C++ takes, and that it goes on from whatever was moved or exchanged in between."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.torch_layers import FlattenExtractor
from worlds import BOX, VECTOR, SampledEnv

from sb3_dai import DAI
from sb3_dai.acceleration.native import library as native_library
from sb3_dai.acceleration.native import step as native_step
from sb3_dai.acceleration.native.library import FOLDER, library, source_hash
from sb3_dai.efe import Term

needs_library = pytest.mark.skipif(library() is None, reason="the library was not made")


class Surprise(Term):
    name = "surprise"

    def cost(self, transition):
        return transition.prediction.error(transition.outcome)


class Claimed(Surprise):
    """Says that it does not read the prediction, and reads what goes with it."""

    reads_prediction = False

    def cost(self, transition):
        return 0.0 * transition.rewards if transition.outcome is None else transition.rewards


class Frozen(FlattenExtractor):
    """Its parameters do not learn."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer = th.nn.Linear(self.features_dim, self.features_dim).requires_grad_(False)

    def forward(self, observations):
        return self.layer(super().forward(observations))


REFUSED = {
    "lookahead": (dict(policy_kwargs=dict(lookahead=True)), "lookahead"),
    "activation": (dict(policy_kwargs=dict(activation_fn=th.nn.Tanh)), "the layer Tanh"),
    "optimizer": (dict(policy_kwargs=dict(optimizer_class=th.optim.SGD)), "the optimizer is SGD"),
    "AdamW": (dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW)), "the optimizer is AdamW"),
    "weight decay": (dict(policy_kwargs=dict(optimizer_kwargs=dict(weight_decay=0.1))), "weight_decay"),
    "an automatic weight": (dict(epistemic_weight="auto"), "the epistemic weight is automatic"),
    "a term that reads the prediction": (dict(policy_kwargs=dict(terms=[Surprise()])), "'surprise' reads the prediction"),
    "a term that reads the outcome": (dict(policy_kwargs=dict(terms=[Claimed()])), "'surprise' reads the prediction"),
}


@needs_library
@pytest.mark.parametrize("kwargs, reason", REFUSED.values(), ids=REFUSED)
def test_agents_that_are_not_for_it(kwargs, reason):
    model = make(backend="native", **kwargs)
    with pytest.warns(UserWarning, match=f"Gradient steps by the eager backend; not native, because .*{reason}"):
        model.learn(60)
    assert model.backend == "eager"


class Weighed(Term):
    """Its cost is of a net of its own."""

    name = "weighed"
    reads_prediction = False

    def __init__(self, shape=None):
        super().__init__()
        self.net, self.shape = th.nn.Linear(1, 1), shape

    @th.no_grad()
    def cost(self, transition):
        return self.net(transition.rewards) if self.shape is None else th.zeros(self.shape)


@needs_library
def test_a_term_with_a_net_of_its_own_is_for_it():
    assert make(backend="native", policy_kwargs=dict(terms=[Weighed()])).learn(60).backend == "native"
    with pytest.raises(ValueError, match=r"Weighed .*cost returned shape \(3, 1\) for 32 transitions"):
        make(backend="native", policy_kwargs=dict(terms=[Weighed((3, 1))])).learn(60)


@needs_library
def test_features_of_another_shape(monkeypatch):
    model = make(backend="native", policy_kwargs=dict(features_extractor_class=Frozen)).learn(60)
    monkeypatch.setattr(model.policy.features_extractor_target, "forward", lambda observations: observations[:, :2])
    with pytest.raises(ValueError, match=r"Frozen returned features of shape \(32, 2\) for 32 observations: give \(32, 4\)"):
        model.train(1, 32)


@needs_library
def test_a_frozen_extractor_is_for_it():
    model = make(backend="native", policy_kwargs=dict(features_extractor_class=Frozen))
    before = [parameter.clone() for parameter in model.policy.features_extractor.parameters()]
    model.learn(60)
    assert model.backend == "native"
    for name in ("features_extractor", "features_extractor_target", "features_extractor_average"):
        assert all(map(th.equal, before, getattr(model.policy, name).parameters()))


@needs_library
def test_wide_layers_keep_several_threads():
    before = th.get_num_threads()
    th.set_num_threads(2)
    try:
        wide = make(backend="native", batch_size=256, policy_kwargs=dict(net_arch=[256, 256]), learning_starts=55)
        assert wide.learn(60).backend == "native"
        model = make(backend="native", batch_size=256, policy_kwargs=dict(net_arch=[512, 512]), learning_starts=55)
        with pytest.warns(UserWarning, match="torch has 2 threads for wide layers, and it has one"):
            assert model.learn(60).backend == "eager"
        th.set_num_threads(1)
        assert takes(model)
    finally:
        th.set_num_threads(before)


@pytest.fixture
def model():
    model = make(backend="native", seed=0).learn(60)
    assert model.backend == "native"
    return model


def takes(model):
    """Whether C++ takes the next steps."""
    model.train(2, 32)
    return model.backend == "native"


@needs_library
@pytest.mark.filterwarnings("ignore:Gradient steps by the eager backend")
def test_hooks_come_and_go(model):
    layer, heard = model.policy.policy_net.layers[0], []
    for register in (
        lambda: layer.register_forward_hook(lambda *args: heard.append(1)),
        lambda: layer.weight.register_hook(lambda gradient: heard.append(1)),
        lambda: model.policy.optimizer.register_step_post_hook(lambda *args: heard.append(1)),
        lambda: th.nn.modules.module.register_module_forward_hook(lambda *args: heard.append(1)),
    ):
        for _ in range(2):
            heard.clear()
            handle = register()
            assert not takes(model) and heard
            handle.remove()
            assert takes(model)


@needs_library
@pytest.mark.filterwarnings("ignore:Gradient steps by the eager backend")
def test_layers_and_frozen_parts(model):
    layers = model.policy.value_net.layers
    layers[2], activation = th.nn.Tanh(), layers[2]
    assert not takes(model)
    layers[2] = activation
    assert takes(model)
    gain = layers[1].weight.requires_grad_(False)
    before = gain.clone()
    assert not takes(model) and th.equal(gain, before)
    gain.requires_grad_(True)
    assert takes(model) and not th.equal(gain, before)
    th.nn.utils.parametrizations.spectral_norm(model.policy.policy_net.layers[0])
    assert model._step.native.refusal() is not None


@needs_library
def test_a_frozen_precision_stays(model):
    model.policy.log_precision.requires_grad_(False)
    before = model.policy.log_precision.clone()
    assert takes(model) and th.equal(before, model.policy.log_precision)


def vector_again(policy):
    policy.load_from_vector(policy.parameters_to_vector())


def other_statistics(policy):
    for norm in (policy.features_norm, policy.world_model.change_norm):
        for name, buffer in norm.named_buffers():
            setattr(norm, name, buffer.clone())


def other_moments(policy):
    for state in policy.optimizer.state.values():
        state["exp_avg"] = th.zeros_like(state["exp_avg"])


def other_optimizer_state(policy):
    policy.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))


def no_optimizer_state(policy):
    policy.optimizer.state.clear()


def other_constants(policy):
    policy.features_norm.clip, policy.world_model.change_norm.horizon, policy.normalize_features = 0.5, 3, False


def other_rules(policy):
    policy.optimizer.param_groups[0]["betas"] = (0.5, 0.9)


def no_gradients(policy):
    policy.optimizer.zero_grad()


def twice(policy):
    policy.double()
    policy.float()


def shared_net(policy):
    policy.policy_net.share_memory()


MOVES = [
    *(vector_again, other_statistics, other_moments, other_optimizer_state, no_optimizer_state, other_constants),
    *(other_rules, no_gradients, twice, shared_net),
]


@needs_library
@pytest.mark.parametrize("env", ["CartPole-v1", SampledEnv(VECTOR, BOX)], ids=["Discrete", "Box"])
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_training_goes_on_from_whatever_lies_elsewhere(move, env):
    models = [make(copy.deepcopy(env), seed=5, backend="native").learn(60) for _ in range(2)]
    models[1].backend = "eager"
    for model in models:
        move(model.policy)
        np.random.seed(0)
        th.manual_seed(0)
        model.train(3, 32)
        assert model.backend == ("native" if model is models[0] else "eager")
    for name, tensor in models[0].policy.state_dict().items():
        th.testing.assert_close(
            tensor, models[1].policy.state_dict()[name], rtol=1e-3, atol=3e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@needs_library
def test_gradients_are_seen_and_clipped():
    model = make(backend="native", max_grad_norm=1e-3).learn(60)
    model.policy.optimizer.zero_grad()
    model.train(1, 32)
    gradients = [parameter.grad for parameter in model.policy.net_parameters()]
    assert float(th.stack([gradient.norm() for gradient in gradients]).norm()) == pytest.approx(1e-3, rel=1e-2)


@needs_library
def test_copies_and_loaded_models_have_tensors_of_their_own(model, tmp_path):
    twin = copy.deepcopy(model)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    twin.train(2, 32)
    assert twin.backend == "native" and all(map(th.equal, before, model.policy.parameters()))
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=model.env, device="cpu")
    loaded.learn(60)
    assert loaded.backend == "native" and all(map(th.equal, before, model.policy.parameters()))


@needs_library
@pytest.mark.parametrize("env", ["CartPole-v1", SampledEnv(VECTOR, BOX), SampledEnv(spaces.Discrete(4), spaces.Discrete(3))])
def test_what_is_not_finite_reaches_no_net(env):
    model = make(copy.deepcopy(env), backend="native").learn(60)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    states = copy.deepcopy([*model.policy.optimizer.state.values()])
    model.replay_buffer.rewards[:] = 1e30
    model.policy.value_net_target.layers[-1].bias.data[0] = float("nan")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.raises(ValueError, match="value_loss is not finite"):
        model.train(1, 32)
    assert all(th.equal(one, other) or one.isnan().any() for one, other in zip(before, model.policy.parameters(), strict=True))
    for state, kept in zip(model.policy.optimizer.state.values(), states, strict=True):
        assert all(th.equal(value, kept[name]) for name, value in state.items())


@needs_library
@pytest.mark.parametrize("wrong", [-1, 2, 2**40])
def test_actions_and_states_that_do_not_exist(wrong):
    model = make(SampledEnv(spaces.Discrete(4), spaces.Discrete(2)), backend="native").learn(60)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    actions = model.replay_buffer.actions.copy()
    model.replay_buffer.actions[:] = wrong
    with pytest.raises(ValueError, match=r"The replay buffer has actions that are not of Discrete\(2\)"):
        model.train(1, 32)
    model.replay_buffer.actions[:] = actions
    model.replay_buffer.next_observations[:] = wrong if wrong != 2 else 4
    with pytest.raises(ValueError, match=r"The replay buffer has observations that are not of Discrete\(4\)"):
        model.train(1, 32)
    assert all(map(th.equal, before, model.policy.parameters()))


@needs_library
def test_shapes_that_are_not_usual_are_torchs(model, monkeypatch):
    """It says what is wrong with them, or knows what they mean."""
    batch = next(model._batches(1, 32))
    (coefficients,) = model._coefficients(1)
    monkeypatch.setattr(native_step, "library", lambda: pytest.fail("not of the library"))
    never = batch.one_step._replace(dones=th.zeros(1, 1))
    model._step.native(batch._replace(one_step=never, n_step=never), coefficients)


def test_what_was_made_is_taken():
    """Else every test of it would be left out, and nobody would see."""
    made = FOLDER / f"native_{th.backends.cpu.get_cpu_capability()}.so"
    assert (library() is not None) == made.is_file(), "install sb3_dai again"


@needs_library
def test_a_library_of_other_sources_is_not_taken(monkeypatch, tmp_path):
    import shutil

    for path in FOLDER.iterdir():
        if path.suffix in (".h", ".cpp", ".so"):
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(native_library, "FOLDER", tmp_path)
    monkeypatch.setattr(native_library, "source_hash", lambda: source_hash(tmp_path))
    assert library.__wrapped__() is not None
    (tmp_path / "step.h").write_text("// Another")
    with pytest.warns(UserWarning, match="was made of other sources, and torch does its work: install sb3_dai again"):
        assert library.__wrapped__() is None
    monkeypatch.setattr(native_library, "FOLDER", tmp_path / "nothing")
    assert library.__wrapped__() is None, "as where there is no compiler"


def test_without_a_library_nothing_is_missed(monkeypatch):
    monkeypatch.setattr(native_step, "library", lambda: None)
    assert make(backend="auto").learn(60).backend == "eager"
