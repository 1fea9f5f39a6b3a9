"""
What agents learn of a grid without reward: the experiment of pymdp's notebook.

Each agent starts in the middle, takes 40 blocks of 50 steps and learns the transition matrix B after each. How good B is
after each block goes to a JSON file: the divergence from the true one (nats a pair (s, a)), the share of most probable
next states that are right, the share of the pairs that were tried, and how unevenly.

    python scripts/grid_world.py --agents random pymdp --seeds 100-119 --out docs/results/x.json
    python scripts/grid_world.py --agents random pymdp --world rooms --seeds 100-119 --out docs/results/x.json

Agents: ``random`` takes each action with the same probability and counts what happens, with pymdp's prior (1 / n_states for
each next state). ``pymdp`` is the notebook's agent (``pip install -e '.[zoo,pymdp]'``). Any other name is an entry of
--config with the hyperparameters of a DAI.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from joblib import Parallel, delayed
from provenance import finished, provenance
from seeds import seeds_of
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_dai import diagnostics
from sb3_dai.envs import GridWorld
from sb3_dai.saving import write_json

ENV_ID = "sb3_dai/GridWorld-v0"
CONFIG = Path(__file__).with_suffix(".yml")
#: Named worlds as pictures: S is the start, # a wall
WORLDS = {
    "corridor": """
        S......
        ######.
        .......
        .######
        .......
        ######.
        .......
        """,
    "rooms": """
        ...#...
        .S.....
        ...#...
        #.###.#
        ...#...
        ...#...
        ...#...
        """,
    "rooms11": """
        ...#...#...
        ...#.......
        ...#...#...
        #.###.###.#
        ...#...#...
        ....S..#...
        ...#...#...
        #.###.###.#
        ...#...#...
        .......#...
        ...#...#...
        """,
}
Belief = tuple[np.ndarray, np.ndarray]
"""B[s', s, a] and how often each pair was tried, shape (n_states, n_actions)."""


def drawn(picture: str) -> dict[str, Any]:
    """
    :param picture: rows of characters, S the start and # a wall
    :return: arguments of GridWorld
    """
    cells = np.array([list(row) for row in picture.split()])
    walls, start = np.argwhere(cells == "#"), np.argwhere(cells == "S")[0]
    return dict(shape=list(cells.shape), start=start.tolist(), walls=walls.tolist())


def posterior(counts: np.ndarray) -> np.ndarray:
    """
    :param counts: of transitions, shape (n_states, n_states, n_actions) as N[s', s, a]
    :return: mean of the Dirichlet posterior with the prior 1 / n_states, same shape
    """
    alpha = counts + 1.0 / len(counts)
    return alpha / alpha.sum(axis=0)


def random_agent(env: GridWorld, blocks: int, steps: int, seed: int) -> Iterator[Belief]:
    """
    :param env: the world
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :return: what is believed after each block
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros_like(env.transition_matrix)
    for block in range(blocks):
        state, _ = env.reset(seed=seed if block == 0 else None)
        for action in rng.integers(env.n_actions, size=steps):
            next_state = env.step(action)[0]
            counts[next_state, state, action] += 1
            state = next_state
        yield posterior(counts), counts.sum(axis=0)


@lru_cache(maxsize=1)
def pymdp_world(world: str) -> Any:
    """
    :param world: arguments of GridWorld as JSON; one object for each, so that JAX compiles it once
    :return: pymdp's environment with the same matrix
    """
    try:
        from jax import numpy as jnp
        from pymdp.envs import PymdpEnv
    except ImportError as error:
        raise SystemExit(f"--agents pymdp: {error}. Install it with: pip install -e '.[zoo,pymdp]'") from error

    env = GridWorld(**json.loads(world))
    start = jnp.zeros(env.n_states).at[env.start].set(1.0)
    return PymdpEnv([jnp.eye(env.n_states)], [jnp.asarray(env.transition_matrix)], [start], [[0]], [[0]])


def pymdp_agent(world: dict[str, Any], blocks: int, steps: int, seed: int) -> Iterator[Belief]:
    """
    The notebook's agent for learning B, of the action precision (alpha) that learns best there.

    :param world: arguments of GridWorld
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :return: what is believed after each block
    """
    env = pymdp_world(json.dumps(world))
    from jax import jit, vmap
    from jax import numpy as jnp
    from jax import random as jr
    from pymdp.agent import Agent
    from pymdp.envs import rollout

    n_states = len(env.D[0])
    prior = jnp.ones_like(env.B[0]) / n_states
    agent = Agent(
        env.A, [prior / prior.sum(axis=0)], [jnp.zeros(n_states)], [jnp.ones(n_states) / n_states], pB=[prior], policy_len=3,
        use_utility=False, use_states_info_gain=True, use_param_info_gain=True, gamma=jnp.ones(1), alpha=jnp.full(1, 0.8),
        action_selection="stochastic", inference_algo="exact", num_iter=1, learn_B=True, batch_size=1, learning_mode="offline",
    )  # fmt: skip
    for key in jr.split(jr.PRNGKey(seed), blocks):
        reset_key, key = jr.split(key)
        observation, state = vmap(env.reset)(reset_key[None])
        first = {"observation": observation, "env_state": state}
        agent = jit(rollout, static_argnums=(1, 2))(agent, env, steps, key, initial_carry=first)[0]["agent"]
        alpha = np.asarray(agent.pB[0][0], dtype=np.float64)
        yield alpha / alpha.sum(axis=0), np.round((alpha - 1.0 / n_states).sum(axis=0))


class BlockEnds(BaseCallback):
    """
    Note what a model believes at the end of each block, once it has learned from it.

    :param steps: in a block
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.found: list[Belief] = []

    def note(self, model: BaseAlgorithm) -> None:
        """
        :param model: a DAI model
        """
        self.found.append((diagnostics.predicted_transitions(model), diagnostics.visit_counts(model)))  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps > len(self.found) * self.steps and self.num_timesteps % self.steps == 0:
            self.note(self.model)


def dai_agent(params: dict[str, Any], world: dict[str, Any], blocks: int, steps: int, seed: int) -> list[Belief]:
    """
    :param params: hyperparameters, as an entry of one of RL Zoo's files
    :param world: arguments of GridWorld
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :return: what is believed after each block
    """
    from rl_zoo3.exp_manager import ExperimentManager

    from sb3_dai.zoo import evaluated, hyperparams_module, register

    register()
    config = hyperparams_module("grid_world_hyperparams", {ENV_ID: {**evaluated(params), "n_timesteps": blocks * steps}})
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        manager = ExperimentManager(
            argparse.Namespace(), "dai", ENV_ID, folder, n_timesteps=blocks * steps, eval_freq=-1, seed=seed, log_interval=-2,
            verbose=0, device="cpu", config=config, env_kwargs={**world, "max_episode_steps": steps},
        )  # fmt: skip
        results = manager.setup_experiment()
        assert results is not None
        ends = BlockEnds(steps)
        manager.callbacks.append(ends)
        manager.learn(results[0])
        ends.note(results[0])  # The last block ends the training
    return ends.found


def run(agent: str, world: dict[str, Any], blocks: int, steps: int, seed: int, config: str) -> dict[str, Any]:
    """
    :param agent: random, pymdp or an entry of the hyperparameter file
    :param world: arguments of GridWorld
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :param config: hyperparameter file
    :return: the raw results, a list of one number a block for each measure
    """
    th.set_num_threads(1)
    env = GridWorld(**world)
    true = env.transition_matrix
    pairs = diagnostics.reachable_pairs(true, env.start, env.termination_matrix)
    start = time.perf_counter()
    params: dict[str, Any] = {}
    if agent == "random":
        found = random_agent(env, blocks, steps, seed)
    elif agent == "pymdp":
        found = pymdp_agent(world, blocks, steps, seed)
    else:
        params = yaml.safe_load(Path(config).read_text())[agent]
        found = iter(dai_agent(params, world, blocks, steps, seed))
    measures = [
        (
            diagnostics.categorical_divergence(true, learned, pairs)[0],
            diagnostics.argmax_accuracy(true, learned, pairs),
            diagnostics.coverage(visits, pairs),
            visits[pairs].std(),
        )
        for learned, visits in found
    ]
    seconds = time.perf_counter() - start
    names = ("divergence", "accuracy", "coverage", "visits_std")
    curves = {name: np.round(curve, 4).tolist() for name, curve in zip(names, np.transpose(measures), strict=True)}
    return {
        "agent": agent, "world": world, "steps": blocks * steps, "seed": seed, "seconds": round(seconds, 2), "params": params,
        "pairs": int(pairs.sum()), **curves,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", required=True, help="random, pymdp, or entries of --config")
    parser.add_argument("--config", default=str(CONFIG), help="hyperparameter file of the DAI agents")
    parser.add_argument("--world", choices=[*WORLDS], help="one with walls, instead of an open grid")
    parser.add_argument("--shape", type=int, nargs=2, default=(7, 7), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--walls", nargs="*", default=[], metavar="ROW,COLUMN")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50, help="steps in a block")
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-119")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    walls = [[int(number) for number in wall.split(",")] for wall in args.walls]
    world = dict(shape=[*args.shape], start=[n // 2 for n in args.shape], walls=walls)
    if args.world is not None:
        world = drawn(WORLDS[args.world])
    if "pymdp" in args.agents:
        pymdp_world(json.dumps(world))  # Is it installed?
    seeds = seeds_of(args.seeds)
    tasks = [(agent, world, args.blocks, args.steps, seed, args.config) for agent in args.agents for seed in seeds]
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    known = [(result["agent"], result["world"], result["seed"]) for result in results]
    tasks = [task for task in tasks if (task[0], world, task[4]) not in known]
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(delayed(run)(*task) for task in tasks):
        results.append({**result, **origin})
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        ends = [{name: result[name][-1] for name in ("divergence", "accuracy", "coverage", "visits_std")}
                for result in results if result["agent"] == agent]  # fmt: skip
        means = {name: np.mean([end[name] for end in ends]) for name in ends[0]}
        spread = np.std([end["divergence"] for end in ends])
        print(
            f"{agent:14s} {len(ends)} seeds: divergence {means['divergence']:.4f} +- {spread:.4f} nats a pair, "
            f"right {means['accuracy']:.1%}, tried {means['coverage']:.1%}, visits' deviation {means['visits_std']:.2f}"
        )


if __name__ == "__main__":
    # By its name: joblib cannot send what is cached in __main__ to other processes
    import grid_world

    grid_world.main()
