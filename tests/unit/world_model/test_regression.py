"""What is paid, as a linear function of the belief."""

import math

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
    assert not paid.coefficients.any()


def test_what_is_still_to_be_learned():
    # Before anything was seen the variance is 1 / RIDGE = 10,000 in each state: 0.5 log(1 + 10,000) if it is sure, half the
    # variance if it is one of two. After 4 visits of the first one it is 1 / 4.0001
    paid, sure, unsure = BeliefRegression(2, 1, 1), th.tensor([[1.0, 0.0]]), th.tensor([[0.5, 0.5]])
    assert paid.information_gain(sure).item() == pytest.approx(0.5 * math.log(10_001.0), rel=1e-5)
    assert paid.information_gain(unsure).item() == pytest.approx(0.5 * math.log(5_001.0), rel=1e-5)
    paid.learn(sure.expand(4, -1), th.zeros(4, dtype=th.long), th.ones(4, 1))
    assert paid.information_gain(sure).item() == pytest.approx(0.5 * math.log(1 + 1 / 4.0001), rel=1e-5)
    gains = paid.gains_of_seen_states().squeeze(1).tolist()
    assert gains == pytest.approx([0.5 * math.log(1 + 1 / 4.0001), 0.5 * math.log(10_001.0)], rel=1e-5)
