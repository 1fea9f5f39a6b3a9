import pytest
import torch as th

from sb3_dai.adam import AdamState, adam_corrections, adam_step, is_plain_adam


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_adam_step_is_torchs(shape):
    ours = th.randn(shape)
    theirs = ours.clone().requires_grad_()
    optimizer = th.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.99), eps=1e-5)
    state = AdamState(th.zeros(()), th.zeros(shape), th.zeros(shape))
    for i in range(5):
        gradient = th.randn(shape)
        theirs.grad = gradient.clone()
        optimizer.step()
        corrections = th.tensor(adam_corrections((0.8, 0.99), i + 1)) if i % 2 else None
        adam_step(ours, gradient, state, 0.1, (0.8, 0.99), 1e-5, th.tensor(True), corrections)
        before = [ours.clone(), *(tensor.clone() for tensor in state)]
        adam_step(ours, gradient * float("nan"), state, 0.1, (0.8, 0.99), 1e-5, th.tensor(False))
        assert all(map(th.equal, before, (ours, *state)))
    th.testing.assert_close(ours, theirs.detach())


def test_adam_by_hand():
    parameter, state = th.tensor(1.0), AdamState(th.tensor(0.0), th.tensor(0.0), th.tensor(0.0))
    adam_step(parameter, th.tensor(4.0), state, 0.5, (0.9, 0.999), 0.0, th.tensor(True))
    assert parameter.item() == pytest.approx(0.5, abs=1e-4), "the first step is of the size of the learning rate"
    assert [tensor.item() for tensor in state] == pytest.approx([1.0, 0.4, 0.016], rel=1e-4)


def test_adam_corrections_by_hand():
    assert adam_corrections((0.5, 0.75), 1.0) == pytest.approx([2.0, 2.0])
    assert adam_corrections((0.5, 0.75), 2.0) == pytest.approx([4.0 / 3.0, 4.0 / 7.0**0.5])


def test_is_plain_adam():
    parameters = [th.zeros(1, requires_grad=True)]
    assert is_plain_adam(th.optim.Adam(parameters, fused=True))
    assert not is_plain_adam(th.optim.Adam(parameters, weight_decay=0.1))
    assert not is_plain_adam(th.optim.Adam(parameters, amsgrad=True))
    assert not is_plain_adam(th.optim.AdamW(parameters, weight_decay=0.0))
    assert not is_plain_adam(th.optim.SGD(parameters))
