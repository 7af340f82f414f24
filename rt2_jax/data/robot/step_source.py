"""Robot episodes as a random-access source of Examples, one a step.

An Example takes one pread and one decode of a picture, or those of the few packets that a frame of a
video leans on. `rlds.open_source` opens one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np

from rt2_jax.data import history, views
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.robot import (
    action_statistics,
    robot_state,
    step_pictures,
    step_selection,
    visible_things,
)
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.data.robot.step_table import StepTable
from rt2_jax.data.skip_corrupt import SkipCorrupt
from rt2_jax.text import pointed, prompts
from rt2_jax.text.grid import Grid


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was looked up in the index; its pictures haven't been read.

    Attributes:
        raw: as `StepTable.raw`.
        wording: as `StepTable.wording`.
        place: where its pictures are, for `StepSource.read`.
        state: as its prompts have it; '' for none.
    """

    raw: dict[str, Any]
    wording: str
    place: step_pictures.AnyPlace
    state: str = ''


class StepSource(SkipCorrupt):
    """Steps of an indexed data set: `len(source)`, `source[i]` -> Example.

    Args:
        index: the opened index.
        settings: which episodes, how many frames, which camera, ... of RobotSet.
        part: 'train' for the episodes that aren't held out, 'validation' for those that are.
        paraphrases: other words for the instructions of prompts.

    Attributes:
        name: the source's name.
        index: the opened index.
        settings: of the set.
        table: the selected steps.
        cameras: numbers of the cameras shown, among the card's images; an example has a picture of each
            at each of its frames (see `views.py`).
        action_space: of the actions.
        state_space: of the states in the prompts; None where they have none.
        fingerprint: changes with the data, the card or the selection.
        unlabelled: how many episodes were left out for want of an instruction.

    Raises:
        DataSetError: no step is left, or the data don't say what a setting needs.
        ValueError: a setting that can't be.
    """

    kinds = ('robot',)
    acting_kinds = ('robot',)

    def __init__(
        self,
        index: EpisodeIndex,
        settings: RobotSet,
        *,
        part: str = 'train',
        paraphrases: Paraphrases | None = None,
    ) -> None:
        self.cameras = views.shown(index.card, settings)
        self.index, self.name = index, settings.name or index.card.name
        self.settings = settings
        self.action_space = action_statistics.action_space(
            index.card.action_space, settings.bounds, index.statistics
        )
        self.state_space = robot_state.space_of(index, settings.state)
        self._grid = Grid(self.state_space, 'state') if self.state_space else None
        history.check('frames', settings.frames)
        history.check('frame_stride', settings.frame_stride)
        episodes, self.unlabelled = step_selection.choose(index, settings, part)
        self.table = StepTable(index, self.name, episodes, paraphrases)
        if not len(self):
            raise DataSetError(
                f'{index.directory}: none of {index.episodes} episodes is left; {self.unlabelled} have '
                'steps without an instruction, and those without steps are left out too'
            )
        if settings.pointing:
            self.table.require((visible_things.NAMES, visible_things.PIXELS))
        self.fingerprint = _fingerprint(self, part, paraphrases)
        self._pictures = step_pictures.reader_of(index, self.cameras)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f'StepSource({self.name}, {len(self.table.episodes)} episodes, {len(self)} steps)'

    @property
    def on_corrupt(self) -> str:
        """As the set's settings say."""
        return self.settings.on_corrupt

    def where(self, number: int) -> str:
        """The place of a step in the data set."""
        return self.table.where(number)

    def readers(self, numbers: Sequence[int]) -> Iterator[Callable[[], Example]]:
        """See `SkipCorrupt.readers`."""
        rows, episodes = self.table.rows(numbers)
        shown, actions = self._shown(rows, episodes), self.index.arrays['action']
        every_frame = self.settings.action_frames == 'all'
        wordings = self.table.wordings(rows)
        if self.settings.pointing:
            wordings = self._pointed(wordings, episodes)
        columns = (
            self._pictures.places(shown, episodes),
            wordings,
            actions[rows],
            actions[shown[:, :-1]] if every_frame else [None] * len(rows),
            self._states(rows),
        )
        for place, wording, action, earlier, state in zip(*columns, strict=True):
            yield functools.partial(self._example, place, wording, action, earlier, state)

    def look_up(self, numbers: Sequence[int]) -> Iterator[Step]:
        """The steps of these numbers, without their pictures."""
        rows, episodes = self.table.rows(numbers)
        raws, wordings = self.table.raws(rows, episodes), self.table.wordings(rows)
        return map(Step, raws, wordings, self._places(rows, episodes), self._states(rows))

    def read(self, place: step_pictures.AnyPlace) -> np.ndarray:
        """The pictures of a step that was looked up: uint8 [F * V, H, W, 3] as they are stored."""
        return self._pictures.frames(place)

    def frames(self, i: int) -> np.ndarray:
        """The pictures of the i-th step: uint8 [F * V, H, W, 3] at the size in which they are stored."""
        return self._pictures.frames(self._places(*self.table.rows([i]))[0])

    def frames_of(self, numbers: Sequence[int]) -> np.ndarray:
        """The one frame of each of several steps of one episode: uint8 [len(numbers) * V, H, W, 3]."""
        rows, episodes = self.table.rows(numbers)
        return self._pictures.frames(self._pictures.places(rows[None], episodes[:1])[0])

    def state(self, i: int) -> np.ndarray | None:
        """The state of the i-th step, float32 [K] in the data's numbers; None where prompts have none."""
        if not self._grid:
            return None
        return robot_state.values(self.index, np.array([self.table.row(i)]))[0]

    def prompts(self) -> Iterator[str]:
        """The longest prompts of all instructions, which are checked before a run begins."""
        if not self._grid:
            return
        widest = ' '.join([str(self._grid.space.bins - 1)] * len(self._grid.space.names))
        for instruction in self.table.texts()[1]:
            yield prompts.with_state(prompts.robot(instruction), widest)

    def _states(self, rows: np.ndarray) -> list[str]:
        """The states of rows as their prompts have them; '' where they have none."""
        if not self._grid:
            return [''] * len(rows)
        return self._grid.texts(robot_state.values(self.index, rows))

    def _places(self, rows: np.ndarray, episodes: np.ndarray) -> list[step_pictures.AnyPlace]:
        return self._pictures.places(self._shown(rows, episodes), episodes)

    def _shown(self, rows: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Rows of the steps that an example of each row shows, int64 [N, F]."""
        first = self.index.arrays['episode_first'][episodes]
        return history.steps(rows, first, self.settings.frames, self.settings.frame_stride)

    def _example(
        self,
        place: step_pictures.AnyPlace,
        wording: str,
        action: np.ndarray,
        earlier: np.ndarray | None,
        state: str,
    ) -> Example:
        return Example(
            frames=self._pictures.frames(place),
            prompt=prompts.with_state(prompts.robot(wording), state),
            action=action,
            source=self.name,
            kind='robot',
            places=bool(self.settings.pointing),
            earlier=earlier,
        )

    def _pointed(self, wordings: Sequence[str], episodes: np.ndarray) -> list[str]:
        """Instructions with the places of things at the first step of each one's episode."""
        firsts = self.table.raws(self.index.arrays['episode_first'][episodes], episodes)
        return [
            pointed.with_places(wording, dict(visible_things.visible(first)).get)
            for wording, first in zip(wordings, firsts, strict=True)
        ]


def _fingerprint(source: StepSource, part: str, paraphrases: Paraphrases | None) -> str:
    """Changes with anything that changes an Example; checkpoints keep it."""
    table, settings = source.table, source.settings
    content = [
        table.index.fingerprint,
        table.index.card.fingerprint,
        len(table.episodes),
        settings.success_only,
        settings.missing_instructions,
        settings.frames,
        settings.camera,
        len(table),
    ]
    content += [settings.holdout, part] if settings.holdout else []
    content += [settings.frame_stride] if settings.frame_stride > 1 else []
    content += [paraphrases.fingerprint] if paraphrases else []
    content += [settings.pointing] if settings.pointing else []
    content += [settings.action_frames] if settings.action_frames != 'last' else []
    content += [list(source.cameras)] if settings.cameras else []
    content += [source.state_space.to_json()] if source.state_space else []
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
