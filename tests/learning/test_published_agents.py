"""The two published agents are settings."""

import numpy as np
import pytest

from sb3_dai import DAI
from sb3_dai.zoo import hyperparams_file, read_hyperparams


@pytest.mark.parametrize("name", ["himst", "seed"])
def test_published_agents_are_settings(name):
    entry = read_hyperparams(hyperparams_file(name))["CartPole-v1"]
    entry.pop("n_timesteps")
    entry["learning_starts"] = min(entry["learning_starts"], 64)
    model = DAI(env="CartPole-v1", seed=0, device="cpu", **entry)
    model.learn(100)
    assert model.epistemic_weight == 0.0 and model.policy.ensemble_size == 1 and model.policy.n_critics == 1
    assert [*model.policy.net_arch.values()] == [[64]] * 3 and not model.policy.layer_norm
    assert model.policy.term_names == ["extrinsic", "prediction_error"][: 1 + (name == "seed")]
    logged = model.logger.name_to_value
    assert np.isfinite(logged["train/vfe"]) and logged["train/precision"] == 1.0
