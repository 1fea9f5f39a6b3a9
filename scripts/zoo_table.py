"""
Try every command of RL Zoo on every kind of environment, with budgets of seconds, and print the table of docs/zoo.md.

    python scripts/zoo_table.py
    python scripts/zoo_table.py --kinds vector image --commands train enjoy

A cell is "ok", "-" where the command before it failed, or the error. Needs the extras zoo, plots, video, minatar, minigrid and
atari.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import rl_zoo3.enjoy
import rl_zoo3.plots
import rl_zoo3.train  # noqa: F401

from sb3_dai import zoo
from sb3_dai.zoo import manager  # noqa: F401

KINDS = {
    "vector": ("vectors, choices", "CartPole-v1", []),
    "box": ("vectors, `Box`", "Pendulum-v1", []),
    "numbered": ("numbered states", "sb3_dai/DeepSea10-v0", []),
    "multidiscrete": ("`MultiDiscrete`", "zoo_worlds/Choices-v0", []),
    "multibinary": ("`MultiBinary`", "zoo_worlds/Switches-v0", []),
    "memory": ("a memory (`MlpLstmPolicy`)", "sb3_dai/PassiveTMaze10-v0", []),
    "hidden": ("hidden states (`HiddenStatesPolicy`)", "sb3_dai/TMaze-v0", []),
    "image": ("images (MinAtar)", "MinAtar/Breakout-v1", ["learning_starts:50", "buffer_size:500"]),
    "goal": ("dictionary, goals (HER)", "zoo_worlds/Goal-v0", []),
    "minigrid": ("MiniGrid", "MiniGrid-Empty-5x5-v0", []),
    "atari": ("Atari", "BreakoutNoFrameskip-v4", ["learning_starts:50", "buffer_size:500"]),
}
"""Each kind of environment: its name in the table, an id, and hyperparameters that make it small."""

WORLDS = '''
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv


class Choices(gym.Env):
    """Two choices at once, of which the first is to be equal to what is seen."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def _observe(self):
        self.which = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.which]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        reward = float(action[0] == self.which)
        return self._observe(), reward, False, False, {}

    def render(self):
        return np.full((64, 64, 3), 80 * self.which, np.uint8)


class Switches(Choices):
    """One switch for each number, of which only the one that is seen is to be on."""

    action_space = spaces.MultiBinary(3)

    def step(self, action):
        reward = float(np.all(action == np.eye(3)[self.which]))
        return self._observe(), reward, False, False, {}


class Goal(BitFlippingEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode=None):
        super().__init__(n_bits=4, continuous=False, max_steps=10)
        self.render_mode = render_mode

    def render(self):
        return np.full((64, 64, 3), 40 * int(self.state.sum()), np.uint8)


gym.register("zoo_worlds/Choices-v0", Choices, max_episode_steps=20)
gym.register("zoo_worlds/Switches-v0", Switches, max_episode_steps=20)
gym.register("zoo_worlds/Goal-v0", Goal)
'''
"""A module with worlds of the kinds that no package has a quick one of."""

HINDSIGHT = """
zoo_worlds/Goal-v0:
  n_timesteps: 200
  policy: MultiInputPolicy
  replay_buffer_class: HerReplayBuffer
  replay_buffer_kwargs: "dict(n_sampled_goal=4, goal_selection_strategy='future')"
default:
  n_timesteps: 200
  policy: MlpPolicy
"""

# `benchmark` looks for an agent in the last folder, and a search leaves one without an agent
COMMANDS = ("train", "enjoy", "benchmark", "record_video", "record_training", "resume", "optimize", "trial", "plots")


def options_of(command: str, env_id: str, params: list[str], folder: Path) -> list[list[str]]:
    """
    :param command: a column of the table
    :param env_id: the environment
    :param params: hyperparameters that make it small
    :param folder: where the runs are
    :return: the command lines, after ``python -m sb3_dai.zoo``
    """
    logs = str(folder / "logs")
    here = ["--algo", "dai", "--env", env_id, "-f", logs]
    own = env_id.startswith("zoo_worlds/")
    packages = ["--gym-packages", "zoo_worlds"] if own else []
    train = [*here, *packages, "--seed", "1", "--eval-episodes", "1", *(["-conf", str(folder / "her.yml")] if own else [])]
    hyperparams = ["-params", *params] if params else []
    study = ["--storage", str(folder / "study.log"), "--study-name", "s"]
    search = ["-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"]
    checkpoint = f"{logs}/dai/{env_id.replace('/', '-')}_1/rl_model_100_steps.zip"
    save = ["--save-freq", "100", "--save-replay-buffer", "--eval-freq", "100"]
    first = ["--exp-id", "1"]
    plot = ["-a", "dai", "-e", env_id.replace("/", "-"), "-f", logs]
    return {
        "train": [["train", *train, "-n", "150", *save, *hyperparams]],
        "enjoy": [["enjoy", *here, *packages, "--no-render", "-n", "50", *first]],
        "record_video": [["record_video", *here, "-n", "20", *first]],
        "record_training": [["record_training", *here, "-n", "20", *first]],
        "resume": [["train", *train, "-n", "110", "--eval-freq", "-1", "-i", checkpoint, *hyperparams]],
        "optimize": [["train", *train, "-n", "110", *study, *search, *hyperparams]],
        "trial": [["train", *train, "-n", "110", "--eval-freq", "-1", *study, "--trial-id", "0", *hyperparams]],
        "plots": [
            ["plot_train", *plot, "-w", "1"],
            ["all_plots", *plot, "--no-million", "-o", str(folder / "plots")],
            ["plot_from_file", "-i", str(folder / "plots"), "-o", str(folder / "plots.svg")],
        ],
        "benchmark": [["benchmark", "--log-dir", logs, "--benchmark-dir", str(folder / "scores"), "-n", "50", "--no-hub"]],
    }[command]


def run(command: list[str], folder: Path) -> None:
    """
    Run a command in this process, which is a child of its own.

    :param command: options after ``python -m sb3_dai.zoo``
    :param folder: to run in
    """
    with (folder / "output.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    # Commands without --gym-packages know the worlds of this script as well
    sys.path.insert(0, str(folder))
    importlib.import_module("zoo_worlds")
    sys.argv = ["zoo", *command]
    try:
        zoo.main()
    finally:
        sys.stdout.flush()


def attempt(command: list[str], folder: Path) -> str:
    """
    :param command: options after ``python -m sb3_dai.zoo``
    :param folder: to run in
    :return: "ok", or the last line of the error
    """
    # A fork has what this process has imported, which takes longer than the commands
    child = multiprocessing.get_context("fork").Process(target=run, args=(command, folder))
    child.start()
    child.join(600)
    output = (folder / "output.log").read_text()
    if child.exitcode == 0:
        # `benchmark` goes on with the next agent
        return "an agent was left out" if "Error during evaluation" in output else "ok"
    child.kill()
    lines = [line for line in output.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines and child.exitcode is not None else f"exit code {child.exitcode}"


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=KINDS, help="rows")
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS], choices=COMMANDS, help="columns")
    parser.add_argument("--verbose", action="store_true", help="print the output of commands that failed")
    args = parser.parse_args()
    # Most work on what `train` left, and `--trial-id` on the study of the search
    after = {"enjoy": "train", "record_video": "train", "record_training": "train", "resume": "train", "plots": "train"}
    after["benchmark"] = "train"
    after["trial"] = "optimize"
    wanted = {*args.commands, *(after[name] for name in args.commands if name in after)}
    print(f"| environment | {' | '.join(args.commands)} |\n|---|{'---|' * len(args.commands)}", flush=True)
    for kind in args.kinds:
        label, env_id, params = KINDS[kind]
        cells: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "zoo_worlds.py").write_text(WORLDS)
            (folder / "her.yml").write_text(HINDSIGHT)
            for command in [name for name in COMMANDS if name in wanted]:
                if cells.get(after.get(command, ""), "ok") != "ok":
                    cells[command] = "-"
                    continue
                results = [attempt(line, folder) for line in options_of(command, env_id, params, folder)]
                cells[command] = next((result for result in results if result != "ok"), "ok")
                if args.verbose and cells[command] != "ok":
                    print(f"{kind}, {command}: {(folder / 'output.log').read_text()[-3000:]}", file=sys.stderr)
        print(f"| {label}: `{env_id}` | {' | '.join(cells[name] for name in args.commands)} |", flush=True)


if __name__ == "__main__":
    main()
