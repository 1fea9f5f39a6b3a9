"""
Agents with exact beliefs in small worlds whose states are hidden, beside the optimum over beliefs.

    python scripts/hidden_worlds.py --agents tmaze-given tmaze-A tmaze-AB --seeds 120-129 --out docs/results/hidden_worlds.json

Each agent is an entry of --config: the world (``env``), what is known of it (``given``: of the true A, B and D), and
hyperparameters of a DAI; or ``policy`` and ``frames``, the number of observations that it sees at once. The results hold each
training episode's return, length and success (for the T-maze, of reading the cue first and then entering the right arm), and
what is expected of deterministic episodes of the trained agent, and of the best policy over beliefs.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from expected import expected_outcome
from gymnasium.wrappers import FrameStackObservation
from joblib import Parallel, delayed
from provenance import finished, provenance
from runs import resolved_hyperparameters
from seeds import seeds_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_dai.envs
from sb3_dai import DAI
from sb3_dai.saving import write_json
from sb3_dai.zoo import evaluated

CONFIG = Path(__file__).with_suffix(".yml")
CUE = 3
"""The T-maze's action that leads to the cue."""


class Episodes(BaseCallback):
    """Note how each training episode went, in the order in which they ended."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.successes: list[int] = []

    def _on_training_start(self) -> None:
        self.rewards: list[list[float]] = [[] for _ in range(self.training_env.num_envs)]
        self.first_actions = [-1] * self.training_env.num_envs

    def _on_step(self) -> bool:
        for i, rewards in enumerate(self.rewards):
            if not rewards:
                self.first_actions[i] = int(np.ravel(self.locals["actions"][i])[0])
            rewards.append(float(self.locals["rewards"][i]))
            if self.locals["dones"][i]:
                self.returns.append(round(sum(rewards), 4))
                self.lengths.append(len(rewards))
                world = self.training_env.envs[i].unwrapped  # type: ignore[attr-defined]
                self.successes.append(int(succeeded(world, self.locals["infos"][i], self.first_actions[i])))
                self.rewards[i] = []
        return True


def succeeded(env: Any, info: dict[str, Any], first_action: int) -> bool:
    """
    :param env: the world
    :param info: of the last step
    :param first_action: of the episode
    :return: whether the world says so, and in the T-maze whether the cue was read first
    """
    return bool(info.get("is_success")) and (first_action == CUE or not isinstance(env, sb3_dai.envs.TMaze))


def truth(env: Any, given: str) -> dict[str, Any]:
    """
    :param env: the world
    :param given: letters of what is known of it
    :return: these tables by their names
    """
    tables = dict(A=env.observation_matrix, B=env.transition_matrix, D=env.initial_distribution)
    return {name: tables[name] for name in given}


def evaluate(model: DAI, env: gym.Env, frames: int) -> dict[str, float]:
    """
    :param model: trained
    :param env: the world, with its time limit
    :param frames: number of observations that it sees at once
    :return: expected return, length and success of its deterministic episodes
    """
    assert env.spec is not None and env.spec.max_episode_steps is not None
    world: Any = env.unwrapped
    first_action = CUE if isinstance(world, sb3_dai.envs.TMaze) else None

    def act(observations: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        if frames == 1:
            return model.predict(observations, state, deterministic=True)
        before = np.repeat(observations[:, None], frames, axis=1) if state is None else state[0]
        seen = np.concatenate([before[:, 1:], observations[:, None]], axis=1)
        return model.predict(seen, deterministic=True)[0], (seen,)

    return vars(expected_outcome(act, world, env.spec.max_episode_steps, first_action))


def optimum(env: gym.Env) -> dict[str, float]:
    """
    :param env: the world, with its time limit
    :return: what comes of the best policy over beliefs, of equally good ones the fastest
    """
    world: Any = env.unwrapped
    assert env.spec is not None and env.spec.max_episode_steps is not None
    horizon = env.spec.max_episode_steps
    plan = sb3_dai.envs.plan_over_beliefs(
        world.transition_matrix, world.observation_matrix, world.initial_distribution, world.reward_matrix, horizon,
        world.termination_matrix, discount=1.0 - 1e-6,
    )  # fmt: skip

    def act(observations: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Remembers the belief, the action taken, and how many steps there were."""
        if state is None:
            beliefs, t = [plan.first_belief(seen) for seen in observations], 0
        else:
            before, actions, steps = state
            t = int(steps[0, 0])
            beliefs = [plan.next_belief(*past) for past in zip(before, actions[:, 0].astype(int), observations, strict=True)]
        chosen = np.array([plan.action(belief, t) for belief in beliefs])
        return chosen, (np.array(beliefs), chosen[:, None], np.full((len(chosen), 1), t + 1))

    return vars(expected_outcome(act, world, horizon))


def run(agent: str, entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """
    :param agent: name of the entry
    :param entry: of the hyperparameter file
    :param seed: of the run
    :return: the raw results
    """
    th.set_num_threads(1)
    params = {"policy": "HiddenStatesPolicy", "frames": 1, "env_kwargs": {}, **evaluated(dict(entry))}
    env_id, steps, n_envs, frames, env_kwargs = (
        params.pop(name) for name in ("env", "n_timesteps", "n_envs", "frames", "env_kwargs")
    )
    env = gym.make(env_id, **env_kwargs)
    if params["policy"] == "HiddenStatesPolicy":
        tables, kwargs = truth(env.unwrapped, params.pop("given")), params.pop("policy_kwargs")
        params["policy_kwargs"] = {"n_hidden_states": env.unwrapped.n_states, **tables, **kwargs}  # type: ignore[attr-defined]
    stacks = dict(wrapper_class=FrameStackObservation, wrapper_kwargs=dict(stack_size=frames)) if frames > 1 else {}
    envs = make_vec_env(env_id, n_envs, env_kwargs=env_kwargs, **stacks)
    episodes, start = Episodes(), time.process_time()
    model = DAI(env=envs, seed=seed, **params).learn(steps, callback=episodes)
    seconds = time.process_time() - start
    return {
        "agent": agent, "env": env_id, "steps": steps, "seed": seed, "processor_seconds": round(seconds, 1), "params": entry,
        "hyperparameters": resolved_hyperparameters(model),
        "returns": episodes.returns, "lengths": episodes.lengths, "successes": episodes.successes,
        "final": evaluate(model, env, frames), "optimum": optimum(env),
    }  # fmt: skip


def solved_at(successes: list[int], window: int = 100, share: float = 0.95) -> float:
    """
    :param successes: of the training episodes
    :param window: number of episodes
    :param share: of them
    :return: number of episodes after which so many of the last ones had succeeded for the first time; infinite if never
    """
    sums = np.convolve(successes, np.ones(window), "valid") if len(successes) >= window else np.zeros(0)
    reached = np.flatnonzero(sums >= share * window)
    return float(reached[0] + window) if len(reached) else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", required=True, help="entries of --config")
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-109")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    entries = yaml.safe_load(Path(args.config).read_text())
    unknown = [agent for agent in args.agents if agent not in entries]
    if unknown:
        raise SystemExit(f"--agents {' '.join(unknown)}: choose from {', '.join(entries)}")
    seeds = seeds_of(args.seeds)
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    done = [(result["agent"], result["seed"]) for result in results]
    tasks = [(agent, entries[agent], seed) for agent in args.agents for seed in seeds]
    tasks = [task for task in tasks if (task[0], task[2]) not in done]
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(delayed(run)(*task) for task in tasks):
        results.append({**result, **origin})
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        chosen = [result for result in results if result["agent"] == agent]
        totals, shares, lengths = (
            np.array([result["final"][name] for result in chosen]) for name in ("total", "success", "length")
        )
        last_100 = [np.mean(result["successes"][-100:]) for result in chosen]
        at = [solved_at(result["successes"]) for result in chosen]
        best = chosen[0]["optimum"]
        seconds = np.mean([result["processor_seconds"] for result in chosen])
        n_episodes = min(len(result["successes"]) for result in chosen)
        print(
            f"{agent:16s} {len(chosen)} seeds, {n_episodes} episodes, {seconds:.0f} s: return {totals.mean():.3f} (worst "
            f"{totals.min():.3f}, best policy {best['total']:.3f}), success {shares.mean():.3f} (worst {shares.min():.3f}), "
            f"{lengths.mean():.2f} steps (most {lengths.max():.2f}, best policy {best['length']:.2f}); in training: last 100 "
            f"{np.mean(last_100):.3f} (worst {min(last_100):.2f}), 95 of 100 after {np.median(at):.0f} episodes (worst "
            f"{max(at):.0f})"
        )


if __name__ == "__main__":
    main()
