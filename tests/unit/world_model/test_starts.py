"""Learning from several starts, and the free energy that chooses among them."""

import math

import numpy as np
import pytest
import torch as th
from helpers import close

from sb3_dai.world_model.hidden_states import Episodes, HiddenStateModel
from sb3_dai.world_model.payments import PRIOR_COUNT
from sb3_dai.world_model.starts import free_energy, learn_from_many_starts

STAYS = np.eye(2)[:, :, None]


def episodes(outcomes, actions, payments=None):
    """Episodes of one modality and of the same length."""
    seen = th.tensor(outcomes).unsqueeze(2)
    return Episodes(seen, th.tensor(actions), th.ones(seen.shape[:2], dtype=th.bool), payments)


def test_free_energy_by_hand():
    """
    One state, whose action pays 1, 1 and 0. The counts are the true posterior, so the free energy is the surprise: that of
    payments ``-log B(2.01, 1.01) / B(0.01, 0.01)``, and of two outcomes of probability 1/2 each.
    """
    data = episodes([[0, 1, 0, 1]], [[0, 0, 0]], th.tensor([[0, 0, 1]]))
    model = HiddenStateModel(1, [2], 1, A=[[0.5], [0.5]], B=np.ones((1, 1, 1)), D=[1.0])
    assert model.payments.number(th.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist() == [0, 1]
    before = free_energy(model, data)
    model.learn(data)
    c = PRIOR_COUNT
    paid = -math.log(c / (2 * c) * (c + 1) / (2 * c + 1) * c / (2 * c + 2))
    assert 4.0 * free_energy(model, data) == pytest.approx(paid + 4.0 * math.log(2.0), rel=1e-5)
    assert before > free_energy(model, data), "every other belief has a higher free energy"
    twice = Episodes(*(None if part is None else part.repeat(2, *[1] * (part.dim() - 1)) for part in data))
    assert free_energy(model, twice) == pytest.approx(free_energy(model, twice.distinct()), rel=1e-5)


def test_what_states_share_counts_once():
    data = episodes([[0, 0, 0]], [[0, 0]], th.tensor([[0, 1]]))
    found = []
    for sizes, dependencies in (((1,), [0]), ((2, 1), [1])):
        n = sizes[0]
        A, B = np.ones((1, n)), np.eye(n)[:, :, None]
        model = HiddenStateModel(sizes, [1], 1, A=A, B=B, D=np.ones(n) / n, R_dependencies=dependencies)
        model.payments.number(th.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model.learn(data)
        found.append(free_energy(model, data))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_random_starts_tell_states_apart():
    """Two outcomes that never change within an episode: a flat prior cannot say which state shows which."""
    data = episodes([[0] * 6, [1] * 6] * 10, [[0] * 5] * 20)
    th.manual_seed(0)
    same, apart = (HiddenStateModel(2, [2], 1, B=STAYS, D=[0.5, 0.5]) for _ in range(2))
    same.learn(data, n_sweeps=50)
    close(same.likelihoods()[0], [[0.5, 0.5], [0.5, 0.5]])
    learn_from_many_starts(apart, data, n_starts=2)
    assert free_energy(apart, data) < free_energy(same, data) - 0.3
    assert apart.likelihoods()[0].max(dim=0).values.min().item() > 0.98
    # A start that is no better changes no numbers
    before = apart.A_0.clone()
    learn_from_many_starts(apart, data, n_starts=2)
    th.testing.assert_close(apart.A_0, before, rtol=0.0, atol=1e-2)


def test_rare_mistakes_are_no_property_of_a_state():
    """
    Behind one of two doors is a prize, of which each of three growls tells with probability 0.85. One opens the door that most
    of them speak for. Where it has no prize the growls were wrong: no door pays now this, now that.
    """
    rng = np.random.default_rng(0)
    states = rng.integers(2, size=600)
    growls = np.where(rng.random((600, 3)) < 0.85, states[:, None], 1 - states[:, None])
    doors = (growls.sum(axis=1) > 1).astype(int)
    listens, nothing = np.full(600, 2), np.zeros(600, dtype=int)
    seen = np.stack([*growls.T, np.full(600, 2)], axis=1)
    actions = np.stack([listens, listens, doors], axis=1)
    paid = np.stack([nothing, nothing, doors == states], axis=1)
    data = episodes(seen.tolist(), actions.tolist(), th.tensor(paid)).distinct()
    B = np.zeros((3, 3, 3))
    B[[0, 1, 2], [0, 1, 2], 2] = B[2, :, :2] = 1.0  # Listening changes nothing, a door ends it all in state 2
    model = HiddenStateModel(3, [3], 3, B=B, D=[0.5, 0.5, 0.0])
    model.payments.number(th.tensor([[0.0, 0.0], [1.0, 0.0]]))
    th.manual_seed(0)
    learn_from_many_starts(model, data, n_starts=2)
    chances = model.payments.expected()[0][:2, :2]
    assert chances.max(dim=1).values.min().item() > 0.9995
