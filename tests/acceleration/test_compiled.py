"""The compiled step is the eager step. Each graph takes the compiler many seconds, so there are few here."""

import copy
import logging
import shutil
import warnings

import numpy as np
import pytest
import torch as th
from helpers import make
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch._dynamo.utils import counters

from sb3_dai import DAI
from sb3_dai.acceleration.compiled import PAYS_FROM, CompiledStep

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def quiet():
    """What torch's compiler says of graphs that it has to break."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def trained(backend, env, steps=20, **kwargs):
    return make(env, seed=3, backend=backend, **kwargs).learn(50 + steps, log_interval=1000)


def assert_alike(one, other):
    """Rounding apart: Adam divides a gradient by its size, however small it is."""
    states = one.policy.state_dict(), other.policy.state_dict()
    for name, tensor in states[0].items():
        th.testing.assert_close(tensor, states[1][name], rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in one.logger.name_to_value.items():
        if name.startswith("train/"):
            assert other.logger.name_to_value[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@needs_compiler
def test_compiled_step_is_the_eager_step():
    kwargs = dict(net_arch=[16], bootstrap_share=0.5, features_extractor_class=Normalised, transition_delay=2)
    models = []
    for backend in ("eager", "compile"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Gradient steps by")
            models.append(trained(backend, "CartPole-v1", n_steps=3, policy_kwargs=kwargs))
        assert models[-1].backend == backend
    assert_alike(*models)
    model = models[1]

    # Loading replaces Adam's state, and what never learned has none
    never = make("CartPole-v1", seed=4, n_steps=3, policy_kwargs=kwargs)
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
    assert model.backend == "compile"

    # What is not finite reaches nothing but the running statistics
    model.replay_buffer.rewards[:] = float("nan")
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    moments = [state["exp_avg"].clone() for state in model.policy.optimizer.state.values()]
    with pytest.raises(ValueError, match="value_loss is not finite"):
        model.train(gradient_steps=1, batch_size=32)
    assert all(map(th.equal, before, model.policy.parameters()))
    assert all(map(th.equal, moments, [state["exp_avg"] for state in model.policy.optimizer.state.values()]))


@needs_compiler
def test_any_optimizer_follows_the_compiled_losses():
    """Random numbers, those of Box actions, are the same in both."""
    kwargs = dict(policy_kwargs=dict(net_arch=[16], optimizer_class=th.optim.RMSprop), target_update_interval=3)
    plain, compiled = (trained(backend, "Pendulum-v1", steps=8, **kwargs) for backend in ("eager", "compile"))
    assert compiled.backend == "compile"
    assert_alike(plain, compiled)


def test_without_a_compiler_training_goes_on_with_one_warning(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(th, "compile", lambda function, **kwargs: fail)
    with pytest.warns(UserWarning, match="eager backend; not compiled, because of RuntimeError: no compiler here") as caught:
        compiled = trained("compile", "CartPole-v1")
    assert len([w for w in caught if "Gradient steps" in str(w.message)]) == 1
    assert compiled.backend == "eager"
    assert_alike(trained("eager", "CartPole-v1"), compiled)


def test_a_compiler_that_failed_is_not_asked_again(monkeypatch):
    asked = []

    def fail(*args, **kwargs):
        asked.append(args)
        raise RuntimeError

    monkeypatch.setattr(th, "compile", lambda function, **kwargs: fail)
    with pytest.warns(UserWarning, match="not compiled, because of RuntimeError"):
        trained("compile", "CartPole-v1", gradient_steps=3)
    assert len(asked) == 1


def test_each_agent_has_its_own_graphs(monkeypatch):
    """Torch keeps eight of each code object: two for each of five agents, of which one is a copy, are more."""
    compile = th.compile
    monkeypatch.setattr(th, "compile", lambda function, **kwargs: compile(function, backend="eager", dynamic=False))
    for seed in range(4):
        kwargs = dict(policy_kwargs=dict(net_arch=[8 + seed], transition_delay=2), backend="compile")
        model = make("CartPole-v1", seed=seed, **kwargs).learn(54)
    twin = copy.deepcopy(model)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    counters.clear()
    twin.train(gradient_steps=4, batch_size=32)
    assert counters["stats"]["unique_graphs"] == 2, "once with the world model, once without"
    assert all(map(th.equal, before, model.policy.parameters()))
    assert not all(map(th.equal, before, twin.policy.parameters()))


@pytest.mark.parametrize(("n_left", "pays"), [(PAYS_FROM - 1, False), (PAYS_FROM, True)])
def test_compiling_pays_in_long_trainings_alone(n_left, pays):
    model = make("CartPole-v1", backend="auto", buffer_size=10)
    assert CompiledStep(model._step.eager).pays(n_left) == pays


class Normalised(FlattenExtractor):
    """Has running statistics that the target copies."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


def test_backend_is_saved_and_checked(tmp_path):
    make(backend="compile").save(tmp_path / "model")
    assert DAI.load(tmp_path / "model", device="cpu").backend == "compile"
    assert DAI.load(tmp_path / "model", device="cpu", backend="eager").backend == "eager"
    with pytest.raises(ValueError, match="backend='yes'"):
        make(backend="yes")
