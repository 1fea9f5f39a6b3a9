"""Dual descent on the precision and the epistemic weight."""

import pytest
import torch as th
from helpers import close

from sb3_dai.equations import dual


@pytest.mark.parametrize("entropy, rises", [(0.6, True), (0.4, False)])
def test_precision_rises_while_the_policy_is_too_random(entropy, rises):
    log_precision = th.zeros(1, requires_grad=True)
    loss = dual.precision_loss(log_precision, th.full((4, 1), entropy), 0.5)
    loss.backward()
    close(log_precision.grad, [0.5 - entropy])
    assert (log_precision.grad.item() < 0) == rises


@pytest.mark.parametrize("gain, rises", [(0.2, True), (0.7, False)])
def test_epistemic_weight_rises_while_the_policy_gains_less_than_its_slow_copy(gain, rises):
    log_weight = th.zeros(1, requires_grad=True)
    gains = th.full((4, 1), gain, requires_grad=True)
    loss = dual.epistemic_weight_loss(log_weight, gains, th.full((4, 1), 0.5))
    loss.backward()
    close(log_weight.grad, [gain - 0.5])
    assert (log_weight.grad.item() < 0) == rises
    assert gains.grad is None, "the world model does not learn from it"
