"""Sentences of docs/results.md about numbered hidden states, and what their figures are."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import hidden_states as grid
import hidden_worlds as worlds
import numpy as np
import torch as th
import yaml
from expected import expected_outcome
from hidden_states import Tables, dirichlet_divergence, predictive_log_likelihood

from printed.claims_results import PAGE
from printed.pages import runs_in
from sb3_dai.envs import GridWorld, Tiger
from sb3_dai.equations.point_values import Decisions, action_values, branches
from sb3_dai.world_model.planning import make_plan

__all__ = ["CLAIMS", "PAGE"]


def even_counts(n_observations: int) -> np.ndarray:
    """
    :param n_observations: in all
    :return: Dirichlet counts of A after as many of each of the 49 cells
    """
    return np.full((49, 49), 1 / 49) + n_observations / 49 * np.eye(49)


def settings_of_the_grid(name: str, case: str) -> list[int]:
    """
    :param name: of a result file
    :param case: in it
    :return: blocks, steps in a block, agents, the first seed and the last
    """
    runs = [run for run in runs_in(f"results/{name}") if run["case"] == case and run["agent"] == "exact"]
    (blocks,), (steps,) = {len(run["divergence"]) for run in runs}, {run["steps"] for run in runs}
    seeds = [run["seed"] for run in runs]
    return [blocks, steps // blocks, len(runs), min(seeds), max(seeds)]


def even_visits() -> list[float]:
    """
    :return: observations, nats after even visits, and how many more there are if one cell was never seen
    """
    blocks, steps = settings_of_the_grid("hidden_grid.json", "A")[:2]
    true, n_observations = 1e4 * np.eye(49) + 1e-4, blocks * (steps + 1)
    counts = even_counts(n_observations)
    one_is_new = np.where(np.arange(49) == 0, 1 / 49, counts)
    nats = dirichlet_divergence(counts, true)
    return [n_observations, nats, dirichlet_divergence(one_is_new, true) - nats]


def nothing_known(file: str = "hidden_grid_AB.json") -> list[float]:
    """
    :param file: with the results
    :return: agents, nats and their worst, percent of probability of the next observation and the worst
    """
    runs = runs_in(f"results/{file}")
    nats, log_likelihood = (np.array([run[what][-1] for run in runs]) for what in ("divergence", "predictive"))
    return [nats.mean(), nats.max(), *100.0 * np.exp([log_likelihood.mean(), log_likelihood.min()])]


def even_prediction(prior_of_B: np.ndarray | float) -> float:
    """
    :param prior_of_B: counts of transitions before the first block
    :return: percent of probability of the next observation after 100 blocks of even visits, seen without error
    """
    blocks, steps = settings_of_the_grid("hidden_grid_AB.json", "AB")[:2]
    env = GridWorld()
    counts_of_B = prior_of_B + blocks * steps / (env.n_states * env.n_actions) * env.transition_matrix
    start = np.eye(env.n_states)[env.start]
    found = Tables(even_counts(blocks * (steps + 1)), counts_of_B / counts_of_B.sum(axis=0), start)
    return 100.0 * float(np.exp(predictive_log_likelihood(found, env)))


def seconds_of_exact_beliefs() -> list[float]:
    """
    :return: of the fastest run and the slowest
    """
    runs = [run for run in runs_in("results/hidden_worlds.json") if run["params"].get("given") is not None]
    seconds = [run["processor_seconds"] for run in runs]
    return [min(seconds), max(seconds)]


def tiger_without_a_clock() -> list[float]:
    """
    :return: steps, growls, and the return of an agent that opens a door after so many more growls from the other side than
        from its own, itself and in percent of the best
    """
    n_growls = 2
    env: Any = gym.make("sb3_dai/Tiger-v0")

    def act(observations: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        growls = np.array([0, -1, 1])[observations]  # None, from the left, from the right
        surplus = growls if state is None else state[0][:, 0] + growls
        actions = np.where(surplus >= n_growls, 1, np.where(surplus <= -n_growls, 2, 0))
        return actions, (np.where(actions > 0, 0, surplus)[:, None],)

    steps = env.spec.max_episode_steps
    total = expected_outcome(act, env.unwrapped, steps).total
    return [steps, n_growls, total, 100.0 * total / worlds.optimum(env)["total"]]


def starts_of_smoothing() -> set[int]:
    """
    :return: how many there are where A is learned, but for cue chaining
    """
    entries = yaml.safe_load(worlds.CONFIG.read_text())
    return {entries[agent]["policy_kwargs"]["n_starts"] for agent in ("tmaze-A", "tmaze-AB", "tiger-A")}


def other_agents() -> list[float]:
    """
    :return: frames of the stack in the aliased grid, and how many times more steps others had than the one with exact beliefs
    """
    entries = yaml.safe_load(worlds.CONFIG.read_text())
    assert entries["grid-memoryless"]["n_timesteps"] == entries["grid-stack"]["n_timesteps"]
    ratio = entries["grid-memoryless"]["n_timesteps"] / entries["grid-given"]["n_timesteps"]
    return [entries["grid-stack"]["frames"], ratio]


def cue_chaining() -> list[float]:
    """
    :return: hidden states, cells and contexts; steps of training and those at random, seeds that earn the reward each time by
        the shortest way, and all seeds; the share of the contexts, in percent, in which the only other one earns it; of an
        earlier experiment the seeds that earn it each time, all seeds, and steps
    """
    runs, before = runs_in("results/cue_chaining.json"), runs_in("experiments/data/cue_chaining_8000.json")
    (steps,), (steps_before,) = ({run["steps"] for run in found} for found in (runs, before))
    world: Any = gym.make("sb3_dai/CueChaining-v0").unwrapped
    shares = [run["final"]["success"] for run in runs]
    assert all(run["final"]["length"] == run["optimum"]["length"] for run in runs if run["final"]["success"] == 1.0)
    (other,) = [share for share in shares if share < 1.0]
    sizes = [world.n_states, world.n_states // world.n_contexts, world.n_contexts]
    successes_before = sum(run["final"]["success"] == 1.0 for run in before)
    (at_random,) = {run["params"]["learning_starts"] for run in runs}
    return [*sizes, steps, at_random, shares.count(1.0), len(runs), 100 * other, successes_before, len(before), steps_before]


def tigers_of_learned_A() -> list[float]:
    """
    :return: seeds that earn 95 % of the best, and of all
    """
    runs = [run for run in runs_in("results/hidden_worlds.json") if run["agent"] == "tiger-A"]
    shares = [run["final"]["total"] / run["optimum"]["total"] for run in runs]
    return [sum(share >= 0.95 for share in shares), len(shares), 95]


def accuracy_that_is_enough() -> int:
    """
    :return: of growls, in whole percent, from which on the plan opens a door after two of them
    """
    gamma = yaml.safe_load(worlds.CONFIG.read_text())["tiger-A"]["gamma"]
    paid = th.tensor([[-1.0, -100.0, 10.0], [-1.0, 10.0, -100.0]] * 2)
    for percent in range(75, 100):
        env: Any = Tiger(percent / 100)
        tables = env.transition_matrix, env.observation_matrix, env.initial_distribution
        world = Decisions(*(th.as_tensor(table, dtype=th.float32) for table in tables), paid, th.ones_like(paid))
        odds = (percent / (100 - percent)) ** 2
        belief = th.tensor([[0.0, 0.0, odds, 1.0]]) / (odds + 1.0)
        vectors = make_plan(world, gamma, seed=0).vectors
        values, _ = action_values(belief, branches(belief, world, 8), world, gamma, vectors)
        if values.argmax().item() != 0:
            return percent
    raise AssertionError("no accuracy is enough")


def pymdp_in(*agents: str) -> list[dict[str, Any]]:
    """
    :param agents: names in the script
    :return: their runs
    """
    return [run for run in runs_in("results/hidden_worlds_pymdp.json") if run["agent"].removeprefix("pymdp, ") in agents]


def pymdp_in_the_t_maze() -> list[float]:
    """
    :return: the first seed and the last, what the reward and the punishment are worth, and seeds that never fail, of all
    """
    runs = pymdp_in("tmaze-given")
    seeds, values = [run["seed"] for run in runs], runs[0]["hyperparameters"]["C"]
    return [min(seeds), max(seeds), *values[1:], sum(all(run["successes"]) for run in runs), len(runs)]


def pymdp_that_learns_A() -> list[float]:
    """
    :return: share of the last trials that succeed, the worst seed's, how many are the last, and all trials
    """
    runs = pymdp_in("tmaze-A")
    shares = [np.mean(run["successes"][-100:]) for run in runs]
    return [float(np.mean(shares)), min(shares), 100, len(runs[0]["successes"])]


def pymdp_in_the_chain() -> list[int]:
    """
    :return: steps of a plan, successes, trials and seeds; the other trials end at the time limit
    """
    runs = pymdp_in("cue-given")
    successes, lengths = (np.array([run[name] for run in runs]) for name in ("successes", "lengths"))
    assert set(lengths[successes == 0]) == {gym.spec("sb3_dai/CueChaining-v0").max_episode_steps}
    return [runs[0]["params"]["policy_len"], int(successes.sum()), successes.size, len(runs)]


def random_tiger() -> float:
    """
    :return: what random actions earn
    """
    env: Any = gym.make("sb3_dai/Tiger-v0")
    world = env.unwrapped
    by_state = (world.transition_matrix * world.reward_matrix).sum(axis=0).mean(axis=1)
    return float(world.initial_distribution @ by_state) * env.spec.max_episode_steps


CLAIMS: dict[str, Callable[[], list[Any]]] = {
    r"pymdp.json`, seeds {}-{}\)\. Its preferences are given: {} for the reward, {} for the .* from the first trial on, "
    r"in {} of {}": pymdp_in_the_t_maze,
    r"from random first counts, {} \(worst {}\) of the last {} of {} trials": pymdp_that_learns_A,
    r"with all given and plans of {} steps, it earns the reward in {} of {} trials of {} seeds": pymdp_in_the_chain,
    r"Random actions earn {} in the tiger's world": lambda: [random_tiger()],
    r"\n{} by {} cells,": lambda: [*GridWorld().shape],
    r"cells, {} blocks of {} steps from the middle, no reward, {} agents each \(seeds {}-{}\)": lambda: settings_of_the_grid(
        "hidden_grid.json", "A"
    ),
    r"Even visits in {} observations give {} nats; one cell that was never seen adds {}\.": even_visits,
    r"unknown\*\*, {} blocks, {} agents \(seeds {}-{}\)": lambda: [
        settings_of_the_grid("hidden_grid_AB.json", "AB")[i] for i in (0, 2, 3, 4)
    ],
    r"unknown[^:]*: {} nats \(worst {}\), after [^.]*\. [^.]* gets {} % probability \(worst {} %; geo": nothing_known,
    r"which\*\*, {} blocks, {} agents \(seeds {}-{}\)": lambda: [
        settings_of_the_grid("hidden_grid_labels.json", "A-labels")[i] for i in (0, 2, 3, 4)
    ],
    r"which\*\*, [^:]*: {} nats \(worst {}\), matched [^.]*\. [^.]* gets {} % probability \(worst {} %; `": lambda: (
        nothing_known("hidden_grid_labels.json")
    ),
    r"hidden factor of the state, of {} values: of the {} orders": lambda: [
        len(grid.PAIRINGS),
        math.factorial(GridWorld().n_actions),
    ],
    r"Counts of even visits would give {} %": lambda: [even_prediction(1 / 49)],
    r"even visits would still give {} %": lambda: [even_prediction(grid.known("AB-labels", GridWorld()).tables["pB"])],
    r"with {} random starts of smoothing where A is learned": lambda: [*starts_of_smoothing()],
    r"with exact beliefs takes {} to {} seconds": seconds_of_exact_beliefs,
    r"how many of the {} steps are left, .* after {} more growls .* than from its own earns {}, {} %": tiger_without_a_clock,
    r"{} of {} seeds earn {} % of the best": tigers_of_learned_A,
    r"accuracy is at least \[{} %": lambda: [accuracy_that_is_enough()],
    r"same settings, {} steps at random first": lambda: [
        yaml.safe_load(worlds.CONFIG.read_text())["tmaze-given"]["learning_starts"]
    ],
    r"the last {} observations have the constructor's defaults and {} times the steps": other_agents,
    r"Its {} hidden states are {} cells in each of {} contexts.*After {} steps, the first {} at random, {} of {} seeds "
    r"do so in every context; the other one earns it in {} % of them .* states, {} of {} seeds did after {} steps": (
        cue_chaining
    ),
    r"policy earns the reward in {} steps, past both cues": lambda: [
        worlds.optimum(gym.make("sb3_dai/CueChaining-v0", start=(1, 0)))["length"]
    ],
}
