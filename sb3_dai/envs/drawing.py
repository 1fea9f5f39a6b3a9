"""Pictures of worlds made of cells: as text and as an image."""

import numpy as np

#: Side of a cell, in pixels
PIXELS = 32
LINE = (90, 90, 90)
AGENT = (30, 60, 200)
#: Colour of each glyph; digits are the channels of a television
PALETTE = {
    ".": (245, 245, 240),
    "#": (60, 60, 60),
    "G": (70, 180, 90),
    "x": (240, 190, 120),
    "X": (210, 70, 60),
    "T": (150, 150, 170),
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
