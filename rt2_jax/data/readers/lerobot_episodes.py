"""LeRobot data sets of robot episodes: numbers in parquet tables, pictures as frames of videos.

A card's paths are the names of LeRobot's features ('observation.images.front', 'action'). Beside them there
are 'task', the text of a step's task, and 'is_last'. The success of an episode is what its last step says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import os
from typing import Any

from etils import epath

from rt2_jax.data import files, robot_card
from rt2_jax.data.data_errors import CorruptRecord, DataSetError
from rt2_jax.data.index import episode_columns
from rt2_jax.data.index.episode_columns import Episode
from rt2_jax.data.index.indexable import Part, RobotEpisodes, Unit
from rt2_jax.data.readers import lerobot_directory, rlds_schema, video_packets
from rt2_jax.data.readers.lerobot_directory import Layout
from rt2_jax.data.readers.lerobot_reader import EpisodeReader
from rt2_jax.data.readers.lerobot_steps import IS_LAST, TASK

FORMAT = 1

# Episodes that are indexed in one go, at least.
_UNIT_EPISODES = 50


@dataclasses.dataclass(frozen=True)
class LeRobot(RobotEpisodes):
    """One split of a LeRobot data set.

    Attributes:
        directory: with the folders meta, data and videos; local or remote.
        card: what its features mean.
        split: which split.
    """

    directory: epath.PathLike
    card: robot_card.RobotCard
    split: str = 'train'

    @functools.cached_property
    def layout(self) -> Layout:
        """What the folder `meta` says; raises as `lerobot_directory.read`."""
        return lerobot_directory.read(self.directory, self.card.images, self.split)

    @property
    def identity(self) -> dict[str, Any]:
        """What an index must have been built with."""
        return {
            'format': f'lerobot {FORMAT}',
            'card': self.card.name,
            'card_fingerprint': self.card.fingerprint,
            'split': self.split,
            'metadata': self.layout.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """Changes with the card and the metadata."""
        return f'{self.card.fingerprint} {self.layout.fingerprint}'

    def prepare(self) -> LeRobot:
        """Compares the card with the features.

        Raises:
            DataSetError: not a whole LeRobot data set, or one that doesn't fit the card.
        """
        features = self.layout.features
        for path in self.card.images:
            if features.get(path, {}).get('dtype') == 'image':
                raise DataSetError(
                    f'{self.directory}: {path!r} holds pictures inside the tables; videos are read. '
                    'Write the set with use_videos=True'
                )
        rlds_schema.check_card(schema_of(features), self.card, self.directory)
        return self

    def files(self) -> list[str]:
        """Tables and videos of all episodes."""
        return list(self._numbers)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return lerobot_directory.file_numbers(self.layout.episodes)

    def units(self, sizes: Sequence[int]) -> list[Unit]:
        """Runs of episodes, which end where a video of the first camera does, or a table."""
        del sizes
        episodes, starts = self.layout.episodes, [0]
        ends = [episode.files[:2][-1] for episode in episodes]
        for number, (before, name) in enumerate(itertools.pairwise(ends), start=1):
            if name != before and number - starts[-1] >= _UNIT_EPISODES:
                starts.append(number)
        return [
            Unit(self._numbers[episodes[start].table], start, stop, stop - start)
            for start, stop in zip(starts, [*starts[1:], len(episodes)])
        ]

    def files_of(self, unit: Unit) -> list[int]:
        """Tables and videos of the unit's episodes."""
        return [self._numbers[name] for name in self._names_of(unit)]

    def records(self, path: str, unit: Unit, digest: Any) -> Iterator[Episode | CorruptRecord]:
        """The unit's episodes in order, with what is damaged in its place."""
        reader = EpisodeReader(self.directory, self.card, self.layout, self._numbers)
        for episode in self.layout.episodes[unit.start : unit.stop]:
            try:
                yield reader.read(episode)
            except CorruptRecord as error:
                yield error
        self.framing(path, unit, digest)

    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """From the tables whole, and from where the videos' packets lie."""
        del path
        for name in self._names_of(unit):
            address = files.path(self.directory) / name
            digest.update(name.encode())
            if name.endswith('.parquet'):
                try:
                    digest.update(hashlib.sha256(address.read_bytes()).digest())
                except FileNotFoundError:
                    pass  # the episodes were left out
            else:
                digest.update(video_packets.framing(os.fspath(address)))

    def columns(self) -> episode_columns.EpisodeColumns:
        """Columns for the episodes of one unit."""
        return episode_columns.EpisodeColumns(self.card, videos=True)

    def join(self, parts: Sequence[Part], folder: epath.Path, framing: str) -> dict[str, Any]:
        """Writes the columns of all units; returns what index.json says of them."""
        schema = schema_of(self.layout.features)
        texts = [path for path in self.card.kept_columns if schema[f'steps/{path}'].dtype == 'text']
        about = episode_columns.join(parts, folder, self.card, texts, videos=True)
        return {'fingerprint': framing, **about}

    def _names_of(self, unit: Unit) -> list[str]:
        return list(lerobot_directory.file_numbers(self.layout.episodes[unit.start : unit.stop]))


def schema_of(features: Mapping[str, Any]) -> rlds_schema.Schema:
    """LeRobot's features as a card is compared with them."""
    schema = {
        f'steps/{TASK}': rlds_schema.Field((), 'text'),
        f'steps/{IS_LAST}': rlds_schema.Field((), 'bool'),
    }
    names = {'video': 'picture', 'image': 'picture in a table', 'string': 'text'}
    for path, feature in features.items():
        dtype, shape = feature['dtype'], tuple(feature['shape'])
        is_depth = (feature.get('info') or {}).get('video.is_depth_map', False)
        name = 'picture of depth' if is_depth else names.get(dtype, dtype)
        # LeRobot stores numbers of the shape [1] as scalars.
        field = rlds_schema.Field(() if name == 'text' else shape, name)
        schema[f'steps/{path}'] = field
        if name != 'text':
            schema[path] = field  # an episode's: its last step's
    return schema
