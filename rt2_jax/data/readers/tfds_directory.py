"""A TFDS data set's directory: which shards it has, and what features.json says of its records."""

from __future__ import annotations

from collections.abc import Sequence
import json
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.data import files, remote_files
from rt2_jax.data.data_errors import DataSetError, lfs_remedy
from rt2_jax.nearest import beside, nearest

# tensorflow_datasets/core/naming.py, DEFAULT_FILENAME_TEMPLATE; a split may name another.
TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'


def version_folder(directory: epath.PathLike) -> files.Path:
    """The folder of a data set's version, where the folder above it is given and has only one.

    Raises:
        DataSetError: it has several versions.
    """
    path = files.path(directory)
    versions = _versions(path)
    if len(versions) > 1:
        raise DataSetError(
            f'{path} has several versions of the data set: {", ".join(versions)}; add one to the path'
        )
    return path / versions[0] if versions else path


def shard_names(directory: epath.PathLike, split: str = 'train') -> list[str]:
    """The shards of a split within the directory, all of which are there.

    Raises:
        DataSetError: if the directory is missing, half-written, or lacks the split or a shard.
    """
    names, folder = [name for name, _ in declared(directory, split)], files.path(directory)
    paths = [folder / name for name in names]
    if missing := files.missing(paths):
        raise DataSetError(
            f'{directory} lacks {len(missing)} of {len(names)} shards of split {split!r}, first '
            f'{names[paths.index(missing[0])]}. Restore them from where the data came from.'
        )
    return names


def dataset_name(directory: epath.PathLike) -> str:
    """What dataset_info.json calls the data set; raises as `declared`."""
    return _info(files.path(directory))['name']


def splits(directory: epath.PathLike) -> list[str]:
    """The splits that have shards, in the order of dataset_info.json; raises as `declared`."""
    entries = _info(files.path(directory)).get('splits', ())
    return [entry['name'] for entry in entries if entry.get('shardLengths')]


def declared(directory: epath.PathLike, split: str) -> list[tuple[str, int]]:
    """The shards of a split with their numbers of records, as dataset_info.json declares them.

    Raises:
        DataSetError: if the directory is missing, half-written, or lacks the split.
    """
    directory = files.path(directory)
    info = _info(directory)
    entries = {entry['name']: entry for entry in info.get('splits', ())}
    if split not in entries:
        raise DataSetError(f'{directory} has no split {split!r}' + nearest(split, entries))
    kind = info.get('fileFormat', 'tfrecord')
    if kind != 'tfrecord':
        raise DataSetError(
            f'{directory} holds {kind} files; tfrecord is what can be read. tfds.convert_format '
            'makes one from the other.'
        )
    lengths = [int(length) for length in entries[split].get('shardLengths', ())]
    if not lengths:
        raise DataSetError(f'{directory}: dataset_info.json declares no shards of split {split!r}')
    template = entries[split].get('filepathTemplate') or TEMPLATE
    names = _filled(directory, template, info['name'], split, kind, len(lengths))
    return list(zip(names, lengths, strict=True))


def _filled(
    directory: files.Path, template: str, dataset: str, split: str, kind: str, shards: int
) -> list[str]:
    """The names of shards by TFDS's template (core/naming.py, ShardedFileTemplate)."""
    digits = max(5, len(str(shards)))
    fields = {'DATASET': dataset, 'SPLIT': split, 'FILEFORMAT': kind}
    names = []
    for number in range(shards):
        index, total = f'{number:0{digits}d}', f'{shards:0{digits}d}'
        own = {'SHARD_INDEX': index, 'NUM_SHARDS': total, 'SHARD_X_OF_Y': f'{index}-of-{total}'}
        try:
            names.append(template.format_map(fields | own))
        except (KeyError, ValueError, IndexError) as error:
            raise DataSetError(
                f'{directory}/dataset_info.json: the filepathTemplate {template!r} of split {split!r} '
                f'names something else than {", ".join(fields | own)}'
            ) from error
    return names


def features(directory: epath.PathLike) -> Any:
    """The tfds.features.FeaturesDict that features.json describes.

    Raises:
        DataSetError: without a features.json that TFDS understands.
    """
    # Only indexing needs the schema, and only the schema needs TFDS.
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    path = files.path(directory) / 'features.json'
    if not path.exists():
        raise DataSetError(f'{directory} has no features.json, so its schema is unknown')
    try:
        tree = json.loads(path.read_text())
        try:
            return tfds.features.FeaturesDict.from_json(tree)
        except ImportError:
            return tfds.features.FeaturesDict.from_json(_without_tensorflow(tree, str(directory)))
    except Exception as error:  # a damaged file fails in any of TFDS's and protobuf's ways
        reason = lfs_remedy(path.read_bytes()) or f'{type(error).__name__}: {error}'
        raise DataSetError(f'{path} is damaged, or of a newer TFDS: {reason}') from error


def _without_tensorflow(feature: dict[str, Any], path: str) -> dict[str, Any] | None:
    """The JSON of a feature without what only TensorFlow reads, as videos and sound, which is logged."""
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    if 'featuresDict' in feature:
        inner = feature['featuresDict']['features']
        inner = {key: _without_tensorflow(inner[key], f'{path}/{key}') for key in inner}
        kept = {key: value for key, value in inner.items() if value}
        return feature | {'featuresDict': {'features': kept}} if kept else None
    if 'sequence' in feature:
        inner = _without_tensorflow(feature['sequence']['feature'], path)
        return feature | {'sequence': feature['sequence'] | {'feature': inner}} if inner else None
    try:
        tfds.features.FeatureConnector.from_json(feature)
    except ImportError:
        logging.warning('%s is left out: its type needs TensorFlow to be read', path)
        return None
    return feature


def class_names(directory: epath.PathLike, keys: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes of a ClassLabel, which TFDS keeps in a file of their own.

    Args:
        directory: the data set.
        keys: of the feature, outermost first.

    Raises:
        DataSetError: there is no such file; TFDS would take the classes' numbers for names.
    """
    # tensorflow_datasets/core/features/feature.py, convert_feature_name_to_filename.
    path = files.path(directory) / f'{"-".join(key.replace("/", ".") for key in keys)}.labels.txt'
    if not path.exists():
        raise DataSetError(f"{directory} lacks {path.name}, which names a feature's classes")
    return tuple(name.strip() for name in path.read_text().split('\n') if name.strip())


def _versions(path: files.Path) -> list[str]:
    """Folders of a local folder that are data sets, where it is none itself."""
    if (
        isinstance(path, remote_files.RemotePath)
        or not path.is_dir()
        or (path / 'dataset_info.json').exists()
    ):
        return []
    return sorted(
        folder.name for folder in path.iterdir() if (folder / 'dataset_info.json').exists()
    )


def _info(directory: files.Path) -> dict[str, Any]:
    path = directory / 'dataset_info.json'
    if isinstance(directory, epath.Path) and not directory.exists():
        raise DataSetError(
            f'no data set at {directory}: there is no such directory{beside(directory)}'
        )
    if not path.exists() and (versions := _versions(directory)):
        raise DataSetError(
            f'{directory} is the folder above a version: add {" or ".join(versions)}'
        )
    if not path.exists():
        raise DataSetError(
            f'{directory} is no TFDS data set, or a half-written one: it has no dataset_info.json, '
            'which is written last. If a collection was interrupted, run the same command again; '
            'it goes on where it was.'
        )
    try:
        info = json.loads(path.read_text())
        if not (isinstance(info['name'], str) and isinstance(info.get('splits', []), list)):
            raise KeyError('name, splits')
        for entry in info.get('splits', ()):
            [entry['name'], *map(int, entry.get('shardLengths', ()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = lfs_remedy(path.read_bytes()) or f'{type(error).__name__}: {error}'
        raise DataSetError(f'{path} is damaged: {reason}') from error
    return info
