"""What every data set yields, an Example, and what every data set is, a Source of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One question and one answer about one or more frames.

    Attributes:
        frames: uint8 [F, H, W, 3], RGB, oldest frame first; by several cameras see `views.py`.
        prompt: the question as text, before tokenisation.
        answer: the answer as text; '' for a plain action, 'Plan: pick banana. Action:' before an
            action.
        action: float32 [L] or None, L the length of the source's ActionSpace: the terminate flag (1 =
            terminate, 0 = carry on) where the space has one, then its dimensions in their units.
        earlier: float32 [F - 1, L] or None: the actions at the frames before, for models that learn to
            decide at each.
        source: name of the data set that the example comes from.
        kind: what sort of question it is: 'robot' for an action, else the question's own name.
        clip: whether an answer too long for the batch is clipped, as texts of the web are; else it is
            an error.
        places: whether prompt or answer of an action say where in the frame something is, so that a
            crop would make them wrong. An example without an action is never cropped.
        open_end: whether something would follow the answer that this example lacks, as an action
            follows a plan. What comes behind the answer, and that nothing does, is then not learnt.

    Raises:
        ValueError: frames of another shape or dtype, or an action that isn't finite numbers [L].
    """

    frames: np.ndarray
    prompt: str
    answer: str = ''
    action: np.ndarray | None = None
    source: str = ''
    kind: str = ''
    clip: bool = False
    places: bool = False
    open_end: bool = False
    earlier: np.ndarray | None = None

    def __post_init__(self) -> None:
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
        # Without numpy, which is slower for eight numbers: every example passes here.
        if self.action is not None and not all(map(math.isfinite, self.action.tolist())):
            raise ValueError(
                f'Example.action holds NaN or infinity: {np.asarray(self.action).tolist()} from '
                f'source {self.source!r}'
            )


class Source(Protocol):
    """Random access to Examples.

    Used where a source has them:

    examples(numbers): an iterator of the same Examples as `[i]` gives, for sources that look up several
        at once faster.
    kinds: the kinds of its Examples, by default its name alone.
    acting_kinds: those of them whose answers end with an action, by default none.
    action_space: the ActionSpace of these actions.
    fingerprint: text that changes whenever the content does, by default a dataclass's fields.
    state_space: the ActionSpace of the states in its prompts, if there are any.
    prompts(): prompts whose length depends on the data, which are checked before the run starts.
    answers(): answers whose length depends on the data, which are checked before the run starts.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...
