"""
The figure of a belief that collapses at the cue of the T-maze, as an animation: where the agent is, what it believes, and the
expected free energy of each place to go to, by which it chooses.

    python scripts/belief_figure.py --out docs/figures/belief_tmaze.gif

The agent is that of hyperparams/dai.yml. One episode is shown with the reward on each side.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

import sb3_dai.envs  # noqa: F401  Registers the world
from sb3_dai import DAI
from sb3_dai.world_model.base import Belief
from sb3_dai.zoo import hyperparams_file, read_hyperparams

ENV_ID = "sb3_dai/TMaze-v0"
CENTRE, LEFT, RIGHT, CUE = range(4)
PLACES = np.array([[0.0, 1.0], [-1.15, 1.0], [1.15, 1.0], [0.0, -0.15]])
"""Where each location is drawn."""
NAMES = ("centre", "left arm", "right arm", "cue")
# Okabe & Ito 2008, "Color universal design"
SIDES = {LEFT: "#0072B2", RIGHT: "#E69F00"}
DARK, GREY, PALE = "#222222", "#b5b5b5", "#ececec"
N_TWEENS = 7
"""Frames between two moments."""
TWEEN, HOLD = 60, 1900
"""Milliseconds of a frame between two moments, and of a moment."""
N_COLOURS = 64


class Moment(NamedTuple):
    """A step of an episode."""

    place: int
    """Where the agent is."""
    belief: np.ndarray
    """Probability that the reward is left and right, shape (2,)."""
    efe: np.ndarray
    """G of going to each location, in nats, shape (4,)."""
    action: int
    """Where it goes, -1 at the end."""
    reward: float
    """That it got here."""


class Picture(NamedTuple):
    """What a frame shows."""

    position: np.ndarray
    belief: np.ndarray
    efe: np.ndarray
    caption: str
    side: int
    """Location of the reward."""
    tells: bool
    """Whether the cue is read."""
    is_found: bool
    """Whether the reward is."""


def trained(steps: int, seed: int) -> DAI:
    """
    :param steps: of the environment
    :param seed: of the agent
    :return: an agent with the settings of hyperparams/dai.yml
    """
    entry = read_hyperparams(hyperparams_file("dai"))[ENV_ID]
    entry = {name: value for name, value in entry.items() if name != "n_timesteps"}
    entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # As the Zoo does
    return DAI(env=gym.make(ENV_ID), seed=seed, **entry).learn(steps)


def episode(model: DAI, seed: int) -> tuple[int, list[Moment]]:
    """
    :param model: an agent with exact beliefs
    :param seed: of the episode
    :return: location of the reward, and the steps of a deterministic episode
    """
    env: Any = gym.make(ENV_ID)
    policy: Any = model.policy
    (obs, _), state, reward, done, moments = env.reset(seed=seed), None, 0.0, False, list[Moment]()
    while True:
        action, state = model.predict(obs, state, deterministic=True)
        belief = th.as_tensor(state[0])
        # Of the last choice once the episode is over
        efe = moments[-1].efe if done else policy.planned_efe(Belief(belief, belief))[0].numpy()
        sides = belief[0].reshape(2, 4).sum(dim=1).numpy()
        moments.append(Moment(int(obs[0]), sides, efe, -1 if done else int(action), float(reward)))
        if done:
            return (LEFT, RIGHT)[env.unwrapped.state // 4], moments
        obs, reward, terminated, truncated, _ = env.step(int(action))
        done = terminated or truncated


def caption_of(moments: list[Moment], index: int) -> str:
    """
    :param moments: of an episode
    :param index: of one of them
    :return: what to say of it
    """
    moment = moments[index]
    if moment.action < 0:
        return "The reward." if moment.reward > 0 else "No reward."
    side = "left" if moment.belief.argmax() == 0 else "right"
    what = "Nothing is known" if moment.belief.max() < 0.6 else f"The cue says {side}: the belief collapses"
    return f"{what}. Lowest G: {NAMES[moment.action]}."


def pictures(side: int, moments: list[Moment]) -> list[tuple[Picture, int]]:
    """
    :param side: location of the reward
    :param moments: of an episode
    :return: its frames, and milliseconds of each
    """
    found = []
    for index, moment in enumerate(moments):
        now = Picture(
            *(PLACES[moment.place], moment.belief, moment.efe, caption_of(moments, index)),
            *(side, moment.place == CUE, moment.reward > 0.0),
        )
        if index > 0:
            before = moments[index - 1]
            # Every way leads through the centre; what is seen there changes the belief on arrival
            stops = [PLACES[before.place], PLACES[CENTRE], PLACES[moment.place]]
            stops = [stop for n, stop in enumerate(stops) if n == 0 or (stop != stops[n - 1]).any()]
            caption = caption_of(moments, index - 1)
            for t in np.linspace(0.0, len(stops) - 1.0, N_TWEENS * (len(stops) - 1) + 2)[1:-1]:
                leg = int(t)
                position = stops[leg] + (t - leg) * (stops[leg + 1] - stops[leg])
                moving = Picture(position, before.belief, before.efe, caption, side, False, False)
                found.append((moving, TWEEN))
            if not np.allclose(before.belief, moment.belief, atol=0.05):
                for share in np.linspace(0.0, 1.0, N_TWEENS + 2)[1:-1]:
                    mixed = (old + share * (new - old) for old, new in zip(before[1:3], moment[1:3], strict=True))
                    found.append((Picture(now.position, *mixed, *now[3:]), TWEEN))
        found.append((now, HOLD))
    return found


def draw_maze(axes: Any, picture: Picture) -> None:
    """
    :param axes: to draw on
    :param picture: what to draw
    """
    axes.set(xlim=(-1.8, 1.8), ylim=(-0.78, 1.75), aspect="equal")
    axes.axis("off")
    for x, y, width, height in ((-1.65, 0.5, 3.3, 1.0), (-0.5, -0.65, 1.0, 1.3)):
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", fc=PALE, ec="none"))
    for side, colour in SIDES.items():
        axes.text(*(PLACES[side] + [0.0, 0.62]), NAMES[side], color=colour, ha="center", weight="bold")
    found, star = picture.is_found, PLACES[picture.side] + [0.0, 0.13]
    axes.scatter(*star, marker="*", s=480, color="#F0E442" if found else "none", ec=DARK if found else GREY, lw=1)
    if not found:
        axes.text(*(star - [0.0, 0.48]), "hidden", color="#777777", ha="center", va="center", size=7)
    cue = ("cue: left" if picture.side == LEFT else "cue: right") if picture.tells else "cue"
    axes.text(0.62, -0.2, cue, color=SIDES[picture.side] if picture.tells else DARK, weight="bold", va="center")
    axes.scatter(*(picture.position - [0.0, 0.28 * found]), s=150, color=DARK, ec="white", lw=1.5, zorder=3)


def draw_belief(axes: Any, picture: Picture) -> None:
    """
    :param axes: to draw on
    :param picture: what to draw
    """
    bars = axes.bar((0, 1), picture.belief, color=[*SIDES.values()], width=0.7)
    for bar, share in zip(bars, picture.belief, strict=True):
        axes.text(bar.get_x() + 0.35, share + 0.03, f"{100 * share:.0f} %", ha="center")
    axes.set(xlim=(-0.6, 1.6), ylim=(0.0, 1.15), yticks=(), title="belief: where is the reward?")
    axes.set_xticks((0, 1), ("left", "right"))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(length=0)


def draw_efe(axes: Any, picture: Picture) -> None:
    """
    :param axes: to draw on
    :param picture: what to draw
    """
    best = picture.efe.argmin()
    rows = range(len(NAMES))
    axes.barh(rows, picture.efe, color=[DARK if row == best else GREY for row in rows], height=0.6)
    for row, value in enumerate(picture.efe):
        text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}").replace("\N{MINUS SIGN}0.00", "0.00")
        axes.text(
            value + (0.06 if value >= 0 else -0.06), row, text, va="center", ha="left" if value >= 0 else "right", size=7
        )
    axes.axvline(0.0, color=DARK, lw=0.8)
    axes.set(xlim=(-1.9, 1.5), ylim=(3.6, -0.6), xticks=(), title="expected free energy G")
    axes.set_yticks([*rows], NAMES)
    axes.spines[["left", "right", "top", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def frame(picture: Picture) -> Image.Image:
    """
    :param picture: what to draw
    :return: the image
    """
    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.titlepad": 10}):
        figure = Figure(figsize=(7.2, 2.55), dpi=100)
        grid = figure.add_gridspec(
            1, 3, width_ratios=(1.25, 0.8, 1.0), left=0.0, right=0.985, bottom=0.2, top=0.86, wspace=0.4
        )
        for place, draw in zip(grid, (draw_maze, draw_belief, draw_efe), strict=True):
            draw(figure.add_subplot(place), picture)
        figure.text(0.5, 0.045, picture.caption, ha="center", size=10.5, color=DARK)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def animate(frames: list[tuple[Picture, int]], out: Path) -> None:
    """
    :param frames: pictures, and milliseconds of each
    :param out: the GIF to write
    """
    images = [frame(picture) for picture, _ in frames]
    # One palette for all: colours do not flicker, and only what changes is stored
    moments = [np.asarray(image) for image, (_, milliseconds) in zip(images, frames, strict=True) if milliseconds == HOLD]
    palette = Image.fromarray(np.concatenate(moments)).quantize(N_COLOURS, Image.Quantize.MAXCOVERAGE)
    numbered = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [milliseconds for _, milliseconds in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    numbered[0].save(out, save_all=True, append_images=numbered[1:], duration=durations, loop=0, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    model, shown = trained(args.steps, args.seed), {}
    for seed in range(1000):
        side, moments = episode(model, seed)
        shown.setdefault(side, moments)
        if len(shown) == 2:
            break
    animate([part for side in (RIGHT, LEFT) for part in pictures(side, shown[side])], args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
