"""What a collection is to become, and its files: RLDS as TFDS lays it out, or a LeRobot data set.

Both are written in parts, by several processes; a part is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
from typing import Any, cast

from absl import logging
from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax import paths
from rt2_jax.data.readers import lerobot_directory, rlds_schema, tf_example, tfrecord
from rt2_jax.data.readers.rlds_episodes import padded_bytes
from rt2_jax.data.robot import lerobot_writer, rlds_writer
from rt2_jax.data.robot.lerobot_form import LeRobotForm
from rt2_jax.data.robot_card import RobotCard

SPLIT = 'train'
CARD_JSON = 'card.json'  # of a LeRobot data set, whose features have other names than RLDS'
# Parts by number of episodes alone: enough for many processes, small enough to lose little.
LEAST_PARTS = 16
EPISODES_A_PART = 100


def part_lengths(episodes: int) -> list[int]:
    """Episodes of each part of a collection."""
    parts = max(min(LEAST_PARTS, episodes), -(-episodes // EPISODES_A_PART))
    return [len(part) for part in np.array_split(np.arange(episodes), parts)]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a collection is to become.

    Attributes:
        name: the data set's name.
        version: of its schema, such as '0.1.0'.
        description: what it holds.
        features: its schema; `episode_metadata` has `task`, a text, and `success`, a flag.
        card: of the robot, for that schema.
        episodes: how many.
        quality: JPEG quality; videos have their own, see video_writer.
        format: a key of `FORMATS`.
        code: folders and files of the world's code, of which a collection must come from one version.
    """

    name: str
    version: str
    description: str
    features: tfds.features.FeaturesDict
    card: RobotCard
    episodes: int
    quality: int
    format: str
    code: tuple[epath.Path, ...]

    def files(self, directory: epath.Path) -> RldsFiles:
        """The files of the collection in a directory."""
        return FORMATS[self.format](directory, self)


@dataclasses.dataclass(frozen=True)
class RldsFiles:
    """A collection as RLDS.

    Attributes:
        directory: of the data set.
        plan: what it is to become.
    """

    directory: epath.Path
    plan: Plan

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Episodes of each part."""
        return part_lengths(self.plan.episodes)

    @property
    def is_complete(self) -> bool:
        """Whether all is there."""
        return (self.directory / rlds_writer.DATASET_INFO_JSON).exists()

    def is_part(self, part: int) -> bool:
        """Whether a part is there."""
        return self._shard(part).exists()

    def write(self, part: int, episodes: Iterator[Mapping[str, Any]]) -> None:
        """Writes a part: episodes as the schema lays them out."""
        encode = rlds_writer.EpisodeEncoder(self.plan.features, self.plan.quality)
        rlds_writer.write_shard(self._shard(part), map(encode, episodes))

    def finish(self) -> None:
        """Declares the data set whole."""
        rlds_writer.finish(
            self.directory,
            self.plan.features,
            name=self.plan.name,
            version=self.plan.version,
            description=self.plan.description,
            shard_lengths=self.lengths,
            split=SPLIT,
        )

    def outcomes(self) -> Iterator[tuple[str, bool, int]]:
        """Each episode's kind of task, success and number of steps, checking every record on the way.

        Raises:
            tfrecord.CorruptRecord: a damaged record.
        """
        for part in range(len(self.lengths)):
            for record in tfrecord.scan(self._shard(part)):
                if record.error:
                    raise record.error
                payload = record.payload or b''
                features = tf_example.parse(payload)
                start, end = features['episode_metadata/task'].values[0].tolist()
                success = bool(features['episode_metadata/success'].values[0])
                yield payload[start:end].decode(), success, len(features['steps/is_first'].values)

    def _shard(self, part: int) -> epath.Path:
        name = rlds_writer.shard_name(self.plan.name, SPLIT, part, len(self.lengths))
        return self.directory / name


@dataclasses.dataclass(frozen=True)
class LeRobotFiles(RldsFiles):
    """A collection as LeRobot v3.0.

    What has no place there is logged; of the tabletop it is `episode_metadata/objects`, a list of texts.
    `observation.object_names` has those in the picture, and the seed makes the scene again.

    Raises:
        MissingPackage: PyAV or pyarrow isn't installed.
    """

    def __post_init__(self) -> None:
        lerobot_writer.check_packages()

    @property
    def is_complete(self) -> bool:
        """Whether all is there."""
        return lerobot_directory.is_lerobot(self.directory)

    def is_part(self, part: int) -> bool:
        """Whether a part is there."""
        return lerobot_writer.is_part(self.directory, part)

    @functools.cached_property
    def form(self) -> LeRobotForm:
        """How its episodes become LeRobot's."""
        fields = rlds_schema.fields_of(self.plan.features)
        shapes = {path: field.shape for path, field in fields.items() if field.dtype == 'picture'}
        sizes = {path: cast('tuple[int, int]', shape[:2]) for path, shape in shapes.items()}
        return LeRobotForm(fields, self.plan.card, sizes)

    def write(self, part: int, episodes: Iterator[Mapping[str, Any]]) -> None:
        """Writes a part: episodes as the schema lays them out."""
        written = (self._written(episode) for episode in episodes)
        lerobot_writer.write_part(self.directory, part, self.form.features, self.form.fps, written)

    def finish(self) -> None:
        """Declares the data set whole, and writes its card."""
        for line in self.form.lost:
            logging.info('not in LeRobot: %s', line)
        card = json.dumps(dataclasses.asdict(self.form.card), indent=2)
        paths.write(self.directory / CARD_JSON, card.encode())
        lerobot_writer.finish(
            self.directory,
            self.form.features,
            self.form.fps,
            parts=len(self.lengths),
            splits={SPLIT: sum(self.lengths)},
            robot=self.plan.name,
            about_tasks=self.form.about_tasks,
        )

    def outcomes(self) -> Iterator[tuple[str, bool, int]]:
        """Each episode's kind of task, success and number of steps."""
        task, success = 'episode_metadata.task', 'episode_metadata.success'
        info = json.loads((self.directory / lerobot_directory.INFO).read_text())
        for part in range(len(self.lengths)):
            place = info['data_path'].format(
                chunk_index=part // lerobot_writer.CHUNK, file_index=part % lerobot_writer.CHUNK
            )
            content = paths.read(self.directory / place)
            table = lerobot_directory.read_table(content, [task, success, 'episode_index'])
            numbers = table['episode_index'].to_numpy()
            _, firsts, counts = np.unique(numbers, return_index=True, return_counts=True)
            tasks, successes = table[task].to_pylist(), table[success].to_pylist()
            for first, steps in zip(firsts.tolist(), counts.tolist(), strict=True):
                yield tasks[first], successes[first], steps

    def _written(self, episode: Mapping[str, Any]) -> lerobot_writer.WrittenEpisode:
        steps = [rlds_writer.flatten(step) for step in episode['steps']]
        outside = {key: value for key, value in episode.items() if key != 'steps'}
        values = dict(rlds_writer.flatten(outside))
        for path in steps[0]:
            rows = [step[path] for step in steps]
            is_text = isinstance(rows[0], str)
            values[f'steps/{path}'] = rows if is_text else np.stack(rows)
        pictures = {path: values.pop(path) for path in self.form.cameras.values()}
        fields = self.form.schema
        instruction = rlds_schema.full_path(self.plan.card.instruction)
        if fields[instruction].dtype != 'text':
            letters = (padded_bytes(row, instruction) for row in values[instruction])
            values[instruction] = [text.decode() for text in letters]
        values = {
            path: np.asarray(value).astype(fields[path].dtype)
            if path in fields and path != instruction and fields[path].dtype != 'text'
            else value
            for path, value in values.items()
        }
        return self.form.episode(values, pictures, len(steps))


FORMATS: dict[str, type[RldsFiles]] = {'rlds': RldsFiles, 'lerobot': LeRobotFiles}
