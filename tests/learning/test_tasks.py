"""Real learning on fixed seeds, with margins that an agent with a broken sign does not reach."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from printed.pages import ROOT, rows_of
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from worlds import Chain, Grid, solve

from sb3_dai import DAI
from sb3_dai.zoo import hyperparams_file

STEPS = {
    "identity, `Discrete` and `MultiDiscrete`": 1200,
    "identity, `MultiBinary`": 2400,
    "identity, `Box`": 400,
    "ten choices of three options": 2000,
    "flipping four bits with hindsight replay, discrete and continuous": 1000,
}
"""Environment steps in which a task is solved, as docs/results.md prints them."""


def score(model: DAI, env: gym.Env, n_episodes: int = 10) -> float:
    env = Monitor(env)
    env.reset(seed=1234)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=n_episodes)
    return float(mean)


def test_cartpole_from_the_hyperparameter_file():
    entry = yaml.safe_load(hyperparams_file("dai").read_text())["CartPole-v1"]
    n_timesteps = int(entry.pop("n_timesteps"))
    learning_rate = LinearSchedule(float(entry.pop("learning_rate").removeprefix("lin_")), 0.0, 1.0)
    model = DAI(env="CartPole-v1", learning_rate=learning_rate, seed=0, device="cpu", **entry).learn(n_timesteps)
    assert score(model, gym.make("CartPole-v1")) >= 400


def test_grid_with_the_constructors_defaults():
    model = DAI("MlpPolicy", Grid(), seed=0, device="cpu").learn(2000)
    assert score(model, Grid()) == pytest.approx(0.5)


def test_chain_is_walked_to_its_end():
    model = DAI("MlpPolicy", Chain(), seed=0, device="cpu", policy_kwargs=dict(net_arch=[32])).learn(1500)
    assert solve(0.99, 1e-3).argmin(axis=1).tolist() == [1] * 5  # the optimum by dynamic programming
    assert score(model, Chain()) == pytest.approx(1.0 - 4 * 0.1)


def test_pendulum_with_the_constructors_defaults():
    model = DAI("MlpPolicy", "Pendulum-v1", seed=0, device="cpu").learn(3000)
    assert score(model, gym.make("Pendulum-v1")) >= -250  # at random -1,200


@pytest.mark.parametrize(
    ("make_env", "n_steps"),
    [
        (lambda: IdentityEnv(10), STEPS["identity, `Discrete` and `MultiDiscrete`"]),
        (lambda: IdentityEnvMultiDiscrete(4), STEPS["identity, `Discrete` and `MultiDiscrete`"]),
        (lambda: IdentityEnvMultiBinary(4), STEPS["identity, `MultiBinary`"]),
        (lambda: IdentityEnvBox(eps=0.5), STEPS["identity, `Box`"]),
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary", "Box"],
)
def test_identity(make_env, n_steps):
    model = DAI("MlpPolicy", make_env(), seed=0, device="cpu").learn(n_steps)
    assert score(model, make_env(), 20) >= 90


class ManyChoices(gym.Env):
    """Ten choices of three options, each of which has one that its own part of the observation names."""

    observation_space = spaces.MultiDiscrete([3] * 10)
    action_space = spaces.MultiDiscrete([3] * 10)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n, self.wanted = 0, self.np_random.integers(3, size=10)
        return self.wanted, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.n += 1
        reward = float((action == self.wanted).mean())
        self.wanted = self.np_random.integers(3, size=10)
        return self.wanted, reward, False, self.n == 20, {}


def test_ten_choices_at_once():
    # 59,049 actions. By chance 20 / 3 of 20
    model = DAI("MlpPolicy", ManyChoices(), gamma=0.5, seed=0, device="cpu").learn(STEPS["ten choices of three options"])
    assert score(model, ManyChoices()) >= 18


@pytest.mark.parametrize("strategy", ["future", pytest.param("final", marks=pytest.mark.slow)])
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_bit_flipping_with_hindsight(continuous, strategy):
    env = BitFlippingEnv(n_bits=4, continuous=continuous)
    model = DAI(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(n_sampled_goal=4, goal_selection_strategy=strategy),
        seed=0,
        device="cpu",
    ).learn(STEPS["flipping four bits with hindsight replay, discrete and continuous"])
    successes = []

    def remember(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            successes.append(local["info"]["is_success"])

    env._obs_space.seed(1)
    evaluate_policy(model, Monitor(env), n_eval_episodes=50, callback=remember)
    assert np.mean(successes) > 0.9


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs are not installed")
def test_the_results_page_prints_these_steps():
    rows = rows_of("every action space")
    assert {row["task"]: row["solved in environment steps"] for row in rows} == {task: f"{n:,}" for task, n in STEPS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_with_the_constructors_defaults(seed):
    model = DAI("MlpPolicy", "CartPole-v1", seed=seed, device="cpu").learn(10_000)
    assert score(model, gym.make("CartPole-v1"), 20) >= 450
