"""What agents foretell of the next observation."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import make
from worlds import IMAGE, VECTOR, CounterEnv, NoisyWalk, SampledEnv

import sb3_dai.envs  # noqa: F401 (registers the worlds)
from sb3_dai.diagnostics import HiddenModel, one_step_log_likelihood, predictive_log_likelihood, record
from sb3_dai.world_model.base import Belief

MEMORY = dict(net_arch=[8], lstm_hidden_size=6, sequence_length=5, burn_in=2, greedy="policy")


def test_exact_beliefs_foretell_what_their_tables_do():
    env = gym.make("sb3_dai/Tiger-v0")
    model = make(env, "HiddenStatesPolicy", policy_kwargs=dict(B="env", net_arch=[8]), seed=0).learn(120)
    episodes = record(model, env, n_episodes=3, seed=0)
    states = model.policy.states
    tables = HiddenModel(
        [A.numpy() for A in states.likelihoods()], states.transition().numpy(), states.initial_states().numpy()
    )
    assert one_step_log_likelihood(model, *episodes) == pytest.approx(
        predictive_log_likelihood(tables, *episodes)[0], rel=1e-4
    )


def test_density_of_vectors_that_a_memory_foretells():
    """Against the mixture of normal distributions by torch, with the memory that acting carries."""
    model = make(SampledEnv(VECTOR), "MlpLstmPolicy", policy_kwargs=MEMORY, seed=0).learn(80)
    (seen,), (taken,) = record(model, SampledEnv(VECTOR), n_episodes=1, seed=0)
    policy, state, expected = model.policy, None, []
    for now, action, then in zip(seen[:-1], taken, seen[1:], strict=True):
        _, state = model.predict(now, state)
        state = (*state[:-1], np.eye(3, dtype=np.float32)[[action]])  # What was done, not what would be done now
        raw = th.as_tensor(now)[None]
        belief = Belief(th.cat([policy.scaled(raw), th.as_tensor(state[0])], dim=1), raw)
        prediction = policy.world_model.predict(belief, th.as_tensor(state[-1]))
        inverse = policy.world_model.change_norm.inverse
        normal = th.distributions.Normal(raw + inverse(prediction.mean), inverse((prediction.log_var / 2).exp()))
        each = normal.log_prob(th.as_tensor(then)).sum(dim=-1)[:, 0]
        expected.append((each.logsumexp(dim=0) - np.log(len(each))).item())
    assert one_step_log_likelihood(model, [seen], [taken]) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("policy_kwargs", [dict(net_arch=[8]), dict(transition_model="dirichlet")])
def test_numbered_observations(policy_kwargs):
    model = make(NoisyWalk(), policy_kwargs=policy_kwargs, seed=0).learn(200)
    found = one_step_log_likelihood(model, *record(model, NoisyWalk(), n_episodes=5, seed=0))
    assert -np.log(6) < found < 0.0, "better than to think all six states as likely"


def test_a_recording_of_a_policy_with_a_memory_carries_it(monkeypatch):
    model = make(CounterEnv(length=6), "MlpLstmPolicy", policy_kwargs=MEMORY, seed=0)
    carried, predict = [], model.policy.predict
    monkeypatch.setattr(
        model.policy,
        "predict",
        lambda obs, state=None, *rest, **named: carried.append(state) or predict(obs, state, *rest, **named),
    )
    record(model, CounterEnv(length=6), n_episodes=2)
    assert [state is None for state in carried] == [True, *[False] * 5] * 2


@pytest.mark.parametrize(
    ("env", "episodes", "message"),
    [
        (SampledEnv(IMAGE), ([np.zeros((2, *IMAGE.shape))], [np.zeros(1, int)]), "predicts features of it"),
        (SampledEnv(VECTOR), ([np.zeros((2, 3))], [np.zeros(2, int)]), "2 observations and 2 actions"),
    ],
)
def test_what_cannot_be_compared_is_refused(env, episodes, message):
    with pytest.raises(ValueError, match=message):
        one_step_log_likelihood(make(env, "CnnPolicy" if env.observation_space == IMAGE else "MlpPolicy"), *episodes)
