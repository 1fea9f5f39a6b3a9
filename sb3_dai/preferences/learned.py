"""A prior preference that the agent learns from its own episodes."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn
from torch.nn import functional as F

from sb3_dai.checks import check_choice, check_number
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.preferences.base import OutcomePreference, PreferenceContext

SAMPLES_PER_EPISODE = 16
"""Observations that a learned preference keeps of an episode: as many of each, so that long ones do not weigh more."""

STEPS_PER_EPISODE, BATCH_SIZE = 20, 256
"""Gradient steps of a learned preference after an episode, and their minibatch."""


class LearnedPreference(OutcomePreference):
    """
    A prior preference learned from experience: which observations are those of good episodes (Shin, Kim & Hwang 2022, "Prior
    preference learning from experts", arXiv:2101.08937, with the agent's own good episodes for the expert's). A small net
    learns by logistic regression the probability ``p(good|o)`` that the episode of an observation is better than another, and
    ``log p~(o') = log p(good|o')``. By Bayes' rule that is the log-density ratio of the observations of good episodes against
    all, up to a constant.

    How good an episode is, is its rank among those remembered: the share of them that had a lower return. So neither the scale
    nor the timing of rewards matters, and there is no threshold to set. It learns after each episode. Before the first two
    differ it prefers nothing; ``epistemic_weight`` has to find them.

    :param outcome: "return" for the rank of the episode's return, "success" for ``is_success`` of its last info
    :param n_episodes: number of episodes remembered
    :param net_arch: sizes of the hidden layers
    :param learning_rate: of its Adam optimizer
    :param floor: lowest log p~, in nats
    :param key: the entry of a dictionary of observations
    :param terminal: what the end of an episode is worth, see :class:`OutcomePreference`
    :raises ValueError: if an argument cannot be used
    """

    norm: RunningNorm

    def __init__(
        self,
        outcome: str = "return",
        n_episodes: int = 500,
        net_arch: Sequence[int] = (32, 32),
        learning_rate: float = 3e-3,
        floor: float = -5.0,
        key: str | None = None,
        terminal: str = "absorbing",
    ) -> None:
        super().__init__(key, terminal)
        check_choice("outcome", outcome, "return", "success")
        check_number("n_episodes", n_episodes, low=2, whole=True)
        if not isinstance(net_arch, list | tuple):
            raise ValueError(f"net_arch={net_arch!r}: give a list of positive layer sizes, for example [32, 32]")
        for size in net_arch:
            check_number(f"net_arch={net_arch!r} has size", size, low=1, whole=True)
        check_number("learning_rate", learning_rate, low=1e-12)
        check_number("floor", floor, low=-100, high=-1e-3)
        self.outcome = outcome
        self.n_episodes = int(n_episodes)
        self.net_arch = list(net_arch)
        self.learning_rate = float(learning_rate)
        self.floor = float(floor)
        self.net: nn.Sequential | None = None
        self.n_seen = 0
        """Number of episodes so far."""

    def setup(self, model: PreferenceContext) -> None:
        """
        :param model: its spaces, discount, replay buffer and device
        :raises ValueError: if its replay buffer changes the goals that success was measured by
        """
        super().setup(model)
        if isinstance(model.replay_buffer, HerReplayBuffer):
            raise ValueError(f"{self.name} with a HerReplayBuffer, which changes the goals of episodes: use another buffer")
        dim = get_flattened_obs_dim(self.space)
        if self.net is not None:  # loaded, or of another model
            if self.norm.mean.numel() != dim:
                known = self.norm.mean.numel()
                raise ValueError(
                    f"{self.name} has learned from observations of size {known}, not of size {dim}: give a new one"
                )
            return
        self.episodes = np.zeros((self.n_episodes, SAMPLES_PER_EPISODE, dim), np.float32)
        self.scores = np.zeros(self.n_episodes)
        sizes = [dim, *self.net_arch]
        hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.Tanh())]
        last = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.norm = RunningNorm(dim)
        self.net = nn.Sequential(self.norm, *hidden, last)
        self.optimizer = th.optim.Adam(self.net.parameters(), lr=self.learning_rate)
        self._move(model.device)
        self.reset()

    def reset(self) -> None:
        """Forget the episodes that will not be finished."""
        self.unfinished: dict[int, _Episode] = {}

    def observe(self, next_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        :param next_obs: observations after the step, shape (n_envs, ...)
        :param rewards: shape (n_envs,)
        :param dones: whether an episode ended or was cut off, shape (n_envs,)
        :param infos: of each environment
        :raises ValueError: if success is asked for and an episode does not tell it
        """
        for i, (done, info) in enumerate(zip(dones, infos, strict=True)):
            last = info.get("terminal_observation") if done else None
            outcome = self.part(next_obs)[i] if last is None else self.part(last)
            episode = self.unfinished.setdefault(i, _Episode())
            episode.add(self.vectors(th.as_tensor(outcome)[None])[0].numpy(), float(rewards[i]))
            if done:
                self._remember(self.unfinished.pop(i), info)

    def outcome_log_prob(self, outcomes: th.Tensor) -> th.Tensor:
        """
        :param outcomes: o', shape (batch, dim)
        :return: log p(good|o'), shape (batch, 1)
        """
        assert self.net is not None
        self._move(outcomes.device)
        with th.no_grad():
            return F.logsigmoid(self.net(outcomes)).clamp(min=self.floor)

    def _remember(self, episode: "_Episode", info: dict[str, Any]) -> None:
        """
        :param episode: that just ended
        :param info: its last
        """
        if self.outcome == "success" and "is_success" not in info:
            raise ValueError(
                f'{self.name} with outcome="success": the last info of an episode has no "is_success". Give outcome="return", '
                "or wrap the environment to report it"
            )
        slot = self.n_seen % self.n_episodes
        self.episodes[slot] = episode.sample()
        self.scores[slot] = float(info["is_success"]) if self.outcome == "success" else episode.score
        self.n_seen += 1
        self._learn()

    def _learn(self) -> None:
        """Logistic regression of how good an episode is on its observations."""
        assert self.net is not None
        device = next(self.net.parameters()).device
        n_known = min(self.n_seen, self.n_episodes)
        scores = self.scores[:n_known]
        good = scores if self.outcome == "success" else _ranks(scores)
        self.norm.update(th.as_tensor(self.episodes[:n_known].reshape(-1, self.episodes.shape[-1]), device=device))
        for _ in range(STEPS_PER_EPISODE):
            rows = np.random.randint(n_known, size=BATCH_SIZE), np.random.randint(SAMPLES_PER_EPISODE, size=BATCH_SIZE)
            outcomes = th.as_tensor(self.episodes[rows], device=device)
            target = th.as_tensor(good[rows[0]], dtype=th.float32, device=device).unsqueeze(1)
            loss = F.binary_cross_entropy_with_logits(self.net(outcomes), target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _move(self, device: th.device) -> None:
        """
        :param device: where the net is to be
        """
        assert self.net is not None
        if self.norm.mean.device != device:
            _move(self.net, self.optimizer, device)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, on the CPU: a model trained on a GPU must load without one."""
        state = dict(vars(self))
        if self.net is not None:
            copies = {name: state[name] for name in ("norm", "net", "optimizer")}
            state.update(copy.deepcopy(copies))
            _move(state["net"], state["optimizer"], th.device("cpu"))
        return state


def _move(net: nn.Module, optimizer: th.optim.Optimizer, device: th.device) -> None:
    """
    :param net: what is moved
    :param optimizer: of its parameters
    :param device: where to
    """
    net.to(device)
    optimizer.load_state_dict(optimizer.state_dict())  # brings its state to where the parameters are


class _Episode:
    """Some of the observations of an episode: its last, and others drawn evenly from all of it (reservoir sampling)."""

    def __init__(self) -> None:
        self.n, self.score = 0, 0.0
        self.kept: list[np.ndarray] = []

    def add(self, outcome: np.ndarray, reward: float) -> None:
        """
        :param outcome: observation after a step, shape (dim,)
        :param reward: of the step
        """
        self.n += 1
        self.score += reward
        self.last = outcome
        if len(self.kept) < SAMPLES_PER_EPISODE:
            self.kept.append(outcome)
        else:
            slot = np.random.randint(self.n)
            if slot < SAMPLES_PER_EPISODE:
                self.kept[slot] = outcome

    def sample(self) -> np.ndarray:
        """
        :return: shape (SAMPLES_PER_EPISODE, dim), with repetitions of a shorter episode
        """
        rows = [self.kept[i % len(self.kept)] for i in range(SAMPLES_PER_EPISODE - 1)]
        return np.stack([*rows, self.last])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """
    :param scores: shape (n,)
    :return: the share of them that is lower, and half of those that are equal, shape (n,)
    """
    ordered = np.sort(scores)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2.0 * len(scores))
