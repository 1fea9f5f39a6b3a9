"""What the critics and the policy converge to, held against dynamic programming and closed forms."""

import numpy as np
import pytest
import torch as th
from helpers import filled
from worlds import N_STATES, Chain, Slope, solve

from sb3_dai import DAI

SMALL = dict(net_arch=[32])


def values(model: DAI) -> tuple[np.ndarray, np.ndarray]:
    """G of each head, (n_terms, N_STATES, N_ACTIONS), and Q(a|s) in every state."""
    with th.no_grad():
        belief = model.policy.belief(th.arange(N_STATES))
        efe = model.policy.efe(belief).table.max(dim=0).values.squeeze(2)
        return efe.permute(1, 0, 2).numpy(), model.policy.posterior(belief).log_prob.exp().squeeze(1).numpy()


@pytest.mark.parametrize("precision", [1.0, 10.0])
def test_critics_converge_to_dynamic_programming(precision):
    model = DAI(
        "MlpPolicy", Chain(), precision=precision, bootstrap_entropy=1.0, gamma=0.9, tau=0.05, epistemic_weight=0.0, seed=0,
        learning_rate=3e-3, policy_kwargs=dict(SMALL, ensemble_size=1, n_critics=1), device="cpu",
    )  # fmt: skip
    filled(model).train(gradient_steps=1000, batch_size=64)
    expected = solve(0.9, 1 / precision)
    efe, prob = values(model)
    np.testing.assert_allclose(efe[0], expected, atol=0.05)
    optimal = np.exp(-expected * precision)
    np.testing.assert_allclose(prob, optimal / optimal.sum(axis=1, keepdims=True), atol=0.05)


def test_without_entropy_in_the_bootstrap_the_value_is_the_policys():
    """bootstrap_entropy=0 evaluates the policy itself: no bonus for being random, so a higher cost."""
    efe = {}
    for bootstrap_entropy in (0.0, 1.0):
        model = DAI(
            "MlpPolicy", Chain(), precision=1.0, gamma=0.9, tau=0.05, epistemic_weight=0.0, seed=0,
            learning_rate=3e-3, policy_kwargs=SMALL, bootstrap_entropy=bootstrap_entropy, device="cpu",
        )  # fmt: skip
        filled(model).train(gradient_steps=600, batch_size=64)
        efe[bootstrap_entropy] = values(model)[0][0]
    # The last step to the right ends the episode, and with it the choice
    assert (efe[0.0][:-1] > efe[1.0][:-1] + 0.5).all()


def test_a_worse_reward_raises_g():
    efe = {}
    for weight in (0.0, 1.0, 3.0):
        model = DAI("MlpPolicy", Chain(), preference_weight=weight, gamma=0.5, epistemic_weight=0.0, seed=0,
                    bootstrap_entropy=0.0, tau=0.05, policy_kwargs=SMALL, device="cpu")  # fmt: skip
        filled(model).train(gradient_steps=400, batch_size=64)
        efe[weight] = values(model)[0][0]
    # The last step pays: the more it counts, the lower its cost; a step to the left only costs
    assert efe[3.0][-1, 1] < efe[1.0][-1, 1] - 1 < efe[0.0][-1, 1] - 1.5
    assert efe[1.0][0, 0] > efe[0.0][0, 0]


def test_a_policy_step_lowers_the_expected_efe():
    model = DAI("MlpPolicy", Chain(), precision=5.0, gamma=0.9, tau=0.02, seed=0, policy_kwargs=SMALL, device="cpu")
    filled(model).train(gradient_steps=300, batch_size=64)
    # With the values held still, the policy alone moves
    for group in model.policy.optimizer.param_groups:
        group["params"] = list(model.policy.policy_net.parameters())
    with th.no_grad():
        for parameter in model.policy.policy_net.parameters():
            parameter.mul_(0.0)
    weights = model.policy.head_weights.numpy()

    def expected_efe() -> float:
        efe, prob = values(model)
        return float((prob * (efe * weights[:, None, None]).sum(axis=0)).sum(axis=1).mean())

    before = expected_efe()
    model.train(gradient_steps=20, batch_size=64)
    assert expected_efe() < before - 1e-3


def test_constant_reward_has_a_bounded_value():
    """Fourth fault: no discount. A reward of 1 for ever is worth 1 / (1 - gamma)."""
    model = DAI("MlpPolicy", Chain(), gamma=0.5, seed=0, epistemic_weight=0.0, bootstrap_entropy=0.0, tau=0.05,
                policy_kwargs=SMALL, device="cpu")  # fmt: skip
    filled(model)
    model.replay_buffer.rewards[:] = 1.0
    model.replay_buffer.dones[:] = 0.0
    model.train(gradient_steps=600, batch_size=64)
    np.testing.assert_allclose(values(model)[0][0], -2.0, atol=0.1)


# ----- Precision -----


def test_automatic_precision_brings_the_entropy_to_its_target():
    model = DAI("MlpPolicy", Chain(), precision="auto", preference_weight=5.0, gamma=0.9, tau=0.05, learning_rate=3e-3, seed=0,
                target_entropy=0.5 * np.log(2), policy_kwargs=SMALL, device="cpu")  # fmt: skip
    filled(model).train(gradient_steps=1200, batch_size=64)
    assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(0.5 * np.log(2))
    _, prob = values(model)
    entropy = -(prob * np.log(prob)).sum(axis=1).mean()
    assert entropy == pytest.approx(0.5 * np.log(2), abs=0.1)


# ----- Box actions -----


def on_the_slope(**kwargs):
    """A model with a buffer of random actions, which are all that it learns from."""
    model = DAI("MlpPolicy", Slope(), seed=0, learning_rate=3e-3, epistemic_weight=0.0, tau=0.05,
                learning_starts=1000, policy_kwargs=SMALL, device="cpu", **kwargs)  # fmt: skip
    return model.learn(1000, log_interval=1000)


def test_critics_of_box_actions_read_the_action():
    model = on_the_slope(precision=2.0)
    model.train(gradient_steps=400, batch_size=64)
    actions = th.tensor([[-0.8, 0.0], [0.0, 0.7], [0.8, -0.7], [0.8, 0.7]])
    with th.no_grad():
        efe = model.policy.efe(model.policy.belief(th.zeros(4, 1)))(actions)
    assert efe.shape == (2, 4, 1), "no epistemic head where its weight is 0"
    np.testing.assert_allclose(efe[0, :, 0], -actions[:, 0], atol=0.1)


@pytest.mark.parametrize("weight, sign", [(1.0, 1), (-1.0, -1)])
def test_gaussian_policy_approaches_the_softmax_of_g(weight, sign):
    """With G = -a on [-1, 1] and precision p, softmax(-p G) has the mean coth(p) - 1 / p."""
    model = on_the_slope(precision=3.0)
    model.replay_buffer.rewards *= weight
    model.train(gradient_steps=800, batch_size=64)
    actions, _ = model.predict(np.zeros((2000, 1), np.float32))
    expected = 1 / np.tanh(3.0) - 1 / 3.0
    assert actions[:, 0].mean() == pytest.approx(sign * expected, abs=0.12)
    # What has no effect stays random: the uniform distribution has the deviation 0.58
    assert abs(actions[:, 1].mean()) < 0.12 and actions[:, 1].std() > 0.45


def test_automatic_precision_of_box_actions_aims_at_minus_their_dimension():
    model = on_the_slope(preference_weight=20.0)
    model.train(gradient_steps=1600, batch_size=64)
    assert model.logger.name_to_value["train/target_entropy"] == -2.0
    with th.no_grad():
        posterior = model.policy.posterior(model.policy.belief(th.zeros(2000, 1)))
    assert posterior.entropy().mean().item() == pytest.approx(-2.0, abs=0.4)
