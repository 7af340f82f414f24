"""What a LeRobot data set's meta/info.json must say, and the splits that it declares."""

from __future__ import annotations

from collections.abc import Mapping
import itertools
import json
import math
from typing import Any

# By codebase_version, what the templates of the files' names are filled with.
PLACES = {'v2.1': ('episode_chunk', 'episode_index'), 'v3.0': ('chunk_index', 'file_index')}


def checked(content: bytes) -> dict[str, Any]:
    """What info.json says.

    Raises:
        ValueError: it lacks something, or has it in another form.
    """
    info = json.loads(content)
    needed = ('fps', 'features', 'total_episodes', 'chunks_size', 'data_path')
    if missing := [name for name in needed if name not in info]:
        raise ValueError(f'it lacks {", ".join(missing)}')
    fps, features = info['fps'], info['features']
    if not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise ValueError(f'fps is {fps!r}; a number above 0 is due')
    whole(info, 'total_episodes')
    whole(info, 'chunks_size', least=1)
    if not isinstance(features, dict):
        raise ValueError(f"'features' is {features!r}; an entry by name is due")
    for name, feature in features.items():
        _check_feature(name, feature)
    if not isinstance(info.get('splits') or {}, dict):
        raise ValueError(f"'splits' is {info['splits']!r}; 'FIRST:BEHIND' by name is due")
    splits(info)
    _check_template(info, 'data_path')
    if any(feature['dtype'] == 'video' for feature in features.values()):
        _check_template(info, 'video_path')
    return info


def splits(info: Mapping[str, Any]) -> dict[str, range]:
    """The episodes of each split.

    Raises:
        ValueError: episodes that aren't there, or are in two splits.
    """
    total, ranges = info['total_episodes'], dict[str, range]()
    for name, text in (info.get('splits') or {'train': f'0:{total}'}).items():
        first, _, behind = str(text).partition(':')
        if not (first.isdigit() and behind.isdigit() and int(first) <= int(behind) <= total):
            raise ValueError(
                f"split {name!r} is {text!r}; 'FIRST:BEHIND', numbers of episodes from 0 to {total}, is "
                'what is read'
            )
        ranges[name] = range(int(first), int(behind))
    for (name, ours), (other, theirs) in itertools.combinations(ranges.items(), 2):
        if shared := set(ours).intersection(theirs):
            raise ValueError(f'episode {min(shared)} is in the splits {name!r} and {other!r}')
    return ranges


def whole(fields: Mapping[str, Any], name: str, least: int = 0) -> Any:
    """A whole number of info.json, or of an episode's row, as it is there.

    Raises:
        ValueError: it is none, or below `least`.
    """
    value = fields.get(name)
    if not isinstance(value, int | float) or not (value >= least and value % 1 == 0):
        number = fields.get('episode_index')
        of = '' if number is None else f' of episode {number}'
        raise ValueError(f'{name}{of} is {value!r}; a whole number from {least} on is due')
    return value


def _check_feature(name: str, feature: Any) -> None:
    entry = feature if isinstance(feature, dict) else {}
    dtype, shape = entry.get('dtype'), entry.get('shape')
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not (isinstance(dtype, str) and is_shape):
        raise ValueError(
            f"feature {name!r} has the dtype {dtype!r} and the shape {shape!r}; a type's name and a "
            'list of sizes are due'
        )


def _check_template(info: Mapping[str, Any], name: str) -> None:
    places = PLACES[info['codebase_version']]
    try:
        info[name].format(video_key='', **dict.fromkeys(places, 0))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{name} is {info.get(name)!r}; a file's name with {', '.join(places)} in braces is due"
        ) from error
