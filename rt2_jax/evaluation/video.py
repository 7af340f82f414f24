"""Rollouts as a video: a grid of episodes, the instruction above, the plan and the outcome below."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any
import warnings

import cv2
import imageio.v2 as imageio
import numpy as np

from rt2_jax import paths
from rt2_jax.data.looking import lettering
from rt2_jax.evaluation.closed_loop import Rollout

BAR = 30  # height of a line of text, pixels
HOLD = 4  # frames that an outcome stays
WHITE, GREY, GREEN, RED = (255, 255, 255), (150, 150, 150), (60, 200, 90), (230, 70, 60)


def write(path: Any, rollouts: Sequence[Rollout], *, columns: int = 3, fps: float = 3.0) -> None:
    """Writes recorded rollouts as H.264: `columns` x 2 at a time, page after page.

    Args:
        path: of the .mp4.
        rollouts: those without frames are left out.
        columns: of the grid.
        fps: frames a second; the robot's rate is real time.

    Raises:
        ValueError: no rollout has frames.
    """
    films = [film(rollout) for rollout in rollouts if rollout.frames]
    if not films:
        raise ValueError('No rollout was recorded, so there is no video to write.')
    columns = min(columns, len(films))
    page = columns * min(2, math.ceil(len(films) / columns))
    with (
        warnings.catch_warnings(),
        paths.writing(path) as local,
        imageio.get_writer(
            str(local),
            format='FFMPEG',
            mode='I',
            fps=fps,
            codec='libx264',
            quality=8,
            macro_block_size=2,
            output_params=['-movflags', '+faststart'],
        ) as writer,
    ):
        # ffmpeg is another program at once: what jax warns of, forked Python, does not come about.
        warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
        for start in range(0, len(films), page):
            for frame in grid(films[start : start + page], columns, page):
                writer.append_data(frame)  # type: ignore[attr-defined]  # a plugin adds it


def film(rollout: Rollout) -> list[np.ndarray]:
    """One rollout's frames with its caption and outcome: uint8 [H + 2 bars, W, 3] each."""
    outcome, colour = ('success', GREEN) if rollout.success else ('failure', RED)
    # Some worlds end an episode at its first success.
    ended = '' if rollout.terminated or rollout.over and rollout.success else ', out of steps'
    plans = [f'. Plan: {plan}' if plan else '' for plan in rollout.plans]
    plans += [''] * (len(rollout.frames) - len(plans))
    captioned = [
        _caption(frame, rollout.instruction, f'step {number}{plan}', GREY)
        for number, (frame, plan) in enumerate(zip(rollout.frames, plans, strict=True))
    ]
    last = _caption(
        rollout.frames[-1], rollout.instruction, f'{outcome} after {rollout.steps}{ended}', colour
    )
    cv2.rectangle(last, (0, 0), (last.shape[1] - 1, last.shape[0] - 1), colour, 3)
    return captioned[:-1] + [last] * HOLD


def grid(films: Sequence[Sequence[np.ndarray]], columns: int, cells: int) -> list[np.ndarray]:
    """Films side by side; a shorter one stays on its last frame, a missing one is black."""
    height, width = films[0][0].shape[:2]
    pictures = []
    for moment in range(max(len(film) for film in films)):
        picture = np.zeros([cells // columns * height, columns * width, 3], np.uint8)
        for cell, film in enumerate(films):
            top, left = cell // columns * height, cell % columns * width
            picture[top : top + height, left : left + width] = film[min(moment, len(film) - 1)]
        # H.264 wants even sides.
        pictures.append(
            np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)])
        )
    return pictures


def _caption(frame: np.ndarray, above: str, below: str, colour: tuple[int, int, int]) -> np.ndarray:
    picture = cv2.copyMakeBorder(frame, BAR, BAR, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    _write(picture, above, BAR - 9, WHITE)
    _write(picture, below, picture.shape[0] - 9, colour)
    return picture


def _write(picture: np.ndarray, text: str, baseline: int, colour: tuple[int, int, int]) -> None:
    """A line of text in the largest size, up to 18 pixels, in which it fits."""
    size = int(min(18, max(8, 1.9 * (picture.shape[1] - 16) / max(1, len(text)))))
    lettering.write(picture, text, 8, baseline, size=size, colour=colour)
