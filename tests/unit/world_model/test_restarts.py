"""How smoothing leaves a poor optimum."""

import numpy as np
import pytest
import torch as th
from helpers import close

from sb3_dai.world_model import restarts
from sb3_dai.world_model.hidden_states import HiddenStateModel
from sb3_dai.world_model.restarts import learn_from_many_starts, other_labels
from sb3_dai.world_model.tables import Episodes


def near(value, expected, atol):
    th.testing.assert_close(value, th.as_tensor(expected), rtol=0.0, atol=atol)


FACTORS = [[0], [0, 1], [1]]
"""States of two factors of two values: what each of three modalities depends on."""
SHOWN = th.tensor([[0, 0, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1]])
"""In the four states: the first factor, whether the two differ, and the second factor, but that not for sure."""


def test_random_starts_tell_states_apart():
    """Two outcomes that never change within an episode: a flat prior cannot say which state shows which."""
    outcomes = th.tensor([[0] * 6, [1] * 6] * 10).unsqueeze(2)
    data = Episodes(outcomes, th.zeros(20, 5, dtype=th.long), th.ones(20, 6, dtype=th.bool))
    th.manual_seed(0)
    same, apart = (HiddenStateModel(2, [2], 1, B=np.eye(2)[:, :, None], D=[0.5, 0.5]) for _ in range(2))
    same.learn(data, n_sweeps=50)
    close(same.likelihoods()[0], [[0.5, 0.5], [0.5, 0.5]])
    assert learn_from_many_starts(apart, data, n_starts=2) > same.learn(data) + 0.3
    assert apart.likelihoods()[0].max(dim=0).values.min().item() > 0.98
    # A start that is no better changes no numbers
    before = apart.A_0.clone()
    learn_from_many_starts(apart, data, n_starts=2)
    near(apart.A_0, before.tolist(), 1e-2)


def factored(**known):
    given = dict(B=th.eye(4).unsqueeze(2), D=th.full((4,), 0.25))
    return HiddenStateModel([2, 2], [2, 2, 2], 1, A_dependencies=FACTORS, **{**given, **known})


def rarely_agreeing():
    """Episodes of one step of each state: six in ten show the second factor, the others its opposite."""
    states = th.arange(4).repeat_interleave(10)
    outcomes = SHOWN[states].clone()
    outcomes[:, 2] ^= (th.arange(40) % 10 >= 6).long()
    return Episodes(outcomes.unsqueeze(1), th.zeros(40, 0, dtype=th.long), th.ones(40, 1, dtype=th.bool))


def start_in_a_poor_optimum(model):
    """The second factor's values have changed places where the first is 1, so that the last modality says nothing of them."""
    for m, table in enumerate(model.counts_of_A()):
        for state, outcome in enumerate(SHOWN[:, m].tolist()):
            table[:, state] = 1e-3
            table[outcome if m < 2 else slice(None), state] = 1.0
    model.A_1.copy_(model.A_1[:, [0, 1, 3, 2]])


def test_other_labels_lead_out_of_a_poor_optimum():
    data, model = rarely_agreeing(), factored(pA=1e-3)
    start_in_a_poor_optimum(model)
    poor = model.learn(data, n_sweeps=50)
    near(model.likelihoods()[2], [[0.5] * 4] * 2, 1e-3)
    found = model.learn(data, n_sweeps=50, relabelling=th.tensor([0, 1, 3, 2]))
    # The last modality then says six in ten of the second factor: ln 2 less its entropy
    assert found - poor == pytest.approx(0.6931 - 0.6730, abs=1e-3)
    near(model.likelihoods()[1], [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]], 1e-2)
    near(model.likelihoods()[2], [[0.6, 0.4, 0.6, 0.4], [0.4, 0.6, 0.4, 0.6]], 1e-2)


def test_a_relabelling_takes_states_for_others_once():
    """One sweep with other labels of all tables counts the same, for other states."""
    data = Episodes(th.tensor([[[0], [1], [1]]]), th.tensor([[0, 0]]), th.ones(1, 3, dtype=th.bool))
    known = dict(pA=[[2.0, 1.0], [1.0, 3.0]], pB=[[[3.0], [1.0]], [[1.0], [2.0]]], pD=[2.0, 1.0])
    one, other = HiddenStateModel(2, [2], 1, **known), HiddenStateModel(2, [2], 1, **known)
    one.learn(data, n_sweeps=1)
    other.learn(data, n_sweeps=1, relabelling=th.tensor([1, 0]))
    for name in ("A_0", "B", "D"):
        prior = getattr(one, f"prior_{name}")
        counted, swapped = getattr(one, name) - prior, getattr(other, name) - prior
        close(swapped, counted.flip({"A_0": [1], "B": [0, 1], "D": [0]}[name]).tolist())


def test_many_starts_try_other_labels(monkeypatch):
    th.manual_seed(0)
    monkeypatch.setattr(restarts, "_learn_from_random_start", lambda *_, forgets: float("-inf"))
    data, model = rarely_agreeing(), factored(pA=1e-3)
    start_in_a_poor_optimum(model)
    poor = model.learn(data, n_sweeps=50)
    assert learn_from_many_starts(model, data, n_starts=4) > poor + 0.015


def test_other_labels_fit_what_is_given():
    """Three factors, of which the second alone changes, and faster where the third is 1: its values keep their places."""
    transition = th.zeros(2, 3, 2, 2, 3, 2)
    for first in range(2):
        for second in range(3):
            for third in range(2):
                transition[first, (second + 1 + third) % 3, third, first, second, third] = 1.0
    given = transition.reshape(12, 12, 1)
    th.manual_seed(0)
    model = HiddenStateModel([2, 3, 2], [2], 1, B=given, D=th.full((12,), 1.0 / 12))
    drawn = [other_labels(model) for _ in range(30)]
    numbers = th.arange(12).reshape(2, 3, 2)
    swapped = [numbers.clone() for _ in range(2)]
    for third in range(2):  # Where the third has one value, the first changes places
        swapped[third][:, :, third] = numbers.flip(0)[:, :, third]
    assert {tuple(labels.tolist()) for labels in drawn} == {tuple(labels.flatten().tolist()) for labels in swapped}
    # A given start that tells them apart
    uneven = HiddenStateModel([2, 3, 2], [2], 1, B=given, D=th.arange(1.0, 13.0) / 78.0)
    assert other_labels(uneven) is None
    assert other_labels(HiddenStateModel(12, [2], 1, B=given)) is None
