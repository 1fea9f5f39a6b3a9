"""Sentences of docs/results.md about policies with a memory, and what their figures are."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from printed.claims_results import PAGE, suite
from printed.pages import runs_in, scores

__all__ = ["CLAIMS", "PAGE"]


def guessing() -> list[float]:
    """
    :return: what random actions earn in a passive T-maze and in Recall4, and the most that can be earned there
    """
    maze, recall = (gym.make(f"sb3_dai/{name}-v0") for name in ("PassiveTMaze10", "Recall4"))
    n_arms, n_symbols = (int(env.action_space.n) for env in (maze, recall))  # type: ignore[attr-defined]
    n_paid = recall.spec.max_episode_steps - recall.unwrapped.k  # type: ignore[union-attr, attr-defined, operator]
    return [1.0 / n_arms, n_paid / n_symbols, n_paid]


def with_a_memory(*tasks: str) -> list[float]:
    """
    :param tasks: environments and agents of the memory suite, as in the store's folders
    :return: their mean scores
    """
    return [scores(f"results/memory/{task}").mean() for task in tasks]


def until_solved() -> list[float]:
    """
    :return: of RecurrentPPO on CartPole without velocities: steps, mean score, runs at 475 or more, all runs, core seconds; of
        DAI with a memory steps, core seconds, runs at 475 or more, all runs, with two budgets
    """
    found: list[float] = []
    for runs in ("ppo_lstm_long", "dai_memory", "dai_memory_short"):
        rows = runs_in(f"results/memory/CartPoleNoVel-v1/{runs}")
        means = np.array([np.mean(row["scores"]) for row in rows])
        seconds, solved = float(np.median([row["cpu_seconds"] for row in rows])), [(means >= 475).sum(), len(rows)]
        is_peer = runs == "ppo_lstm_long"
        found += [rows[0]["steps"], *([means.mean(), *solved, seconds] if is_peer else [seconds, *solved])]
    return found


def no_better_than_a_guess() -> list[float]:
    """
    :return: nothing; stacks and RecurrentPPO are within three standard errors of 0.5 in the passive T-mazes
    """
    for length in (10, 20, 50):
        for agent in ("dai_stack_numbers", "ppo_lstm_other"):
            found = scores(f"results/memory/sb3_dai_PassiveTMaze{length}-v0/{agent}")
            assert abs(found.mean() - 0.5) < 3.0 * np.sqrt(0.25 / 100 / len(found))
    return []


def of_single_actions() -> list[int]:
    """
    :return: runs of CartPole without velocities that ended below 475 where single past actions were hidden, and all
    """
    runs = [run for run in runs_in("experiments/data/action_dropout.json") if run["env"] == "CartPoleNoVel-v1"]
    return [sum(np.mean(run["scores"]) < 475 for run in runs), len(runs)]


def landers() -> list[int]:
    """
    :return: runs of LunarLander without velocities that ended at what is wanted or more, all runs, and what is wanted
    """
    found = scores("results/memory/LunarLanderNoVel-v3/dai_memory")
    (wanted,) = {task["threshold"] for task in suite("memory")["tasks"] if "LunarLanderNoVel-v3" in task["environments"]}
    return [int((found >= wanted).sum()), len(found), wanted]


def mazes() -> list[int]:
    """
    :return: runs in the passive T-mazes that ended below 0.95, and all
    """
    found = scores(*(f"results/memory/sb3_dai_PassiveTMaze{length}-v0/dai_memory" for length in (10, 20, 50)))
    return [int((found < 0.95).sum()), len(found)]


def seen_with_and_without() -> list[float]:
    """
    :return: means on Acrobot, Pendulum and CartPole, with a memory and without one in half the steps
    """
    found = []
    tasks = {"Acrobot-v1": "dai_memory_faster_choices", "Pendulum-v1": "dai_memory_faster", "CartPole-v1": "dai_memory_seen"}
    for task, agent in tasks.items():
        with_it, without = runs_in(f"results/memory/{task}/{agent}"), runs_in(f"results/first/{task}/dai")
        assert with_it[0]["steps"] == 2 * without[0]["steps"]
        found += [float(np.mean([run["scores"] for run in runs])) for runs in (with_it, without)]
    return found


CLAIMS: dict[str, Callable[[], list[Any]]] = {
    r"on CartPoleNoVel DAI with a memory has {}, RecurrentPPO {}, DAI on a stack {}\.": lambda: with_a_memory(
        *(f"CartPoleNoVel-v1/{agent}" for agent in ("dai_memory", "ppo_lstm", "dai_stack"))
    ),
    r"own budget of {} steps brings it to {}, with {} of {} runs solved, in {} core seconds\. DAI's {} steps "
    r"take {}, with {} of {} solved, and its {} steps with all actions seen {}, with {} of {} solved": until_solved,
    r"In Recall4 RecurrentPPO earns {}, DAI with a memory {}\.": lambda: with_a_memory(
        "sb3_dai_Recall4-v0/ppo_lstm_other", "sb3_dai_Recall4-v0/dai_memory_before_recall"
    ),
    r"{} observations say enough": lambda: [suite("memory")["agents"]["dai_stack"]["entry"]["frame_stack"]],
    r"DAI on a stack has {} and {} there, with a memory {} and {}, RecurrentPPO {} and {}\.": lambda: with_a_memory(
        *(
            f"{env}/{agent}"
            for agent in ("dai_stack", "dai_memory_faster", "ppo_lstm")
            for env in ("PendulumNoVel-v1", "MountainCarContinuousNoVel-v0")
        )
    ),
    r"neither a stack nor RecurrentPPO does better than guess": no_better_than_a_guess,
    r"because CartPoleNoVel failed on {} of {} of them": of_single_actions,
    r"On LunarLanderNoVel {} of {} runs of DAI with a memory score {}": landers,
    r"With a memory {} of {} runs fail there\.": mazes,
    r"DAI has {} on Acrobot \(without a memory {}\), {} on Pendulum \({}\) and {} on CartPole \({}\)\.": seen_with_and_without,
    r"memoryless ones that see the last {} observations": lambda: [
        suite("memory")["agents"]["dai_stack"]["entry"]["frame_stack"]
    ],
    r"Guessing reaches {} in the passive T-mazes, and {} of {} in Recall4": guessing,
}
