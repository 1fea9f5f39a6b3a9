"""The policy outside of PyTorch, by the very code that docs/export.md prints."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from worlds import VECTOR, SampledEnv

from sb3_dai import DAI

pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (VECTOR, spaces.Discrete(3)),
        (VECTOR, spaces.Box(np.float32([-2, 0]), np.float32([3, 0.3]))),
        (spaces.Box(0, 255, (3, 12, 12), np.uint8), spaces.MultiDiscrete([3, 4])),
    ],
    ids=["discrete", "continuous", "image"],
)
def test_exported_policies_act_as_predict_does(observation_space, action_space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = "CnnPolicy" if len(observation_space.shape) == 3 else "MlpPolicy"
    env = SampledEnv(observation_space, action_space)
    model = DAI(policy, env, buffer_size=300, seed=0, device="cpu", policy_kwargs=dict(net_arch=[32])).learn(150)
    model.save("model")
    observation_space.seed(0)
    observations = np.stack([observation_space.sample() for _ in range(1000)])
    expected, _ = model.predict(observations, deterministic=True)
    assert len(np.unique(expected, axis=0)) > 1, "one action only shows little"

    names = {"DAI": DAI, "observations": model.policy.obs_to_tensor(observations)[0].numpy()}
    code = blocks()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself, and of torch about the tracer
        exec(code, names)
        traced = th.jit.trace(names["policy"], names["example"])
    for actions in (names["actions"], traced(th.as_tensor(names["observations"])).detach().numpy()):
        if isinstance(action_space, spaces.Box):
            stretched = action_space.low + (action_space.high - action_space.low) * (actions + 1) / 2
            np.testing.assert_allclose(stretched, expected, rtol=1e-5, atol=1e-5)
        else:
            assert np.array_equal(actions, expected)


def test_exported_policies_with_a_memory_act_as_predict_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    observations = np.stack([space.sample() for _ in range(3)])
    names = {"DAI": DAI, "np": np, "th": th, "observations": observations, "onnxruntime": pytest.importorskip("onnxruntime")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(blocks()[3], names)
    state = None
    for _ in range(2):
        actions, state = names["model"].predict(observations, state, deterministic=True)
    assert np.array_equal(names["actions"], actions)
    for exported, part in zip(names["state"], state, strict=True):
        np.testing.assert_allclose(exported, part, rtol=1e-5, atol=1e-5)
