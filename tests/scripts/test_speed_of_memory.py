"""The benchmark of policies with a memory."""

import argparse

import pytest

pytest.importorskip("sb3_contrib")
pytest.importorskip("yaml")
import speed_of_memory

import sb3_dai.envs  # noqa: F401 (registers the worlds)


@pytest.mark.parametrize(("env", "peer"), [("CartPole-v1", "DQN"), pytest.param("Pendulum-v1", "SAC", marks=pytest.mark.slow)])
def test_every_agent_has_its_costs_beside_the_peer(env, peer, monkeypatch):
    monkeypatch.setattr(speed_of_memory, "N_STEPS", 16)
    args = argparse.Namespace(env=env, net_arch=[8], batch_size=16, device="cpu", repeats=1, gradient_steps=4)
    results = speed_of_memory.recurrent(args)
    assert next(iter(results)) == peer
    assert {"RecurrentPPO", "DAI, no memory", "DAI, 4 sequences of 64 steps"} <= results.keys()
    for row in results.values():
        for what in ("step", "predict", "learn"):
            assert row[f"median_{what}"] > 0.0
            assert row[f"ratio_{what}"] == pytest.approx(row[what][0] / results[peer][what][0], abs=1e-3)
    assert results["DAI, 4 sequences of 64 steps"]["transitions"] == 256
