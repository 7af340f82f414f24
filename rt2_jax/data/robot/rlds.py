"""RLDS robot episodes as a random-access source of Examples, by way of the byte index.

The first use makes the index; an Example then takes one pread and one decode.

    source = rlds.open_source("runs/data/tabletop", "tabletop")
    source[12345]
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data import cards, history, robot_card
from rt2_jax.data.errors import DataSetError
from rt2_jax.data.example import Example
from rt2_jax.data.index import opened_index
from rt2_jax.data.index.episode_index import EpisodeIndex
from rt2_jax.data.readers import tf_example, tfds_directory, tfrecord
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.robot import action_statistics, selection, step_pictures
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.data.stand_ins import StandIns
from rt2_jax.text import prompts


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was looked up in the index; its pictures haven't been read.

    Attributes:
      raw: as `StepSource.raw`.
      wording: as `StepSource.wording`.
      place: where its pictures are, for `StepSource.read`.
    """

    raw: dict[str, Any]
    wording: str
    place: step_pictures.Place


class StepSource:
    """Steps of an indexed data set: `len(source)`, `source[i]` -> Example.

    Args:
      index: the opened index.
      name: the source's name; the card's by default.
      episodes: only the first so many episodes (of those that `success_only` leaves).
      success_only: only episodes marked successful.
      holdout: the share, or number, of the set's episodes that are held out (see splits).
      part: 'train' for the other episodes, 'validation' for those.
      frames: frames an example: the step's own and the ones before it, oldest first; the episode's
        first frame stands in for those before its start.
      frame_stride: steps from one of these frames to the next.
      camera: which of the card's images.
      bounds: where the ranges of the actions come from, a key of action_statistics.BOUNDS.
      paraphrases: other words for the instructions of prompts.
      missing_instructions: 'drop' or 'raise' (see selection).
      on_corrupt: what to do when a picture can't be read back as indexed. 'raise', or 'skip': the
        nearest following readable step stands in for it, which is logged and counted.

    Attributes:
      fingerprint: changes with the data, the card or the selection.
      unlabelled: how many episodes were left out for want of an instruction.
    """

    kinds = ('robot',)

    def __init__(
        self,
        index: EpisodeIndex,
        *,
        name: str = '',
        episodes: int | None = None,
        success_only: bool = False,
        holdout: float = 0,
        part: str = 'train',
        frames: int = 1,
        frame_stride: int = 1,
        camera: int = 0,
        bounds: str = 'card',
        paraphrases: Paraphrases | None = None,
        missing_instructions: str = 'drop',
        on_corrupt: str = 'raise',
    ):
        if not 0 <= camera < len(index.card.images):
            raise ValueError(
                f'camera {camera} of card {index.card.name!r}, which has {len(index.card.images)}: '
                f'{", ".join(index.card.images)}'
            )
        self.index = index
        self.name = name or index.card.name
        self.action_space = action_statistics.action_space(
            index.card.action_space, bounds, index.statistics
        )
        self.camera, self.on_corrupt = camera, on_corrupt
        self._stand_ins = StandIns(self.name, on_corrupt)
        self.frames_shown = history.check('frames', frames)
        self._stride = history.check('frame_stride', frame_stride)
        self._paraphrases = paraphrases
        self.episodes, self.unlabelled = selection.choose(
            index,
            episodes=episodes,
            success_only=success_only,
            holdout=holdout,
            part=part,
            missing_instructions=missing_instructions,
            camera=camera,
            on_corrupt=on_corrupt,
        )
        first = np.asarray(index.arrays['episode_first'])
        self._ends = np.cumsum(np.diff(first)[self.episodes])
        # From the number of a selected step to its row, by selected episode.
        self._before = first[1:][self.episodes] - self._ends
        if not len(self):
            raise DataSetError(
                f'{index.directory}: none of {index.episodes} episodes is left; {self.unlabelled} have '
                'steps without an instruction, and those without steps are left out too'
            )
        self.fingerprint = hashlib.sha256(
            json.dumps(
                [
                    index.fingerprint,
                    index.card.fingerprint,
                    len(self.episodes),
                    success_only,
                    missing_instructions,
                    frames,
                    camera,
                    len(self),
                    *([holdout, part] if holdout else []),
                ]
                + ([frame_stride] if frame_stride > 1 else [])
                + ([paraphrases.fingerprint] if paraphrases else [])
            ).encode()
        ).hexdigest()[:32]
        self._pictures = step_pictures.Pictures(index, camera)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, i: int) -> Example:
        return next(self.examples([i]))

    def examples(self, chosen: Sequence[int]) -> Iterator[Example]:
        """The Examples of these numbers: looked up at once, read as they are asked for."""
        for i, known in zip(chosen, self._look_up(chosen), strict=True):
            yield self._stand_ins.read(
                int(i), len(self), self._alone, functools.partial(self._example, *known), self.where
            )

    @property
    def skipped(self) -> int:
        """How many times another step stood in for one that can't be read."""
        return self._stand_ins.count

    def __repr__(self) -> str:
        return f'StepSource({self.name}, {len(self.episodes)} episodes, {len(self)} steps)'

    def row(self, i: int) -> int:
        """The i-th selected step's row in the index's arrays."""
        return int(self._rows([i])[0][0])

    def episode_index(self, i: int) -> int:
        """The episode (in the whole data set) of the i-th selected step."""
        return int(self._rows([i])[1][0])

    def episode_around(self, i: int) -> range:
        """The selected steps of the episode of the i-th."""
        return self.episode_steps(bisect.bisect_right(self._ends, i))

    def success(self, i: int) -> int:
        """Of the i-th selected step's episode: 1, 0, or -1 where the data don't say."""
        return int(self.index.arrays['episode_success'][self.episode_index(i)])

    def episode_steps(self, position: int) -> range:
        """The selected steps of the `position`-th selected episode."""
        before = int(self._ends[position - 1]) if position else 0
        return range(before, int(self._ends[position]))

    def instruction(self, i: int) -> str:
        """The i-th selected step's instruction as the data have it."""
        return self.index.texts[int(self.index.arrays['instruction'][self.row(i)])]

    def where(self, i: int) -> str:
        """The i-th selected step's place in the data set, in words."""
        row, episode = self.row(i), self.episode_index(i)
        first = int(self.index.arrays['episode_first'][episode])
        return f'step {row - first} of episode {episode}'

    def wording(self, i: int) -> str:
        """The i-th selected step's instruction as its prompts have it: paraphrased, or as it is."""
        return self._wordings(self._rows([i])[0])[0]

    def action(self, i: int) -> np.ndarray:
        """float32 [L], the numbers of the action space."""
        return np.array(self.index.arrays['action'][self.row(i)])

    def frames(self, i: int) -> np.ndarray:
        """uint8 [F, H, W, 3] at the size in which they are stored."""
        return self._pictures.frames(self._shown(*self._rows([i]))[0])

    def frames_of(self, chosen: Sequence[int]) -> np.ndarray:
        """The one frame of each of the chosen steps, all of one episode: uint8 [len(chosen), H, W, 3]."""
        rows, episodes = self._rows(chosen)
        return self._pictures.frames(self._pictures.places(rows[None], episodes[:1])[0])

    def raw(self, i: int) -> dict[str, Any]:
        """The i-th selected step as a flat dict: its place, its instruction and the card's columns.

        Keys: 'episode', 'step' (within the episode), 'success' (1, 0 or -1: unknown),
        'instruction', 'action' float32 [L], and each column under its path.
        """
        return next(self._raws(*self._rows([i])))

    def look_up(self, chosen: Sequence[int]) -> Iterator[Step]:
        """The steps of these numbers, without their pictures."""
        rows, episodes = self._rows(chosen)
        parts = self._raws(rows, episodes), self._wordings(rows), self._shown(rows, episodes)
        return map(Step, *parts)

    def read(self, place: step_pictures.Place) -> np.ndarray:
        """The pictures of a step that was looked up, as `frames`."""
        return self._pictures.frames(place)

    def episode_features(self, episode: int) -> dict[str, Any]:
        """Every feature of an episode's record, by flat path: numbers as arrays, else lists of bytes."""
        arrays = self.index.arrays
        start = int(arrays['episode_offset'][episode]) + tfrecord.HEADER_BYTES
        length = int(arrays['episode_length'][episode])
        (payload,) = self._pictures.read(int(arrays['episode_file'][episode]), [(start, length)])
        features = {}
        for path, feature in tf_example.parse(payload).items():
            if feature.kind == tf_example.BYTES_LIST:
                features[path] = [payload[a:b] for a, b in feature.values.tolist()]
            else:
                features[path] = feature.values
        return features

    def _rows(self, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of selected steps: rows in the index's arrays and episodes in the data set, int64 [N]."""
        numbers = np.asarray(chosen)
        wrong = (numbers < -len(self)) | (numbers >= len(self))
        if wrong.any():
            raise IndexError(f'step {numbers[wrong][0]} of {len(self)}')
        numbers = numbers % len(self)
        positions = np.searchsorted(self._ends, numbers, side='right')
        return numbers + self._before[positions], self.episodes[positions]

    def _raws(self, rows: np.ndarray, episodes: np.ndarray) -> Iterator[dict[str, Any]]:
        arrays, texts = self.index.arrays, self.index.texts
        columns = {
            'episode': episodes.tolist(),
            'step': (rows - arrays['episode_first'][episodes]).tolist(),
            'success': arrays['episode_success'][episodes].tolist(),
            'instruction': [texts[number] for number in arrays['instruction'][rows].tolist()],
            'action': arrays['action'][rows],
        }
        for path, column in self.index.about['columns'].items():
            values = arrays[column['array']][rows]
            columns[path] = (
                [texts[number] for number in values.tolist()] if column['text'] else values
            )
        return (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )

    def _look_up(self, chosen: Sequence[int]) -> Iterator[tuple[Any, str, np.ndarray]]:
        """Of selected steps, all that is known without reading: see `_example`."""
        rows, episodes = self._rows(chosen)
        actions = self.index.arrays['action'][rows]
        return zip(self._shown(rows, episodes), self._wordings(rows), actions, strict=True)

    def _shown(self, rows: np.ndarray, episodes: np.ndarray) -> list[Any]:
        first = self.index.arrays['episode_first'][episodes]
        shown = history.steps(rows, first, self.frames_shown, self._stride)
        return self._pictures.places(shown, episodes)

    def _wordings(self, rows: np.ndarray) -> list[str]:
        numbers = self.index.arrays['instruction'][rows].tolist()
        texts = [self.index.texts[number] for number in numbers]
        if self._paraphrases:
            return [self._paraphrases.draw(*one) for one in zip(texts, rows.tolist(), strict=True)]
        return texts

    def _alone(self, i: int) -> Example:
        return self._example(*next(self._look_up([i])))

    def _example(self, place: Any, wording: str, action: np.ndarray) -> Example:
        return Example(
            frames=self._pictures.frames(place),
            prompt=prompts.robot(wording),
            action=action,
            source=self.name,
            kind='robot',
        )


def open_source(
    directory: epath.PathLike,
    card: str | robot_card.RobotCard,
    *,
    split: str = 'train',
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
    **selection: Any,
) -> StepSource:
    """The steps of a data set; `selection` is for StepSource, the rest and errors as `open_index`."""
    index = open_index(
        directory, card, split=split, location=location, indexes=indexes, on_corrupt=on_corrupt
    )
    return StepSource(index, on_corrupt=on_corrupt, **selection)


def open_index(
    directory: epath.PathLike,
    card: str | robot_card.RobotCard,
    *,
    split: str = 'train',
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
) -> EpisodeIndex:
    """The index of a data set, built first if there is none.

    Args:
      directory: a TFDS data set in RLDS form, of this machine or remote (see remote).
      card: an embodiment card, its name, or a JSON file that holds one.
      split: which split.
      location: the index's folder, of this machine or of a bucket; for the default see
        `index_places.place`.
      indexes: a folder that all processes of a job reach and that all of them give, to make and check
        the index together; None for a process that is alone.
      on_corrupt: 'raise' or 'skip', for unreadable records and pictures alike.

    Raises:
      tfrecord.CorruptRecord: an unreadable record, or an index that leaves some out, with
        on_corrupt='raise'.
      DataSetError: not a whole data set, or one that doesn't fit the card.
    """
    card = cards.find(card) if isinstance(card, str) else card
    directory = tfds_directory.version_folder(directory)
    return opened_index.open_index(
        EpisodeIndex,
        Rlds(directory, card, split),
        location=location,
        indexes=indexes,
        on_corrupt=on_corrupt,
    )
