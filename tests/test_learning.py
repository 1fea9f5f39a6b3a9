"""Real learning on fixed seeds, with margins that an agent with a broken sign does not reach."""

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from worlds import Chain, Grid, solve

from sb3_dai import DAI
from sb3_dai.zoo import hyperparams_file


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_with_the_constructors_defaults(seed):
    model = DAI("MlpPolicy", "CartPole-v1", seed=seed, device="cpu").learn(10_000)
    assert score(model, gym.make("CartPole-v1"), 20) >= 450
