"""A test of short-term memory: say what you saw some steps ago."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_dai.checks import check_number
from sb3_dai.envs.drawing import DrawnEnv


class Recall(DrawnEnv):
    """
    In each step a random symbol is seen, and naming the symbol of ``k`` steps ago pays 1. With k = 0 that is the one in view.
    The first k actions of an episode are not paid: there is nothing yet to recall. Nothing that the agent does changes what it
    will see. (As RepeatPrevious of POPGym, Morad et al. 2023, arXiv:2303.01859, which pays 1 and -1 as shares of the episode.)

    In a time limit of T steps the best return is T - k, that of guessing (T - k) / n_symbols. ``info["state"]`` has the last
    k + 1 symbols, oldest first, -1 where there is none yet.

    :param k: how many steps ago
    :param n_symbols: number of symbols, all equally likely
    :param render_mode: None, "ansi" or "rgb_array"; the last k + 1 symbols, with the one to name marked
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, k: int = 4, n_symbols: int = 4, render_mode: str | None = None) -> None:
        check_number("k", k, 0, whole=True)
        check_number("n_symbols", n_symbols, 2, whole=True)
        super().__init__(render_mode)
        self.k, self.n_symbols = int(k), int(n_symbols)
        self.observation_space = spaces.Discrete(self.n_symbols)
        self.action_space = spaces.Discrete(self.n_symbols)
        self.symbols = np.full(self.k + 1, -1)

    def _see(self) -> tuple[int, dict[str, Any]]:
        """
        :return: a new symbol, and the info
        """
        self.symbols = np.roll(self.symbols, -1)
        self.symbols[-1] = self.np_random.integers(self.n_symbols)
        return int(self.symbols[-1]), {"state": self.symbols.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.symbols = np.full(self.k + 1, -1)
        return self._see()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """
        :param action: the symbol to name
        :return: the next symbol, reward, terminated (never), truncated (never: the registered time limit does that), info with
            the symbols in memory as ``state``
        :raises ValueError: if there is no such action
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r}: give a whole number from 0 to {self.n_symbols - 1}")
        reward = float(action == self.symbols[0])
        symbol, info = self._see()
        return symbol, reward, False, False, info

    def glyphs(self) -> np.ndarray:
        return np.array([["." if symbol < 0 else str(symbol % 10) for symbol in self.symbols]])

    def agent_cell(self) -> tuple[int, int]:
        return 0, 0
