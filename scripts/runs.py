"""
One run: train an agent from a hyperparameter file through RL Zoo's experiment manager, and score its final checkpoint.

Peers get exactly the Zoo's wrappers, schedules and hyperparameters. scripts/evaluate.py makes runs in one environment,
scripts/benchmark.py those of a suite.
"""

import argparse
import contextlib
import inspect
import io
import json
import math
import pkgutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rl_zoo3
import torch as th
import yaml
from measures import Clock, measure_of, shorten, steps_to_threshold
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai.zoo import evaluated, hyperparams_file, hyperparams_module, other_version, register

PEERS = Path(__file__).parent / "peers.yml"


def find_entry(path: Path, algo: str, env_id: str) -> dict[str, Any] | None:
    """
    :param path: a hyperparameter file, with environments at its top or below the names of algorithms
    :param algo: the algorithm
    :param env_id: the environment
    :return: the entry of the environment, else of another version of it, else ``default`` for DAI, else None
    """
    entries = yaml.safe_load(path.read_text())
    entries = entries.get(algo, entries)
    if env_id in entries:
        return entries[env_id]
    # The Zoo's files lag behind: HalfCheetah-v5 gets the entry of HalfCheetah-v4
    version = other_version(env_id, entries)
    if version is not None:
        return entries[version]
    return entries.get("default") if algo == "dai" else None


def hyperparameters(agent: str, env_id: str) -> dict[str, Any]:
    """
    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :return: the entry of the hyperparameter file, whose expressions are texts
    :raises ValueError: if there is none
    """
    algo, _, conf = agent.partition(":")
    if conf == "default":
        return {"policy": "MlpPolicy", "n_timesteps": 1}
    if conf.endswith(".yml"):
        paths = [Path(conf)]
    elif algo == "dai":
        paths = [hyperparams_file(conf or "dai")]
    else:
        of_zoo = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
        paths = [*filter(Path.is_file, [of_zoo]), PEERS]
    for path in paths:
        entry = find_entry(path, algo, env_id)
        if entry is not None:
            return entry
    raise ValueError(f"no entry of {algo} for --env {env_id} in {' or '.join(map(str, paths))}")


def replace(entry: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """
    :param entry: of a hyperparameter file
    :param params: hyperparameters that replace those of the entry; ``policy_kwargs`` replaces only what it names
    :return: both together
    """
    merged = {**entry, **params}
    if "policy_kwargs" in entry and "policy_kwargs" in params:
        # The Zoo evaluates a string; files have one where they need a Python expression
        merged["policy_kwargs"] = f"{{**{entry['policy_kwargs']}, **{params['policy_kwargs']}}}"
    return merged


class Manager(ExperimentManager):
    """RL Zoo's, which also takes schedules that are objects."""

    def _preprocess_schedules(self, hyperparams: dict[str, Any]) -> dict[str, Any]:
        texts = {name: value for name, value in hyperparams.items() if not callable(value)}
        return {**hyperparams, **super()._preprocess_schedules(texts)}


class PeakMemory:
    """Largest resident set of this process since it was made, where Linux tells."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def megabytes(self) -> float | None:
        """
        :return: the peak in MiB, None where it is not known
        """
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return round(int(line.split()[1]) / 1024, 1)
        return None


def gradient_steps(model: BaseAlgorithm) -> int:
    """
    :param model: a trained agent
    :return: its gradient steps. SB3 counts the epochs of on-policy algorithms with several, such as PPO
    """
    n_updates = int(model._n_updates)  # type: ignore[attr-defined]
    if isinstance(model, OnPolicyAlgorithm) and hasattr(model, "n_epochs"):
        return n_updates * math.ceil(model.n_steps * model.n_envs / model.batch_size)  # type: ignore[attr-defined]
    return n_updates


def resolved_hyperparameters(model: BaseAlgorithm) -> dict[str, Any]:
    """
    :param model: an agent
    :return: what its constructor and that of its policy were given or had as default, nets included, ready for JSON
    """
    names = [*inspect.signature(type(model).__init__).parameters][1:]
    skipped = ("env", "tensorboard_log", "verbose", "device", "_init_setup_model", "renamed", "supported_action_spaces")
    values = {name: getattr(model, name) for name in names if hasattr(model, name) and name not in skipped}
    values["policy"] = type(model.policy).__name__
    given = model.policy._get_constructor_parameters()
    known = ("observation_space", "action_space", "lr_schedule")
    values["policy_parameters"] = {name: value for name, value in given.items() if name not in known}
    return in_json(values)


def in_json(values: Any) -> Any:
    """
    :param values: hyperparameters
    :return: the same as JSON has them; of what it cannot hold, a text
    """
    return json.loads(json.dumps(values, default=_text))


def _text(value: Any) -> str:
    """
    Arrays by their shape. Classes, functions and objects that only have an address by their name: an address differs from
    run to run.
    """
    if isinstance(value, (np.ndarray, th.Tensor)) and value.ndim > 0:
        return f"array of shape {tuple(value.shape)}"
    text = str(value)
    return getattr(value, "__qualname__", None) or (type(value).__qualname__ if " at 0x" in text else text)


def run(
    agent: str,
    env_id: str,
    steps: int,
    seed: int,
    *,
    entry: dict[str, Any] | None = None,
    n_eval_episodes: int = 20,
    params: dict[str, Any] | None = None,
    variant: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    register_envs: str | None = None,
    stop_when_solved: bool = False,
    max_points: int | None = None,
    threshold: float | None = None,
    solved: float | None = None,
    look_every: int = 500,
) -> dict[str, Any]:
    """
    Train one agent and score its final checkpoint.

    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :param steps: environment steps
    :param seed: seed of the run; the evaluation environment has another
    :param entry: hyperparameters, as in a file of the Zoo; by default those that ``agent`` names
    :param n_eval_episodes: deterministic episodes at the end
    :param params: hyperparameters that replace those of the entry
    :param variant: name of these parameters
    :param env_kwargs: arguments of the environment
    :param register_envs: function that registers environments, as ``module:function``
    :param stop_when_solved: whether to end the training once the world's measure calls it solved
    :param max_points: numbers of the training record to keep at most
    :param threshold: also note the environment steps to this mean of 20 trailing training returns
    :param solved: end the training at this mean of deterministic episodes, and note when that was
    :param look_every: environment steps between two looks for it
    :return: the raw results
    """
    register()
    if register_envs is not None:
        pkgutil.resolve_name(register_envs)()
    th.set_num_threads(1)
    algo = agent.partition(":")[0]
    peak = PeakMemory()
    with tempfile.TemporaryDirectory() as folder:
        entry = evaluated({"n_timesteps": steps, **replace(entry or hyperparameters(agent, env_id), params or {})})
        if str(entry.get("learning_rate")).startswith("LinearSchedule("):
            entry["learning_rate"] = eval(entry["learning_rate"], {"LinearSchedule": LinearSchedule})
        config = hyperparams_module("evaluated_hyperparams", {env_id: entry})
        with contextlib.redirect_stdout(io.StringIO()):
            manager = Manager(
                argparse.Namespace(), algo, env_id, folder, n_timesteps=steps, eval_freq=-1, seed=seed,
                log_interval=-2, verbose=0, device="cpu", config=config, env_kwargs=env_kwargs,
            )  # fmt: skip
            results = manager.setup_experiment()
            assert results is not None
            model = results[0]
            train_env = model.get_env()
            assert train_env is not None
            measure = measure_of(train_env, steps)
            measure.stop_when_solved = stop_when_solved
            manager.callbacks.append(measure)
            manager.seed = 1_000_000 + seed
            eval_env = manager.create_envs(1, eval_env=True, no_log=True)
            manager.seed = seed

            def score() -> list[float]:
                normalized = model.get_vec_normalize_env()
                if normalized is not None and normalized.norm_obs:
                    eval_env.obs_rms = normalized.obs_rms  # type: ignore[attr-defined]
                return evaluate_policy(model, eval_env, n_eval_episodes, return_episode_rewards=True)[0]  # type: ignore[return-value]

            clock = None
            if solved is not None:
                clock = Clock(lambda: float(np.mean(score())), solved, look_every)
                manager.callbacks.append(clock)
            start, cpu_start = time.perf_counter(), time.process_time()
            manager.learn(model)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            episodes = load_results(manager.save_path)
            scores = score()
    returns, lengths = episodes["r"].tolist(), episodes["l"].tolist()
    names = {"variant": variant, "env_kwargs": env_kwargs}
    if threshold is not None:
        record = {"train_returns": returns, "train_lengths": lengths}
        names["steps_to_threshold"] = {"threshold": threshold, "steps": steps_to_threshold(record, threshold, 20)}
    return {
        "agent": agent, "env": env_id, "steps": steps, "seed": seed, "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2), "peak_memory_mb": peak.megabytes(),
        "gradient_steps": gradient_steps(model), "params": params or {},
        "hyperparameters": resolved_hyperparameters(model), "backend": getattr(model, "backend", None),
        **{name: value for name, value in names.items() if value},
        **({"stopped_at": model.num_timesteps} if stop_when_solved and measure.solved else {}),
        **measure.results(), **(clock.results() if clock is not None else {}), "scores": np.round(scores, 4).tolist(),
        **shorten(returns, lengths, max_points),
    }  # fmt: skip
