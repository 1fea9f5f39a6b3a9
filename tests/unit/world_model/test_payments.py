"""What is paid, as one more outcome."""

import pytest
import torch as th
from helpers import close

from sb3_dai.world_model.payments import MAX_PAYMENTS, PRIOR_COUNT, PaymentCounts, drawn_distributions


def test_payments_get_numbers_as_they_are_met():
    paid = PaymentCounts(2, 1)
    assert paid.known().shape == (0, 2, 1)
    close(paid.expected()[0], [[0.0], [0.0]])
    assert paid.number(th.tensor([[0.5, 0.0], [0.0, 0.0], [0.5, 0.0]])).tolist() == [1, 0, 1]
    assert paid.number(th.tensor([[[0.5, 1.0], [0.5 + 1e-7, 0.0]]])).tolist() == [[2, 1]], "an end is another outcome"
    assert paid.known().shape == (3, 2, 1)


def test_too_many_payments_count_as_the_nearest():
    paid = PaymentCounts(2, 1)
    pairs = th.stack([th.arange(40.0), (th.arange(40) == 3).float()], dim=1)
    paid.number(pairs)
    assert int(paid.n_known) == MAX_PAYMENTS
    assert paid.number(th.tensor([[30.0, 0.0]])).item() == MAX_PAYMENTS - 1
    assert paid.number(th.tensor([[2.9, 0.0]])).item() == 2, "the nearest that does not end the episode"
    assert paid.number(th.tensor([[30.0, 1.0]])).item() == 3, "the only one that ends it"


def test_what_is_counted():
    paid = PaymentCounts(2, 2)
    numbers = paid.number(th.tensor([[10.0, 0.0], [-100.0, 1.0]]))
    high, low = numbers.tolist()
    paid.count(numbers, th.tensor([1, 1]), th.tensor([[0.75, 0.25], [0.1, 0.9]]))
    close(paid.known()[[high, low]][:, :, 1], PRIOR_COUNT + th.tensor([[0.75, 0.25], [0.1, 0.9]]))
    close(paid.known()[:, :, 0], [[PRIOR_COUNT] * 2] * 2)
    # Of state 0: 0.85 times 10, 0.2 times -100, of 1.05
    mean, ends = paid.expected()
    assert mean[0, 1].item() == pytest.approx((8.5 - 20.0) / 1.05)
    assert ends[0, 1].item() == pytest.approx(0.2 / 1.05)
    told = paid.log_likelihood(th.tensor([high]), th.tensor([1])).exp()
    close(told, [[0.85 / 1.05, 0.35 / 1.35]])


def test_draws_are_those_of_a_dirichlet():
    th.manual_seed(0)
    counts = th.tensor([2.0, 1.0, 1.0]).unsqueeze(1).expand(3, 4000)
    drawn = drawn_distributions(counts)
    close(drawn.sum(dim=0), th.ones(4000))
    assert drawn[0].mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn[0].var().item() == pytest.approx(0.5 * 0.5 / 5.0, abs=0.005)
    tiny = drawn_distributions(th.full((3, 1000), 1e-6))
    assert tiny.isfinite().all() and (tiny.sum(dim=0) - 1.0).abs().max() < 1e-4


def test_early_punishments_are_not_the_last_word():
    """Of an action that was punished four times and rewarded three times, one draw in three says that it pays."""
    th.manual_seed(0)
    paid = PaymentCounts(1, 1)
    good, bad = paid.number(th.tensor([[1.0, 1.0], [-1.0, 1.0]])).tolist()
    numbers = th.tensor([bad] * 4 + [good] * 3)
    paid.count(numbers, th.zeros(7, dtype=th.long), th.ones(7, 1))
    assert paid.expected()[0].item() < 0.0
    share = sum(paid.expected(draws=True)[0].item() > 0.0 for _ in range(500)) / 500
    assert 0.25 < share < 0.45
    paid.count(th.tensor([bad] * 40), th.zeros(40, dtype=th.long), th.ones(40, 1))
    assert not any(paid.expected(draws=True)[0].item() > 0.0 for _ in range(100)), "but many are"
