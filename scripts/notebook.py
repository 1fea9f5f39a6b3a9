"""
The deep active inference notebook that this project began with, as printed, with its faults as switches.

The notebook's agent never learns. This script reproduces its behaviour, faults included, so that the corrected agent
(``hyperparams/seed.yml``) can be measured against it, and each fault by itself:

    python scripts/notebook.py --steps 30000 --seeds 0-4 --out docs/results/notebook_as_printed.json
    python scripts/notebook.py --steps 30000 --seeds 0-4 --mend sign done counter discount --out ...
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from joblib import Parallel, delayed
from seeds import seeds_of
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import set_random_seed
from torch import nn
from torch.nn import functional as F

from sb3_dai.saving import write_json

FAULTS = {
    "sign": "the policy's divergence enters the free energy with the wrong sign, so it flees softmax(-G)",
    "done": "the end of an episode is stored before it is known: no stored transition is terminal",
    "counter": "the step counter restarts with each episode: the target net waits for an episode of 50 steps",
    "discount": "the future is not discounted, under a constant reward",
}
LEARN_EVERY, UPDATE_TARGET_EVERY, BATCH_SIZE, MEMORY, LEARNING_RATE = 5, 50, 4, 1000, 0.01


def net(n_inputs: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_inputs, 64), nn.ReLU(), nn.Linear(64, n_outputs))


def free_energies(nets: dict[str, nn.Sequential], memory: ReplayBuffer, mended: set[str]) -> tuple[th.Tensor, th.Tensor]:
    """
    :param nets: transition, policy, value and target net
    :param memory: the replay memory
    :param mended: names of the faults that are repaired
    :return: the policy's and transition net's loss, and the value net's
    """
    batch = memory.sample(BATCH_SIZE)
    predicted = nets["transition"](th.cat([batch.observations, batch.actions], dim=1))
    error = (predicted - batch.next_observations).square().mean(dim=1, keepdim=True)
    with th.no_grad():
        next_value = (nets["policy"](batch.next_observations).softmax(-1) * nets["target"](batch.next_observations)).sum(-1)
        discount = 0.99 if "discount" in mended else 1.0
        target = -batch.rewards + error + discount * (1 - batch.dones) * next_value.reshape(-1, 1)
        desired = F.log_softmax(-nets["value"](batch.observations), dim=1)
    value_loss = F.mse_loss(nets["value"](batch.observations).gather(1, batch.actions.long()), target)
    log_prob = F.log_softmax(nets["policy"](batch.observations), dim=1)
    divergence = (log_prob.exp() * (log_prob - desired)).sum(dim=1, keepdim=True)
    return (error + (divergence if "sign" in mended else -divergence)).mean(), value_loss


def run(seed: int, steps: int, mended: set[str]) -> dict[str, Any]:
    """
    :param seed: seed of the run
    :param steps: environment steps on CartPole-v1
    :param mended: names of the faults that are repaired
    :return: training returns and lengths
    """
    th.set_num_threads(1)
    set_random_seed(seed)
    env = gym.make("CartPole-v1")
    memory = ReplayBuffer(MEMORY, env.observation_space, env.action_space, device="cpu", handle_timeout_termination=False)
    nets = {"transition": net(5, 4), "policy": net(4, 2), "value": net(4, 2), "target": net(4, 2)}
    nets["target"].load_state_dict(nets["value"].state_dict())
    trained = [p for name in ("transition", "policy", "value") for p in nets[name].parameters()]
    optimizer = th.optim.Adam(trained, LEARNING_RATE)

    returns: list[float] = []
    total_steps = counter = 0
    while total_steps < steps:
        obs, _ = env.reset(seed=seed if not returns else None)
        done, episode_return = False, 0.0
        if "counter" not in mended:
            counter = 0
        while not done:
            with th.no_grad():
                action = th.distributions.Categorical(logits=nets["policy"](th.as_tensor(obs))).sample().numpy()
            next_obs, reward, terminated, truncated, info = env.step(int(action))
            stored = terminated if "done" in mended else done
            memory.add(obs, next_obs, action, np.array(reward), np.array(stored), [info])
            obs, done, episode_return = next_obs, terminated or truncated, episode_return + float(reward)
            counter, total_steps = counter + 1, total_steps + 1
            if counter % LEARN_EVERY == 0:
                vfe, value_loss = free_energies(nets, memory, mended)
                optimizer.zero_grad()
                (vfe + value_loss).backward()
                optimizer.step()
            if counter % UPDATE_TARGET_EVERY == 0:
                nets["target"].load_state_dict(nets["value"].state_dict())
        returns.append(episode_return)
    return {"seed": seed, "steps": steps, "mended": sorted(mended), "train_returns": returns, "train_lengths": returns}


def main() -> None:
    faults = "\n".join(f"  {name}: {what}" for name, what in FAULTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nfaults:\n{faults}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seeds", required=True, help="first-last, for example 0-4")
    parser.add_argument("--mend", nargs="*", default=[], choices=list(FAULTS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    seeds = seeds_of(args.seeds)
    results = Parallel(n_jobs=args.jobs)(delayed(run)(seed, args.steps, set(args.mend)) for seed in seeds)
    write_json(args.out, results)
    for result in results:
        returns = result["train_returns"]
        ends = np.cumsum(returns)
        last_fifth = [r for r, end in zip(returns, ends, strict=True) if end > 0.8 * args.steps]
        print(f"seed {result['seed']}: mean training return of the last fifth of {args.steps} steps {np.mean(last_fifth):.1f}")


if __name__ == "__main__":
    main()
