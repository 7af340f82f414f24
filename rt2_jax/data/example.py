"""The one record that every data source yields: a question and an answer about a few frames."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One question and one answer about one or more frames.

    Attributes:
      frames: uint8 [F, H, W, 3], RGB, oldest frame first.
      prompt: the question as text, before tokenisation.
      answer: the answer as text; '' for a plain action, 'Plan: pick banana. Action:' before an action.
      action: float32 [L] or None, L the length of the source's ActionSpace: the terminate flag (1 =
        terminate, 0 = carry on) where the space has one, then its dimensions in their units.
      source: name of the data set that the example comes from.
      kind: what sort of question it is: 'robot' for an action, else the question's own name.
      clip: whether an answer too long for the batch is clipped, as texts of the web are; else it is
        an error.
      places: whether prompt or answer of an action say where in the frame something is, so that a
        crop would make them wrong. What has no action is never cropped.
    """

    frames: np.ndarray
    prompt: str
    answer: str = ''
    action: np.ndarray | None = None
    source: str = ''
    kind: str = ''
    clip: bool = False
    places: bool = False

    def __post_init__(self):
        frames = self.frames
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f'Example.frames must be uint8 [F, H, W, 3]; got {frames.dtype} {list(frames.shape)} '
                f'from source {self.source!r}'
            )
        if self.action is not None and (self.action.ndim != 1 or not len(self.action)):
            raise ValueError(
                'Example.action must be one vector, [L] (a terminate flag where the action space '
                f'has one, then its dimensions); got {list(np.shape(self.action))} from source '
                f'{self.source!r}'
            )
        # Told of eight numbers faster without numpy, and this is done for every example.
        if self.action is not None and not all(map(math.isfinite, self.action.tolist())):
            raise ValueError(
                f'Example.action holds NaN or infinity: {np.asarray(self.action).tolist()} from '
                f'source {self.source!r}'
            )
