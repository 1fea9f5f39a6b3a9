"""
What agents learn of a grid whose states are hidden: the second half of pymdp's notebook.

The observation is the number of the cell, but the agents do not know that: they have to learn the likelihood A, or A and the
transition matrix B. Each takes blocks of 50 steps from the middle of the grid, without reward. After each block a JSON file
gets the divergence of the Dirichlet counts of A from 10^4 times the true ones (nats, mean over states), and the mean log of
the probability of the next observation on random walks.

    python scripts/hidden_states.py --agents exact random pymdp --case A --blocks 20 --seeds 100-119 --out x.json
    python scripts/hidden_states.py --agents exact pymdp --case A-anywhere --blocks 20 --seeds 100-119 --out x.json

Cases: ``A`` knows B and where a block starts, ``A-anywhere`` knows B alone, ``AB`` knows nothing. ``A-labels`` knows where a
block starts, and B but for which action is which. ``AB-labels`` knows where a block starts and
which cells are neighbours, as in pymdp's notebook.

Agents: ``exact`` has exact beliefs, acts for information, and learns from all blocks by smoothing after each; ``online``
learns while it acts alone; ``random`` learns as ``exact`` but acts at random; ``pymdp`` is the notebook's agent
(``pip install -e '.[zoo,pymdp]'``).
"""

import argparse
import inspect
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from joblib import Parallel, delayed
from provenance import finished, provenance
from runs import in_json
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma, gammaln
from seeds import seeds_of

from sb3_dai.envs import GridWorld
from sb3_dai.equations.point_values import state_values
from sb3_dai.saving import write_json
from sb3_dai.world_model.hidden_states import Episodes, HiddenStateModel

CASES = ("A", "A-anywhere", "A-labels", "AB", "AB-labels")
PAIRINGS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2))
"""What actions 0 to 3 may do: up, right, down and left as they are, or with two of them exchanged. Every other order is one of
these in a grid that is turned or mirrored, which nobody can tell whose cells have no names."""
DISCOUNT = 0.9
N_SWEEPS = 12
"""Of value iteration in each step, beginning with the values of the step before."""
PYMDP: dict[str, Any] = dict(
    policy_len=3, use_utility=False, use_states_info_gain=True, use_param_info_gain=True, action_selection="stochastic",
    inference_algo="exact", num_iter=1, learn_A=True, learning_mode="offline", gamma=1.0, alpha=0.8, batch_size=1,
)  # fmt: skip
"""Settings of the notebook's agents."""


class Known(NamedTuple):
    """What an agent knows of the world, in the names of :class:`HiddenStateModel`."""

    tables: dict[str, Any]
    assignment: str


class Tables(NamedTuple):
    """What an agent believes after a block."""

    counts_of_A: np.ndarray
    """Dirichlet counts, shape (n_outcomes, n_states)."""
    B: np.ndarray
    """Probabilities, shape (n_states, n_states, n_actions)."""
    D: np.ndarray
    """Probabilities, shape (n_states,)."""


def known(case: str, env: GridWorld) -> Known:
    """
    :param case: one of CASES
    :param env: the world
    :return: what its agents know
    """
    B, n_states = env.transition_matrix, env.n_states
    start, anywhere = np.eye(n_states)[env.start], np.full(n_states, 1.0 / n_states)
    if case == "A":
        return Known(dict(B=B, D=start), "soft")
    if case == "A-anywhere":
        return Known(dict(B=B, D=anywhere), "soft")
    if case == "A-labels":
        # Which of the three it is, is one more hidden factor of the state, which never changes
        blocks = np.zeros((3, n_states, 3, n_states, env.n_actions))
        for i, order in enumerate(PAIRINGS):
            blocks[i, :, i] = B[:, :, order]
        kwargs = dict(n_hidden_states=(3, n_states), A_dependencies=[[1]], pD=np.tile(start, 3) / 3 + 1e-9)
        return Known(dict(B=blocks.reshape(3 * n_states, 3 * n_states, -1), **kwargs), "soft")
    if case == "AB":
        return Known({}, "hard")
    # As in the notebook: one count for each cell that some action leads to
    neighbours = np.clip(B.sum(axis=2, keepdims=True), None, 1.0) + np.full(B.shape, 1.0 / n_states)
    return Known(dict(pB=neighbours, D=start), "hard")


def bound_model(case: str, env: GridWorld) -> inspect.BoundArguments:
    """
    :param case: what is known of the world
    :param env: the world
    :return: arguments of :class:`HiddenStateModel`, defaults included
    """
    tables, assignment = known(case, env)
    tables = {"n_hidden_states": env.n_states, **tables}
    bound = inspect.signature(HiddenStateModel).bind(
        n_outcomes=[env.n_states], n_actions=env.n_actions, **tables, assignment=assignment
    )
    bound.apply_defaults()
    return bound


def exact_agent(
    env: GridWorld, case: str, blocks: int, steps: int, seed: int, acts: bool = True, remembers: bool = True
) -> Iterator[Tables]:
    """
    :param env: the world
    :param case: what is known of it
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :param acts: whether actions are chosen for information, instead of at random
    :param remembers: whether all blocks are learned from again, by smoothing, after each
    :return: what is believed after each block
    """
    th.manual_seed(seed)
    model = HiddenStateModel(**bound_model(case, env).arguments)
    values: th.Tensor | None = None
    seen, done = [], []
    for block in range(blocks):
        state, _ = env.reset(seed=seed if block == 0 else None)
        outcome = th.tensor([[state]])
        belief, _ = model.infer(model.initial_states().unsqueeze(0), outcome)
        model.count_first(belief, outcome)
        seen.append([state])
        done.append([])
        for _ in range(steps):
            if acts:
                values = state_values(model.gains_of_seen_states(), model.transition(), DISCOUNT, N_SWEEPS, values)
                worth = model.information_gains(belief).total() + DISCOUNT * (model.predict_states(belief) @ values)
                action = int((worth + 1e-6 * th.rand_like(worth)).argmax())
            else:
                action = int(th.randint(env.n_actions, ()))
            state = env.step(action)[0]
            outcome, taken = th.tensor([[state]]), th.tensor([action])
            next_belief, _ = model.infer(model.predict_states(belief)[:, action], outcome)
            model.count(belief, taken, next_belief, outcome)
            belief = next_belief
            seen[-1].append(state)
            done[-1].append(action)
        if remembers:
            outcomes = th.tensor(seen).unsqueeze(2)
            model.learn(Episodes(outcomes, th.tensor(done), th.ones(outcomes.shape[:2], dtype=th.bool)))
        arrays = model.counts_of_A()[0], model.transition(), model.initial_states()
        if case == "A-labels":
            arrays = of_most_probable_labels(*arrays, env.n_states)
        yield Tables(*(array.double().numpy().copy() for array in arrays))


def of_most_probable_labels(A: th.Tensor, B: th.Tensor, D: th.Tensor, n_cells: int) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    :param A: counts, shape (n_outcomes, 3 * n_cells)
    :param B: probabilities, shape (3 * n_cells, 3 * n_cells, n_actions)
    :param D: likewise, shape (3 * n_cells,)
    :param n_cells: number of cells
    :return: the same of the cells, for the labels of the actions that D holds most probable
    """
    by_labels = D.unflatten(0, (-1, n_cells))
    best = int(by_labels.sum(dim=1).argmax())
    cells = slice(best * n_cells, (best + 1) * n_cells)
    return A[:, cells], B[cells, cells], by_labels[best] / by_labels[best].sum()


@lru_cache(maxsize=1)
def pymdp_world() -> Any:
    """
    :return: the notebook's environment; one object, so that JAX compiles it once
    """
    try:
        from pymdp.envs import GridWorld as PymdpGridWorld
    except ImportError as error:
        raise SystemExit(f"--agents pymdp: {error}. Install it with: pip install -e '.[zoo,pymdp]'") from error
    return PymdpGridWorld(shape=(7, 7), initial_position=(3, 3), include_stay=False)


def pymdp_agent(case: str, env: GridWorld, blocks: int, steps: int, seed: int) -> Iterator[Tables]:
    """
    The notebook's agents, with the action precision (alpha) that learns best there.

    :param case: what is known of the world
    :param env: the world, the same as pymdp's
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :return: what is believed after each block
    """
    world = pymdp_world()
    from jax import jit, vmap
    from jax import numpy as jnp
    from jax import random as jr
    from pymdp.agent import Agent
    from pymdp.envs import rollout

    n = env.n_states
    tables = known(case, env).tables
    learns_B = "B" not in tables
    flat = np.full(env.transition_matrix.shape, 1.0 / n)
    pB = tables.get("pB", flat) if learns_B else None
    B = tables["B"] if pB is None else pB / pB.sum(axis=0)
    D = tables.get("D", np.full(n, 1.0 / n))
    pA = jnp.full((n, n), 1.0 / n)
    agent = Agent(
        [pA], [jnp.asarray(B)], [jnp.zeros(n)], [jnp.asarray(D)], pA=[pA], pB=[jnp.asarray(pB)] if learns_B else None,
        learn_B=learns_B, **PYMDP,
    )  # fmt: skip
    for key in jr.split(jr.PRNGKey(seed), blocks):
        reset_key, key = jr.split(key)
        observation, state = vmap(world.reset)(reset_key[None])
        first = {"observation": observation, "env_state": state}
        agent = jit(rollout, static_argnums=(1, 2))(agent, world, steps, key, initial_carry=first)[0]["agent"]
        learned_B = np.asarray(agent.pB[0][0], dtype=np.float64) if learns_B else np.array(B)
        yield Tables(np.asarray(agent.pA[0][0], dtype=np.float64), learned_B / learned_B.sum(axis=0), D)


def dirichlet_divergence(counts: np.ndarray, true: np.ndarray) -> float:
    """
    ``KL[ Dir(counts) || Dir(true) ]`` of each state, as the notebook has it.

    :param counts: Dirichlet counts, shape (n_outcomes, n_states)
    :param true: counts of the truth, same shape
    :return: mean over states, in nats
    """
    total = counts.sum(axis=0)
    terms = gammaln(true) - gammaln(counts) + (counts - true) * (digamma(counts) - digamma(total))
    return float((gammaln(total) - gammaln(true.sum(axis=0)) + terms.sum(axis=0)).mean())


def predictive_log_likelihood(found: Tables, env: GridWorld, n_walks: int = 10, length: int = 50) -> float:
    """
    :param found: what is believed
    :param env: the world, in which the true model would be right with certainty
    :param n_walks: number of random walks, the same ones for every agent
    :param length: of each
    :return: mean log p(next observation | observations and actions so far), in nats
    """
    rng = np.random.default_rng(12345)
    A = found.counts_of_A / found.counts_of_A.sum(axis=0)
    logs = []
    for _ in range(n_walks):
        state, _ = env.reset()
        belief = found.D * A[state]
        for action in rng.integers(env.n_actions, size=length):
            state = env.step(action)[0]
            joint = A[state] * (found.B[:, :, action] @ (belief / belief.sum()))
            logs.append(np.log(joint.sum()))
            belief = joint
    return float(np.mean(logs))


def run(agent: str, case: str, blocks: int, steps: int, seed: int) -> dict[str, Any]:
    """
    :param agent: exact, online, random or pymdp
    :param case: what is known of the world
    :param blocks: number of blocks
    :param steps: in each of them
    :param seed: of the run
    :return: the raw results, a list of one number a block for each measure
    """
    th.set_num_threads(1)
    env = GridWorld()
    true = 1e4 * np.eye(env.n_states) + 1e-4
    start = time.perf_counter()
    if agent == "pymdp":
        found = pymdp_agent(case, env, blocks, steps, seed)
    else:
        found = exact_agent(env, case, blocks, steps, seed, acts=agent != "random", remembers=agent != "online")
    divergence, predictive = [], []
    for tables in found:
        counts = tables.counts_of_A
        if case not in ("A", "A-anywhere"):  # The states have no names: those under which A is most like the truth
            counts = counts[:, linear_sum_assignment(counts, maximize=True)[1]]
        divergence.append(round(dirichlet_divergence(counts, true), 2))
        predictive.append(round(predictive_log_likelihood(tables, GridWorld()), 5))
    return {
        "agent": agent, "case": case, "steps": blocks * steps, "seed": seed, "seconds": round(time.perf_counter() - start, 2),
        "divergence": divergence, "predictive": predictive, "hyperparameters": hyperparameters(agent, case, blocks, steps),
    }  # fmt: skip


def hyperparameters(agent: str, case: str, blocks: int, steps: int) -> dict[str, Any]:
    """
    :param agent: exact, online, random or pymdp
    :param case: what is known of the world
    :param blocks: number of blocks
    :param steps: in each of them
    :return: all that it was made with, ready for JSON
    """
    env = GridWorld()
    schedule = {"blocks": blocks, "steps": steps}
    if agent == "pymdp":
        return in_json({**schedule, **PYMDP, **known(case, env).tables})
    plan = {} if agent == "random" else {"discount": DISCOUNT, "value_sweeps": N_SWEEPS}
    given = bound_model(case, env).arguments
    return in_json({**schedule, **plan, "smooths_all_blocks": agent != "online", **given})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", required=True, choices=("exact", "online", "random", "pymdp"))
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50, help="steps in a block")
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-119")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    if "pymdp" in args.agents:
        if args.case == "A-labels":
            raise SystemExit("--agents pymdp: it is given a state of one factor, choose another --case than A-labels")
        pymdp_world()  # Is it installed?
    seeds = seeds_of(args.seeds)
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    done = [(result["agent"], result["case"], result["steps"], result["seed"]) for result in results]
    tasks = [(agent, args.case, args.blocks, args.steps, seed) for agent in args.agents for seed in seeds]
    tasks = [task for task in tasks if (task[0], task[1], task[2] * task[3], task[4]) not in done]
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(delayed(run)(*task) for task in tasks):
        results.append({**result, **origin})
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        chosen = [r for r in results if (r["agent"], r["case"], r["steps"]) == (agent, args.case, args.blocks * args.steps)]
        divergence = [result["divergence"][-1] for result in chosen]
        predictive = [result["predictive"][-1] for result in chosen]
        print(
            f"{agent:8s} {args.case:10s} {len(chosen)} seeds: divergence of A {np.mean(divergence):,.0f} nats, "
            f"worst {max(divergence):,.0f}; log-likelihood {np.mean(predictive):.4f}, worst {min(predictive):.4f}"
        )


if __name__ == "__main__":
    # By its name: joblib cannot send what is cached in __main__ to other processes
    import hidden_states

    hidden_states.main()
