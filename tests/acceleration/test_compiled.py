"""The compiled update does what the update does. Each graph takes the compiler several seconds, so there are few here."""

import copy
import shutil
import warnings

import numpy as np
import pytest
import torch as th
from helpers import make
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch._dynamo.utils import counters

from sb3_dai import DAI
from sb3_dai.native_update import NativeUpdate
from sb3_dai.products import WIDE

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def trained(compile, env, steps=20, **kwargs):
    return make(env, seed=3, compile=compile, **kwargs).learn(50 + steps, log_interval=1000)


def assert_alike(one, other):
    """Rounding apart: Adam divides a gradient by its size, however small it is."""
    states = one.policy.state_dict(), other.policy.state_dict()
    for name, tensor in states[0].items():
        th.testing.assert_close(tensor, states[1][name], rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in one.logger.name_to_value.items():
        if name.startswith("train/"):
            assert other.logger.name_to_value[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@needs_compiler
def test_compiled_update_is_the_update():
    kwargs = dict(net_arch=[16], bootstrap_share=0.5, features_extractor_class=Normalised)
    models = []
    for compile in (False, True):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="compile=True")
            models.append(trained(compile, "CartPole-v1", n_steps=3, transition_delay=2, policy_kwargs=kwargs))
    assert_alike(*models)
    model = models[1]
    assert len(model._compiled_update.graphs) == 2, "once with the transition net, once without"
    assert counters["inductor"]["fxgraph_cache_bypass"] == 0, "another process will find it"
    assert models[0]._compiled_update.graphs == {}, "never unless asked for"

    # Loading replaces Adam's state, and what never learned has none
    never = make("CartPole-v1", seed=4, n_steps=3, transition_delay=2, policy_kwargs=kwargs)
    for source in (models[0], never):
        parameters = copy.deepcopy(source.get_parameters())
        for each in models:
            each.set_parameters(parameters)
            np.random.seed(0)
            th.manual_seed(0)
            each.train(gradient_steps=2, batch_size=32)
        assert_alike(*models)
        steps = [[int(state["step"]) for state in each.policy.optimizer.state.values()] for each in models]
        assert steps[0] == steps[1] and max(steps[0]) == (2 if source is never else 22)

    # A copy has its own nets
    twin = copy.deepcopy(model)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    assert twin._compiled_update.graphs == {} and twin._compiled_update.model is twin
    twin.train(gradient_steps=1, batch_size=32)
    assert all(map(th.equal, before, model.policy.parameters()))
    assert not all(map(th.equal, before, twin.policy.parameters()))

    # What is not finite reaches nothing but the running statistics
    model.replay_buffer.rewards[:] = float("nan")
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    moments = [state["exp_avg"].clone() for state in model.policy.optimizer.state.values()]
    with pytest.raises(ValueError, match="value_loss is not finite"):
        model.train(gradient_steps=1, batch_size=32)
    assert all(map(th.equal, before, model.policy.parameters()))
    assert all(map(th.equal, moments, [state["exp_avg"] for state in model.policy.optimizer.state.values()]))


@needs_compiler
@pytest.mark.parametrize(
    ("net_arch", "batch_size"), [([16], 32), pytest.param([256, 256], WIDE // 256**2, marks=pytest.mark.slow)]
)
def test_another_optimizer_stays_outside(net_arch, batch_size):
    """Random numbers, those of Box actions, are the same in both; so are products of wide matrices."""
    policy_kwargs = dict(net_arch=net_arch, optimizer_class=th.optim.RMSprop)
    kwargs = dict(policy_kwargs=policy_kwargs, target_update_interval=3, batch_size=batch_size)
    plain, compiled = (trained(compile, "Pendulum-v1", steps=8, **kwargs) for compile in (False, True))
    assert len(compiled._compiled_update.graphs) == 1
    assert_alike(plain, compiled)


@pytest.mark.parametrize("reason", ["no compiler", "branches on values"])
def test_without_a_compiler_training_goes_on_with_one_warning(reason, monkeypatch):
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    kwargs = {}
    if reason == "no compiler":

        def fail(*args, **kwargs):
            raise RuntimeError("no compiler here\nand a long story")

        monkeypatch.setattr("torch.fx.experimental.proxy_tensor.make_fx", fail)
    else:
        kwargs["policy_kwargs"] = dict(net_arch=[16], features_extractor_class=Branching)
    with pytest.warns(UserWarning, match="compile=True: training goes on without it, because of") as caught:
        compiled = trained(True, "CartPole-v1", **kwargs)
    assert len([w for w in caught if "compile=True" in str(w.message)]) == 1
    assert_alike(trained(False, "CartPole-v1", **kwargs), compiled)


def test_without_a_wrapper_in_cpp_the_kernels_are_called_from_python(monkeypatch):
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    wrappers = []

    def compile_fx(graph, inputs):
        """As of a torch that cannot: what it gives back is not compiled, and runs."""
        wrappers.append(th._inductor.config.cpp_wrapper)
        if wrappers[-1]:
            raise AssertionError("doesn't match mode")
        return graph

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        compiled = trained(True, "CartPole-v1")
    assert wrappers == [True, False] and len(compiled._compiled_update.graphs) == 1
    assert_alike(trained(False, "CartPole-v1"), compiled)


class Normalised(FlattenExtractor):
    """Has running statistics that the target copies."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


class Branching(FlattenExtractor):
    def forward(self, observations):
        features = super().forward(observations)
        return features if features.mean() > 0 else features * 2.0


def test_compile_is_saved_and_checked(tmp_path):
    make(compile=True).save(tmp_path / "model")
    assert DAI.load(tmp_path / "model", device="cpu").compile
    assert not DAI.load(tmp_path / "model", device="cpu", compile=False).compile
    with pytest.raises(ValueError, match="compile='yes'"):
        make(compile="yes")
