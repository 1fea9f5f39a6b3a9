"""Terms of the expected free energy: weight, sign, discount, terminal rule, and terms of the user's."""

import math

import numpy as np
import pytest
import torch as th
from helpers import close, differing, make, state_of, step_inputs
from stable_baselines3.common.utils import LinearSchedule
from worlds import BOX, DISCRETE, VECTOR, Chain, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.efe import EpistemicTerm, PredictionErrorTerm, PreferenceTerm, Term, Transition
from sb3_dai.learning.batch import sample_transitions
from sb3_dai.learning.losses import efe_targets, value_loss
from sb3_dai.policy import MlpPolicy
from sb3_dai.world_model.gaussian import GaussianPrediction


class Effort(Term):
    """A term of the user's: the second option of a choice costs 1."""

    name = "effort"
    reads_prediction = False

    def cost(self, transition):
        return transition.actions[:, 1:2]


class Fear(Effort):
    """Another, of which the critics are averaged, and whose value goes on after the end of an episode."""

    name = "fear"
    averages = continues = True


def transition(**changes):
    """Two transitions, of which the second has no successor; the members predict 0 and 2, where 2 happened."""
    prediction = GaussianPrediction(th.tensor([[[0.0], [0.0]], [[2.0], [2.0]]]), th.zeros(2, 2, 1))
    fields = dict(
        observations=th.zeros(2, 1),
        actions=th.eye(2),
        next_observations=th.ones(2, 1),
        rewards=th.tensor([[1.0], [2.0]]),
        terminated=th.zeros(2, 1),
        log_preference=th.tensor([[3.0], [-4.0]]),
        has_successor=th.tensor([[1.0], [0.0]]),
        prediction=prediction,
        outcome=th.full((2, 1), 2.0),
    )
    return Transition(**{**fields, **changes})


# ----- Costs -----


def test_cost_of_the_preference_term():
    close(PreferenceTerm(2.0).cost(transition()), [[-6.0], [8.0]])
    assert (PreferenceTerm(0.0).cost(transition()) == 0.0).all()


def test_cost_of_the_prediction_error():
    # The mean of the members is 1; where there is no successor there is no error
    close(PredictionErrorTerm(5.0).cost(transition()), [[1.0], [0.0]])


@pytest.mark.parametrize("novelty", ["information_gain", "variance"])
def test_cost_of_the_epistemic_term_is_the_gain_in_units_of_its_peak(novelty):
    term = EpistemicTerm(0.5, novelty=novelty)
    gain = getattr(transition().prediction, novelty)()
    assert (gain > 0).all()
    close(term.cost(transition()), -th.ones(2, 1))
    # Members that disagree by half as much. What was seen is remembered
    half = GaussianPrediction(transition().prediction.mean / 2, th.zeros(2, 2, 1))
    close(term.cost(transition(prediction=half)), -getattr(half, novelty)() / gain)


# ----- Weights -----


@pytest.mark.parametrize(
    ("weight", "at_start", "at_end", "sign", "is_off"),
    [
        (2.0, 2.0, 2.0, 1.0, False),
        (-0.5, 0.5, 0.5, -1.0, False),
        (0, 0.0, 0.0, 1.0, True),
        (np.float32(0.5), 0.5, 0.5, 1.0, False),
        (LinearSchedule(0.6, 0.0, 1.0), 0.6, 0.0, 1.0, False),
        (lambda progress: 0.0, 0.0, 0.0, 1.0, False),
    ],
    ids=["positive", "negative", "zero", "numpy", "schedule", "schedule of zeros"],
)
def test_weights(weight, at_start, at_end, sign, is_off):
    """The sign goes into the cost, so that the worst critic of a term that seeks is the highest as well."""
    term = Effort(weight)
    assert [term.weight_at(progress) for progress in (1.0, 0.0)] == pytest.approx([at_start, at_end])
    assert (term.sign, term.is_off) == (sign, is_off)


def test_the_weight_of_the_preference_is_a_part_of_its_cost():
    """Its head also holds the policy's entropy, which a weight would scale, too."""
    term = PreferenceTerm(3.0)
    assert (term.weight_at(1.0), term.sign, term.is_off) == (1.0, 1.0, False)


@pytest.mark.parametrize(
    ("weight", "discount", "named"),
    [
        (math.nan, None, "effort_weight.*=nan: give"),
        ("much", None, "effort_weight.*='much': give"),
        (None, None, "effort_weight.*=None: give"),
        (lambda progress: -1.0, None, "effort_weight.*value=-1.0: give"),
        (1.0, 1.5, "discount.*'effort'.*=1.5: give"),
        (1.0, "auto", "discount.*'effort'.*='auto': give"),
    ],
)
def test_bad_weights_and_discounts_are_named(weight, discount, named):
    with pytest.raises(ValueError, match=named):
        Effort(weight, discount)


def test_a_name_must_be_an_identifier():
    class Unnamed(Effort):
        name = "two words"

    with pytest.raises(ValueError, match="name='two words' of Unnamed: give an identifier"):
        Unnamed()


def test_novelty_must_be_known():
    with pytest.raises(ValueError, match="novelty='surprise': choose"):
        EpistemicTerm(novelty="surprise")


# ----- Targets -----

COST, ENDED, NEXT = th.tensor([[1.0], [1.0]]), th.tensor([[0.0], [1.0]]), th.tensor([[10.0], [30.0]])


def test_the_value_of_a_term_ends_with_the_episode():
    close(Effort().target(COST, ENDED, 0.9, NEXT), [[10.0], [1.0]])


def test_the_value_of_a_continuing_term_goes_on_to_the_mean_elsewhere():
    term = Fear()
    close(term.target(COST, ENDED, 0.9, NEXT), [[10.0], [1.0 + 0.9 * 20.0]])
    # The mean of this batch and of the one before
    close(term.target(COST, ENDED, 0.9, th.zeros(2, 1)), [[1.0], [1.0 + 0.9 * 10.0]])
    assert EpistemicTerm().continues and not (PreferenceTerm().continues or PredictionErrorTerm().continues)


def targets_of(model, batch_size=32, **changes):
    """Bellman targets of a batch, by name of the head, and the batch, the transitions and the next values they are made of."""
    (sampled,) = sample_transitions(model.replay_buffer, batch_size)
    batch, coefficients = step_inputs(model, sampled, **changes)
    policy, pairs = model.policy, sampled.one_step
    with th.no_grad():
        next_belief, outcome = policy.observe(pairs.observations, pairs.next_observations, 1.0)
        actions = policy.encode(pairs.actions)
        prediction = policy.world_model.predict(policy.belief(pairs.observations), actions)
        seen = Transition(pairs.observations, actions, pairs.next_observations, pairs.rewards, pairs.dones,
                          batch.log_preference, 1.0, prediction, outcome)  # fmt: skip
        next_efe = policy.posterior(next_belief).expected_efe(policy.efe(next_belief, target=True))
        heads, columns = efe_targets(policy, batch, coefficients, seen, next_belief)
    found = {policy.term_names[head]: columns[:, i : i + 1] for i, head in enumerate(heads)}
    return found, pairs, actions, dict(zip(policy.term_names, next_efe.split(1, dim=1), strict=True)), coefficients


def test_each_head_has_the_discount_of_its_term():
    terms = [Effort(0.5, discount=0.5)]
    model = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=terms), gamma=0.9, seed=0).learn(60)
    found, pairs, actions, next_efe, _ = targets_of(model)
    goes_on = 1.0 - pairs.dones
    close(found["effort"], actions[:, 1:2] + 0.5 * goes_on * next_efe["effort"])
    close(found["extrinsic"], -pairs.rewards + 0.9 * goes_on * next_efe["extrinsic"])


def test_a_term_of_negative_weight_learns_the_negative_of_its_cost():
    sought = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=[Effort(-2.0)]), gamma=0.0, seed=0).learn(60)
    found, _, actions, _, coefficients = targets_of(sought)
    close(found["effort"], -actions[:, 1:2])
    assert coefficients.head_weights[sought.policy.term_names.index("effort")] == 2.0


def test_only_the_extrinsic_head_is_of_returns_and_has_the_entropy():
    model = make(Chain(), n_steps=3, gamma=0.9, bootstrap_entropy=0.5, precision=2.0, prediction_error_weight=1.0, seed=0)
    model.learn(60)
    (sampled,) = sample_transitions(model.replay_buffer, 32)
    assert not th.equal(sampled.n_step.rewards, sampled.one_step.rewards)
    policy = model.policy
    batch, coefficients = step_inputs(model, sampled)
    pairs, n_step = sampled.one_step, sampled.n_step
    with th.no_grad():
        next_belief, outcome = policy.observe(pairs.observations, pairs.next_observations, 1.0)
        actions = policy.encode(pairs.actions)
        prediction = policy.world_model.predict(policy.belief(pairs.observations), actions)
        seen = transition(actions=actions, log_preference=batch.log_preference, has_successor=1.0, prediction=prediction,
                          outcome=outcome)  # fmt: skip
        last_belief = policy.belief(n_step.next_observations, target=True)
        last, posterior = policy.efe(last_belief, target=True), policy.posterior(last_belief)
        next_efe = policy.posterior(next_belief).expected_efe(policy.efe(next_belief, target=True))
        heads, columns = efe_targets(policy, batch, coefficients, seen, next_belief)
    assert heads == [0, 1, 2]
    soft = posterior.expected_efe(last)[:, :1] - 0.5 / 2.0 * posterior.entropy()
    th.testing.assert_close(columns[:, :1], -n_step.rewards + n_step.discounts * (1.0 - n_step.dones) * soft)
    error = prediction.error(outcome) + 0.9 * (1.0 - pairs.dones) * next_efe[:, 2:]
    th.testing.assert_close(columns[:, 2:], error)


def test_heads_that_read_the_prediction_wait_for_the_world_model():
    model = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=[Effort()]), prediction_error_weight=1.0, seed=0).learn(60)
    assert targets_of(model)[0].keys() == {"extrinsic", "epistemic", "prediction_error", "effort"}
    assert targets_of(model, learns_world_model=False)[0].keys() == {"extrinsic", "effort"}


def test_the_loss_of_a_head_is_in_proportion_to_its_weight():
    efe, weights = th.zeros(2, 4, 3), th.tensor([1.0, 0.5, 4.0])
    # Two critics, whose squared errors are 1, 4 and 9
    target = th.tensor([1.0, 2.0, 3.0]).expand(4, 3)
    close(value_loss(efe, [0, 1, 2], target, weights), 2 * (1.0 + 0.5 * 4.0 + 4.0 * 9.0))
    close(value_loss(efe, [0, 2], target[:, ::2], weights), 2 * (1.0 + 4.0 * 9.0))


# ----- Heads -----


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(), ["extrinsic", "epistemic"]),
        (dict(epistemic_weight=0.0), ["extrinsic"]),
        (dict(epistemic_weight=0.0, preference_weight=0.0), ["extrinsic"]),
        (dict(prediction_error_weight=-1.0), ["extrinsic", "epistemic", "prediction_error"]),
        (dict(epistemic_weight="auto"), ["extrinsic", "epistemic"]),
        (dict(policy_kwargs=dict(ensemble_size=1)), ["extrinsic"]),
        (dict(policy_kwargs=dict(terms=[Effort(0.0)])), ["extrinsic", "epistemic"]),
        (dict(policy_kwargs=dict(terms=[Effort(lambda progress: 0.0)])), ["extrinsic", "epistemic", "effort"]),
    ],
    ids=str,
)
@pytest.mark.parametrize(("action_space", "n_values"), [(DISCRETE, 3), (BOX, 1)], ids=["discrete", "box"])
def test_a_term_that_is_off_costs_no_head(arguments, names, action_space, n_values):
    policy = make(SampledEnv(VECTOR, action_space), buffer_size=10, **arguments).policy
    assert policy.term_names == [*policy.terms] == names
    assert policy.value_net.layers[-1].weight.shape[-1] == len(names) * n_values
    assert len(policy.head_weights) == len(policy.averages) == len(names)
    assert not any(name.startswith("terms.epistemic") for name in policy.state_dict()) or "epistemic" in names


def test_all_heads_learn_what_they_are_about():
    """Without a discount, the head of the effort is the effort, whatever else is learned beside it."""
    kwargs = dict(net_arch=[32], terms=[Effort(1.0, discount=0.0)])
    policy = make(Chain(), policy_kwargs=kwargs, learning_rate=1e-2, gradient_steps=4, seed=0).learn(200).policy
    belief = policy.belief(th.arange(4))
    efe = policy.efe(belief)
    for action in range(2):
        values = efe(policy.encode(th.full((4, 1), action)))[:, :, policy.term_names.index("effort")]
        assert values.mean().item() == pytest.approx(action, abs=0.15)


@pytest.mark.parametrize(("weight", "share"), [(5.0, 0.0), (-5.0, 1.0)], ids=["avoided", "sought"])
def test_a_term_of_the_users_decides_what_is_done(weight, share):
    kwargs = dict(net_arch=[16], terms=[Effort(weight, discount=0.0)])
    model = make(Chain(), policy_kwargs=kwargs, preference_weight=0.0, epistemic_weight=0.0, precision=5.0, seed=0)
    model.learn(300)
    actions = model.predict(np.arange(5), deterministic=True)[0]
    assert actions.mean() == share


def test_what_a_term_of_the_users_may_read():
    seen = []

    class Reader(Effort):
        reads_prediction = True

        def cost(self, transition):
            seen.append(transition)
            return transition.rewards

    env = SampledEnv(VECTOR, BOX)
    model = make(env, policy_kwargs=dict(net_arch=[16], terms=[Reader()], transition_delay=2), n_steps=2, seed=0).learn(60)
    assert len(seen) == model._n_updates // 2, "in the steps in which the world model learns"
    for rows in seen:
        assert all(x.shape == (32, 3) for x in (rows.observations, rows.next_observations, rows.outcome))
        assert rows.actions.shape == (32, 2)
        assert all(x.shape == (32, 1) for x in (rows.rewards, rows.terminated, rows.log_preference))
        assert rows.prediction.information_gain().shape == (32, 1)
    # The one-step reward, beside the preference for two of them
    assert any(not th.equal(rows.rewards, rows.log_preference) for rows in seen)


@pytest.mark.parametrize(("term", "averages"), [(Effort(), False), (Fear(), True)])
def test_critics_of_a_term_are_aggregated_as_it_says(term, averages):
    policy = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=[term]), n_steps=1, seed=0, buffer_size=10).policy
    assert policy.averages == [False, True, averages]
    belief = policy.belief(th.arange(5))
    table = policy.efe(belief).table[:, :, 2]
    policy.pessimism.fill_(1.0)
    weights = th.tensor([0.0, 0.0, 2.0])
    expected = table.mean(dim=0) if averages else table.max(dim=0).values
    th.testing.assert_close(policy.efe(belief).terms()[:, 2], expected)
    th.testing.assert_close(policy.efe(belief).total(weights), 2.0 * expected.detach())
    assert (table[0] != table[1]).all()


def test_terms_of_the_users_are_logged_and_copied_and_saved(tmp_path):
    given = Fear(0.5)
    model = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=[given]), seed=0).learn(70, log_interval=1000)
    logged = model.logger.name_to_value
    assert logged["train/fear_weight"] == pytest.approx(0.5) and "train/fear_value" in logged
    own = model.policy.terms["fear"]
    assert own.elsewhere.n_batches.item() == model._n_updates and given.elsewhere.n_batches.item() == 0
    assert model.policy_kwargs["terms"] == [given]
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = DAI.load(tmp_path / "model", env=Chain(), device="cpu")
    for policy in (loaded.policy, MlpPolicy.load(tmp_path / "policy", device="cpu")):
        assert policy.term_names == ["extrinsic", "epistemic", "fear"]
        assert not differing(state_of(model.policy), state_of(policy))
    loaded.learn(60)
    assert loaded.policy.terms["fear"].elsewhere.n_batches > own.elsewhere.n_batches


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ([Effort], r"terms=\[<class .*give a list of objects of classes derived from sb3_dai\.efe\.Term"),
        (["effort"], r"terms=\['effort'\]: give a list of objects"),
        (Effort(), r"terms=Effort\(\): give a list of objects"),
        ([Effort(1.0), Effort(2.0)], r"terms=.*'effort', 'effort'\]: give each term of the EFE a name of its own"),
        ([EpistemicTerm(0.5)], r"terms=.*'epistemic'.*'epistemic'\]: give each term of the EFE a name of its own"),
    ],
)
@pytest.mark.parametrize("epistemic_weight", [0.0, 0.5])
def test_bad_terms_are_named(terms, named, epistemic_weight):
    with pytest.raises(ValueError, match=named):
        make(Chain(), epistemic_weight=epistemic_weight, policy_kwargs=dict(terms=terms))


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize(
    ("cost", "found"),
    [(lambda rewards: rewards[:, 0], r"shape \(32,\)"), (lambda rewards: rewards.mean(), r"shape \(\)"), (len, "a int")],
)
def test_a_cost_of_another_shape_is_named(cost, found, backend):
    class Mistaken(Effort):
        def cost(self, transition):
            return cost(transition.rewards)

    model = make(Chain(), policy_kwargs=dict(net_arch=[16], terms=[Mistaken()]), backend=backend)
    message = rf"terms: Mistaken \(name='effort'\): cost returned {found} for 32 .* of shape \(32, 1\), such as cost\.reshape"
    with pytest.raises(ValueError, match=message):
        model.learn(60)


def test_a_policy_by_itself_has_the_terms_that_it_is_given():
    arguments = VECTOR, DISCRETE, lambda _: 1e-3
    assert MlpPolicy(*arguments, net_arch=[4]).term_names == ["extrinsic", "epistemic"]
    assert MlpPolicy(*arguments, net_arch=[4], terms=[PreferenceTerm(), Effort()]).term_names == ["extrinsic", "effort"]
    with pytest.raises(ValueError, match="give each term of the EFE a name of its own"):
        MlpPolicy(*arguments, net_arch=[4], terms=[Effort(), Effort()])
