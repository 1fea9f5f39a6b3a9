"""The animation of a belief that collapses at a cue."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("yaml")
from belief_figure import CENTRE, CUE, LEFT, RIGHT, animate, caption_of, episode, pictures, trained
from PIL import Image

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "belief_tmaze.gif"


@pytest.fixture(scope="module")
def stories():
    model, found = trained(240, 0), {}
    for seed in range(20):
        side, moments = episode(model, seed)
        found.setdefault(side, moments)
    return found


@pytest.mark.parametrize(("side", "belief"), [(LEFT, [1.0, 0.0]), (RIGHT, [0.0, 1.0])])
def test_the_belief_collapses_at_the_cue(stories, side, belief):
    first, at_cue, last = stories[side]
    assert (first.place, at_cue.place, last.place) == (CENTRE, CUE, side)
    assert first.belief == pytest.approx([0.5, 0.5])
    assert at_cue.belief == pytest.approx(belief)
    for moment in (first, at_cue):
        assert moment.efe.argmin() == moment.action, "the lowest G is chosen"
    assert last.action == -1


def test_captions_say_what_is_seen(stories):
    captions = [caption_of(stories[RIGHT], index) for index in range(3)]
    assert captions[:2] == [
        "Nothing is known. Lowest G: cue.",
        "The cue says right: the belief collapses. Lowest G: right arm.",
    ]
    assert captions[2] in ("The reward.", "No reward.")


def test_it_is_an_animation(stories, tmp_path):
    frames = pictures(LEFT, stories[LEFT])
    beliefs = np.array([picture.belief[0] for picture, _ in frames])
    assert (np.diff(beliefs) >= -1e-6).all() and len(np.unique(beliefs.round(3))) > 5, "it moves by and by"
    animate(frames[:3], tmp_path / "belief.gif")
    with Image.open(tmp_path / "belief.gif") as image:
        assert (image.format, image.n_frames) == ("GIF", 3)


def test_the_figure_of_the_readme_is_small():
    with Image.open(FIGURE) as image:
        assert image.n_frames > 20
    assert FIGURE.stat().st_size < 300_000
