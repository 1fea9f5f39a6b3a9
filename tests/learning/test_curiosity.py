"""Which way curiosity and surprise push, and what world models know."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from worlds import NoisyChoice, NoisyWalk

from sb3_dai import DAI

SMALL = dict(net_arch=[32])


@pytest.mark.parametrize("weight, preferred", [(1.0, 0), (-1.0, 1)])
def test_prediction_error_avoids_or_seeks_surprise(weight, preferred):
    """Positive is the seed's free energy of the future, negative is curiosity, which noise attracts."""
    model = DAI("MlpPolicy", NoisyChoice(), prediction_error_weight=weight, epistemic_weight=0.0, precision=5.0, seed=0,
                policy_kwargs=SMALL, device="cpu")  # fmt: skip
    model.learn(600)
    assert model.predict(np.zeros(2, np.float32), deterministic=True)[0] == preferred


def test_information_gain_is_higher_where_nothing_was_seen():
    class Walk(NoisyChoice):
        """A random walk: the next observation is near the last."""

        def step(self, action):
            self.state = self.state + 0.1 * self.np_random.normal(size=2) + 0.05 * action
            return self.state.astype(np.float32), 0.0, False, bool(np.abs(self.state).max() > 1), {}

        def reset(self, *, seed=None, options=None):
            gym.Env.reset(self, seed=seed)
            self.state = np.zeros(2)
            return self.state.astype(np.float32), {}

    model = DAI("MlpPolicy", Walk(), seed=0, policy_kwargs=SMALL, device="cpu").learn(600)
    actions = model.policy.encode(th.zeros(64, 1))
    with th.no_grad():
        beliefs = [model.policy.belief(scale * th.randn(64, 2)) for scale in (0.3, 4.0)]
        predictions = [model.policy.world_model.predict(belief, actions) for belief in beliefs]
    near, far = (prediction.information_gain() for prediction in predictions)
    assert far.mean() > 5 * near.mean()


def test_categorical_world_model_of_numbered_states():
    model = DAI("MlpPolicy", NoisyWalk(), seed=0, policy_kwargs=SMALL, device="cpu").learn(800)
    policy = model.policy
    with th.no_grad():
        belief = policy.belief(th.arange(6).reshape(-1, 1))
        prediction, noisy = (
            policy.world_model.predict(belief, policy.encode(actions)) for actions in (th.zeros(6, 1), th.ones(6, 1))
        )
    prob = prediction.log_prob.exp().mean(dim=0)
    assert prob.shape == (6, 6)
    assert prob[0, 1] > 0.9 and prob[1, 0] > 0.9
    assert noisy.log_prob.exp().mean(dim=0)[0, 2:5].min() > 0.15  # one third each
    # Noise that is known has nothing to tell, a state that was never seen has
    gain = th.cat([prediction.information_gain(), noisy.information_gain()], dim=1)
    assert gain[5].mean() > 3 * gain[0, 1]


def test_surprise_of_numbered_states_is_avoided_or_sought():
    for weight, preferred in ((1.0, 0), (-1.0, 1)):
        kwargs = dict(prediction_error_weight=weight, epistemic_weight=0.0, precision=5.0, gamma=0.0)
        model = DAI("MlpPolicy", NoisyWalk(), seed=0, policy_kwargs=SMALL, device="cpu", **kwargs).learn(600)
        assert model.predict(0, deterministic=True)[0] == preferred
