"""Small agents compute in one thread, and give the caller's number back."""

import subprocess
import sys

import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from worlds import SampledEnv

from sb3_dai.acceleration import is_small, one_thread


@pytest.fixture
def two_threads():
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


def test_a_small_agent_trains_in_one_thread_and_gives_the_number_back(two_threads, monkeypatch):
    model, seen = make(), []
    step = model._step.eager
    monkeypatch.setattr(type(step), "optimize", lambda self, *given: seen.append(th.get_num_threads()))
    model.learn(60)
    assert set(seen) == {1}
    assert th.get_num_threads() == 2


def test_the_number_comes_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError), one_thread():
        raise RuntimeError
    assert th.get_num_threads() == 2


def test_wide_nets_and_convolutions_keep_their_threads(two_threads):
    image = SampledEnv(spaces.Box(0, 255, (36, 36, 1), "uint8"), spaces.Discrete(2))
    assert is_small(make().policy, 64)
    assert not is_small(make(policy_kwargs=dict(net_arch=[256, 256])).policy, 128)
    assert not is_small(make(image, "CnnPolicy").policy, 1)


@pytest.mark.slow
def test_busy_cores_do_not_slow_a_small_agent_by_its_threads():
    """With torch's default threads a step takes at most 1.3 times that of one thread, medians in turn."""
    program = """
import statistics, subprocess, sys, time
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
try:
    import torch as th
    import sb3_dai.envs
    from sb3_dai import DAI
    default = th.get_num_threads()
    model = DAI("MlpPolicy", "sb3_dai/GridWorld-v0", seed=0, device="cpu", learning_starts=10**6).learn(300)
    def milliseconds(threads):
        th.set_num_threads(threads)
        start = time.perf_counter()
        model.train(20, 64)
        return time.perf_counter() - start
    milliseconds(1)
    print(statistics.median(milliseconds(default) / milliseconds(1) for _ in range(9)))
finally:
    for process in busy:
        process.kill()
"""
    found = subprocess.run([sys.executable, "-c", program], env=_default_threads(), capture_output=True, text=True, check=True)
    assert float(found.stdout) <= 1.3


def _default_threads():
    import os

    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
