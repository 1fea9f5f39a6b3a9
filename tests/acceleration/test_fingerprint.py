"""The C++ step refuses what it was not built for, and names it."""

import ast
import functools

import pytest
import torch as th
from helpers import make

from sb3_dai.acceleration.native import fingerprint
from sb3_dai.acceleration.native.library import library
from sb3_dai.equations import targets
from sb3_dai.learning.step import EagerStep
from sb3_dai.policy import DAIPolicy


def test_the_file_is_of_these_sources():
    current, expected = fingerprint.current(), fingerprint.expected()
    differing = sorted(name for name in current.keys() | expected.keys() if current.get(name) != expected.get(name))
    assert not differing, (
        f"{differing} changed: change the C++ in sb3_dai/acceleration/native too, run tests/acceleration/test_native.py, and "
        "then python -m sb3_dai.acceleration.native.fingerprint"
    )
    assert None not in current.values()


def trees(*sources):
    return [fingerprint.normalized(ast.parse(source).body) for source in sources]


def test_what_does_not_change_what_is_computed():
    one, other = trees(
        'def f(a: int, b: float = 2.0) -> int:\n    """Text."""\n    c: int = a  # Why\n    return c + b',
        'def f(\n    a, b: "float" = 2.0\n):\n    """Other\n    text."""\n    c: str = a\n    return (c + b)',
    )
    assert one == other


@pytest.mark.parametrize(
    "source", ["def f(a, b=1.0):\n    return a + 1", "def f(a, b=1):\n    return a + 1.0", "def f(a, b=1):\n    return a - 1"]
)
def test_what_changes_what_is_computed(source):
    one, other = trees("def f(a, b=1):\n    return a + 1", source)
    assert one != other


needs_library = pytest.mark.skipif(library() is None, reason="the library was not made")


@pytest.fixture(scope="module")
def model():
    model = make(backend="native").learn(60)
    assert model.backend == "native"
    return model


def refusal(model):
    return model._step.native.refusal()


def other(*args, **kwargs):
    raise AssertionError("Never called")


class Other(EagerStep):
    def losses(self, batch, coefficients):
        return super().losses(batch, coefficients)


@needs_library
def test_a_function_that_is_looked_up_in_its_module(model, monkeypatch):
    assert refusal(model) is None
    with monkeypatch.context() as patch:
        patch.setattr(targets, "bootstrapped_efe", other)
        assert refusal(model) == "sb3_dai.equations.targets.bootstrapped_efe is not what the native step was built for"
    assert refusal(model) is None


@needs_library
def test_one_that_wraps_what_was_there(model, monkeypatch):
    inner = targets.bootstrapped_efe

    @functools.wraps(inner)
    def doubled(*args):
        return 2.0 * inner(*args)

    monkeypatch.setattr(targets, "bootstrapped_efe", doubled)
    assert "bootstrapped_efe is not" in refusal(model)


@needs_library
def test_one_without_a_source(model, monkeypatch):
    names = {"th": th}
    exec("def bootstrapped_efe(efe, terminated, discount, next_efe):\n    return efe", names)
    monkeypatch.setattr(targets, "bootstrapped_efe", names["bootstrapped_efe"])
    assert "bootstrapped_efe is not" in refusal(model)


@needs_library
def test_a_code_that_was_exchanged(model, monkeypatch):
    monkeypatch.setattr(targets.continuing_efe, "__code__", targets.pessimistic.__code__)
    assert "continuing_efe is not" in refusal(model)


@needs_library
@pytest.mark.parametrize("owner", ["policy", "action_model", "world_model", "term", "eager"])
def test_a_method_of_an_object(model, monkeypatch, owner):
    policy = model.policy
    parts = dict(
        policy=(policy, "belief"),
        action_model=(policy.action_model, "posterior"),
        world_model=(policy.world_model, "outcome"),
        term=(policy.terms["epistemic"], "cost"),
        eager=(model._step.eager, "optimize"),
    )
    each, name = parts[owner]
    with monkeypatch.context() as patch:
        patch.setattr(each, name, getattr(each, name))
        assert refusal(model) is None, "the same as an attribute of the object"
        patch.setattr(each, name, other)
        assert f".{name} is not what the native step was built for" in refusal(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(each), name, other)
        assert f".{name} is not what the native step was built for" in refusal(model)
    assert refusal(model) is None


@needs_library
def test_a_property(model, monkeypatch):
    monkeypatch.setattr(DAIPolicy, "precision", property(lambda self: th.ones(1)), raising=False)
    assert "sb3_dai.policy.DAIPolicy.precision is not" in refusal(model)


@needs_library
def test_subclasses_that_change_nothing_are_fast():
    class Plain(EagerStep):
        pass

    model = make(backend="auto")
    model.update_step_class = Plain
    model.backend = "auto"
    assert model.learn(60).backend == "native"
    model.update_step_class = Other
    model.backend = "auto"
    with pytest.warns(UserWarning, match=r"EagerStep\.losses is not what the native step was built for"):
        assert model.learn(60).backend == "eager"
