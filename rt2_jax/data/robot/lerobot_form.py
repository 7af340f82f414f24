"""RLDS episodes in the form of LeRobot's, and back.

    steps/observation/image      -> observation.images.image     every camera, as video
    the card's instruction       -> task
    the features of the action   -> action, one vector, if they are whole and of one type
    steps/a/b, a/b               -> a.b; an episode's own numbers and texts are repeated at each step
    steps/timestamp              -> recorded.timestamp; LeRobot's own is the step's number by fps

Each feature's entry in info.json says under 'info' which RLDS features it was, so that the way back restores
their names and shapes. LeRobot has no lists of texts, no pictures of more than 8 bits a channel, and no lists
of varying length; these are lost, and `lost` names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.readers import lerobot_steps, rlds_schema
from rt2_jax.data.robot import lerobot_writer
from rt2_jax.data.robot.lerobot_writer import WrittenEpisode

ACTION = 'action'
PATHS, SHAPES = 'rlds.paths', 'rlds.shapes'  # in the 'info' of a feature
_OTHERWISE = 'recorded.'  # before names that LeRobot has for itself


class LeRobotForm:
    """How the episodes of an RLDS data set become LeRobot's.

    Args:
        schema: of the set.
        card: what its features mean.
        sizes: height and width of each camera's pictures, by path in the schema.

    Attributes:
        schema: as given.
        features: as info.json has them.
        fps: the card's frequency.
        card: the card of the LeRobot data set.
        about_tasks: which feature the tasks were, for `lerobot_writer.finish`.
        cameras: name in the LeRobot data set -> path in the schema.
        kept: the features of the schema that an episode needs.
        lost: what LeRobot can't hold, a line each.

    Raises:
        DataSetError: two features would get the same name.
    """

    def __init__(
        self,
        schema: rlds_schema.Schema,
        card: robot_card.RobotCard,
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        self.schema, self.fps, self._card = schema, card.frequency, card
        self.lost = [f'{p}: {why}' for p in schema if (why := _why_lost(schema[p], p, sizes))]
        kept = {p: field for p, field in schema.items() if not _why_lost(field, p, sizes)}
        self._instruction = rlds_schema.full_path(card.instruction)
        kept.pop(self._instruction, None)
        self.about_tasks = {PATHS: [self._instruction], SHAPES: [[]]}
        self.cameras = {
            f'observation.images.{p.removeprefix("steps/").removeprefix("observation/").replace("/", ".")}': p
            for p in list(kept)
            if kept[p].dtype == 'picture'
        }
        self.kept = [self._instruction, *kept]
        self._sources = {name: [path] for name, path in self.cameras.items()}
        if parts := _whole_action(kept, card):
            self._sources[ACTION] = parts
        taken = {path for paths in self._sources.values() for path in paths}
        for path in kept:
            if path not in taken:
                name = path.removeprefix('steps/').replace('/', '.')
                name = _OTHERWISE + name if name in lerobot_writer.RESERVED else name
                if name in self._sources:
                    other = self._sources[name][0]
                    raise DataSetError(f'{other!r} and {path!r} would both be {name!r} in LeRobot')
                self._sources[name] = [path]
        if ACTION not in self._sources:
            self.lost.append(
                "no 'action': the card's action is no row of whole features of one type, so its "
                "features keep their own names; lerobot's policies look for 'action'"
            )
        self.features = {name: self._entry(name, kept, sizes) for name in self._sources}
        self.card = self._renamed()

    def episode(
        self, values: Mapping[str, Any], pictures: Mapping[str, Iterable[np.ndarray]], steps: int
    ) -> WrittenEpisode:
        """An episode in the form.

        Args:
            values: by path in the schema: numbers [T, ...] or T texts; an episode's, numbers [...] or a text.
            pictures: by path, T pictures each, uint8 [H, W, 3], RGB.
            steps: T.
        """
        columns = {}
        for name, paths in self._sources.items():
            if name in self.cameras:
                continue
            rows = [_rows(values[path], path, steps) for path in paths]
            if self.features[name]['dtype'] == 'string':
                columns[name] = rows[0]
                continue
            shape = (steps, *self.features[name]['shape'])
            flat = [np.reshape(row, [steps, -1]) for row in rows]
            columns[name] = np.concatenate(flat, axis=1).reshape(shape)
        tasks = _rows(values[self._instruction], self._instruction, steps)
        shown = {name: pictures[path] for name, path in self.cameras.items()}
        return WrittenEpisode(list(tasks), columns, shown)

    def _entry(
        self, name: str, schema: rlds_schema.Schema, sizes: Mapping[str, tuple[int, int]]
    ) -> dict[str, Any]:
        paths = self._sources[name]
        field = schema[paths[0]]
        info = {PATHS: paths, SHAPES: [list(schema[path].shape) for path in paths]}
        if name in self.cameras:
            entry = lerobot_writer.camera(sizes[paths[0]], self.fps)
            return entry | {'info': entry['info'] | info}
        if field.dtype == 'text':
            return {'dtype': 'string', 'shape': [1], 'names': None, 'info': info}
        shape = list(field.shape) or [1]
        names = None
        if name == ACTION and len(self._card.action_space.names) == sum(
            rlds_schema.size(schema[path]) for path in paths
        ):
            names = list(self._card.action_space.names)
            shape = [len(names)]
        return {'dtype': field.dtype, 'shape': shape, 'names': names, 'info': info}

    def _renamed(self) -> robot_card.RobotCard:
        """The card with the names that its features have in the LeRobot data set."""
        card = self._card
        places: dict[str, tuple[str, int]] = {self._instruction: (lerobot_steps.TASK, 0)}
        for name, paths in self._sources.items():
            start = 0
            for path, shape in zip(paths, self.features[name]['info'][SHAPES], strict=True):
                places[path] = name, start
                start += math.prod(shape) if name not in self.cameras else 0

        def named(path: str) -> str:
            return places[rlds_schema.full_path(path)][0]

        def part(old: robot_card.ActionPart) -> robot_card.ActionPart:
            name, start = places[rlds_schema.full_path(old.path)]
            return dataclasses.replace(
                old, path=name, start=old.start + start, stop=old.stop + start
            )

        return dataclasses.replace(
            card,
            images=tuple(
                named(p) for p in card.images if rlds_schema.full_path(p) in self.cameras.values()
            ),
            instruction=lerobot_steps.TASK,
            action=tuple(map(part, card.action)),
            terminate=named(card.terminate) if card.terminate else '',
            success=places[card.success][0] if card.success else '',
            columns=tuple(named(p) for p in card.columns if rlds_schema.full_path(p) in places),
            blue_first=(),
            state=tuple(map(part, card.state)),
        )


def _whole_action(schema: rlds_schema.Schema, card: robot_card.RobotCard) -> list[str]:
    """The features that are the card's action, in its order; none if they make no vector."""
    paths = [rlds_schema.full_path(part.path) for part in card.action]
    whole = all(
        path in schema
        and not part.following
        and (part.start, part.stop) == (0, rlds_schema.size(schema[path]))
        and schema[path].dtype == schema[paths[0]].dtype
        for part, path in zip(card.action, paths, strict=True)
    )
    return paths if whole and len(set(paths)) == len(paths) else []


def _why_lost(field: rlds_schema.Field, path: str, sizes: Mapping[str, Any]) -> str:
    """Why LeRobot can't hold a feature; '' if it can."""
    if field.dtype.startswith('picture of'):
        return f'it is a {field.dtype}, and videos have 8 bits a channel'
    if field.dtype == 'picture' and path not in sizes:
        return 'it is a picture, but not one of three channels a step'
    if field.dtype == 'text' and field.shape:
        return 'it is a list of texts, which LeRobot does not have'
    if field.dtype != 'picture' and None in field.shape:
        return 'its length varies, which LeRobot does not have'
    return ''


def _rows(value: Any, path: str, steps: int) -> Any:
    """A value for each step: as it is, or an episode's repeated."""
    if path.startswith('steps/'):
        return value
    if isinstance(value, str):
        return [value] * steps
    value = np.asarray(value)
    return np.broadcast_to(value, (steps, *value.shape))
