"""The algorithm: what it converges to, which way each term pushes, and the notebook's faults kept out."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from helpers import inputs_of
from stable_baselines3.common.logger import configure
from worlds import N_ACTIONS, N_STATES, Chain, solve, transition

from sb3_dai import DAI
from sb3_dai.replay import sample_transitions
from sb3_dai.zoo import hyperparams_file

SMALL = dict(net_arch=[32])


class Slope(gym.Env):
    """One step, whose reward is the action in the middle of two; the other has no effect."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[0]), True, False, {}


def filled(model: DAI, repeats: int = 40) -> DAI:
    """Put every transition of the chain into the buffer, and silence the logger."""
    for _ in range(repeats):
        for state in range(N_STATES):
            for action in range(N_ACTIONS):
                next_state, reward, terminated = transition(state, action)
                row = (np.array([[state]]), np.array([[next_state]]), np.array([[action]]), np.array([reward]))
                model.replay_buffer.add(*row, np.array([terminated]), [{}])
    model.set_logger(configure(None, []))
    return model


def values(model: DAI) -> tuple[np.ndarray, np.ndarray]:
    """G of each head, (n_heads, N_STATES, N_ACTIONS), and Q(a|s) in every state."""
    with th.no_grad():
        features = model.policy.features(th.arange(N_STATES))
        efe = model.policy.efe(features).table.max(dim=0).values.squeeze(2)
        return efe.permute(1, 0, 2).numpy(), model.policy.habit(features).log_prob.exp().squeeze(1).numpy()


@pytest.mark.parametrize("precision", [1.0, 10.0])
def test_value_net_converges_to_dynamic_programming(precision):
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
    weights = model._head_weights().numpy()

    def expected_efe() -> float:
        efe, prob = values(model)
        return float((prob * (efe * weights[:, None, None]).sum(axis=0)).sum(axis=1).mean())

    before = expected_efe()
    model.train(gradient_steps=20, batch_size=64)
    assert expected_efe() < before - 1e-3


class NoisyChoice(gym.Env):
    """Two states, no reward: action 0 leads to a known one, action 1 to a random observation."""

    observation_space = spaces.Box(-5, 5, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        obs = self.np_random.uniform(-5, 5, 2) if action == 1 else np.zeros(2)
        return obs.astype(np.float32), 0.0, True, False, {}


@pytest.mark.parametrize("weight, preferred", [(1.0, 0), (-1.0, 1)])
def test_prediction_error_avoids_or_seeks_surprise(weight, preferred):
    """Positive is the seed's free energy of the future, negative is curiosity, which noise attracts."""
    model = DAI("MlpPolicy", NoisyChoice(), prediction_error_weight=weight, epistemic_weight=0.0, precision=5.0, seed=0,
                policy_kwargs=SMALL, device="cpu")  # fmt: skip
    model.learn(600)
    assert model.predict(np.zeros(2, np.float32), deterministic=True)[0] == preferred


@pytest.mark.parametrize(("weight", "expected"), [(2.0, 7.0), (-2.0, -3.0)])
def test_the_worst_of_the_value_nets_is_the_one_of_the_higher_cost(weight, expected):
    """By hand: the two nets expect surprises of 3 and 7, at a discount of 1 and none now. Who seeks surprise counts on 3."""
    model = filled(DAI("MlpPolicy", Chain(), prediction_error_weight=weight, gamma=1.0, policy_kwargs=SMALL, device="cpu"))
    (batch,) = sample_transitions(model.replay_buffer, 8)
    assert model._head_weights()[2] == 2.0
    sign = 1.0 if weight > 0 else -1.0
    for member, surprise in enumerate((3.0, 7.0)):
        last = model.policy.value_net_target.layers[-1]
        with th.no_grad():
            last.weight[member], last.bias[member] = 0.0, sign * surprise
    target = model._efe_target(inputs_of(model, batch), th.zeros(8, N_STATES), th.zeros(8, 1), th.zeros(8, 1))[:, 2:]
    th.testing.assert_close(target, expected * (1.0 - batch.one_step.dones))


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
        predictions = [model.policy.predict_outcome(scale * th.randn(64, 2), actions) for scale in (0.3, 4.0)]
    near, far = (prediction.information_gain() for prediction in predictions)
    assert far.mean() > 5 * near.mean()


class NoisyWalk(gym.Env):
    """Six states: 0 and 1 follow each other, 2 to 4 are noise that action 1 leads to from 0, and 5 is never seen."""

    observation_space, action_space = spaces.Discrete(6), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.t = 0, 0
        return 0, {}

    def step(self, action):
        self.t += 1
        self.state = int(self.np_random.integers(2, 5)) if (self.state, action) == (0, 1) else int(self.state == 0)
        return self.state, 0.0, False, self.t == 10, {}


def test_categorical_world_model_of_numbered_states():
    model = DAI("MlpPolicy", NoisyWalk(), seed=0, policy_kwargs=SMALL, device="cpu").learn(800)
    policy = model.policy
    with th.no_grad():
        features = policy.features(th.arange(6).reshape(-1, 1))
        prediction = policy.predict_outcome(features, policy.encode(th.tensor([[0], [0], [0], [0], [0], [0]])))
        noisy = policy.predict_outcome(features, policy.encode(th.ones(6, 1)))
    prob = prediction.log_prob.exp().mean(dim=0)
    assert prob.shape == (6, 6)
    assert prob[0, 1] > 0.9 and prob[1, 0] > 0.9
    assert noisy.log_prob.exp().mean(dim=0)[0, 2:5].min() > 0.15  # one third each
    # Noise that is known has nothing to tell, a state that was never seen has
    gain = th.cat([prediction.information_gain(), noisy.information_gain()], dim=1)
    assert gain[5].mean() > 3 * gain[0, 1]


def test_surprise_of_numbered_states_drives_the_seeds_term():
    for weight, preferred in ((1.0, 0), (-1.0, 1)):
        kwargs = dict(prediction_error_weight=weight, epistemic_weight=0.0, precision=5.0, gamma=0.0)
        model = DAI("MlpPolicy", NoisyWalk(), seed=0, policy_kwargs=SMALL, device="cpu", **kwargs).learn(600)
        assert model.predict(0, deterministic=True)[0] == preferred


def test_information_gain_lowers_the_epistemic_target():
    # Of this step alone: a discount of 0
    model = filled(DAI("MlpPolicy", Chain(), epistemic_gamma=0.0, seed=0, policy_kwargs=SMALL, device="cpu"))
    (batch,) = sample_transitions(model.replay_buffer, 2)
    for _ in range(1000):  # until the running scale is that of the two
        target = model._efe_target(inputs_of(model, batch), th.zeros(2, N_STATES), th.tensor([[1.0], [3.0]]), th.zeros(2, 1))
    np.testing.assert_allclose(target[:, 1], [-1.0 / 2.0, -3.0 / 2.0], rtol=1e-3)
    assert model._head_weights()[1] > 0
    # What is known by now weighs less than it did: the scale keeps its peak
    for _ in range(1000):
        target = model._efe_target(inputs_of(model, batch), th.zeros(2, N_STATES), th.tensor([[0.1], [0.3]]), th.zeros(2, 1))
    np.testing.assert_allclose(target[:, 1], [-0.1 / 2.0, -0.3 / 2.0], rtol=1e-3)


def test_ensemble_of_one_has_no_information_gain():
    model = DAI("MlpPolicy", Chain(), seed=0, policy_kwargs=dict(SMALL, ensemble_size=1), device="cpu")
    filled(model).train(gradient_steps=3, batch_size=16)
    assert model.logger.name_to_value["train/information_gain"] == 0.0
    assert model._head_weights()[1] == 0.0


# -- The notebook's fatal faults, each with a test that fails when it is put back. The first, the divergence's sign, is in
# -- test_free_energy.py and in the two policy tests above.


@pytest.mark.parametrize("max_steps", [3, 100])
def test_ends_are_stored_as_ends_and_timeouts_are_not(max_steps):
    """Second fault: the flag was stored before it was known. Ninth: a timeout counted as a death."""
    model = DAI("MlpPolicy", Chain(max_steps), seed=0, learning_starts=1000, device="cpu")
    model.learn(400)
    buffer = model.replay_buffer
    ends = (buffer.dones * (1 - buffer.timeouts))[: buffer.pos]
    assert buffer.dones.sum() > 0
    # Five steps to the right end the episode; with a limit of three none ever does
    assert (ends.sum() == 0) == (max_steps == 3)
    assert (
        buffer.observations[: buffer.pos][ends.astype(bool)].size == 0
        or (buffer.observations[: buffer.pos][ends.astype(bool)] == N_STATES - 1).all()
    )


def test_target_net_is_updated_across_short_episodes():
    """Third fault: the counter of the target's interval restarted with each episode."""
    model = DAI("MlpPolicy", Chain(max_steps=6), seed=0, learning_starts=10, tau=1.0, target_update_interval=50,
                policy_kwargs=SMALL, device="cpu")  # fmt: skip
    model.learn(49)
    start = [p.clone() for p in model.policy.value_net_target.parameters()]
    model.learn(2, reset_num_timesteps=False)
    moved = [not th.equal(a, b) for a, b in zip(start, model.policy.value_net_target.parameters(), strict=True)]
    assert any(moved)


def test_target_net_follows_each_gradient_step_by_default():
    model = DAI("MlpPolicy", Chain(), seed=0, tau=0.25, policy_kwargs=SMALL, device="cpu")
    filled(model)
    before = [p.clone() for p in model.policy.value_net_target.parameters()]
    model.train(gradient_steps=1, batch_size=16)
    online = model.policy.value_net.parameters()
    for old, target, new in zip(before, model.policy.value_net_target.parameters(), online, strict=True):
        th.testing.assert_close(target, 0.75 * old + 0.25 * new)


def test_by_default_curiosity_and_randomness_fall_and_pessimism_rises():
    """What the scores of the README were measured with."""
    model = DAI("MlpPolicy", Chain(), policy_kwargs=SMALL, device="cpu")
    values = []
    for model._current_progress_remaining in (1.0, 0.625, 0.25, 0.0):
        values.append((model._head_weights()[1].item(), model._target_entropy() / math.log(2), model._pessimism()))
    weights, entropies, shares = zip(*values, strict=True)
    assert weights == pytest.approx([0.6, 0.3, 0.0, 0.0]) and entropies == pytest.approx([0.7, 0.325, 0.2, 0.2])
    assert shares == pytest.approx([0.0, 0.375, 0.75, 1.0])
    model = DAI("MlpPolicy", Slope(), policy_kwargs=SMALL, device="cpu")
    assert model._pessimism() == 1.0


@pytest.mark.parametrize("make_env", [Chain, Slope], ids=["discrete", "box"])
def test_targets_are_those_of_the_target_net(make_env):
    model = DAI("MlpPolicy", make_env(), seed=0, precision=2.0, policy_kwargs=SMALL, device="cpu").learn(60)
    (batch,) = sample_transitions(model.replay_buffer, 8)
    batch.one_step.dones[:] = 0.0

    def target() -> th.Tensor:
        th.manual_seed(0)
        features = model.policy.features(batch.one_step.next_observations)
        return model._efe_target(inputs_of(model, batch), features, th.zeros(8, 1), th.zeros(8, 1))

    before = target()
    model.policy.value_net.layers[-1].bias.data += 1.0
    assert th.equal(target(), before)
    model.policy.value_net_target.layers[-1].bias.data += 1.0
    th.testing.assert_close(target(), before + th.tensor([model.gamma, model.epistemic_gamma, model.gamma]))


def test_constant_reward_has_a_bounded_value():
    """Fourth fault: no discount. A reward of 1 for ever is worth 1 / (1 - gamma)."""
    model = DAI("MlpPolicy", Chain(), gamma=0.5, seed=0, epistemic_weight=0.0, bootstrap_entropy=0.0, tau=0.05,
                policy_kwargs=SMALL, device="cpu")  # fmt: skip
    filled(model)
    model.replay_buffer.rewards[:] = 1.0
    model.replay_buffer.dones[:] = 0.0
    model.train(gradient_steps=600, batch_size=64)
    np.testing.assert_allclose(values(model)[0][0], -2.0, atol=0.1)


# -- Precision


def test_automatic_precision_brings_the_entropy_to_its_target():
    model = DAI("MlpPolicy", Chain(), precision="auto", preference_weight=5.0, gamma=0.9, tau=0.05, learning_rate=3e-3, seed=0,
                exploration_initial_entropy=0.5, exploration_final_entropy=0.5, policy_kwargs=SMALL, device="cpu")  # fmt: skip
    filled(model).train(gradient_steps=1200, batch_size=64)
    assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(0.5 * np.log(2))
    _, prob = values(model)
    entropy = -(prob * np.log(prob)).sum(axis=1).mean()
    assert entropy == pytest.approx(0.5 * np.log(2), abs=0.1)


def test_a_given_precision_stays():
    model = DAI("MlpPolicy", Chain(), precision=2.5, seed=0, policy_kwargs=SMALL, device="cpu")
    filled(model).train(gradient_steps=5, batch_size=16)
    assert model.policy.precision.item() == pytest.approx(2.5)


def test_a_precision_given_at_load_replaces_the_saved_one(tmp_path):
    DAI("MlpPolicy", Chain(), precision=2.5, seed=0, policy_kwargs=SMALL, device="cpu").save(tmp_path / "model")
    model = filled(DAI.load(tmp_path / "model", env=Chain(), precision=5.0, device="cpu"))
    model.train(gradient_steps=1, batch_size=16)
    assert model.policy.precision.item() == pytest.approx(5.0)


def test_returns_end_where_learning_resets_the_environment():
    """The episode that is cut short by a new call of learn() must not run on into the next one."""
    model = DAI("MlpPolicy", Chain(max_steps=100), seed=0, learning_starts=1000, n_steps=3, device="cpu")
    model.learn(10)
    model.learn(10)
    buffer = model.replay_buffer
    cut = buffer.timeouts[:20].nonzero()[0]
    assert (buffer.dones[cut] == 0).all() and 9 in cut


@pytest.mark.parametrize("precision", [0.5, 4.0])
@pytest.mark.parametrize("automatic", [False, True])
def test_the_policys_loss_is_its_divergence_in_units_of_g_if_the_precision_moves(precision, automatic):
    given = "auto" if automatic else precision
    model = DAI("MlpPolicy", Chain(), precision=given, learning_rate=1e-9, seed=0, policy_kwargs=SMALL, device="cpu")
    model.policy.log_precision.data.fill_(np.log(precision))
    filled(model).train(gradient_steps=3, batch_size=16)
    logged = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
    divergence = logged["vfe"] - logged["prediction_error"]
    assert divergence > 1e-3
    assert logged["policy_loss"] == pytest.approx(divergence / (precision if automatic else 1.0), rel=1e-3)


def test_the_policys_gradient_does_not_grow_with_an_automatic_precision(monkeypatch):
    """A uniform policy has the highest entropy, so that its gradient is that of G alone. Clipping it must not slow others."""
    gradients = []
    for precision in (0.1, 100.0):
        model = filled(DAI("MlpPolicy", Chain(), precision="auto", seed=0, policy_kwargs=SMALL, device="cpu"))
        model.policy.log_precision.data.fill_(np.log(precision))
        last = model.policy.policy_net.layers[-1]
        last.weight.data.zero_(), last.bias.data.zero_()
        model.policy.value_net.layers[-1].weight.data.mul_(100.0)

        def keep(inputs, bias=last.bias, losses_of=model._losses):
            losses, samples = losses_of(inputs)
            gradients.append(th.autograd.grad(losses["policy_loss"], bias, retain_graph=True)[0])
            return losses, samples

        monkeypatch.setattr(model, "_losses", keep)
        model.train(gradient_steps=1, batch_size=64)
    assert gradients[0].abs().max() > 1e-3
    th.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


# -- Box actions


def on_the_slope(**kwargs):
    """A model with a buffer of random actions, which are all that it learns from."""
    model = DAI("MlpPolicy", Slope(), seed=0, learning_rate=3e-3, epistemic_weight=0.0, tau=0.05,
                learning_starts=1000, policy_kwargs=SMALL, device="cpu", **kwargs)  # fmt: skip
    return model.learn(1000, log_interval=1000)


def test_value_net_of_box_actions_reads_the_action():
    model = on_the_slope(precision=2.0)
    model.train(gradient_steps=400, batch_size=64)
    actions = th.tensor([[-0.8, 0.0], [0.0, 0.7], [0.8, -0.7], [0.8, 0.7]])
    with th.no_grad():
        efe = model.policy.efe(model.policy.features(th.zeros(4, 1)))(actions)
    assert efe.shape == (2, 4, 3)
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
        habit = model.policy.habit(model.policy.features(th.zeros(2000, 1)))
    assert habit.entropy().mean().item() == pytest.approx(-2.0, abs=0.4)


# -- The two published agents are settings


@pytest.mark.parametrize("name", ["himst", "seed"])
def test_published_agents_are_settings(name):
    entry = yaml.safe_load(hyperparams_file(name).read_text())["CartPole-v1"]
    entry.pop("n_timesteps")
    entry["learning_starts"] = min(entry["learning_starts"], 64)
    model = DAI(env="CartPole-v1", seed=0, device="cpu", **entry)
    model.learn(100)
    assert model.epistemic_weight == 0.0 and model.policy.ensemble_size == 1 and model.policy.n_critics == 1
    assert model.policy.net_arch == [64] and not model.policy.layer_norm
    logged = model.logger.name_to_value
    assert np.isfinite(logged["train/vfe"]) and logged["train/precision"] == 1.0
