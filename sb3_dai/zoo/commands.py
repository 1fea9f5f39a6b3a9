"""The command line: one of the Zoo's commands, which then knows DAI."""

import argparse
import contextlib
import importlib
import os
import pkgutil
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym

import sb3_dai.envs  # noqa: F401  # Registers the worlds of this package
from sb3_dai.dai import DAI
from sb3_dai.zoo.entries import HYPERPARAMS_MODULE, hyperparams_file, hyperparams_module, load_entries
from sb3_dai.zoo.search import convert_dai_params, sample_dai_params

COMMANDS = {
    "train": "rl_zoo3.train:train",
    "enjoy": "rl_zoo3.enjoy:enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "benchmark": "rl_zoo3.benchmark",
    "load_from_hub": "rl_zoo3.load_from_hub",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "plot_train": "rl_zoo3.plots:plot_train",
    "plot_from_file": "rl_zoo3.plots:plot_from_file",
    "all_plots": "rl_zoo3.plots:all_plots",
}
"""Where the Zoo keeps each command: ``module:function``, or a module that runs as a script."""

EXTRAS = {
    "yaml": "zoo",
    "rl_zoo3": "zoo",
    "requests": "zoo",
    "pandas": "zoo",
    "seaborn": "plots",
    "scipy": "plots",
    "imageio_ffmpeg": "video",
    "moviepy": "video",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "ale_py": "atari",
}
"""The extra of this distribution that brings each package a command may miss."""

WORLDS = {"MinAtar/": "minatar.gym", "MiniGrid-": "minigrid", "ALE/": "ale_py"}
"""The module that registers the environments of each prefix."""


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


def register_worlds(env_id: str) -> None:
    """
    Import the package that registers an environment, so that its absence is an error that names it.

    :param env_id: of the environment
    :raises ModuleNotFoundError: if the package is not installed
    """
    for prefix, name in WORLDS.items():
        if env_id.startswith(prefix):
            module = importlib.import_module(name)
            if prefix == "MinAtar/" and env_id not in gym.registry:  # The others register themselves
                module.register_envs()


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
        module = hyperparams_module(HYPERPARAMS_MODULE + name, load_entries(str(path)))
        options = [*options, "--conf-file", module]  # the last one counts
    return options


def call_through_here(command: list[str], **kwargs: Any) -> int:
    """
    ``subprocess.call``, except that commands of the Zoo run in this process: a new one would not know DAI, and would take
    seconds to start for each checkpoint.

    :param command: the command that ``record_training`` or ``benchmark`` starts
    :param kwargs: keyword arguments of ``subprocess.call``
    :return: the exit status
    """
    match command:
        case ["python", "-m", "rl_zoo3.record_video", *options]:
            return status_of("record_video", options)
        case ["python", "enjoy.py", *options]:
            return status_of("enjoy", [getattr(option, "gym_id", option) for option in options])
    with subprocess.Popen(command, **kwargs) as process:
        return process.wait()


def status_of(command: str, options: list[str]) -> int:
    """
    :param command: one of ``COMMANDS``
    :param options: of it
    :return: the exit status that a process of its own would have
    """
    with patch.object(sys, "argv", [f"sb3_dai.zoo {command}", *options]):
        try:
            run_command(command)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            return 1
    return 0


Agents = dict[str, tuple[str, str]]


def agents_by_folder(find: Callable[[str], Agents], log_folder: str) -> Agents:
    """
    Name environments as their folders are: ``benchmark`` makes paths of these names, and the runs of ``a/B-v0`` are in
    ``a-B-v0``.

    :param find: RL Zoo's ``get_trained_models``
    :param log_folder: of all algorithms
    :return: algorithm and environment of each agent, whose ``gym_id`` has the slash
    """
    from huggingface_sb3 import EnvironmentName

    return {name: (algo, EnvironmentName(env_id)) for name, (algo, env_id) in find(log_folder).items()}


@contextlib.contextmanager
def with_ffmpeg() -> Iterator[None]:
    """
    Let ``ffmpeg`` be found as a command, which ``record_training`` calls: that of the system, else that of imageio-ffmpeg.

    :raises ModuleNotFoundError: if there is neither
    """
    if shutil.which("ffmpeg"):
        yield
        return
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        with patch.dict(os.environ, PATH=folder + os.pathsep + os.environ.get("PATH", os.defpath)):
            yield


def run_command(command: str) -> None:
    """
    :param command: one of ``COMMANDS``; ``sys.argv`` has its options
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("--env", default="")
    given, _ = parser.parse_known_args(sys.argv[1:])
    register(DAI if command == "train" else ActingDAI)
    register_worlds(given.env)
    target = COMMANDS[command]
    with contextlib.ExitStack() as mended:
        if command == "train" and given.algo == "dai":
            from sb3_dai.zoo.manager import DAIExperimentManager

            mended.enter_context(patch("rl_zoo3.train.ExperimentManager", DAIExperimentManager))
        elif command == "record_training":
            mended.enter_context(with_ffmpeg())
        elif command == "benchmark":
            from rl_zoo3 import utils

            found = partial(agents_by_folder, utils.get_trained_models)
            mended.enter_context(patch.object(utils, "get_trained_models", found))
        if ":" in target:
            pkgutil.resolve_name(target)()
        else:
            mended.enter_context(patch("subprocess.call", call_through_here))
            runpy.run_module(target, run_name="__main__", alter_sys=True)


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
        run_command(command)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.exit(f'{command} needs {package}, which is not installed: pip install "sb3-dai[{EXTRAS[package]}]"')
    except ImportError as error:
        if command != "push_to_hub":
            raise
        sys.exit(
            f"push_to_hub does not work with rl_zoo3 {version('rl-zoo3')}, whose own module cannot be imported beside the "
            f"installed huggingface_sb3: {error}. Upload the zip with the command line of huggingface_hub: hf upload"
        )
