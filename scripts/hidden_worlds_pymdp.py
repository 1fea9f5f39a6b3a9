"""
pymdp's agents in the small worlds of scripts/hidden_worlds.py, whose states are hidden: how their trials go.

    python scripts/hidden_worlds_pymdp.py --agents tmaze-given tmaze-A --seeds 140-149 --out pymdp.json

The state is one factor and inference is exact. pymdp has no reward: outcomes are preferred by log-probabilities. Where A is
known, the likeliest action is taken. Where A is learned, actions are sampled (on seeds 0 and 1 that was better), A is
learned from the posterior of each whole trial, and the first counts are random: from even ones an agent can never tell two
states apart.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from hidden_worlds import solved_at, succeeded
from jax import numpy as jnp
from jax import random as jr
from provenance import finished, provenance
from pymdp.agent import Agent
from runs import in_json
from seeds import seeds_of

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai.saving import write_json

AGENTS: dict[str, dict[str, Any]] = {
    "tmaze-given": dict(env="sb3_dai/TMaze-v0", outcome=1, given="ABD", trials=300, policy_len=2),
    "tmaze-A": dict(env="sb3_dai/TMaze-v0", outcome=1, given="BD", trials=1000, policy_len=2),
    "cue-given": dict(
        env="sb3_dai/CueChaining-v0", env_kwargs={"start": [1, 0]}, outcome=3, given="ABD", trials=30, policy_len=4
    ),
}
"""Worlds, which modality has their outcome, what is known, number of trials, and steps of a plan."""
PREFERENCES = dict(none=0.0, reward=2.0, punishment=-4.0)
"""Log-probabilities, up to a constant, of the outcomes of both worlds. A punishment is worse than a reward is good: else an
agent whose plans do not depend on what it will see is as content to guess."""
PYMDP: dict[str, Any] = dict(
    use_utility=True, use_states_info_gain=True, inference_algo="exact", num_iter=1, learning_mode="offline", batch_size=1,
    gamma=1.0, alpha=1.0,
)  # fmt: skip
"""Settings that all of them share."""


def agent_of(world: Any, setting: dict[str, Any], seed: int) -> Agent:
    """
    :param world: a T-maze or a chain of cues
    :param setting: one of AGENTS
    :param seed: of the first counts of A
    :return: pymdp's agent
    """
    A, B, D = world.observation_matrix, world.transition_matrix, world.initial_distribution
    is_given = "A" in setting["given"]
    rng = np.random.default_rng(seed)
    pA = None if is_given else [rng.uniform(0.5, 1.5, matrix.shape) / len(matrix) for matrix in A]
    C = [np.zeros(len(matrix)) for matrix in A]
    C[setting["outcome"]] = np.array([*PREFERENCES.values()])
    likelihood = A if pA is None else [counts / counts.sum(axis=0) for counts in pA]
    selection = "deterministic" if is_given else "stochastic"
    return Agent(
        [jnp.asarray(matrix) for matrix in likelihood], [jnp.asarray(B)], [jnp.asarray(vector) for vector in C],
        [jnp.asarray(D)], pA=None if pA is None else [jnp.asarray(counts) for counts in pA],
        policy_len=setting["policy_len"], use_param_info_gain=not is_given, learn_A=not is_given,
        action_selection=selection, **PYMDP,
    )  # fmt: skip


@jax.jit
def decide(agent: Agent, observation: list[Any], prior: list[Any], key: Any) -> tuple[list[Any], Any, list[Any]]:
    """
    :param agent: of a batch of one
    :param observation: of each modality, shape (1, 1)
    :param prior: of the state before it, shape (1, n_states)
    :param key: to sample the action with
    :return: the belief, shape (1, 1, n_states), the action, shape (1, 1), and the prior of the next step
    """
    belief = agent.infer_states(observation, prior)
    action = agent.sample_action(agent.infer_policies(belief)[0], key[None])
    return belief, action, agent.update_empirical_prior(action, belief)


@jax.jit
def learn(agent: Agent, beliefs: list[Any], observations: list[Any], actions: Any) -> Agent:
    """
    :param agent: that learns A
    :param beliefs: of a trial, shape (1, n_steps + 1, n_states)
    :param observations: of each modality, shape (1, n_steps + 1)
    :param actions: shape (1, n_steps, 1)
    :return: the agent afterwards
    """
    return agent.infer_parameters(beliefs, observations, actions)


def run(agent: str, seed: int) -> dict[str, Any]:
    """
    :param agent: one of AGENTS
    :param seed: of the run
    :return: return, length and success of each trial
    """
    setting = AGENTS[agent]
    env = gym.make(setting["env"], **setting.get("env_kwargs", {}))
    model, start = agent_of(env.unwrapped, setting, seed), time.process_time()
    returns, lengths, successes, key = [], [], [], jr.PRNGKey(seed)
    for trial in range(setting["trials"]):
        seen, _ = env.reset(seed=seed if trial == 0 else None)
        total, first_action, is_over, info = 0.0, -1, False, dict[str, Any]()
        beliefs, observations, actions, prior = [], [], [], model.D
        while not is_over:
            observation = [jnp.full((1, 1), outcome) for outcome in seen]
            key, now = jr.split(key)
            belief, action, prior = decide(model, observation, prior, now)
            beliefs.append(belief[0])
            observations.append(observation)
            actions.append(action)
            first_action = int(action[0, 0]) if first_action < 0 else first_action
            seen, reward, terminated, truncated, info = env.step(int(action[0, 0]))
            total, is_over = total + float(reward), terminated or truncated
        if model.learn_A:
            last = [jnp.full((1, 1), outcome) for outcome in seen]
            beliefs.append(decide(model, last, prior, key)[0][0])
            observations.append(last)
            stacked = [jnp.concatenate(of_modality, axis=1) for of_modality in zip(*observations, strict=True)]
            model = learn(model, [jnp.concatenate(beliefs, axis=1)], stacked, jnp.stack(actions, axis=1))
        returns.append(round(total, 4))
        lengths.append(len(actions))
        successes.append(int(succeeded(env.unwrapped, info, first_action)))
    return {
        "agent": f"pymdp, {agent}", "env": setting["env"], "steps": sum(lengths), "seed": seed,
        "processor_seconds": round(time.process_time() - start, 1), "params": setting,
        "hyperparameters": in_json({**setting, **PYMDP, "C": [*PREFERENCES.values()]}),
        "returns": returns, "lengths": lengths, "successes": successes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", required=True, choices=AGENTS)
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-109")
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    seeds = seeds_of(args.seeds)
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    done = [(result["agent"], result["seed"]) for result in results]
    for agent in args.agents:
        for seed in seeds:
            if (f"pymdp, {agent}", seed) not in done:
                results.append({**run(agent, seed), **origin})
                write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has
        chosen = [result for result in results if result["agent"] == f"pymdp, {agent}"]
        last_100 = [np.mean(result["successes"][-100:]) for result in chosen]
        lengths = [np.mean(result["lengths"][-100:]) for result in chosen]
        at = [solved_at(result["successes"]) for result in chosen]
        print(
            f"{agent:12s} {len(chosen)} seeds: last 100 {np.mean(last_100):.3f} (worst {min(last_100):.2f}), "
            f"{np.mean(lengths):.2f} steps (most {max(lengths):.2f}), 95 of 100 after {np.median(at):.0f} trials (worst "
            f"{max(at):.0f})"
        )


if __name__ == "__main__":
    main()
