"""Sentences of the README with figures, and what these are."""

import json
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from printed.pages import ROOT, runs_in, scores
from sb3_dai.dai import DEFAULTS
from sb3_dai.envs import backward_induction

PAGE = "README.md"
CARTPOLE = "results/cartpole_dai_default_10k.json", "results/cartpole_dai_more_10k.json"
LUNAR_LANDER = "results/first/LunarLander-v3/dai"
CURIOSITY = {
    f"{task}-{version}": [f"results/first/{task}-{version}/{agent}" for agent in ("dai_without", "dai")]
    for task, version in (
        ("MountainCarContinuous", "v0"), ("CartPole", "v1"), ("MountainCar", "v0"), ("LunarLander", "v3"), ("Pendulum", "v1"),
    )
}  # fmt: skip
"""Where runs without and with the information gain are, by task: first the one where it decides."""
LARGE = {
    task: [f"results/first/{task}-{version}/{agent}_256" for agent in ("dai", "sac_equal", "crossq")]
    for task, version in (("HalfCheetah", "v5"), ("Hopper", "v5"), ("LunarLanderContinuous", "v3"))
}
CHEETAH = LARGE["HalfCheetah"][0]
FROZEN_LAKE, FROZEN_LAKE_DQN = (f"results/first/FrozenLake-v1/{agent}" for agent in ("dai", "dqn_equal"))
HIDDEN = "results/memory/CartPoleNoVel-v1/dai_memory"


def steps_and(*figures: float, of: str) -> list[float]:
    """
    :param figures: of runs
    :param of: where they are
    :return: the figures and the number of environment steps, which is the same for all of them
    """
    (steps,) = {run["steps"] for run in runs_in(of)}
    return [*figures, steps]


def below(threshold: float, *paths: str) -> list[float]:
    """
    :param threshold: a score
    :param paths: of runs
    :return: how many of how many are below it, and it
    """
    found = scores(*paths)
    return [(found < threshold).sum(), len(found), threshold]


def solved_by_curiosity() -> list[float]:
    """
    :return: runs of MountainCarContinuous above 90 without the information gain, all of them, and the same with it

    On the other tasks the means differ by less than two standard errors of the difference.
    """
    (without, with_it), *others = ([scores(path) for path in paths] for paths in CURIOSITY.values())
    for pair in others:
        error = np.sqrt(sum(found.var(ddof=1) / len(found) for found in pair))
        assert abs(pair[0].mean() - pair[1].mean()) < 2.0 * error
    return [(without > 90).sum(), len(without), (with_it > 90).sum(), len(with_it)]


def speedups() -> np.ndarray:
    """
    :return: how many times longer the eager step takes than the native one, for each kind of agent but those with images
    """
    ratios = []
    for name in ("speed", "speed_wide", "speed_box", "speed_recurrent", "speed_recurrent_box"):
        results = json.loads((ROOT / f"docs/results/{name}.json").read_text())["results"]
        for agent in [agent for agent in results if agent.endswith(", eager")]:
            kind = agent.removesuffix(", eager")
            native = results[kind if kind in results else f"{kind}, native"]["step"]
            ratios.append(np.median(np.array(results[agent]["step"]) / native))
    return np.array(ratios)


def speedup_with_images() -> float:
    """
    :return: the same with images
    """
    results = json.loads((ROOT / "docs/results/speed_images.json").read_text())["results"]
    eager, native = (np.array(results[f"DAI, ensemble of 5, {backend}"]["step"]) for backend in ("eager", "native"))
    return float(np.median(eager / native))


def first_suite() -> list[float]:
    """
    :return: seeds of each agent in the README's table, those on HalfCheetah, and the episodes and layers of its rows
    """
    suite = yaml.safe_load((ROOT / "scripts/suites/first.yml").read_text())
    rows: dict[str, list[dict[str, Any]]] = {}
    for env, agents in suite["short"].items():
        for folder in [ROOT / "docs/results/first" / env / agent for agent in agents]:
            if folder.is_dir():  # What has not been run has no row
                rows[f"{env}:{folder.name}"] = runs_in(f"results/first/{env}/{folder.name}")
    (seeds,) = {len(runs) for name, runs in rows.items() if not name.startswith("HalfCheetah")}
    (on_cheetah,) = {len(runs) for name, runs in rows.items() if name.startswith("HalfCheetah")}
    (episodes,) = {len(run["scores"]) for runs in rows.values() for run in runs}
    layers = yaml.safe_load(suite["agents"]["dai_256"]["params"]["policy_kwargs"].split("net_arch=")[1].rstrip(")"))
    return [seeds, on_cheetah, episodes, layers[0]]


def optimum_of_frozen_lake() -> float:
    """
    :return: how often the best policy gets to the goal within the time limit
    """
    env: Any = gym.make("FrozenLake-v1")
    n_states, n_actions = env.observation_space.n, env.action_space.n
    transition, reward = np.zeros((n_states, n_states, n_actions)), np.zeros((n_states, n_states, n_actions))
    ends = np.zeros((n_states, n_states, n_actions))
    for state, actions in env.unwrapped.P.items():
        for action, outcomes in actions.items():
            for probability, after, paid, ended in outcomes:
                transition[after, state, action] += probability
                reward[after, state, action], ends[after, state, action] = paid, ended
    return float(backward_induction(transition, reward, env.spec.max_episode_steps, ends)[0][0][0])


def python_version() -> list[str]:
    """
    :return: the oldest that is allowed
    """
    return re.findall(r'^requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)


CLAIMS: dict[str, Callable[[], list[Any]]] = {
    r"with {} steps, {} of {} seeds reach {}": lambda: [
        *steps_and(of=CARTPOLE[0]), (scores(*CARTPOLE) >= 475).sum(), len(scores(*CARTPOLE)), 475,
    ],
    r"Python {} or later": python_version,
    r"makes gradient steps {} to {} times faster than PyTorch alone, or {} times with images": lambda: [
        speedups().min(), speedups().max(), speedup_with_images(),
    ],
    r"checkpoint: {} seeds, {} on HalfCheetah, {} deterministic episodes each\. .* nets of {} on HalfCheetah": first_suite,
    r"DAI takes {} gradient steps for each step": lambda: [DEFAULTS["gradient_steps"]],
    r"with {} seeds, {} steps and nets of {}: DAI": lambda: [len(scores(CHEETAH)), *steps_and(of=CHEETAH), 256],
    r"CrossQ with a {} of the gradient steps": lambda: [
        runs_in(LARGE["Hopper"][2])[0]["gradient_steps"] / runs_in(LARGE["Hopper"][0])[0]["gradient_steps"],
    ],
    **{
        rf"{task} {{}}, {{}}, {{}}[;.]": lambda paths=paths: [scores(path).mean() for path in paths]
        for task, paths in LARGE.items()
    },
    r"runs on HalfCheetah {} fails": lambda: [(scores(CHEETAH) < 2000).sum()],
    r"On FrozenLake, {} runs score {} on average after {} steps; DQN with an equal budget scores {}": lambda: [
        len(scores(FROZEN_LAKE)), *steps_and(scores(FROZEN_LAKE).mean(), of=FROZEN_LAKE), scores(FROZEN_LAKE_DQN).mean(),
    ],
    r"scores {}, which is the optimum": lambda: [optimum_of_frozen_lake()],
    r"without velocities is solved in {} steps by {} of {} runs": lambda: [
        *steps_and(of=HIDDEN), (scores(HIDDEN) >= 475).sum(), len(scores(HIDDEN)),
    ],
    r"{} of {} runs of CartPole ended below {}": lambda: below(475, *CARTPOLE),
    r"{} of {} runs of LunarLander below {}": lambda: below(200, LUNAR_LANDER),
    r"Without it, {} of {} runs solve MountainCarContinuous; with it, {} of {}": solved_by_curiosity,
    r"Pendulum, {} seeds show no difference": lambda: [len(scores(CURIOSITY["Pendulum-v1"][0]))],
}  # fmt: skip
