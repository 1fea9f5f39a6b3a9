"""What environments and gradient steps return: errors that name it and leave the nets as they were."""

import contextlib
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import each_step, make, policy_for
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import ScriptedEnv

from sb3_dai.checks import check_finite, check_losses

NAN, INF = math.nan, math.inf


def made(env, **kwargs):
    return make(env, policy_for(env.observation_space), **{"seed": 0, **kwargs})


def bytes_of(model):
    """Everything that a gradient step may change, as bytes so that NaN equals itself."""
    optimizer = model.policy.optimizer.state_dict()["state"]
    tensors = {
        **{f"parameter {name}": value for name, value in model.policy.named_parameters()},
        **{f"statistic {name}": value for name, value in model.policy.named_buffers()},
        **{f"optimizer {i} {name}": th.as_tensor(value) for i, part in optimizer.items() for name, value in part.items()},
    }
    return {name: value.detach().numpy().tobytes() for name, value in tensors.items()}


def learn_until_error(model, match, steps=100):
    """Train until the error, and return what had changed since the step before it and the message."""
    states = []
    with pytest.raises(ValueError, match=match) as caught:
        model.learn(steps, callback=each_step(lambda: states.append(bytes_of(model))), log_interval=None)
    now = bytes_of(model)
    return {name for name in now if now[name] != states[-1].get(name)} if states else set(), str(caught.value)


# ----- What the environment returns -----

BAD_RETURNS = {
    "observation": dict(observations={75: NAN}),
    "observation at the end": dict(observations={80: NAN}),
    "observation at a timeout": dict(observations={80: INF}, cut_off=True),
    "observation in a dictionary": dict(observations={75: -INF}, as_dict=True),
    "observation at the end in a dictionary": dict(observations={80: NAN}, as_dict=True),
    "observation after the end": dict(observations={"reset after 80": INF}),
    "reward": dict(rewards={75: NAN}),
    "reward of infinity": dict(rewards={75: -INF}),
}


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("case", BAD_RETURNS)
def test_non_finite_return_is_not_stored(case, n_envs):
    script = BAD_RETURNS[case]
    steps = max(int(str(step).split()[-1]) for part in ("observations", "rewards") for step in script.get(part, {}))
    # The last environment is the broken one
    envs = [ScriptedEnv(as_dict=script.get("as_dict", False)) for _ in range(n_envs - 1)] + [ScriptedEnv(**script)]
    env = DummyVecEnv([lambda env=env: env for env in envs])
    model = made(env, learning_starts=50 * n_envs)
    changed, message = learn_until_error(model, f"non-finite .*{case.split()[0]}", steps=100 * n_envs)
    # The callback sees the state before a step is stored, so a gradient step behind it would show
    assert changed == set()
    assert model.replay_buffer.pos == steps - 1
    assert model.num_timesteps == steps * n_envs
    assert "nan" in message or "inf" in message
    if "dictionary" in case:
        assert "'b'" in message
    arrays = [value for value in vars(model.replay_buffer).values() if isinstance(value, (np.ndarray, dict))]
    parts = [part for value in arrays for part in (value.values() if isinstance(value, dict) else [value])]
    assert all(np.isfinite(part).all() for part in parts)


def test_training_goes_on_once_the_environment_is_mended():
    model = made(ScriptedEnv(observations={75: NAN}))
    learn_until_error(model, "non-finite observation")
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 135
    assert model._n_updates == 24 + 60
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


@pytest.mark.parametrize("as_dict", [False, True])
def test_non_finite_reset(as_dict):
    model = made(ScriptedEnv(observations={"reset after 0": NAN}, as_dict=as_dict))
    changed, message = learn_until_error(model, "non-finite observation at reset")
    assert changed == set()
    assert ("'b'" in message) == as_dict
    assert model.num_timesteps == model.replay_buffer.pos == 0


@pytest.mark.parametrize(
    "script", [dict(observations={75: NAN}), dict(observations={75: INF}), dict(rewards={75: NAN})], ids=str
)
def test_non_finite_return_behind_vec_normalize(script):
    model = made(VecNormalize(DummyVecEnv([lambda: ScriptedEnv(**script)])))
    with np.errstate(invalid="ignore"):  # of infinity less infinity, in VecNormalize
        changed, _ = learn_until_error(model, "non-finite")
    assert changed == set()
    assert model.replay_buffer.pos == 74


def test_reward_beyond_single_precision_is_infinite():
    model = made(ScriptedEnv(rewards={75: 1e39}))
    with np.errstate(over="ignore"):
        changed, _ = learn_until_error(model, r"non-finite reward: \[inf\]")
    assert changed == set()


def test_observation_beyond_single_precision_is_infinite():
    """It is finite to the environment, but not to the nets."""
    env = ScriptedEnv()
    env.observation_space = spaces.Box(-INF, INF, (3,), np.float64)
    env.observe = lambda step: np.full(3, -1e39 if step == 75 else 1.0)
    changed, message = learn_until_error(made(env), "non-finite observation")
    assert changed == set()
    assert "-1.e+39" in message and "single precision" in message


def test_check_finite():
    check_finite("x", np.array([1, 2], np.uint8))
    check_finite("x", {"a": np.zeros(2), "b": np.array(True)})
    with pytest.raises(ValueError, match=r"non-finite x: \[ 0\. inf\]"):
        check_finite("x", np.array([0, INF]))
    with pytest.raises(ValueError, match=r"non-finite x\['b'\]: nan"):
        check_finite("x", {"a": np.zeros(2), "b": np.float32(NAN)})
    with pytest.raises(ValueError, match=r"non-finite x\[''\]: nan"):
        check_finite("x", {"": np.float32(NAN)})
    check_finite("x", np.array([-3.4e38]))
    with pytest.raises(ValueError, match=r"non-finite x: \[-3\.5e\+38\] in single precision"):
        check_finite("x", np.array([-3.5e38]))


# ----- Losses -----


def make_trained():
    return made(ScriptedEnv(), n_steps=1).learn(60)


@pytest.mark.parametrize(
    ("net", "broken"),
    [
        ("world_model.net", "transition_loss, value_loss"),  # which gives the critics their novelty
        ("policy_net", "value_loss, policy_loss, precision_loss"),  # which the critics bootstrap over
        ("value_net", "value_loss, policy_loss"),
        ("value_net_target", "value_loss"),
    ],
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_broken_net_stops_training_by_name(net, broken, value):
    model = make_trained()
    next(model.policy.get_submodule(net).parameters()).data[0, 0, 0] = value
    before = bytes_of(model)
    with pytest.raises(ValueError, match=f"Training stopped: {broken} is not finite") as caught:
        model.train(gradient_steps=3, batch_size=32)
    after = bytes_of(model)
    assert {name for name in after if after[name] != before[name] and not name.startswith("statistic")} == set()
    assert "learning_rate" in str(caught.value)
    assert model._n_updates == 10


@pytest.mark.parametrize(
    ("kwargs", "script", "broken"),
    [
        (dict(), dict(rewards=dict.fromkeys(range(70, 200), 1e25)), "value_loss"),
        (dict(precision=1e38, preference_weight=1e38), dict(), "policy_loss|value_loss"),
        (dict(prediction_error_weight=-3e38), dict(), "policy_loss|value_loss"),
    ],
    ids=["huge reward", "huge precision", "huge weight"],
)
def test_overflow_stops_training_with_finite_nets(kwargs, script, broken):
    model = made(ScriptedEnv(**script), **kwargs)
    changed, message = learn_until_error(model, f"Training stopped: .*({broken}).* is not finite")
    assert all(th.isfinite(value).all() for value in model.policy.parameters())
    # A fixed precision is entered when training begins
    assert {name for name in changed if not name.startswith("statistic")} <= {"parameter log_precision"}
    assert "VecNormalize" in message


@pytest.mark.parametrize("value", [1e25, 3e38, -3e38])
@pytest.mark.parametrize("policy_kwargs", [dict(), dict(layer_norm=False)], ids=["layer norm", "plain"])
def test_observation_whose_square_overflows_leaves_finite_numbers(policy_kwargs, value):
    """
    Whether the gradient step is taken or refused. A running statistic of infinity would never come back, and silently:
    what it scales is 0 from then on.
    """
    model = made(ScriptedEnv(), policy_kwargs=dict(net_arch=[16], **policy_kwargs)).learn(60)
    good = model.replay_buffer.next_observations[30].copy()
    model.replay_buffer.next_observations[30] = value
    model.replay_buffer.observations[31] = value
    with contextlib.suppress(ValueError):
        model.train(gradient_steps=1, batch_size=1000)  # large enough to have it in the batch
    model.replay_buffer.next_observations[30] = model.replay_buffer.observations[31] = good
    model.train(gradient_steps=1, batch_size=1000)
    assert all(th.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


def test_check_losses():
    names = ("loss", "one_loss", "two_loss", "three_loss", "entropy")
    check_losses(names, th.tensor([3.0, 1.0, 1.0, 1.0, NAN]))
    message = r"two_loss, three_loss is not finite \(\{'one_loss': 1\.0, 'two_loss': nan, 'three_loss': -inf\}\)"
    with pytest.raises(ValueError, match=message):
        check_losses(names, th.tensor([NAN, 1.0, NAN, -INF, 0.5]))
    # Terms that are finite each and overflow together
    with pytest.raises(ValueError, match="one_loss, two_loss is not finite"):
        check_losses(("loss", "one_loss", "two_loss"), th.tensor([INF, 3e38, 3e38]))
