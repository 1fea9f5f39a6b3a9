"""States that agree in the factors that a table depends on share what is learned."""

import numpy as np
import pytest
import torch as th
from helpers import close

from sb3_dai.world_model.hidden_states import Episodes, HiddenStateModel
from sb3_dai.world_model.restarts import learn_from_many_starts
from sb3_dai.world_model.sharing import Sharing

# Two contexts times three cells: state = 3 * context + cell
SIZES = (2, 3)


def test_states_that_share_a_column():
    cells = Sharing(SIZES, [1])
    close(cells.pooled(th.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0]])), [[0.5, 0.2, 0.3, 0.5, 0.2, 0.3]])
    close(cells.of_first(th.arange(6.0)[None]), [[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]])
    contexts = Sharing(SIZES, [0])
    close(contexts.pooled(th.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0]])), [[0.6, 0.6, 0.6, 0.4, 0.4, 0.4]])
    close(Sharing(SIZES, []).pooled(th.tensor([[0.5, 0.0, 0.0, 0.0, 0.0, 0.5]])), [[1.0] * 6])


def test_all_factors_share_nothing():
    states = th.rand(2, 6)
    assert Sharing(SIZES, [0, 1]).pooled(states) is states


def model(**kwargs):
    """Cells 0, 1, 2 in a row, one action to the right that stays in the last; the context stays. Starts in cell 0."""
    step = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    B = np.kron(np.eye(2), step)[:, :, None]
    D = np.array([0.5, 0.0, 0.0, 0.5, 0.0, 0.0])
    return HiddenStateModel(SIZES, [3, 2], 1, B=B, D=D, A_dependencies=[[1], [0, 1]], **kwargs)


def test_what_is_counted_in_one_context_is_known_in_the_other():
    states = model(R_dependencies=[1])
    states.count_first(th.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]), th.tensor([[2, 1]]))
    cell, other = states.counts_of_A()
    close(cell[2], [4 / 3, 1 / 3, 1 / 3, 4 / 3, 1 / 3, 1 / 3])
    close(other[1], [1.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    paid = states.payments
    paid.count(paid.number(th.tensor([[1.0, 0.0]])), th.tensor([0]), th.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    close(paid.known()[0, :, 0], [1.1, 0.1, 0.1, 1.1, 0.1, 0.1])


def test_draws_and_noise_keep_shared_columns_alike():
    th.manual_seed(0)
    states = model(R_dependencies=[1])
    states.payments.number(th.tensor([[1.0, 0.0], [0.0, 0.0]]))
    states.scatter(1.0)
    world = states.decisions(draws=True)
    of_cells = world.likelihood.unflatten(0, (3, 2)).sum(dim=1)
    for table in (states.counts_of_A()[0], of_cells, world.rewards.T):
        close(table[:, :3], table[:, 3:].tolist())
        assert table[:, 0].tolist() != table[:, 1].tolist()
    assert states.counts_of_A()[1][0, 0] != states.counts_of_A()[1][0, 3]


def test_contexts_are_told_apart_by_what_depends_on_them():
    """The second modality shows the context in cells 1 and 2. Ten episodes of each context, which nobody names."""
    th.manual_seed(0)
    seen = [[[0, 0], [1, context], [2, context]] for context in (0, 1)] * 10
    episodes = Episodes(th.tensor(seen), th.zeros(20, 2, dtype=th.long), th.ones(20, 3, dtype=th.bool)).distinct()
    states = model()
    learn_from_many_starts(states, episodes, n_starts=2)
    cell, context = states.likelihoods()
    assert cell.argmax(dim=0).tolist() == [0, 1, 2, 0, 1, 2] and cell.max(dim=0).values.min() > 0.9
    shown = context[1, [1, 2, 4, 5]]
    assert shown[0] == pytest.approx(shown[1].item()) and shown[2] == pytest.approx(shown[3].item())
    assert min(shown) < 0.1 and max(shown) > 0.9


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(A_dependencies=[[0]]), r"A_dependencies=\[\[0\]\]: give 2 list"),
        (dict(A_dependencies=[[0], [2]]), "numbered from 0 to 1"),
        (dict(A_dependencies=[0, 1]), "A_dependencies"),
        (dict(A_dependencies=3), "A_dependencies=3: give 2 list"),
        (dict(R_dependencies=[5]), "R_dependencies"),
        (dict(A_dependencies=[[1], [1]], pA=[np.ones((3, 6)), np.arange(1.0, 13.0).reshape(2, 6)]), "the same counts"),
    ],
)
def test_dependencies_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HiddenStateModel(SIZES, [3, 2], 1, **kwargs)


@pytest.mark.parametrize("sizes", [(), (2, 0), 0])
def test_factors_that_do_not_exist(sizes):
    with pytest.raises(ValueError, match="n_hidden_states"):
        HiddenStateModel(sizes, [3], 1)
