"""
Agents with exact beliefs in small worlds whose states are hidden, beside the optimum over beliefs.

    python scripts/hidden_worlds.py --agents tmaze-given tmaze-A tmaze-AB --seeds 100-109 --out docs/results/hidden_worlds.json

Each agent is an entry of --config: the world (``env``), what is known of it (``given``: of the true A, B and D), and
hyperparameters of a DAI. The results hold each training episode's return, length and success (for the T-maze, of reading the
cue first and then entering the right arm), the same of deterministic episodes of the trained agent, and the optimal expected
return.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from joblib import Parallel, delayed
from provenance import finished, provenance
from stable_baselines3.common.callbacks import BaseCallback

import sb3_dai.envs
from sb3_dai import DAI
from sb3_dai.saving import write_json
from sb3_dai.zoo import evaluated

CONFIG = Path(__file__).with_suffix(".yml")
CUE = 3
"""The T-maze's action that leads to the cue."""


class Episodes(BaseCallback):
    """Note how each training episode went."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.successes: list[bool] = []
        self.rewards: list[float] = []
        self.first_action = -1

    def _on_step(self) -> bool:
        if not self.rewards:
            self.first_action = int(np.ravel(self.locals["actions"])[0])
        self.rewards.append(float(self.locals["rewards"][0]))
        if self.locals["dones"][0]:
            self.returns.append(round(sum(self.rewards), 4))
            self.lengths.append(len(self.rewards))
            self.successes.append(succeeded(self.training_env.envs[0].unwrapped, self.locals["infos"][0], self.first_action))  # type: ignore[attr-defined]
            self.rewards = []
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


def evaluate(model: DAI, env: gym.Env, n_episodes: int, first_seed: int) -> dict[str, list[Any]]:
    """
    :param model: trained
    :param env: the world
    :param n_episodes: number of deterministic episodes
    :param first_seed: of them
    :return: return, length and success of each
    """
    found: dict[str, list[Any]] = {"returns": [], "lengths": [], "successes": []}
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=first_seed + episode)
        state, first, total, length, done = None, -1, 0.0, 0, False
        while not done:
            action, state = model.predict(obs, state, deterministic=True)
            obs, reward, terminated, truncated, info = env.step(int(action))
            first = int(action) if length == 0 else first
            total, length, done = total + float(reward), length + 1, terminated or truncated
        found["returns"].append(round(total, 4))
        found["lengths"].append(length)
        found["successes"].append(succeeded(env.unwrapped, info, first))
    return found


def optimum(env: gym.Env, n_episodes: int, first_seed: int) -> dict[str, Any]:
    """
    :param env: the world, with its time limit
    :param n_episodes: number of episodes
    :param first_seed: of them
    :return: the highest expected return of an episode, and the returns of the best policy in the same episodes
    """
    world: Any = env.unwrapped
    assert env.spec is not None and env.spec.max_episode_steps is not None
    plan = sb3_dai.envs.plan_over_beliefs(
        world.transition_matrix, world.observation_matrix, world.initial_distribution, world.reward_matrix,
        env.spec.max_episode_steps, world.termination_matrix,
    )  # fmt: skip
    returns = []
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=first_seed + episode)
        belief, t, total, done = plan.first_belief(obs), 0, 0.0, False
        while not done:
            action = plan.action(belief, t)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, t, done = total + float(reward), t + 1, terminated or truncated
            belief = belief if done else plan.next_belief(belief, action, obs)
        returns.append(round(total, 4))
    return {"expected": round(plan.optimal_return, 4), "returns": returns}


def run(agent: str, entry: dict[str, Any], seed: int, n_episodes: int) -> dict[str, Any]:
    """
    :param agent: name of the entry
    :param entry: of the hyperparameter file
    :param seed: of the run
    :param n_episodes: number of deterministic episodes at the end
    :return: the raw results
    """
    th.set_num_threads(1)
    params = evaluated(dict(entry))
    env_id, given, steps = (params.pop(name) for name in ("env", "given", "n_timesteps"))
    env = gym.make(env_id)
    tables, kwargs = truth(env.unwrapped, given), params.pop("policy_kwargs")
    kwargs = {"n_hidden_states": env.unwrapped.n_states, **tables, **kwargs}  # type: ignore[attr-defined]
    episodes, start = Episodes(), time.perf_counter()
    model = DAI("HiddenStatesPolicy", env, policy_kwargs=kwargs, seed=seed, **params).learn(steps, callback=episodes)
    seconds = time.perf_counter() - start
    return {
        "agent": agent, "env": env_id, "steps": steps, "seed": seed, "seconds": round(seconds, 1), "params": entry,
        "returns": episodes.returns, "lengths": episodes.lengths, "successes": episodes.successes,
        "final": evaluate(model, gym.make(env_id), n_episodes, 1_000_000 * (seed + 1)),
        "optimum": optimum(gym.make(env_id), n_episodes, 1_000_000 * (seed + 1)),
    }  # fmt: skip


def solved_at(successes: list[bool], window: int = 100, share: float = 0.95) -> float:
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
    parser.add_argument("--episodes", type=int, default=20, help="deterministic episodes at the end")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    entries = yaml.safe_load(Path(args.config).read_text())
    unknown = [agent for agent in args.agents if agent not in entries]
    if unknown:
        raise SystemExit(f"--agents {' '.join(unknown)}: choose from {', '.join(entries)}")
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    done = [(result["agent"], result["seed"]) for result in results]
    tasks = [(agent, entries[agent], seed, args.episodes) for agent in args.agents for seed in seeds]
    tasks = [task for task in tasks if (task[0], task[2]) not in done]
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(delayed(run)(*task) for task in tasks):
        results.append({**result, **origin})
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        chosen = [result for result in results if result["agent"] == agent]
        returns = [np.mean(result["final"]["returns"]) for result in chosen]
        share = [np.mean(result["final"]["successes"]) for result in chosen]
        last_100 = [np.mean(result["successes"][-100:]) for result in chosen]
        at = [solved_at(result["successes"]) for result in chosen]
        best = [np.mean(result["optimum"]["returns"]) for result in chosen]
        lengths = np.mean([np.mean(result["final"]["lengths"]) for result in chosen])
        print(
            f"{agent:16s} {len(chosen)} seeds: return {np.mean(returns):.3f} (worst {min(returns):.3f}), optimum "
            f"{chosen[0]['optimum']['expected']:.3f}, in the same episodes {np.mean(best):.3f}; success {np.mean(share):.3f} "
            f"(worst {min(share):.2f}), {lengths:.2f} steps; in training: last 100 {np.mean(last_100):.3f} (worst "
            f"{min(last_100):.2f}), 95 of 100 after {np.median(at):.0f} episodes (worst {max(at):.0f})"
        )


if __name__ == "__main__":
    main()
