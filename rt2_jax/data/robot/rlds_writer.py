"""Writes RLDS episodes as a TFDS data set, without TensorFlow.

What `tfds.builder_from_directory(DIR).as_dataset()` needs is features.json, dataset_info.json and
TFRecord shards of tf.train.Examples in TFDS's own layout of nested features, all of which TFDS's
TensorFlow-free half gives; pictures are encoded here. Shards can be written by several processes:
each under a temporary name, renamed when whole. dataset_info.json comes last, so a directory
without it is half-written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import os
from typing import Any

from etils import epath
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from rt2_jax import paths
from rt2_jax.data import images
from rt2_jax.data.readers import tfrecord

FEATURES_JSON = 'features.json'
DATASET_INFO_JSON = 'dataset_info.json'


def features_dict(spec: Mapping[str, Any]) -> tfds.features.FeaturesDict:
    """An RLDS schema: `spec` with a 'steps' entry (a dict of features) made a nested Dataset."""
    spec = dict(spec)
    return tfds.features.FeaturesDict({**spec, 'steps': tfds.features.Dataset(spec['steps'])})


class EpisodeEncoder:
    """Episodes as nested dicts -> serialised tf.train.Examples.

    Args:
        features: the schema, with a 'steps' Dataset.
        quality: JPEG quality. Pictures given as bytes are taken as already encoded.
    """

    def __init__(self, features: tfds.features.FeaturesDict, quality: int = 95) -> None:
        self._serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        self._quality = quality
        self._features = features
        self._leaves = dict(_leaves(features))
        self._paths = set(self._leaves)

    def __call__(self, episode: Mapping[str, Any]) -> bytes:
        """`episode`: {'steps': [step, ...], ...}, nested like the schema.

        Raises:
            ValueError: for an episode whose features aren't the schema's, or of another shape.
        """
        steps = [flatten(step) for step in episode['steps']]
        flat = flatten({k: v for k, v in episode.items() if k != 'steps'})
        for number, step in enumerate(steps):
            self._check({*flat, *(f'steps/{path}' for path in step)}, number)
        for path in self._paths:
            if path.startswith('steps/'):
                flat[path] = [step[path.removeprefix('steps/')] for step in steps]
        for path in flat:
            inside = path.startswith('steps/')
            flat[path] = (
                [self._encode(path, x) for x in flat[path]]
                if inside
                else self._encode(path, flat[path])
            )
        # Protobuf's maps have no order of their own: without asking, two runs' files would differ.
        example = self._serializer.get_tf_example(_nested(self._features, flat))
        return example.SerializeToString(deterministic=True)

    def _check(self, paths: set[str], step: int) -> None:
        if differing := paths ^ self._paths:
            missing, extra = sorted(differing & self._paths), sorted(differing - self._paths)
            raise ValueError(
                f"step {step} doesn't fit the schema: features missing: {missing}, unknown: {extra}"
            )

    def _encode(self, path: str, value: Any) -> Any:
        feature = self._leaves[path]
        if isinstance(feature, tfds.features.Image) and not isinstance(value, bytes):
            return images.encode_jpeg(value, self._quality)
        if getattr(feature.to_json_content(), 'encoding', 'none') in ('bytes', 'zlib'):
            return feature.encode_example(value)
        return value


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """TFDS's file name of a shard."""
    return f'{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}'


def write_shard(path: epath.PathLike, payloads: Iterable[bytes]) -> None:
    """Writes one shard whole or not at all."""
    with paths.writing(paths.of(path)) as local, local.open('wb') as file:
        for payload in payloads:
            tfrecord.write_record(file, payload)
        file.flush()
        os.fsync(file.fileno())


def finish(
    directory: epath.PathLike,
    features: tfds.features.FeaturesDict,
    *,
    name: str,
    version: str,
    description: str,
    shard_lengths: Sequence[int],
    split: str = 'train',
) -> None:
    """Declares a data set of one split whole; see `finish_splits`."""
    finish_splits(
        directory,
        features,
        name=name,
        version=version,
        description=description,
        splits={split: shard_lengths},
    )


def finish_splits(
    directory: epath.PathLike,
    features: tfds.features.FeaturesDict,
    *,
    name: str,
    version: str,
    description: str,
    splits: Mapping[str, Sequence[int]],
) -> None:
    """Writes features.json, then dataset_info.json, which declares the data set whole.

    Args:
        directory: where the shards are.
        features: the schema.
        name: the data set's name, as in the shards' file names.
        version: such as '0.1.0'.
        description: what the data set holds.
        splits: by name, episodes a shard.

    Raises:
        FileNotFoundError: for a missing shard.
    """
    directory = paths.of(directory)
    names = {
        split: [shard_name(name, split, i, len(lengths)) for i in range(len(lengths))]
        for split, lengths in splits.items()
    }
    present = paths.files(directory)
    missing = [name for shards in names.values() for name in shards if name not in present]
    if missing:
        raise FileNotFoundError(f'{directory} lacks {", ".join(missing)}')
    features.save_config(os.fspath(directory))
    info = {
        'name': name,
        'version': version,
        'description': description,
        'fileFormat': 'tfrecord',
        'splits': [
            {
                'name': split,
                'shardLengths': [str(n) for n in lengths],
                'numBytes': str(sum(present[name] for name in names[split])),
                'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
            }
            for split, lengths in splits.items()
        ],
    }
    content = json.dumps(info, indent=2, sort_keys=True)
    paths.write(directory / DATASET_INFO_JSON, content.encode())


def _leaves(features: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (path, feature) of the innermost features, those inside 'steps' included."""
    if isinstance(features, tfds.features.Dataset):
        features = features.feature
    if isinstance(features, tfds.features.FeaturesDict):
        for key in features:
            yield from _leaves(features[key], f'{prefix}/{key}' if prefix else key)
    else:
        yield prefix, features


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """A nested dict's values by path, 'observation/image'."""
    flat = {}
    for key, value in tree.items():
        path = f'{prefix}/{key}' if prefix else key
        flat.update(flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def _nested(features: Any, flat: Mapping[str, Any], prefix: str = '') -> Any:
    """Values by path as the features are nested, whose own names may have slashes."""
    if isinstance(features, tfds.features.Dataset):
        features = features.feature
    if not isinstance(features, tfds.features.FeaturesDict):
        return flat[prefix]
    return {
        key: _nested(features[key], flat, f'{prefix}/{key}' if prefix else key) for key in features
    }
