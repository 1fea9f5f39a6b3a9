"""Files of hyperparameters: where they are, what their expressions mean, and which entry is that of an environment."""

import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

import sb3_dai
from sb3_dai.preferences import GaussianPreference, LearnedPreference, RewardPreference

HYPERPARAMS_MODULE = "sb3_dai.hyperparams."

EXPRESSIONS = ("preference", "target_entropy", "pessimism", "epistemic_weight")
"""Hyperparameters that are expressions in files of DAI's, as ``policy_kwargs`` are in the Zoo's."""

NAMES = {
    kind.__name__: kind for kind in (GaussianPreference, LearnedPreference, RewardPreference, ConstantSchedule, LinearSchedule)
}
"""What expressions may be made of."""


def hyperparams_file(name: str) -> Path:
    """
    :param name: name of a packaged hyperparameter file, such as ``dai``
    :return: its path: inside the package once installed, at the top of a source checkout
    """
    package = Path(sb3_dai.__file__).parent
    folder = package / "hyperparams"
    return (folder if folder.is_dir() else package.parent / "hyperparams") / f"{name}.yml"


def evaluated(entry: dict[str, Any]) -> dict[str, Any]:
    """
    :param entry: hyperparameters of a file
    :return: the same, with preferences and schedules as objects
    :raises ValueError: if an expression cannot be evaluated
    """
    texts = {name: entry[name] for name in EXPRESSIONS if isinstance(entry.get(name), str) and entry[name] != "auto"}
    values = {}
    for name, text in texts.items():
        try:
            values[name] = eval(text, dict(NAMES))
        except Exception as error:  # An expression of the user's can raise anything
            raise ValueError(
                f"{name}={text!r}: {error!r}. It has to be an expression in Python, made of numbers and {', '.join(NAMES)}"
            ) from error
    return {**entry, **values}


def read_hyperparams(path: Path) -> dict[str, Any]:
    """
    :param path: a hyperparameter file in YAML
    :return: its entries, by environment, with preferences and schedules as objects
    """
    import yaml

    return {name: evaluated(entry) for name, entry in yaml.safe_load(path.read_text()).items()}


def hyperparams_module(name: str, entries: dict[str, Any]) -> str:
    """
    The Zoo takes a path or a module, and saves it with the run. A path holds on one machine only.

    :param name: of the module
    :param entries: hyperparameters by environment
    :return: the name, under which this process can import them
    """
    module = ModuleType(name)
    vars(module)["hyperparams"] = entries
    sys.modules[name] = module
    return name


def load_entries(config: str) -> dict[str, Any]:
    """
    :param config: what the Zoo takes as ``--conf-file``: a file in YAML or Python, or a module
    :return: hyperparameters by environment, as they are written
    :raises ValueError: if there is no such file or module, or it holds no hyperparameters
    """
    import yaml

    try:
        if config.endswith((".yml", ".yaml")):
            return dict(yaml.safe_load(Path(config).read_text()))
        if config.endswith(".py"):
            return dict(runpy.run_path(config)["hyperparams"])
        return dict(importlib.import_module(config).hyperparams)
    except (FileNotFoundError, ModuleNotFoundError, KeyError, AttributeError) as error:
        names = ", ".join(sorted(path.stem for path in hyperparams_file("dai").parent.glob("*.yml")))
        raise ValueError(
            f"--conf-file {config}: {error!r}. Give a file (.yml or .py), a module that holds `hyperparams`, or one of the "
            f"packaged files: {names}"
        ) from error


def other_version(env_id: str, entries: dict[str, Any]) -> str | None:
    """
    :param env_id: of an environment, such as HalfCheetah-v4
    :param entries: hyperparameters by environment
    :return: the last key that is another version of it, such as HalfCheetah-v5
    """
    name = env_id.rpartition("-v")[0]
    return next((key for key in reversed(entries) if name and key.rpartition("-v")[0] == name), None)


def entry_name(env_id: str, entries: dict[str, Any], family: str | None = None) -> str:
    """
    :param env_id: of an environment
    :param entries: hyperparameters by environment
    :param family: the key of all environments of its kind, such as ``atari``
    :return: the key of the entry to use: its own, that of another version of it, its family's, or ``default``
    :raises ValueError: if there is none
    """
    names = env_id, other_version(env_id, entries), family, "default"
    found = next((name for name in names if name in entries), None)
    if found is None:
        raise ValueError(f"--env {env_id}: the hyperparameter file has no entry of it. It has: {', '.join(entries)}")
    return found
