"""Pictures of worlds made of cells: as text and as an image."""

from typing import Any

import gymnasium as gym
import numpy as np

#: Side of a cell, in pixels
PIXELS = 32
LINE = (90, 90, 90)
AGENT = (30, 60, 200)
#: Colour of each glyph; digits are the channels of a television, or symbols to recall
PALETTE = {
    ".": (245, 245, 240),
    "#": (60, 60, 60),
    "G": (70, 180, 90),
    "x": (240, 190, 120),
    "X": (210, 70, 60),
    "T": (150, 150, 170),
    "C": (250, 220, 90),
    **{str(digit): (25 * digit, 255 - 20 * digit, (90 * digit) % 256) for digit in range(10)},
}


def draw_text(glyphs: np.ndarray, agent: tuple[int, int] | None) -> str:
    """
    :param glyphs: one character a cell, shape (n_rows, n_columns)
    :param agent: row and column of the cell to put in brackets, or None
    :return: one line a row, each ended by a line break
    """
    rows = []
    for row, line in enumerate(glyphs):
        rows.append("".join(f"[{glyph}]" if (row, column) == agent else f" {glyph} " for column, glyph in enumerate(line)))
    return "\n".join(rows) + "\n"


def draw_image(glyphs: np.ndarray, agent: tuple[int, int] | None) -> np.ndarray:
    """
    :param glyphs: one character of ``PALETTE`` a cell, shape (n_rows, n_columns)
    :param agent: row and column of the cell to put a square in, or None
    :return: RGB image of uint8, shape (n_rows * PIXELS, n_columns * PIXELS, 3)
    """
    colours = np.array([[PALETTE[glyph] for glyph in line] for line in glyphs], dtype=np.uint8)
    image = colours.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
    image[::PIXELS] = LINE
    image[:, ::PIXELS] = LINE
    if agent is not None:
        top, left = agent[0] * PIXELS, agent[1] * PIXELS
        edge = PIXELS // 4
        image[top + edge : top + PIXELS - edge, left + edge : left + PIXELS - edge] = AGENT
    return image


class DrawnEnv(gym.Env):
    """
    A world that draws itself as cells. A subclass says how in ``glyphs`` and ``agent_cell``.

    :param render_mode: None, "ansi" (text) or "rgb_array" (uint8 image, shape (height, width, 3))
    :raises ValueError: if there is no such render mode
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode={render_mode!r}: give None or one of {', '.join(modes)}")
        self.render_mode = render_mode

    def glyphs(self) -> np.ndarray:
        """
        :return: the world at present, one character of ``PALETTE`` a cell, shape (n_rows, n_columns)
        """
        raise NotImplementedError

    def agent_cell(self) -> tuple[int, int] | None:
        """
        :return: row and column of the agent's cell, None if there is none
        """
        raise NotImplementedError

    def render(self) -> Any:
        """
        :return: text for "ansi", uint8 image of shape (height, width, 3) for "rgb_array", None without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without a render mode: pass render_mode='ansi' or 'rgb_array' to make()")
            return None
        draw = draw_text if self.render_mode == "ansi" else draw_image
        return draw(self.glyphs(), self.agent_cell())
