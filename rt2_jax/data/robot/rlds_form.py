"""LeRobot episodes in the form of RLDS: the way back of `lerobot_form`.

    observation.images.front     -> steps/observation/front      JPEG
    task                         -> steps/language_instruction
    a.b                          -> steps/a/b
    (none)                       -> steps/is_first, steps/is_last

Features that were RLDS before, as their entry in info.json says, get their names, shapes and places back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.readers import lerobot_directory
from rt2_jax.data.readers.lerobot_steps import IS_LAST, TASK
from rt2_jax.data.robot import lerobot_writer, rlds_writer
from rt2_jax.data.robot.lerobot_form import PATHS, SHAPES

INSTRUCTION, SUCCESS = 'steps/language_instruction', 'episode_metadata/success'
_FLAGS = {'steps/is_first': 0, 'steps/is_last': -1}


class _Target(NamedTuple):
    """An RLDS feature that takes some numbers of a LeRobot feature."""

    path: str
    shape: tuple[int, ...]
    start: int
    stop: int


class RldsForm:
    """How the episodes of a LeRobot data set become RLDS'.

    Args:
        info: meta/info.json.
        card: what its features mean.

    Attributes:
        features: the schema, a tfds.features.FeaturesDict.
        columns: the features of numbers and texts that are read.
        cameras: those of pictures.
        card: the card of the RLDS data set.
        lost: what RLDS, or this form, doesn't hold, a line each.

    Raises:
        DataSetError: pictures in tables, or two features would get the same name.
    """

    def __init__(self, info: Mapping[str, Any], card: robot_card.RobotCard) -> None:
        self._features, self._card = info['features'], card
        came_from_rlds = any(PATHS in (f.get('info') or {}) for f in self._features.values())
        dropped = set(lerobot_writer.KEYS) - (set() if came_from_rlds else {'timestamp'})
        kept = [name for name in self._features if name not in dropped]
        self.cameras = [name for name in kept if self._features[name]['dtype'] == 'video']
        self.columns = [name for name in kept if name not in self.cameras]
        self._targets = {name: _targets(name, self._features[name]) for name in kept}
        tasks = self._features.get('task_index', {}).get('info') or {}
        self._instruction = tasks.get(PATHS, [INSTRUCTION])[0]
        self._targets[TASK] = [_Target(self._instruction, (), 0, 1)]
        self._success = self._own_success()
        self.lost = [
            f"{name}: the names of its numbers, of which {names} is the first; the card's are kept"
            for name in self.columns
            if (names := _first_name(self._features[name])) and not came_from_rlds
        ]
        self.features = self._schema()
        self.card = dataclasses.replace(self._renamed(), frequency=float(info['fps']))

    def episode(
        self, columns: Mapping[str, np.ndarray], pictures: Mapping[str, Iterable[np.ndarray]]
    ) -> dict[str, Any]:
        """An episode as `rlds_writer.EpisodeEncoder` takes it.

        Args:
            columns: by feature, of its steps [T, ...], texts as objects; TASK is among them.
            pictures: by camera, T pictures.

        Raises:
            ValueError: what is the episode's in RLDS differs from step to step, or a picture is of
                another size than info.json says.
        """
        steps = len(columns[TASK])
        rows: dict[str, Any] = {}
        outside: dict[str, Any] = {}
        for name in (*self.columns, TASK):
            for path, shape, start, stop in self._targets[name]:
                values = columns[name]
                if values.dtype != object:
                    values = values.reshape(steps, -1)[:, start:stop].reshape(steps, *shape)
                if path.startswith('steps/'):
                    rows[path.removeprefix('steps/')] = values
                    continue
                if any(np.any(value != values[0]) for value in values):
                    raise ValueError(f"{name!r} is the episode's, but differs between its steps")
                outside[path] = values[0]
        for path, place in _FLAGS.items():
            flag = np.zeros(steps, bool)
            flag[place] = True
            rows.setdefault(path.removeprefix('steps/'), flag)
        if self._success:
            last = columns[self._success][-1]
            outside[SUCCESS] = bool((np.asarray(last) > 0).all())
        for name in self.cameras:
            (target,) = self._targets[name]
            shape, shown = _picture_shape(self._features[name]), list(pictures[name])
            for step, pixels in enumerate(shown):
                if pixels.shape != shape:
                    raise ValueError(
                        f'{name!r}, step {step}: a picture is {list(pixels.shape)}; '
                        f'{lerobot_directory.INFO} says {list(shape)}'
                    )
            rows[target.path.removeprefix('steps/')] = shown
        return outside | {
            'steps': [
                {path: values[step] for path, values in rows.items()} for step in range(steps)
            ]
        }

    def _own_success(self) -> str:
        """The step feature that becomes the episode's success; '' where there is one already, or none."""
        name = self._card.success
        if name and self._targets[name][0].path.startswith('steps/'):
            return name
        return ''

    def _schema(self) -> Any:
        import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

        f = tfds.features
        spec: dict[str, Any] = {'steps': {}}

        def add(path: str, feature: Any) -> None:
            *folders, last = path.split('/')
            inner = spec
            for folder in folders:
                inner = inner.setdefault(folder, {})
                if not isinstance(inner, dict):
                    raise DataSetError(f'{path!r} lies in a feature that is no folder in RLDS')
            if last in inner:
                raise DataSetError(f'two features would both be {path!r} in RLDS')
            inner[last] = feature

        for name, targets in self._targets.items():
            entry = self._features.get(name, {'dtype': 'string'})
            for path, shape, *_ in targets:
                if entry['dtype'] == 'video':
                    add(path, f.Image(shape=_picture_shape(entry), encoding_format='jpeg'))
                elif entry['dtype'] == 'string':
                    add(path, f.Text())
                else:
                    add(path, _numbers(shape, name, entry['dtype']))
        for path in _FLAGS:
            if path.removeprefix('steps/') not in spec['steps']:
                add(path, f.Scalar(np.bool_))
        if self._success:
            add(SUCCESS, f.Scalar(np.bool_))
        return rlds_writer.features_dict(spec)

    def _renamed(self) -> robot_card.RobotCard:
        """The card with the names that its features have in the RLDS data set."""
        card = self._card

        def named(name: str) -> str:
            path = name if name == IS_LAST else self._targets[name][0].path
            return path.removeprefix('steps/') if path.startswith('steps/') else f'/{path}'

        columns = [name for name in card.columns if len(self._targets[name]) == 1]
        self.lost += [
            f"{name}: as a column of the card, for it becomes several features, or the episode's"
            for name in card.columns
            if name not in columns or named(name).startswith('/')
        ]
        success = SUCCESS if self._success else card.success and named(card.success)[1:]
        return dataclasses.replace(
            card,
            images=tuple(named(name) for name in card.images if name in self.cameras),
            instruction=named(card.instruction),
            action=tuple(part for old in card.action for part in self._parts(old)),
            terminate=named(card.terminate) if card.terminate else '',
            success=success,
            columns=tuple(path for name in columns if not (path := named(name)).startswith('/')),
            blue_first=(),
            state=tuple(part for old in card.state for part in self._parts(old)),
        )

    def _parts(self, old: robot_card.ActionPart) -> list[robot_card.ActionPart]:
        """The runs of numbers in RLDS features that a run of a LeRobot feature becomes."""
        return [
            dataclasses.replace(
                old,
                path=target.path.removeprefix('steps/'),
                start=max(old.start, target.start) - target.start,
                stop=min(old.stop, target.stop) - target.start,
            )
            for target in self._targets[old.path]
            if max(old.start, target.start) < min(old.stop, target.stop)
        ]


def _targets(name: str, entry: Mapping[str, Any]) -> list[_Target]:
    if entry['dtype'] == 'image':
        raise DataSetError(f'{name!r} holds pictures inside the tables; videos are read')
    info = entry.get('info') or {}
    if PATHS not in info:
        path = name.removeprefix('observation.images.')
        path = f'observation.{path}' if path != name else name
        shape = () if entry['dtype'] == 'string' else tuple(entry['shape'])
        return [_Target(f'steps/{path.replace(".", "/")}', shape, 0, math.prod(shape))]
    targets, start = [], 0
    for path, shape in zip(info[PATHS], info[SHAPES], strict=True):
        stop = start + (math.prod(shape) if entry['dtype'] != 'video' else 0)
        targets.append(_Target(path, tuple(shape), start, stop))
        start = stop
    return targets


def _picture_shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Height, width and channels, which info.json may begin with the channels."""
    first, *others = entry['shape']
    return (*others, first) if first in (1, 3) and others[-1:] != [3] else (first, *others)


def _numbers(shape: tuple[int, ...], name: str, dtype: str) -> Any:
    """The RLDS feature of numbers. A tf.train.Example has no float64 but as bytes."""
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top

    f = tfds.features
    try:
        wanted = np.dtype(dtype)
    except TypeError as error:
        raise DataSetError(
            f'{name!r} is of the type {dtype!r}, which RLDS does not have'
        ) from error
    if wanted == np.float64:
        return f.Tensor(shape=shape, dtype=wanted, encoding='bytes')
    return f.Tensor(shape=shape, dtype=wanted) if shape else f.Scalar(wanted)


def _first_name(entry: Mapping[str, Any]) -> str:
    """The first of the names of a feature's numbers; '' where it has none."""
    names = lerobot_directory.number_names(entry)
    return str(names[0]) if len(names) > 1 else ''
