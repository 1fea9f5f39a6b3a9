"""
The commands of RL Zoo with DAI among its algorithms: ``python -m sb3_dai.zoo train --algo dai --env CartPole-v1``.

The Zoo has no hook for foreign algorithms, but its modules share single dictionaries of them. This module enters DAI
in those and hands over to the Zoo's own command.
"""

import argparse
import functools
import pkgutil
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

import sb3_dai.envs  # noqa: F401  # Registers the worlds of this package
from sb3_dai.dai import DAI
from sb3_dai.preferences import GaussianPreference, LearnedPreference, RewardPreference

if TYPE_CHECKING:
    import optuna

COMMANDS = {
    "train": "rl_zoo3.train:train",
    "enjoy": "rl_zoo3.enjoy:enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "benchmark": "rl_zoo3.benchmark",
    "load_from_hub": "rl_zoo3.load_from_hub",
    "plot_train": "rl_zoo3.plots:plot_train",
    "plot_from_file": "rl_zoo3.plots:plot_from_file",
    "all_plots": "rl_zoo3.plots:all_plots",
}
"""Where the Zoo keeps each command: ``module:function``, or a module that runs as a script."""

EXTRAS = {"yaml": "zoo", "rl_zoo3": "zoo", "requests": "zoo", "pandas": "zoo", "seaborn": "plots", "scipy": "plots"}
"""The extra of this distribution that brings each package a command may miss."""

NET_ARCHS = {"small": [64, 64], "medium": [128, 128], "big": [256, 256]}
HYPERPARAMS_MODULE = "sb3_dai.hyperparams."

EXPRESSIONS = ("preference", "target_entropy")
"""Hyperparameters that are expressions in the files of this project, as ``policy_kwargs`` are in the Zoo's."""

NAMES = {
    kind.__name__: kind for kind in (GaussianPreference, LearnedPreference, RewardPreference, ConstantSchedule, LinearSchedule)
}
"""What expressions may be made of."""


class ActingDAI(DAI):
    """
    DAI as the commands load it that only act: the Zoo spares the replay buffer of the off-policy algorithms it knows
    by name, which are its own.
    """

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        """
        :param args: positional arguments of ``DAI.load``
        :param kwargs: keyword arguments of ``DAI.load``; any of the constructor's overrides the saved value
        :return: the model, with room for one transition unless ``buffer_size`` is given
        """
        return super().load(*args, **{"buffer_size": 1, "optimize_memory_usage": False, **kwargs})


def sample_dai_params(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict) -> dict[str, Any]:
    """
    Draw hyperparameters for one trial of a search. ``n_steps`` keeps its value: goals, hindsight replay, dictionaries of
    observations and the memory-efficient buffer know returns of one step alone.

    :param trial: the trial
    :param n_actions: number of action dimensions (unused)
    :param n_envs: number of environments (unused)
    :param additional_args: what the Zoo knows of the replay buffer (unused)
    :return: arguments of DAI
    """
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_int("batch_size_pow", 4, 9)
    trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True)
    trial.suggest_int("train_freq", 1, 8, log=True)
    trial.suggest_int("gradient_steps", 1, 8, log=True)
    trial.suggest_float("tau", 1e-3, 0.08, log=True)
    trial.suggest_categorical("net_arch", list(NET_ARCHS))
    trial.suggest_float("epistemic_weight", 0.01, 1.0, log=True)
    trial.suggest_categorical("bootstrap_entropy", [0.0, 1.0])
    # Both in every trial, used or not: the Zoo's multivariate sampler cannot model a parameter that comes and goes
    trial.suggest_categorical("auto_precision", [True, False])
    trial.suggest_float("precision", 0.3, 30.0, log=True)
    # `--trial-id` reads the raw values of the study and converts them again, so the trial holds nothing else
    return convert_dai_params(trial.params)


def convert_dai_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: raw parameters of a trial
    :return: arguments of DAI
    """
    hyperparams = sampled_params.copy()
    hyperparams["batch_size"] = 2 ** hyperparams.pop("batch_size_pow")
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    hyperparams["policy_kwargs"] = dict(net_arch=NET_ARCHS[hyperparams.pop("net_arch")])
    if hyperparams.pop("auto_precision"):
        hyperparams["precision"] = "auto"
    return hyperparams


def hyperparams_file(name: str) -> Path:
    """
    :param name: name of a packaged hyperparameter file, such as ``dai``
    :return: its path: inside the package once installed, at the top of a source checkout
    """
    package = Path(__file__).parent
    folder = package / "hyperparams"
    return (folder if folder.is_dir() else package.parent / "hyperparams") / f"{name}.yml"


def evaluated(entry: dict[str, Any]) -> dict[str, Any]:
    """
    :param entry: hyperparameters of a file of this project
    :return: the same, with preferences and schedules as objects
    """
    texts = {name: entry[name] for name in EXPRESSIONS if isinstance(entry.get(name), str) and entry[name] != "auto"}
    return {**entry, **{name: eval(text, dict(NAMES)) for name, text in texts.items()}}


def read_hyperparams(path: Path) -> dict[str, Any]:
    """
    :param path: a hyperparameter file of this project
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


def register(algorithm: type[DAI] = DAI) -> None:
    """
    Enter DAI in the dictionaries of the Zoo.

    :param algorithm: the class that ``--algo dai`` stands for
    """
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    ALGOS["dai"] = algorithm
    HYPERPARAMS_SAMPLER["dai"] = sample_dai_params
    HYPERPARAMS_CONVERTER["dai"] = convert_dai_params


def pruning(objective: Callable[..., float]) -> Callable[..., float]:
    """
    The Zoo prunes a trial whose training fails, but one that draws hyperparameters which do not go with the entry of the
    environment (an automatic precision with a ``habit_prior``) would end the search.

    :param objective: method of the Zoo's ``ExperimentManager``, from a trial to its score
    :return: the same, for which such a trial of DAI is pruned. If the entry alone makes no agent, its error ends the search.
    """

    @functools.wraps(objective)
    def pruned(manager: Any, trial: "optuna.Trial") -> float:
        import optuna

        if manager.algo != "dai":
            return objective(manager, trial)
        try:
            return objective(manager, trial)
        except (AssertionError, NotImplementedError, ValueError) as error:
            DAI(env=(env := manager.create_envs(1, no_log=True)), device=manager.device, **manager._hyperparams)
            env.close()
            print(f"Pruned: {error}")
            raise optuna.TrialPruned(str(error)) from error

    return pruned


def complete_train_options(options: list[str]) -> list[str]:
    """
    :param options: options of ``train``
    :return: the same, and for DAI the packaged hyperparameters unless other ones are given
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("-conf", "--conf-file", default="dai")
    given, _ = parser.parse_known_args(options)
    if given.algo != "dai":
        return options
    name = given.conf_file.removeprefix(HYPERPARAMS_MODULE)
    path = hyperparams_file(name)
    if path.is_file():
        module = hyperparams_module(HYPERPARAMS_MODULE + name, read_hyperparams(path))
        options = [*options, "--conf-file", module]  # the last one counts
    return options


def call_through_here(command: list[str], **kwargs: Any) -> int:
    """
    ``subprocess.call``, except that commands of the Zoo go through this module: a new process would not know DAI.

    :param command: the command that ``record_training`` or ``benchmark`` starts
    :param kwargs: keyword arguments of ``subprocess.call``
    :return: the exit status
    """
    match command:
        case ["python", "-m", "rl_zoo3.record_video", *options]:
            command = [sys.executable, "-m", "sb3_dai.zoo", "record_video", *options]
        case ["python", "enjoy.py", *options]:
            command = [sys.executable, "-m", "sb3_dai.zoo", "enjoy", *options]
    with subprocess.Popen(command, **kwargs) as process:
        return process.wait()


def main() -> None:
    """
    Run the command of the Zoo that the command line names.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_dai.zoo", description="Run a command of RL Zoo, with DAI.")
    parser.add_argument("command", choices=COMMANDS, help="followed by its own options; COMMAND --help lists them")
    command = parser.parse_args(sys.argv[1:2]).command
    try:
        options = complete_train_options(sys.argv[2:]) if command == "train" else sys.argv[2:]
        sys.argv = [f"{sys.argv[0]} {command}", *options]
        register(DAI if command == "train" else ActingDAI)
        target = COMMANDS[command]
        if command == "train":
            from rl_zoo3.exp_manager import ExperimentManager

            with patch.object(ExperimentManager, "objective", pruning(ExperimentManager.objective)):
                pkgutil.resolve_name(target)()
        elif ":" in target:
            pkgutil.resolve_name(target)()
        else:
            with patch("subprocess.call", call_through_here):
                runpy.run_module(target, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        sys.exit(f'{command} needs {error.name}, which is not installed: pip install "sb3-dai[{EXTRAS[error.name]}]"')


if __name__ == "__main__":
    main()
