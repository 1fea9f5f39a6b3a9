"""Running statistics, against those of all data at once."""

import pytest
import torch as th

from sb3_dai.nets.statistics import LARGEST, RunningMean, RunningNorm, RunningPeak


def test_running_norm_is_exact_on_equal_batches():
    data = th.randn(10, 32, 3) * th.tensor([1.0, 5.0, 0.1]) + th.tensor([0.0, -3.0, 2.0])
    norm = RunningNorm(3)
    for batch in data:
        norm.update(batch)
    flat = data.reshape(-1, 3)
    th.testing.assert_close(norm.mean, flat.mean(dim=0))
    th.testing.assert_close(norm.var, flat.var(dim=0, correction=0))
    th.testing.assert_close(norm(flat), (flat - flat.mean(dim=0)) / flat.std(dim=0, correction=0))
    norm.center = False
    th.testing.assert_close(norm(flat), (flat / flat.std(dim=0, correction=0)).clamp(-10, 10))
    assert norm(th.full((1, 3), 1e9)).max() == norm.clip


def test_running_norm_forgets():
    norm = RunningNorm(1, horizon=10)
    for _ in range(20):
        norm.update(th.full((4, 1), -5.0))
    for _ in range(200):
        norm.update(th.full((4, 1), 7.0))
    assert norm.mean.item() == pytest.approx(7.0, abs=1e-4) and norm.var.item() < 1e-3


def test_running_norm_inverse():
    norm = RunningNorm(2)
    norm.update(th.tensor([[1.0, -4.0], [3.0, 4.0]]))
    data = th.tensor([[2.5, 1.0], [0.0, -3.0]])
    assert th.allclose(norm.inverse(norm(data)), data, atol=1e-6)
    assert th.allclose(norm.inverse(th.tensor([1.0, 1.0])), th.tensor([3.0, 4.0])), "mean 2 and 0, deviation 1 and 4"
    scale = RunningNorm(1, center=False)
    scale.update(th.tensor([[1.0], [3.0]]))
    assert scale.inverse(th.tensor([2.0])).item() == pytest.approx(2.0)


def test_running_mean():
    mean = RunningMean(horizon=2)
    # Exact for two batches, then half of each new one
    assert [mean(th.tensor(batch)).item() for batch in ([1.0, 3.0], [4.0], [7.0])] == [2.0, 3.0, 5.0]


def test_running_peak_scales_by_the_highest_mean():
    peak = RunningPeak(horizon=1)
    values = th.tensor([[1.0], [3.0]])
    assert th.equal(peak.scaled(values), th.zeros(2, 1)), "nothing to compare with yet"
    th.testing.assert_close(peak(values), values / 2.0)
    th.testing.assert_close(peak(values / 4.0), values / 8.0)
    assert th.equal(RunningPeak()(th.zeros(2, 1)), th.zeros(2, 1))


def test_running_norm_of_huge_numbers_stays_finite():
    """An infinite variance would never come back, and scale everything to 0 from then on."""
    norm = RunningNorm(1, horizon=10)
    norm.update(th.tensor([[3e38], [-3e38], [1.0]]))
    assert th.isfinite(norm.var).all() and norm.mean.abs() < LARGEST
    for _ in range(2000):
        norm.update(th.tensor([[1.0], [3.0]]))
    assert norm(th.tensor([[3.0], [1.0]])).ravel().tolist() == pytest.approx([1.0, -1.0], abs=1e-3)


def test_running_statistics_are_saved():
    saved = {name for module in (RunningNorm(1), RunningMean(), RunningPeak()) for name in module.state_dict()}
    assert saved == {"mean", "var", "n_batches", "peak", "running.mean", "running.n_batches"}
