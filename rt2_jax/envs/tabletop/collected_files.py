"""The files of a collection: RLDS as TFDS lays it out, or a LeRobot data set.

Both are written in parts, by several processes; a part is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.data import cards
from rt2_jax.data.readers import lerobot_directory, rlds_schema, tf_example, tfrecord
from rt2_jax.data.robot import lerobot_writer, rlds_writer
from rt2_jax.data.robot.lerobot_form import LeRobotForm
from rt2_jax.envs.tabletop import schema

SPLIT = 'train'
CARD_JSON = 'card.json'  # of a LeRobot data set, whose features have other names than RLDS'


@dataclasses.dataclass(frozen=True)
class RldsFiles:
    """A collection as RLDS.

    Attributes:
        directory: of the data set.
        lengths: episodes of each part.
        image_size: side of the frames, pixels.
        quality: JPEG quality.
    """

    directory: epath.Path
    lengths: Sequence[int]
    image_size: int
    quality: int

    @property
    def is_complete(self) -> bool:
        """Whether all is there."""
        return (self.directory / rlds_writer.DATASET_INFO_JSON).exists()

    def is_part(self, part: int) -> bool:
        """Whether a part is there."""
        return self._shard(part).exists()

    def write(self, part: int, episodes: Iterator[Mapping[str, Any]]) -> None:
        """Writes a part: episodes as the schema lays them out."""
        encode = rlds_writer.EpisodeEncoder(schema.features(self.image_size), self.quality)
        rlds_writer.write_shard(self._shard(part), map(encode, episodes))

    def finish(self) -> None:
        """Declares the data set whole."""
        rlds_writer.finish(
            self.directory,
            schema.features(self.image_size),
            name=schema.NAME,
            version=schema.VERSION,
            description=schema.DESCRIPTION,
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
        name = rlds_writer.shard_name(schema.NAME, SPLIT, part, len(self.lengths))
        return self.directory / name


@dataclasses.dataclass(frozen=True)
class LeRobotFiles(RldsFiles):
    """A collection as LeRobot v3.0.

    `episode_metadata/objects`, a list of texts, has no place there; `observation.object_names` has
    those in the picture, and the seed makes the scene again.
    """

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
        fields = rlds_schema.fields_of(schema.features(self.image_size))
        sizes = {'steps/observation/image': (self.image_size, self.image_size)}
        return LeRobotForm(fields, cards.TABLETOP, sizes)

    def write(self, part: int, episodes: Iterator[Mapping[str, Any]]) -> None:
        """Writes a part: episodes as the schema lays them out."""
        written = (self._written(episode) for episode in episodes)
        lerobot_writer.write_part(self.directory, part, self.form.features, self.form.fps, written)

    def finish(self) -> None:
        """Declares the data set whole, and writes its card."""
        card = json.dumps(dataclasses.asdict(self.form.card), indent=2)
        paths.write(self.directory / CARD_JSON, card.encode())
        lerobot_writer.finish(
            self.directory,
            self.form.features,
            self.form.fps,
            parts=len(self.lengths),
            splits={SPLIT: sum(self.lengths)},
            robot=schema.NAME,
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
        values = {
            path: np.asarray(value).astype(fields[path].dtype)
            if path in fields and fields[path].dtype != 'text'
            else value
            for path, value in values.items()
        }
        return self.form.episode(values, pictures, len(steps))


FORMATS = {'rlds': RldsFiles, 'lerobot': LeRobotFiles}
