"""What is paid, as a linear function of the belief."""

import pytest
import torch as th

from sb3_dai.world_model.regression import BeliefRegression


def test_rewards_of_hidden_states_are_found_from_beliefs_about_them():
    """Nobody ever knows the state for certain, but beliefs differ."""
    truth = th.tensor([[10.0, -100.0], [-1.0, -1.0]])  # Of each action and state
    generator = th.Generator().manual_seed(0)
    share = 0.1 + 0.8 * th.rand(2000, 1, generator=generator)
    belief, actions = th.cat([share, 1 - share], dim=1), th.randint(2, (2000,), generator=generator)
    states = (th.rand(2000, generator=generator) > share[:, 0]).long()
    paid = BeliefRegression(2, 2, 1)
    for rows in th.arange(2000).split(500):
        paid.learn(belief[rows], actions[rows], truth[actions[rows], states[rows]].unsqueeze(1))
    th.testing.assert_close(paid.coefficients.squeeze(2), truth, rtol=0.0, atol=6.0)
    th.testing.assert_close(paid(th.tensor([[0.5, 0.5]])).squeeze(2), th.tensor([[-45.0, -1.0]]), rtol=0.0, atol=3.0)


def test_states_that_were_never_believed_in_pay_nothing():
    paid = BeliefRegression(3, 1, 2)
    paid.learn(th.tensor([[1.0, 0.0, 0.0]] * 50), th.zeros(50, dtype=th.long), th.tensor([[5.0, 1.0]] * 50))
    assert paid.coefficients[0, 0].tolist() == pytest.approx([5.0, 1.0], rel=1e-3)
    assert (paid.coefficients[0, 1:] == 0.0).all()
    paid.forget()
    assert not any(sums.any() for sums in paid.buffers())
