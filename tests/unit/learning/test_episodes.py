"""Whole episodes out of a replay buffer."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_dai.learning.episodes import last_step, read_episodes

ENDS = [[0, 1], [1, 0], [0, 0], [0, 1]]
"""Of two environments. The second one of the first environment is cut off by a time limit."""


def filled(kind):
    """Four steps of two environments, whose outcomes say environment and time."""
    spaces_of = {
        "discrete": spaces.Discrete(100),
        "multi-discrete": spaces.MultiDiscrete([100, 3]),
        "dict": spaces.Dict({"place": spaces.Discrete(100), "cue": spaces.Discrete(3)}),
    }
    space = spaces_of[kind]
    cls = DictReplayBuffer if kind == "dict" else ReplayBuffer
    buffer = cls(20, space, spaces.Discrete(10), n_envs=2)

    def seen(time):
        place, cue = np.array([time, 50 + time]), np.array([1, 2])
        parts = {"discrete": place[:, None], "multi-discrete": np.stack([place, cue], axis=1)}
        return {"place": place[:, None], "cue": cue[:, None]} if kind == "dict" else parts[kind]

    for time, ends in enumerate(ENDS):
        infos = [{"TimeLimit.truncated": time == 1}, {}]
        # What follows an end belongs to the old episode
        buffer.add(seen(time), seen(time + 1), np.array([[time], [time + 4]]), np.arange(2.0) + time, np.array(ends), infos)
    return buffer


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "dict"])
def test_episodes_are_cut_where_they_end(kind):
    buffer = filled(kind)
    episodes, paid = read_episodes(buffer, buffer.rewards[:4])
    place = -1 if kind == "dict" else 0  # Keys of a dictionary are sorted
    rows = [
        (seen[mask][:, place].tolist(), actions[mask[1:]].tolist(), targets[mask[1:]].tolist())
        for seen, actions, mask, targets in zip(*episodes[:3], paid, strict=True)
    ]
    assert rows == [
        ([0, 1, 2], [0, 1], [[0.0, 0.0], [1.0, 0.0]]),  # Cut off: no end
        ([2, 3, 4], [2, 3], [[2.0, 0.0], [3.0, 0.0]]),  # Goes on
        ([50, 51], [4], [[1.0, 1.0]]),
        ([51, 52, 53, 54], [5, 6, 7], [[2.0, 0.0], [3.0, 0.0], [4.0, 1.0]]),
    ]
    assert episodes.outcomes.shape == (4, 4, 1 if kind == "discrete" else 2)
    assert episodes.mask.dtype == th.bool


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "dict"])
def test_the_last_step(kind):
    before, after, ended = last_step(filled(kind))
    place = -1 if kind == "dict" else 0
    assert before[:, place].tolist() == [3, 53]
    assert after[:, place].tolist() == [4, 54]
    assert ended.tolist() == [0.0, 1.0]
