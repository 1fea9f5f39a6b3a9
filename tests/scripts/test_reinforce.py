"""The policy gradient of scripts/reinforce.py."""

import pytest
import torch as th
from reinforce import discounted, loss_of, run


def test_returns_by_hand():
    assert discounted([-0.05, -0.05, 1.0], 0.6).tolist() == pytest.approx([-0.05 - 0.03 + 0.36, -0.05 + 0.6, 1.0])
    assert discounted([2.0], 0.6).tolist() == [2.0]


@pytest.mark.parametrize(("kind", "slope"), [("log", 4.0), ("printed", 1.0)])
def test_gradient_by_hand(kind, slope):
    chosen = th.tensor([0.25, 0.5], requires_grad=True)
    loss_of(chosen, th.tensor([1.0, 0.0]), kind).backward()
    assert chosen.grad.tolist() == [-slope, 0.0]  # of -log p: -1/p; of -p: -1


@pytest.mark.parametrize("env_id", ["sb3_dai/Bandit-v0", "sb3_dai/ThreeStateChain-v0"])
def test_it_learns_both_worlds(env_id):
    result = run(env_id, "log", 0)
    assert result["optimal_from"] <= result["steps"] and min(result["right_probability"]) > 0.5
    assert result["scores"][0] == pytest.approx({"sb3_dai/Bandit-v0": 500.0}.get(env_id, 0.9))
    assert sum(result["train_lengths"]) == result["steps"]
