"""The model of numbered hidden states: what it counts, what smoothing makes of it, and what it still has to learn."""

import numpy as np
import pytest
import torch as th
from helpers import close

from sb3_dai.world_model.hidden_states import Episodes, HiddenStateModel

A = np.array([[0.85, 0.15], [0.15, 0.85]])
STAYS = np.eye(2)[:, :, None]
SWAPS = np.stack([np.eye(2), np.eye(2)[::-1]], axis=2)


def near(value, expected, atol):
    th.testing.assert_close(value, th.as_tensor(expected), rtol=0.0, atol=atol)


def episodes(outcomes, actions):
    """Episodes of one modality and of the same length."""
    seen = th.tensor(outcomes).unsqueeze(2)
    return Episodes(seen, th.tensor(actions), th.ones(seen.shape[:2], dtype=th.bool))


def test_flat_priors_sum_to_one():
    model = HiddenStateModel(3, [2, 5], 4)
    for counts in (*model.counts_of_A(), model.B, model.D):
        close(counts.sum(dim=0).flatten(), [1.0] * counts[0].numel())
    assert [counts.shape for counts in model.counts_of_A()] == [(2, 3), (5, 3)]


def test_a_number_is_what_the_prior_counts_sum_to():
    model = HiddenStateModel(3, [2, 5], 4, pA=0.1, pB=3.0)
    close(model.A_1, [[0.02] * 3] * 5)
    close(model.B.sum(dim=0), [[3.0] * 4] * 3)


def test_what_is_given_is_held():
    model = HiddenStateModel(2, [2], 1, A=A, B=STAYS, D=[0.5, 0.5])
    belief = th.tensor([[0.5, 0.5]])
    model.count_first(belief, th.tensor([[0]]))
    model.count(belief, th.tensor([0]), belief, th.tensor([[0]]))
    model.learn(episodes([[0, 0, 1]], [[0, 0]]))
    close(model.likelihoods()[0], A.tolist())
    close(model.D, [0.5, 0.5])
    gains = model.information_gains(belief)
    assert gains.salience.item() > 0.1 and gains.novelty_A.item() == gains.novelty_B.item() == 0.0
    assert (model.gains_of_seen_states() == 0.0).all()


def test_counts_of_a_step():
    model = HiddenStateModel(2, [2], 1, B=STAYS, pA=np.ones((2, 2)), pD=[1.0, 1.0])
    model.count_first(th.tensor([[0.25, 0.75]]), th.tensor([[1]]))
    close(model.A_0, [[1.0, 1.0], [1.25, 1.75]])
    close(model.D, [1.25, 1.75])


def test_a_transition_is_counted_by_what_it_comes_from():
    """Both states may lead to state 0, and of the first it is more probable: 0.5 * 0.9 against 0.5 * 0.1."""
    pB = np.array([[9.0, 1.0], [1.0, 9.0]])[:, :, None]
    model = HiddenStateModel(2, [2], 1, A=A, pB=pB, D=[0.5, 0.5])
    model.count(th.tensor([[0.5, 0.5]]), th.tensor([0]), th.tensor([[1.0, 0.0]]), th.tensor([[0]]))
    close(model.B[:, :, 0], [[9.9, 1.1], [1.0, 9.0]])


def test_smoothing_learns_from_what_comes_later():
    """Where an episode begins is seen at its end alone: the first outcome is counted for the state that it must have been."""
    B = np.zeros((3, 3, 1))
    B[[0, 2, 2], [0, 1, 2], 0] = 1.0  # State 0 stays, 1 leads to 2
    pA = np.ones((3, 3))
    pA[1, 0] = pA[2, 2] = 1e6  # Known: state 0 shows 1, state 2 shows 2
    model = HiddenStateModel(3, [3], 1, pA=pA, B=B, D=[0.5, 0.5, 0.0])
    model.learn(episodes([[0, 2]], [[0]]))
    near(model.A_0[:, 1], [2.0, 1.0, 1.0], 1e-3)


def test_learning_from_episodes_starts_from_the_prior():
    data = episodes([[0, 0, 1], [1, 1, 1]], [[0, 0], [0, 0]])
    once, twice = (HiddenStateModel(2, [2], 1, pA=[[2.0, 1.0], [1.0, 2.0]], B=STAYS) for _ in range(2))
    once.learn(data, n_sweeps=50)
    twice.learn(data, n_sweeps=50)
    twice.learn(data, n_sweeps=50)
    near(twice.A_0, once.A_0.tolist(), 5e-3)
    assert twice.A_0.sum().item() == pytest.approx(6.0 + 6.0, rel=1e-4)
    kept = HiddenStateModel(2, [2], 1, pA=[[2.0, 1.0], [1.0, 2.0]], B=STAYS)
    kept.learn(data)
    kept.keep()
    kept.learn(data)
    assert kept.A_0.sum().item() == pytest.approx(6.0 + 12.0, rel=1e-4)


@pytest.mark.parametrize("learns", ["A", "AB"])
def test_episodes_may_be_smoothed_in_parts(monkeypatch, learns):
    """Of different lengths, and known to have happened more than once: parts are cut to the longest of theirs."""
    data = episodes([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], [[0, 0, 0]] * 4)
    lengths = th.tensor([3, 4, 1, 2])
    payments = th.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    data = data._replace(mask=th.arange(4) < lengths.unsqueeze(1), payments=payments, times=th.tensor([1.0, 2.0, 1.0, 3.0]))
    known = {} if learns == "AB" else {"B": STAYS}
    found, sizes = [], []
    for numbers in (4, 16, 10_000):
        monkeypatch.setattr("sb3_dai.world_model.hidden_states.MAX_NUMBERS", numbers)
        model = HiddenStateModel(2, [2], 1, pA=[[2.0, 1.0], [1.0, 2.0]], **known)
        model.payments.number(th.tensor([[0.0, 0.0], [1.0, 0.0]]))

        def learn_from(part, *inferred_with, learn=model._learn_from, sizes=sizes):
            sizes.append(part.mask.shape)
            return learn(part, *inferred_with)

        monkeypatch.setattr(model, "_learn_from", learn_from)
        found.append((model.learn(data, n_sweeps=2), model.A_0, model.B, model.payments.counts))
    assert sizes[:4] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert sizes[-1] == (4, 4)
    for one in found[:2]:
        assert one[0] == pytest.approx(found[-1][0], rel=1e-5)
        for numbers, expected in zip(one[1:], found[-1][1:], strict=True):
            close(numbers, expected.tolist())


def test_hard_assignment_numbers_states_by_what_they_show():
    """Neither A nor B is known. A new outcome gets a state of its own, and keeps it."""
    th.manual_seed(0)
    model = HiddenStateModel(4, [4], 1, assignment="hard")
    belief, _ = model.infer(model.initial_states().unsqueeze(0), th.tensor([[0]]))
    model.count_first(belief, th.tensor([[0]]))
    for outcome in [1, 2, 3, 0] * 20:
        seen = th.tensor([[outcome]])
        following, _ = model.infer(model.predict_states(belief)[:, 0], seen)
        assert sorted(following[0].tolist()) == [0.0, 0.0, 0.0, 1.0]
        model.count(belief, th.tensor([0]), following, seen)
        belief = following
    assert sorted(model.likelihoods()[0].argmax(dim=0).tolist()) == [0, 1, 2, 3]
    assert model.transition().max(dim=0).values.min().item() > 0.9


def test_novelty_leads_to_what_was_not_seen():
    model = HiddenStateModel(2, [2], 2, pA=[[50.0, 1.0], [1.0, 1.0]], B=SWAPS, D=[1.0, 0.0])
    gains = model.information_gains(th.tensor([[1.0, 0.0]]))
    assert gains.novelty_A[0, 1] > 10 * gains.novelty_A[0, 0] > 0.0
    assert (gains.novelty_B == 0.0).all()
    near(model.gains_of_seen_states()[0], gains.novelty_A[0].tolist(), 1e-5)
    learns_B = HiddenStateModel(2, [2], 2, A=A, pB=np.stack([np.full((2, 2), 50.0), np.ones((2, 2))], axis=2))
    gains = learns_B.information_gains(th.tensor([[0.5, 0.5]]))
    assert gains.novelty_B[0, 1] > 10 * gains.novelty_B[0, 0] > 0.0
    close(gains.total(), (gains.salience + gains.novelty_B).tolist())


def test_many_outcomes_add_up_their_salience(monkeypatch):
    model = HiddenStateModel(2, [2, 2], 1, A=[A, A], B=STAYS)
    belief = th.tensor([[0.5, 0.5]])
    joint = model.information_gains(belief).salience
    monkeypatch.setattr("sb3_dai.world_model.hidden_states.MAX_JOINT_OUTCOMES", 1)
    assert model.information_gains(belief).salience.item() > joint.item() * 1.2


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (dict(A=A, pA=A), "A and pA: give either"),
        (dict(A=np.eye(3)), r"A of shape \(3, 3\): give \(2, 2\)"),
        (dict(A=[A, A]), r"A of shape \(2, 2\), \(2, 2\): give \(2, 2\)"),
        (dict(B=np.ones((2, 2, 1))), "B: give probabilities"),
        (dict(D=[0.5, 0.6]), "D: give probabilities"),
        (dict(pD=[0.0, 1.0]), "pD: give positive counts"),
        (dict(pA=0.0), "pA=0.0: give a finite number of at least 0.001"),
        (dict(A=A, pA=1.0), "A and pA: give either"),
        (dict(assignment="sampled"), "assignment='sampled': choose"),
    ],
)
def test_tables_that_do_not_fit(tables, message):
    with pytest.raises(ValueError, match=message):
        HiddenStateModel(2, [2], 1, **tables)


def test_what_was_paid_tells_the_state_afterwards():
    """Of two states that look the same, the first pays 1 in nine of ten cases, the other in one."""
    for distinct in (False, True):
        model = HiddenStateModel(2, [1], 1, A=np.ones((1, 2)), B=STAYS, pD=[1.0, 1.0])
        numbers = model.payments.number(th.tensor([[0.0, 0.0], [1.0, 0.0]]))
        for counts in (model.payments.prior, model.payments.counts):
            counts[numbers] = th.tensor([[[1.0], [9.0]], [[9.0], [1.0]]])
        seen = episodes([[0, 0]] * 3, [[0]] * 3)._replace(payments=numbers[[1, 1, 0]].unsqueeze(1))
        if distinct:
            seen = seen.distinct()
            assert sorted(seen.times.tolist()) == [1.0, 2.0], "equal episodes are smoothed once"
        model.learn(seen, n_sweeps=1)
        close(model.D, [1.0 + 2 * 0.9 + 0.1, 1.0 + 2 * 0.1 + 0.9])
        close(model.payments.known()[numbers[1], :, 0], [9.0 + 2 * 0.9, 1.0 + 2 * 0.1])
