"""Belief filters, step by step and over sequences."""

import pytest
import torch as th

from sb3_dai.world_model.filters import BeliefFilter
from sb3_dai.world_model.recurrent import LstmFilter
from sb3_dai.world_model.state_space import StateSpaceFilter


class Sum(BeliefFilter):
    """What was observed so far, added up, and the last action: the smallest filter that one can write."""

    def __init__(self):
        super().__init__(2)

    def initial(self, n, device="cpu"):
        return (th.zeros(n, 1, device=device),)

    def step(self, memory, features, actions):
        total = memory[0] + features
        return th.cat([total, actions], dim=1), (total,)


@pytest.mark.parametrize("make", [Sum, lambda: LstmFilter(1, 1, 4), lambda: StateSpaceFilter(1, 1, 4, 8, 2, [8])])
def test_steps_and_sequences_are_the_same(make):
    belief_filter = make()
    features, actions = th.randn(2, 6, 3, 1)
    replayed = belief_filter.replay(features, actions)
    memory = belief_filter.initial(3)
    for time in range(6):
        belief, memory = belief_filter.step(memory, features[time], actions[time])
        assert belief.shape == (3, belief_filter.belief_dim)
        th.testing.assert_close(replayed[time], belief)


def test_a_filter_of_your_own_learns_nothing_unless_it_says_so():
    assert Sum().losses(*th.zeros(4, 3, 1)) == ({}, {})


def test_gates_forget_after_as_many_steps_as_a_sequence_has():
    th.manual_seed(0)
    bias = LstmFilter(2, 1, 1000, longest=50).lstm.bias_ih_l0
    steps = bias[1000:2000].exp()
    assert 1.0 <= steps.min() < 1.1 and 48.0 < steps.max() <= 49.0
    assert 6.0 < steps.median() < 8.0  # Half of the logarithm
    th.testing.assert_close(bias[:1000], -bias[1000:2000])
    assert not bias[2000:].any()


@pytest.mark.parametrize("is_categorical", [False, True])
def test_the_free_energy_falls_to_what_cannot_be_known(is_categorical):
    """A hidden sign is seen once, then only with noise: the posterior keeps it and the prior foretells it."""
    th.manual_seed(0)
    belief_filter = StateSpaceFilter(2, 1, 16, 6, 2, [16], is_categorical)
    optimizer = th.optim.Adam(belief_filter.parameters(), 1e-2)
    for _ in range(100):
        sign = th.randint(2, (32,))
        features = th.nn.functional.one_hot(sign, 2).float().expand(6, -1, -1)
        actions = th.zeros(6, 32, 1)
        beliefs = belief_filter.replay(features, actions)
        rows = (part.flatten(0, 1) for part in (beliefs[:-1], beliefs[1:], actions[1:], features[1:]))
        losses, samples = belief_filter.losses(*rows)
        optimizer.zero_grad()
        losses["free_energy_loss"].backward()
        optimizer.step()
    assert set(losses) == {"free_energy_loss"}
    assert samples["observation_surprise"].mean() < (0.05 if is_categorical else -2.0)
    assert 0.0 <= samples["state_divergence"].mean() < 1.5
    mean, log_std = belief_filter.posterior(beliefs[-1])
    apart = (mean[sign == 0].mean(dim=0) - mean[sign == 1].mean(dim=0)).abs() / log_std.exp().mean(dim=0)
    assert apart.max() > 2.0
