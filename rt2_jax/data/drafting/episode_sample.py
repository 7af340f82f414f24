"""Some episodes of a robot data set whose card nobody has written yet, and all that is in them.

They are spread evenly over the set, and copied into a set of one shard, which a drafted card is tried on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import re
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data import files, images
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.readers import rlds_schema, tfds_directory, tfrecord
from rt2_jax.data.readers.rlds_episodes import SerializedEpisode
from rt2_jax.data.robot import rlds_writer

EPISODES = 200
BYTES = 1 << 30  # of the copy at most
# Numbers a step. Actions and states are shorter than embeddings and depth, texts may be 512 bytes.
MOST_FLOATS, MOST_INTEGERS = 64, 1024
LOOKED_AT = 24  # pictures of each camera that are decoded
_PLAIN = 8  # the values of a picture of one colour differ by less


@dataclasses.dataclass
class Camera:
    """What the sample shows of a camera.

    Attributes:
        complete: episodes that have a picture for each step.
        looked_at: pictures that were decoded.
        plain: those of one colour.
        size: height and width of the last one, pixels.
    """

    complete: int = 0
    looked_at: int = 0
    plain: int = 0
    size: tuple[int, int] = (0, 0)

    def look(self, picture: np.ndarray) -> None:
        """Counts a decoded picture, uint8 [H, W, C]."""
        self.looked_at += 1
        self.plain += int(np.ptp(picture.reshape(-1, picture.shape[-1]), axis=0).max() < _PLAIN)
        self.size = picture.shape[0], picture.shape[1]


@dataclasses.dataclass
class Sample:
    """The sampled episodes. Paths are the schema's: 'steps/action', 'aspects/success'.

    Attributes:
        directory: the copy, a data set of its own; of LeRobot's the set itself.
        schema: of the set.
        declared: episodes of the whole set.
        documented: what the set's makers wrote about a feature, by path.
        unreadable: why episodes were left out.
        lengths: steps of each episode.
        numbers: of each episode float64 [T, ...], or [...] where the feature is the episode's.
        texts: of each episode its texts, one a step, or one.
        cameras: by path.
        rate: frames a second, where the set declares them; else 0.
        names: what the set calls the numbers of a feature, by path.
    """

    directory: epath.Path
    schema: rlds_schema.Schema
    declared: int
    documented: Mapping[str, str]
    unreadable: list[str] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    numbers: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
    cameras: dict[str, Camera] = dataclasses.field(default_factory=dict)
    rate: float = 0.0
    names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """How many there are in the sample."""
        return len(self.lengths)

    def size(self, path: str) -> int:
        """Numbers a step of a feature of a fixed shape."""
        return rlds_schema.size(self.schema[path])

    def add(self, steps: int, numbers: dict[str, Any], texts: dict[str, Any]) -> None:
        """Adds an episode. What one episode lacks is no feature that a card can name."""
        for kept, read in ((self.numbers, numbers), (self.texts, texts)):
            if self.episodes:
                for path in kept.keys() - read.keys():
                    del kept[path]
            for path, values in read.items():
                if path in kept or not self.episodes:
                    kept.setdefault(path, []).append(values)
        self.lengths.append(steps)


def take(
    directory: epath.PathLike, folder: epath.PathLike, split: str = 'train', most: int = EPISODES
) -> Sample:
    """Copies a sample into a folder and reads it.

    Args:
        directory: a TFDS data set in RLDS form, of this machine or remote.
        folder: of this machine; becomes a data set of one shard.
        split: which split.
        most: episodes; fewer are taken of a set whose episodes are so large that these exceed BYTES.

    Raises:
        DataSetError: no whole data set, or none of the episodes can be read.
    """
    directory = tfds_directory.version_folder(directory)
    declared = tfds_directory.declared(directory, split)
    tfds_directory.shard_names(directory, split)  # all are there
    schema = in_order(rlds_schema.read(directory))
    if not any(path.startswith('steps/') for path in schema):
        raise DataSetError(
            f'{directory} is no RLDS data set: its features are {", ".join(schema)}, and none of them '
            'lies in `steps`'
        )
    total = sum(episodes for _, episodes in declared)
    sample = Sample(epath.Path(folder), schema, total, _documentation(directory))
    shards = [os.fspath(files.path(directory) / name) for name, _ in declared]
    bytes_each = sum(x['size'] for x in files.stamps(map(files.path, shards))) / max(total, 1)
    most = min(most, total, max(1, int(BYTES / max(bytes_each, 1))))
    wanted = np.unique(np.linspace(0, total - 1, most).round().astype(int))
    ends = np.cumsum([episodes for _, episodes in declared])

    def payloads() -> Iterator[bytes]:
        for shard, end, (_, episodes) in zip(shards, ends, declared, strict=True):
            inside = wanted[(wanted >= end - episodes) & (wanted < end)] - (end - episodes)
            yield from (x for x in _payloads(sample, shard, inside.tolist()) if _add(sample, x))

    name = tfds_directory.dataset_name(directory)
    sample.directory.mkdir(parents=True, exist_ok=True)
    rlds_writer.write_shard(
        sample.directory / rlds_writer.shard_name(name, split, 0, 1), payloads()
    )
    if not sample.episodes:
        reason = sample.unreadable[0] if sample.unreadable else 'the episodes have no steps'
        raise DataSetError(
            f'{directory}: none of {len(wanted)} sampled episodes is of use: {reason}'
        )
    rlds_writer.finish(
        sample.directory,
        tfds_directory.features(directory),
        name=name,
        version='0.0.0',
        description='',
        shard_lengths=[sample.episodes],
        split=split,
    )
    return sample


def _payloads(sample: Sample, path: str, wanted: Sequence[int]) -> Iterator[bytes]:
    """The records of these numbers in a shard."""
    if not wanted:
        return
    with files.open_file(path) as file:
        number = -1
        for number, record in enumerate(tfrecord.scan(path, payloads=False)):
            if record.error:
                sample.unreadable.append(str(record.error))
                return
            if number in wanted:
                payload = file.read(record.payload_offset, record.length)
                if tfrecord.masked(tfrecord.checksum(payload)) == record.stored_checksum:
                    yield payload
                else:
                    sample.unreadable.append(f'{path}, record {number}: the checksum is wrong')
            if number == wanted[-1]:
                return
        sample.unreadable.append(f'{path} ends after {number + 1} records; more are declared')


def _add(sample: Sample, payload: bytes) -> bool:
    """Reads an episode into the sample; False where it has no steps or can't be read."""
    try:
        episode = SerializedEpisode(payload, sample.schema)
        steps = episode.steps(_any_number(sample.schema))
        numbers, texts = _contents(episode, steps)
    except ValueError as error:
        sample.unreadable.append(str(error))
        return False
    if not steps:
        return False
    for path, field in sample.schema.items():
        if field.dtype == 'picture' and path.startswith('steps/'):
            _look(sample.cameras.setdefault(path, Camera()), episode, path, steps)
    sample.add(steps, numbers, texts)
    return True


def in_order(schema: rlds_schema.Schema) -> dict[str, rlds_schema.Field]:
    """A schema in the order in which people count, image_2 before image_10."""
    return dict(sorted(schema.items(), key=lambda item: _parts(item[0])))


def _parts(path: str) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r'(\D+)(\d*)', path)]


def _any_number(schema: rlds_schema.Schema) -> str:
    """A feature that tells how many steps an episode has."""
    for path, field in schema.items():
        is_number = field.dtype != 'text' and not field.dtype.startswith('picture')
        if path.startswith('steps/') and is_number and None not in field.shape:
            return path
    raise DataSetError(
        f'no step feature has numbers of a fixed shape; there are {", ".join(schema)}'
    )


def _contents(episode: SerializedEpisode, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode's short numbers and its texts, by path; those that can't be read are left out."""
    numbers: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    for path, field in episode.schema.items():
        rows = steps if path.startswith('steps/') else None
        size = math.prod(x or 0 for x in field.shape)
        most = MOST_INTEGERS if field.dtype.startswith(('int', 'uint')) else MOST_FLOATS
        try:
            if field.dtype == 'text' and not field.shape:
                texts[path] = episode.texts(path, rows)
            elif field.dtype != 'text' and 0 < size <= most and field.dtype[:7] != 'picture':
                numbers[path] = episode.numbers(path, rows).astype(np.float64)
                if size > MOST_FLOATS and len(field.shape) == 1:
                    texts[path] = episode.texts(path, rows)  # integers that are bytes, perhaps
        except ValueError:
            pass
    return numbers, texts


def _look(camera: Camera, episode: SerializedEpisode, path: str, steps: int) -> None:
    try:
        spans = episode.spans(path)
    except ValueError:
        return
    camera.complete += len(spans) == steps
    if not len(spans) or camera.looked_at == LOOKED_AT:
        return
    start, end = spans[len(spans) // 2].tolist()
    try:
        picture = images.decode(episode.payload[start:end])
    except ValueError:
        return
    camera.look(picture)


def _documentation(directory: epath.PathLike) -> dict[str, str]:
    """The descriptions in features.json (tensorflow_datasets/core/proto/feature.proto), by path."""
    documented: dict[str, str] = {}

    def walk(node: Mapping[str, Any], path: str) -> None:
        if 'featuresDict' in node:
            for key, inner in node['featuresDict']['features'].items():
                walk(inner, f'{path}/{key}' if path else key)
        elif 'sequence' in node and 'featuresDict' in node['sequence'].get('feature', {}):
            walk(node['sequence']['feature'], path)
        elif node.get('description'):
            documented[path] = ' '.join(node['description'].split())

    walk(json.loads((files.path(directory) / 'features.json').read_text()), '')
    return documented
