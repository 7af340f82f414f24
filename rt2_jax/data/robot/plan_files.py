"""Plans from a file, by instruction, by episode, or by steps of an episode.

    plans.json     {"I'm hungry": "pick rxbar chocolate", ...}
    plans.jsonl    {"instruction": "I'm hungry", "plan": "pick rxbar chocolate"}
                   {"episode": 12, "plan": "go to the drawer"}
                   {"episode": 12, "steps": [0, 14], "plan": "open the drawer"}

An episode's number is its place in the data set, as `StepTable.raw` gives it; steps are numbered
from 0, the last one not included. What says more about a step goes first: its steps, its episode,
its instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools
import hashlib
import json
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax import paths, records
from rt2_jax.data.robot.step_table import StepTable
from rt2_jax.nearest import check, closest

FIELDS = ('instruction', 'episode', 'steps', 'plan')


@dataclasses.dataclass(frozen=True)
class PlanFile:
    """A `plans.Planner` of what a file says.

    Attributes:
        path: of the file, for messages.
        instructions: plans by instruction.
        episodes: plans by episode.
        ranges: by episode, (first step, end, plan) in order.
    """

    path: str
    instructions: dict[str, str]
    episodes: dict[int, str]
    ranges: dict[int, list[tuple[int, int, str]]]

    @classmethod
    def read(cls, path: epath.PathLike) -> PlanFile:
        """Reads a .json or .jsonl file.

        Raises:
            ValueError: no such file, no JSON, or an entry that can't be, by its number.
        """
        file = cls(str(path), {}, {}, {})
        for number, entry in enumerate(_entries(paths.of(path)), start=1):
            file._add(entry, f'{path}, entry {number}')
        for episode, ranges in file.ranges.items():
            ranges.sort()
            for (_, end, _), (start, *_) in zip(ranges, ranges[1:]):
                if start < end:
                    raise ValueError(f'{path}: episode {episode} has two plans for step {start}')
        if not file.texts(None):
            raise ValueError(f'{path} holds no plan')
        return file

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes whenever a plan does."""
        content = [sorted(x.items()) for x in (self.instructions, self.episodes, self.ranges)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def plan(self, step: Mapping[str, Any]) -> str:
        """See `plans.Planner`."""
        for first, end, plan in self.ranges.get(step['episode'], ()):
            if first <= step['step'] < end:
                return plan
        of_episode = self.episodes.get(step['episode'])
        return of_episode or self.instructions.get(step['instruction'], '')

    def known(self, table: StepTable) -> np.ndarray:
        """See `plans.Planner`.

        Raises:
            ValueError: the data set has no episode of a number in the file.
        """
        which, instructions = table.texts()
        self._report_unknown(instructions)
        if strange := {*self.episodes, *self.ranges} - set(range(table.index.episodes)):
            raise ValueError(
                f'{self.path}: there is no episode {min(strange)} in {table.index.directory}, which '
                f'has 0..{table.index.episodes - 1}'
            )
        known = np.array([text in self.instructions for text in instructions])[which]
        for position, episode in enumerate(table.episodes.tolist()):
            own = table.episode_steps(position)
            if episode in self.episodes:
                known[own] = True
            for first, end, _ in self.ranges.get(episode, ()):
                known[own[first:end]] = True
        return known

    def texts(self, table: StepTable | None) -> Iterable[str]:
        """See `plans.Planner`."""
        del table
        ranged = (plan for ranges in self.ranges.values() for *_, plan in ranges)
        return {*self.instructions.values(), *self.episodes.values(), *ranged}

    def _add(self, entry: Any, where: str) -> None:
        if not isinstance(entry, dict):
            raise ValueError(f'{where}: {entry!r} is no object of {FIELDS}')
        for field in entry:
            check(f'field in {where}', field, FIELDS)
        plan = _plan(entry.get('plan'), where)
        instruction: Any = entry.get('instruction')
        episode: Any = entry.get('episode')
        steps: Any = entry.get('steps')
        if isinstance(instruction, str) and episode is None and steps is None:
            _add_once(self.instructions, instruction, plan, where)
        elif instruction is None and _is_count(episode) and steps is None:
            _add_once(self.episodes, episode, plan, where)
        elif instruction is None and _is_count(episode) and _is_range(steps):
            first, end = steps
            self.ranges.setdefault(episode, []).append((first, end, plan))
        else:
            raise ValueError(
                f'{where}: needs an "instruction", or the number of an "episode" and if need be its '
                f'"steps" [first, end]; got {entry}'
            )

    def _report_unknown(self, instructions: list[str]) -> None:
        if unknown := sorted(set(self.instructions) - set(instructions)):
            logging.warning(
                "%s: %d of %d instructions aren't in the data, the first is %r%s",
                self.path,
                len(unknown),
                len(self.instructions),
                unknown[0],
                closest(unknown[0], instructions),
            )


def _entries(path: epath.Path) -> list[Any]:
    """The file's entries in the form of JSON lines."""
    if not path.exists():
        present = [str(other) for other in path.parent.glob('*.json*')]
        raise ValueError(f'there is no file {path}{closest(str(path), present)}')
    if path.suffix == '.jsonl':
        lines = enumerate(path.read_bytes().splitlines(), start=1)
        return [records.parse(line, f'{path}, line {n}') for n, line in lines if line.strip()]
    content = records.read(path)
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold a mapping of instructions to plans; .jsonl holds lines')
    return [{'instruction': instruction, 'plan': plan} for instruction, plan in content.items()]


def _add_once(plans: dict[Any, str], key: Any, plan: str, where: str) -> None:
    if key in plans:
        raise ValueError(f'{where}: {key!r} has a plan already, {plans[key]!r}')
    plans[key] = plan


def _plan(plan: Any, where: str) -> str:
    if not isinstance(plan, str) or not plan.strip(' .'):
        raise ValueError(f'{where}: the plan must be a text that is not empty; got {plan!r}')
    return ' '.join(plan.split())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_count, value))
        and value[0] < value[1]
    )
