"""What was seen once is remembered until it counts."""

import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_dai.envs  # noqa: F401
from sb3_dai.dai import DAI


def test_a_cue_is_remembered_to_the_end_of_a_corridor():
    memory = dict(net_arch=[32], lstm_hidden_size=32, sequence_length=8, burn_in=0)
    env = gym.make("sb3_dai/PassiveTMaze-v0", length=5)
    model = DAI("MlpLstmPolicy", env, policy_kwargs=memory, device="cpu", seed=0).learn(1500)
    env = Monitor(gym.make("sb3_dai/PassiveTMaze-v0", length=5))
    env.reset(seed=0)
    assert evaluate_policy(model, env, 20)[0] == 1.0
