"""
Whether the Python functions that the C++ step stands for are still those that it was built for.

``fingerprint.json`` holds a hash of the source of each. Whoever changes one of them changes the C++ too, runs the tests in
``tests/acceleration`` and then ``python -m sb3_dai.acceleration.native.fingerprint``.
"""

import ast
import hashlib
import importlib
import inspect
import json
import textwrap
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

FILE = Path(__file__).with_name("fingerprint.json")

POSTERIOR, PREDICTION = "__init__ entropy expected_efe divergence", "__init__ nll error information_gain variance"

IN_MODULES = {
    "sb3_dai.learning.step": "all_losses polyak",
    "sb3_dai.learning.losses": "beliefs world_model_losses efe_targets expected_efe value_loss policy_losses",
    "sb3_dai.equations.targets": "pessimistic aggregate_terms aggregate_efe bootstrapped_efe continuing_efe",
    "sb3_dai.equations.divergence": (
        "LOG_2_PI policy_expectation policy_entropy policy_divergence tanh_gaussian_log_prob sampled_divergence"
    ),
    "sb3_dai.equations.dual": "precision_loss",
    "sb3_dai.equations.information_gain": "gaussian_information_gain ensemble_variance categorical_information_gain",
    "sb3_dai.equations.likelihood": "LOG_2_PI gaussian_nll prediction_error categorical_nll categorical_surprise",
    "sb3_dai.actions.gaussian": "frozen",
    "sb3_dai.world_model.categorical": "numbers",
}
"""Functions and constants, by the modules in which they are looked up."""

IN_CLASSES = {
    "sb3_dai.actions.categorical.CategoricalEFE": "__init__ __call__ terms total",
    "sb3_dai.actions.categorical.CategoricalPosterior": POSTERIOR,
    "sb3_dai.actions.gaussian.GaussianEFE": "__init__ __call__",
    "sb3_dai.actions.gaussian.GaussianPosterior": POSTERIOR,
    "sb3_dai.world_model.categorical.CategoricalPrediction": PREDICTION,
    "sb3_dai.world_model.gaussian.GaussianPrediction": PREDICTION,
    "sb3_dai.nets.ensembles.BatchedLinear": "forward",
    "sb3_dai.nets.ensembles.BatchedTable": "forward",
    "sb3_dai.nets.ensembles.BatchedLayerNorm": "forward",
    "sb3_dai.nets.ensembles.EnsembleMLP": "forward",
    "sb3_dai.nets.statistics.RunningNorm": "update forward",
    "sb3_dai.nets.statistics.RunningMean": "forward",
    "sb3_dai.nets.statistics.RunningPeak": "forward scaled",
}
"""Methods, by the classes that are looked up in modules."""

IN_OBJECTS = {
    "sb3_dai.learning.step.EagerStep": "__call__ losses gradients parameters gradients_of summary optimize follow",
    "sb3_dai.policy.DAIPolicy": (
        "belief scaled observe seen_by_world_model encode novelty_of posterior efe _known_efe extract_features precision "
        "dual_parameters net_parameters target_pairs average_pairs"
    ),
    "sb3_dai.policy_recurrent.RecurrentPolicy": (
        "replay _replayed unflattened filter_losses seen_by_world_model _split scaled encode novelty_of posterior efe "
        "_known_efe precision dual_parameters net_parameters target_pairs average_pairs"
    ),
    "sb3_dai.world_model.recurrent.LstmFilter": "initial replay losses",
    "sb3_dai.actions.categorical.CategoricalActions": "encode _logits posterior efe",
    "sb3_dai.actions.gaussian.GaussianActions": "encode _gaussian posterior efe",
    "sb3_dai.world_model.gaussian.GaussianWorldModel": "predict distribution outcome outputs loss",
    "sb3_dai.world_model.categorical.CategoricalWorldModel": "predict distribution outcome outputs loss",
    "sb3_dai.world_model.dirichlet.DirichletWorldModel": "gains_of_actions outcome",
    "sb3_dai.efe.epistemic.EpistemicTerm": "cost novelty_of target",
    "sb3_dai.efe.prediction_error.PredictionErrorTerm": "cost target",
    "sb3_dai.efe.preference.PreferenceTerm": "cost target",
    "sb3_dai.efe.base.Term": "target",
}
"""Methods of the objects that an agent is made of, by their classes, from which a user may derive others."""

SKIPPED = {"annotation", "returns", "type_comment", "type_params", "kind"}
"""Fields of a syntax tree that do not change what is computed, or that not every version of Python has."""


def normalized(node: Any) -> Any:
    """
    :param node: part of a syntax tree
    :return: what it computes, the same in each version of Python: without docstrings, annotations and places
    """
    if isinstance(node, list):
        return [normalized(part) for part in node]
    if not isinstance(node, ast.AST):
        return ascii(node)
    parts: list[Any] = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            value = value[1:]
        if name not in SKIPPED and value is not None and value != []:
            parts += [name, normalized(value)]
    return parts


@cache
def hash_of_code(code: CodeType, defaults: str) -> str | None:
    """
    :param code: of a function
    :param defaults: of its arguments
    :return: a hash of its source, or None if that cannot be read
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return None
    return hashed(f"{normalized(tree.body)} {defaults}")


def hashed(text: str) -> str:
    """
    :param text: any
    :return: a hash of it
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_of(found: Any) -> str | None:
    """
    :param found: a function, a method, a property or a number
    :return: a hash of its source or value, or None if that cannot be read
    """
    if isinstance(found, int | float):
        return hashed(ascii(found))
    function: Any = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    # Decorators of torch and contextlib alone: one of the user's does something of its own
    while hasattr(function, "__wrapped__") and function.__globals__["__name__"].partition(".")[0] in ("torch", "contextlib"):
        function = function.__wrapped__
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return None
    return hash_of_code(function.__code__, ascii(function.__defaults__))


@cache
def expected() -> dict[str, str]:
    """
    :return: hashes of what the C++ step was built for, by dotted names
    """
    return json.loads(FILE.read_text())


def current() -> dict[str, str | None]:
    """
    :return: hashes of what this package defines, by dotted names
    """
    owners = {**IN_MODULES, **IN_CLASSES, **IN_OBJECTS}
    return {f"{owner}.{name}": hash_of(getattr(resolve(owner), name)) for owner in owners for name in owners[owner].split()}


def resolve(dotted: str) -> Any:
    """
    :param dotted: name of a module, or of a class in one
    :return: it
    """
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name) if name[0].isupper() else importlib.import_module(dotted)


class Fingerprint:
    """
    What the gradient steps of one agent really call.

    :param objects: of the agent, with the names in ``IN_OBJECTS`` of the classes that they stand for
    """

    def __init__(self, objects: list[tuple[str, Any]]) -> None:
        self.objects = [(each, set(IN_OBJECTS[owner].split()), looked_up(IN_OBJECTS[owner])) for owner, each in objects]
        self.modules = [(importlib.import_module(owner), looked_up(names)) for owner, names in IN_MODULES.items()]
        for owner, names in IN_CLASSES.items():
            module, _, class_name = owner.rpartition(".")
            self.modules.append((importlib.import_module(module), looked_up(names, f"{class_name}.")))
        owners = [*IN_MODULES.items(), *IN_CLASSES.items(), *((owner, IN_OBJECTS[owner]) for owner, _ in objects)]
        self.names = [f"{owner}.{name}" for owner, names in owners for name in names.split()]
        self.seen: tuple[list[Any], list[Any]] = [], []
        self.reason: str | None = None

    def found(self) -> list[Any]:
        """
        :return: what is looked up now, in the order of ``names``
        """
        found: list[Any] = []
        for module, look_up in self.modules:
            found += look_up(module)
        for each, names, look_up in self.objects:
            # A property would be called if it were looked up in the object
            of_object = not names.isdisjoint(vars(each))
            found += look_up(
                SimpleNamespace(**{**{n: getattr(type(each), n) for n in names}, **vars(each)}) if of_object else type(each)
            )
        return found

    def difference(self) -> str | None:
        """
        :return: what is not what the C++ step was built for, or None
        """
        found = self.found()
        seen = found, [getattr(function, "__code__", None) for function in found]
        if seen != self.seen:
            differing = (name for name, each in zip(self.names, found, strict=True) if not is_known(name, each))
            name = next(differing, None)
            self.seen, self.reason = seen, name and f"{name} is not what the native step was built for"
        return self.reason


def looked_up(names: str, prefix: str = "") -> Any:
    """
    :param names: of attributes, with spaces between them
    :param prefix: to put before each
    :return: a function from an object to a tuple of them
    """
    # Of one name alone attrgetter would return no tuple
    first, *rest = (prefix + name for name in names.split())
    return attrgetter(first, *rest) if rest else lambda owner: (attrgetter(first)(owner),)


def is_known(name: str, found: Any) -> bool:
    """
    :param name: dotted
    :param found: what is looked up by that name
    :return: whether it is what the C++ step was built for
    """
    found_hash = hash_of(found)
    return found_hash is not None and found_hash == expected().get(name)


def main() -> None:
    """Write the file."""
    hashes = current()
    FILE.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")
    print(f"{FILE} has {len(hashes)} hashes")


if __name__ == "__main__":
    main()
