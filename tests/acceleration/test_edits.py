"""What is edited runs: an equation or a constant that the eager step reads is read by the default step as well."""

import contextlib
import copy
import inspect
import pkgutil
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.utils import set_random_seed
from worlds import BOX, SampledEnv

import sb3_dai.equations
from sb3_dai.learning.step import EagerStep

KINDS = {
    "discrete": dict(env="CartPole-v1"),
    "box": dict(env=SampledEnv(action_space=BOX)),
    "numbered": dict(env="FrozenLake-v1"),
    "several choices": dict(env=SampledEnv(action_space=spaces.MultiDiscrete([2, 3]))),
    "memory": dict(env="CartPole-v1", policy="MlpLstmPolicy"),
    "memory by torch": dict(env="CartPole-v1", policy="MlpLstmPolicy", policy_kwargs=dict(net_arch=[16], state_dim=2)),
}

OPTIONS = dict(prediction_error_weight=0.3, bootstrap_entropy=0.5, pessimism=0.6, policy_kwargs=dict(net_arch=[16]))

OF_HIDDEN_STATES = ("hidden_states", "point_values", "salience")
"""Modules of equations of exact beliefs, whose steps are eager whatever is edited."""

FUNCTIONS = [
    (module, name)
    for info in pkgutil.iter_modules(sb3_dai.equations.__path__, "sb3_dai.equations.")
    for module in [info.name]
    if module.rpartition(".")[2] not in OF_HIDDEN_STATES
    for name, function in vars(import_module(module)).items()
    if inspect.isfunction(function) and function.__module__ == module
]

METHODS = [
    ("sb3_dai.learning.losses", "value_loss"),
    ("sb3_dai.learning.losses", "efe_targets"),
    ("sb3_dai.learning.losses", "policy_losses"),
    ("sb3_dai.learning.losses", "world_model_losses"),
    ("sb3_dai.learning.step.EagerStep", "optimize"),
    ("sb3_dai.learning.step.EagerStep", "losses"),
    ("sb3_dai.learning.step", "polyak"),
    ("sb3_dai.nets.statistics.RunningNorm", "update"),
    ("sb3_dai.nets.statistics.RunningNorm", "forward"),
    ("sb3_dai.nets.ensembles.EnsembleMLP", "forward"),
    ("sb3_dai.nets.ensembles.BatchedLinear", "forward"),
    ("sb3_dai.policy.DAIPolicy", "observe"),
    ("sb3_dai.policy.DAIPolicy", "efe"),
    ("sb3_dai.learning.losses", "beliefs"),
    ("sb3_dai.policy_recurrent.RecurrentPolicy", "replay"),
    ("sb3_dai.policy_recurrent.RecurrentPolicy", "filter_losses"),
    ("sb3_dai.policy_recurrent.RecurrentPolicy", "posterior"),
    ("sb3_dai.policy_recurrent.RecurrentPolicy", "unflattened"),
    ("sb3_dai.policy.DAIPolicy", "posterior"),
    ("sb3_dai.policy_recurrent.RecurrentPolicy", "seen_by_world_model"),
    ("sb3_dai.world_model.recurrent.LstmFilter", "replay"),
    ("sb3_dai.world_model.state_space.StateSpaceFilter", "losses"),
    ("sb3_dai.efe.base.Term", "target"),
    ("sb3_dai.efe.epistemic.EpistemicTerm", "cost"),
]
"""A sample of what else a gradient step consists of, which somebody may change."""

CONSTANTS = {
    ("sb3_dai.equations.information_gain", "RESOLUTION"): 0.5,
    ("sb3_dai.equations.likelihood", "LOG_2_PI"): 3.0,
    ("sb3_dai.equations.divergence", "LOG_2_PI"): 3.0,
    ("sb3_dai.world_model.gaussian", "MIN_LOG_VAR"): -0.5,
    ("sb3_dai.world_model.gaussian", "MAX_LOG_VAR"): 0.0,
    ("sb3_dai.actions.gaussian", "MIN_LOG_STD"): 0.1,
    ("sb3_dai.actions.gaussian", "MAX_LOG_STD"): -0.1,
    ("sb3_dai.nets.statistics", "EPS"): 0.3,
    ("sb3_dai.nets.statistics", "LARGEST"): 0.01,
    ("sb3_dai.nets.ensembles", "LAYER_NORM_EPS"): 0.5,
    ("sb3_dai.learning.schedules", "AVERAGING_DECAY"): 3.0,
}


class EditedError(Exception):
    """What an edited function raises."""


def owner_of(path):
    """The module or class of a dotted name."""
    return pkgutil.resolve_name(path)


def trained(backend, kind):
    set_random_seed(0)
    model = make(backend=backend, seed=0, **{**OPTIONS, **KINDS[kind]})
    model.learn(60)
    return model


def steps(model, n=3):
    """Gradient steps with the same random numbers for all models; whether they got to something that was edited."""
    np.random.seed(1)
    th.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That the native step is refused
        try:
            model.train(n, 32)
        except EditedError:
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path, name", FUNCTIONS + METHODS, ids=lambda value: value.removeprefix("sb3_dai."))
def test_an_edited_function_is_noticed_by_the_default_step_if_it_is_by_the_eager_one(kind, path, name, monkeypatch, models):
    eager, default = models[kind]

    def edited(*args, **kwargs):
        raise EditedError

    monkeypatch.setattr(owner_of(path), name, edited)
    assert steps(default) == steps(eager)


@pytest.fixture(scope="module")
def models():
    """Of each kind one that is eager and one with the default backend; an edit stops them before they learn."""
    made = {}

    class Models(dict):
        def __missing__(self, kind):
            self[kind] = trained("eager", kind), trained("auto", kind)
            return self[kind]

    return Models(made)


def test_the_eager_step_notices_most_functions(monkeypatch, models):
    """Else the comparison above would say nothing."""
    noticed = set()
    eager = [models[kind][0] for kind in KINDS]
    for path, name in FUNCTIONS:
        with pytest.MonkeyPatch.context() as patch:

            def edited(*args, **kwargs):
                raise EditedError

            patch.setattr(owner_of(path), name, edited)
            if any(steps(model, 1) for model in eager):
                noticed.add(name)
    missing = {name for _, name in FUNCTIONS} - noticed
    # Of preferences for outcomes, counted transitions, other options
    assert missing <= {
        *("gaussian_preference", "absorbed", "dirichlet_information_gain", "dirichlet_variance", "epistemic_weight_loss"),
        "categorical_divergence",
    }


@pytest.mark.parametrize("kind", ["discrete", "box", "numbered", "memory"])
@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda constant: ".".join(constant).removeprefix("sb3_dai."))
def test_a_constant_is_read_by_the_default_step_as_by_the_eager_one(kind, constant, monkeypatch):
    eager, default = trained("eager", kind), trained("auto", kind)
    default.policy.load_state_dict(eager.policy.state_dict())
    default.policy.optimizer.load_state_dict(copy.deepcopy(eager.policy.optimizer.state_dict()))
    for name in ("observations", "actions", "next_observations", "rewards", "dones"):
        getattr(default.replay_buffer, name)[:] = getattr(eager.replay_buffer, name)
    if kind == "memory":
        default.replay_buffer.memories[:] = eager.replay_buffer.memories
    monkeypatch.setattr(owner_of(constant[0]), constant[1], CONSTANTS[constant])
    with contextlib.suppress(EditedError):
        steps(eager)
        steps(default)
    ours, theirs = eager.policy.state_dict(), default.policy.state_dict()
    for name, tensor in ours.items():
        th.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_subclass_with_another_loss_runs_it():
    class Silent(EagerStep):
        def losses(self, batch, coefficients):
            raise EditedError

    model = trained("auto", "discrete")
    model.update_step_class = Silent
    model.backend = "auto"
    assert steps(model)
