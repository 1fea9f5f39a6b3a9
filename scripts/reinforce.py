"""
A plain policy gradient on a bandit and a three-state chain, to compare with on the same worlds.

The original has a net of one layer from the number of the state to three probabilities, and leaves part of the updates to its
reader. What is run here:

    bandit  one update a step, Adam with a learning rate of 1, 100 steps; the loss is the reader's: -log pi(a) r
    chain   one update an episode, AdamW with a learning rate of 0.01, 500 episodes, discount 0.6; the original's loss is
            -sum_t pi(a_t) G_t, with the probability where the policy gradient has its logarithm

    python scripts/reinforce.py --env sb3_dai/ThreeStateChain-v0 --loss printed log --seeds 100-109 --out docs/results/x.json

``--loss printed`` has the probability, ``log`` its logarithm. The worlds are those of docs/worlds.md: an episode of the chain
is cut after 100 steps. The net reads the original's numbers, -1, 0 and 1, for the chain's states. Results have the form of
scripts/evaluate.py; ``optimal_from`` counts a greedy policy that is right by the luck of its initial weights.
"""

import argparse
import time
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch as th
from measures import CHECK_EVERY, right_actions, settled_at, shorten
from seeds import seeds_of
from torch import nn

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai.envs import Bandit, TabularEnv
from sb3_dai.saving import write_json

BANDIT_STEPS, CHAIN_EPISODES, DISCOUNT = 100, 500, 0.6


def discounted(rewards: list[float], discount: float) -> th.Tensor:
    """
    :param rewards: of the steps of an episode
    :param discount: factor on the next step's return
    :return: the return from each step on, shape (n_steps,)
    """
    returns = [0.0]
    for reward in reversed(rewards):
        returns.append(reward + discount * returns[-1])
    return th.tensor(returns[:0:-1])


def loss_of(probabilities: th.Tensor, returns: th.Tensor, kind: str) -> th.Tensor:
    """
    :param probabilities: pi(a_t) of the actions taken, shape (n_steps,)
    :param returns: G_t, shape (n_steps,)
    :param kind: "printed" for the probability in the loss, "log" for its logarithm
    :return: what falls along the policy gradient
    """
    return -((probabilities if kind == "printed" else probabilities.log()) * returns).sum()


class Learner:
    """
    One agent in one world.

    :param env_id: the bandit or the chain
    :param kind: of the loss
    :param seed: of the net, the actions and the world
    """

    def __init__(self, env_id: str, kind: str, seed: int) -> None:
        th.manual_seed(seed)
        self.env = gym.make(env_id)
        self.world = cast(TabularEnv, self.env.unwrapped)
        self.kind = kind
        n_states = self.world.n_states
        # The original's numbers of the states, centred: 0 in the bandit, -1, 0 and 1 in the chain
        self.inputs = (th.arange(n_states) - (n_states - 1) / 2).reshape(-1, 1)
        self.net = nn.Linear(1, self.world.n_actions)
        self.optimizer: th.optim.Optimizer = th.optim.AdamW(self.net.parameters(), lr=0.01)
        if isinstance(self.world, Bandit):
            self.optimizer = th.optim.Adam(self.net.parameters(), lr=1.0)
        assert self.env.spec is not None and self.env.spec.max_episode_steps is not None
        self.best = right_actions(self.world, self.env.spec.max_episode_steps)
        self.steps = self.n_updates = 0
        self.looks: list[int] = []
        self.right: list[bool] = []

    def probabilities(self) -> th.Tensor:
        """
        :return: the policy, shape (n_states, n_actions)
        """
        return self.net(self.inputs).softmax(-1)

    def look(self) -> None:
        """Compare the greedy policy with the best one."""
        self.looks.append(self.steps)
        self.right.append(bool((self.probabilities().argmax(-1).numpy() == self.best).all()))

    def act(self, state: int) -> tuple[int, th.Tensor]:
        """
        :param state: number of the state
        :return: an action, and its probability
        """
        probabilities = self.probabilities()[state]
        action = int(th.distributions.Categorical(probabilities).sample())
        return action, probabilities[action]

    def update(self, chosen: list[th.Tensor], rewards: list[float], discount: float) -> None:
        """
        :param chosen: probabilities of the actions taken
        :param rewards: of these steps
        :param discount: factor on the next step's return
        """
        self.optimizer.zero_grad()
        loss_of(th.stack(chosen), discounted(rewards, discount), self.kind).backward()
        self.optimizer.step()
        self.n_updates += 1

    def step(self, state: int) -> tuple[int, float, bool, th.Tensor]:
        """
        :param state: where to act
        :return: next state, reward, whether the episode is over, and the probability of the action taken
        """
        action, probability = self.act(state)
        next_state, reward, terminated, truncated, _ = self.env.step(action)
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self.look()
        return next_state, float(reward), terminated or truncated, probability

    def learn_bandit(self) -> list[list[float]]:
        """
        :return: rewards of each episode, of which there is one
        """
        state, _ = self.env.reset(seed=0)
        rewards = []
        for _ in range(BANDIT_STEPS):
            state, reward, _, probability = self.step(state)
            self.update([probability], [reward], 1.0)
            rewards.append(reward)
        return [rewards]

    def learn_chain(self) -> list[list[float]]:
        """
        :return: rewards of each episode
        """
        episodes = []
        for _ in range(CHAIN_EPISODES):
            state, _ = self.env.reset(seed=0)
            over = False
            chosen: list[th.Tensor] = []
            rewards: list[float] = []
            while not over:
                state, reward, over, probability = self.step(state)
                chosen.append(probability)
                rewards.append(reward)
            self.update(chosen, rewards, DISCOUNT)
            episodes.append(rewards)
        return episodes

    def greedy_return(self) -> float:
        """
        :return: of one episode of the greedy policy; neither world has chance in it
        """
        actions = self.probabilities().argmax(-1).tolist()
        state, _ = self.env.reset(seed=0)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = self.env.step(actions[state])
            total, over = total + float(reward), terminated or truncated
        return total


def run(env_id: str, kind: str, seed: int) -> dict[str, Any]:
    """
    :param env_id: the bandit or the chain
    :param kind: of the loss
    :param seed: of the run
    :return: raw results in the form of scripts/evaluate.py
    """
    learner = Learner(env_id, kind, seed)
    start = time.perf_counter()
    episodes = learner.learn_bandit() if isinstance(learner.world, Bandit) else learner.learn_chain()
    seconds = time.perf_counter() - start
    if learner.looks[-1] == learner.steps:
        del learner.looks[-1], learner.right[-1]  # that look came before the last update
    learner.look()
    chosen = learner.probabilities().detach().numpy()[np.arange(len(learner.best)), learner.best]
    return {
        "agent": f"reinforce:{kind}", "env": env_id, "steps": learner.steps, "seed": seed, "seconds": round(seconds, 2),
        "gradient_steps": learner.n_updates, "params": {}, "optimal_from": settled_at(learner.looks, learner.right),
        "right_probability": chosen.astype(float).round(4).tolist(), "scores": [round(learner.greedy_return(), 4)],
        **shorten([sum(rewards) for rewards in episodes], [len(rewards) for rewards in episodes], 250),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, choices=["sb3_dai/Bandit-v0", "sb3_dai/ThreeStateChain-v0"])
    parser.add_argument("--loss", nargs="+", default=["log"], choices=["printed", "log"])
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-109")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    th.set_num_threads(1)
    results = [run(args.env, kind, seed) for kind in args.loss for seed in seeds_of(args.seeds)]
    write_json(args.out, results)
    for result in results:
        print(
            f"{result['agent']} seed {result['seed']}: {result['steps']} steps, score {result['scores'][0]:.2f}, "
            f"right action {result['right_probability']}, optimal from {result['optimal_from']}"
        )


if __name__ == "__main__":
    main()
