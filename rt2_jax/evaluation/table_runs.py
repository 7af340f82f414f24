"""A policy of a table by seed: what of its training and evaluations is there, and what is missing.

Everything lies in one folder:

    data/                      the episodes that all policies learn from
    elsewhere/                 other frames, which RT-2 is asked about in training
    POLICY/seedN/run/          a training run
    POLICY/seedN/evaluations/  NUMBER.json of an `evaluate`, with NUMBER.mp4 beside that of the first seed
    tableNAME/                 table.md, table.png, results.json, POLICY.mp4

There is no other record of progress: what is done is what lies there, of the config that a row has now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

from absl import logging
from etils import epath
import ml_collections

from rt2_jax import configuration, paths, records
from rt2_jax.checkpoints import assets, checkpoint
from rt2_jax.data.cards import TABLETOP
from rt2_jax.errors import UserError
from rt2_jax.evaluation.paper_rows import Row, Table
from rt2_jax.policy.policy_settings import Settings

# The sets of a config that are collected, and the suites that they are drawn from.
COLLECTED = {'tabletop': 'train', 'elsewhere': 'elsewhere'}
# Settings of an evaluation that change what is measured, and their values in a table.
_STANDARD = {
    'task': None,
    'temperature': 0.0,
    'terminate_threshold': 0.5,
    'patience': 1,
    'execution_noise': 0.0,
    'weights': 'stored',
}


class TableError(UserError, ValueError):
    """What lies in the folder does not fit what the table wants."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        collected: episodes to learn from, by set.
        evaluated: episodes a suite, by policy and seed.
        seeds: training seeds of the headline rows; the others have one.
        steps: of training; None is each config's own.
        suites: how many of a table's columns, from the left; None for all.
        filmed: episodes a suite in a video.
    """

    collected: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {'tabletop': 5_000, 'elsewhere': 3_000}
    )
    evaluated: int = 200
    seeds: int = 2
    steps: int | None = None
    suites: int | None = None
    filmed: int = 2


FULL = Size()
QUICK = Size(collected={'tabletop': 48, 'elsewhere': 16}, evaluated=4, seeds=1, steps=20, suites=2)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command and its product.

    Attributes:
        name: for messages.
        arguments: after `python`.
        is_done: whether its product is there, whole.
    """

    name: str
    arguments: tuple[str, ...]
    is_done: Callable[[], bool]


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where everything lies.

    Attributes:
        root: of the tables.
        data: the data set of the episodes.
    """

    root: epath.Path
    data: epath.Path

    def collected(self, name: str) -> epath.Path:
        """The data set of one of `COLLECTED`."""
        return self.data if name == 'tabletop' else self.root / name

    def run(self, name: str, seed: int) -> epath.Path:
        """The directory of a training run."""
        return self.root / name / f'seed{seed}' / 'run'

    def evaluations(self, name: str, seed: int) -> epath.Path:
        """The folder of a run's evaluations."""
        return self.root / name / f'seed{seed}' / 'evaluations'

    def vocabulary(self, file: str) -> epath.Path:
        """A vocabulary of `VOCABULARIES`, by its file name."""
        return self.root / file

    def table(self, table: Table) -> epath.Path:
        """The folder of a table."""
        return self.root / f'table{table.name}'


@dataclasses.dataclass(frozen=True)
class Run:
    """A row's policy of one seed.

    Attributes:
        row: the policy.
        seed: of training.
        folders: where everything lies.
        size: how much of everything.
    """

    row: Row
    seed: int
    folders: Folders
    size: Size

    @property
    def name(self) -> str:
        """For messages."""
        return f'{self.row.name} seed {self.seed}'

    @property
    def directory(self) -> epath.Path:
        """Of the training run."""
        return self.folders.run(self.row.name, self.seed)

    @property
    def collected(self) -> list[str]:
        """Which of `COLLECTED` it learns from."""
        return [name for name in COLLECTED if name in self._file.data.robot]

    @functools.cached_property
    def changes(self) -> dict[str, Any]:
        """Fields of the config file that this run sets, by dotted name."""
        changes = {'seed': self.seed, **self.row.changes}
        for name in self.collected:
            changes[f'data.robot.{name}.directory'] = shown(self.folders.collected(name))
        if self._file.tokenizer:
            file = epath.Path(self._file.tokenizer).name
            changes['tokenizer'] = shown(self.folders.vocabulary(file))
        if self.row.starts_from:
            base = shown(self.folders.run(self.row.starts_from, 0))
            # The config may take parts from elsewhere, too: 'package:NAME#embedding,runs/BASE#tower'.
            started = self._file.init_from.replace(f'runs/{self.row.starts_from}', base)
            changes['init_from'] = started if base in started else base
        if self.size.steps is not None:
            changes['total_steps'] = self.size.steps
        return changes

    @functools.cached_property
    def config(self) -> ml_collections.ConfigDict:
        """The config that the run has, or will have."""
        config = self._file.copy_and_resolve_references()
        try:
            config.update_from_flattened_dict(self.changes)
        except (KeyError, TypeError) as error:
            raise TableError(f'{self.row.config}, changed for {self.name}: {error}') from error
        return config

    @functools.cached_property
    def _file(self) -> ml_collections.ConfigDict:
        file, _, argument = self.row.config.partition(':')
        if not os.path.exists(file):
            raise TableError(
                f'there is no {file} here; run this in the folder of the project, which has configs/'
            )
        return configuration.load(file, argument)

    def is_trained(self) -> bool:
        """Whether all of its steps are done."""
        return self.config.total_steps in checkpoint.complete_steps(self.directory)

    def check(self) -> None:
        """Refuses a directory that holds a run of another config.

        Raises:
            TableError: says which fields differ, and what to do.
            CheckpointError: the directory is half-written, or holds something else.
        """
        if not (self.directory / 'config.json').exists():
            if self._evaluation_numbers():
                raise TableError(
                    f'{self.directory.parent} has evaluations of a run that is gone: move it away, as '
                    'they would count for the one that is trained next'
                )
            return
        recorded = assets.read_config(self.directory)
        lines = configuration.differing(recorded, self.config)
        if recorded.total_steps != self.config.total_steps:
            lines.append(f'total_steps: was {recorded.total_steps}, is {self.config.total_steps}')
        if lines:
            raise TableError(
                f'the config of {self.name} ({self.row.config}) has changed since {self.directory} was '
                f'trained: {"; ".join(lines)}. Policies of two configs are not mixed in a table: move '
                f'{self.directory.parent} away to train it anew, give these fields their old values, or '
                'take another --workdir'
            )

    def train(self) -> Stage:
        """The command that trains it, or goes on with it."""
        changes = [f'--config.{name}={value}' for name, value in self.changes.items()]
        arguments = (f'--config={self.row.config}', f'--workdir={shown(self.directory)}', *changes)
        return Stage(f'train {self.name}', ('-m', 'rt2_jax.train', *arguments), self.is_trained)

    def plans(self, plan: bool | None) -> bool:
        """Whether it plans, where a row leaves it to the config (None)."""
        if plan is not None:
            return plan
        return Settings.from_config(self.config, TABLETOP.action_space).plan

    def rollouts(self, plan: bool | None) -> dict[str, list[dict[str, Any]]]:
        """The episodes of each suite that were measured of this very run, by their number from 0.

        Args:
            plan: whether it planned, as in `Row`.
        """
        longest: dict[str, list[dict[str, Any]]] = {}
        for _, record in self._evaluations(plan):
            for suite, figures in record['policies']['checkpoint'].items():
                episodes = figures.get('rollouts', [])
                if len(episodes) > len(longest.get(suite, ())):
                    longest[suite] = episodes
        return {suite: episodes[: self.size.evaluated] for suite, episodes in longest.items()}

    def actions_per_second(self, plan: bool | None) -> float | None:
        """How fast it decided, for as many robots as played at a time; None where no record says so."""
        made = [
            figures.get('decision_ms', {})
            for _, record in self._evaluations(plan)
            for figures in record['policies']['checkpoint'].values()
        ]
        timed = [some for some in made if 'actions_per_second' in some]  # others are older
        seconds = sum(some['decisions'] / some['actions_per_second'] for some in timed)
        return sum(some['decisions'] for some in timed) / seconds if timed else None

    def missing(self, suites: Sequence[str], plan: bool | None) -> list[str]:
        """The suites that were not measured with as many episodes."""
        rollouts = self.rollouts(plan)
        return [name for name in suites if len(rollouts.get(name, ())) < self.size.evaluated]

    def measure(self, suites: Sequence[str], plan: bool | None) -> Stage:
        """The command that measures what is missing of some suites, in one process."""
        return self._evaluate(
            'evaluate',
            self.missing(suites, plan),
            plan,
            self.size.evaluated,
            lambda: not self.missing(suites, plan),
        )

    def film(self, suites: Sequence[str], plan: bool | None) -> Stage:
        """The command that makes a video anew, where an evaluation was stopped before it had one."""
        is_done = lambda: self.video(suites, plan) is not None
        return self._evaluate('film', suites, plan, self.size.filmed, is_done)

    def _evaluate(
        self,
        verb: str,
        suites: Sequence[str],
        plan: bool | None,
        episodes: int,
        is_done: Callable[[], bool],
    ) -> Stage:
        output = self._evaluation_file(max(self._evaluation_numbers(), default=0) + 1)
        arguments = [
            f'--workdir={shown(self.directory)}',
            f'--suite={",".join(suites)}',
            f'--episodes={episodes}',
            f'--output={shown(output)}',
        ]
        if plan is not None:
            arguments.append('--plan' if plan else '--noplan')
        if self.seed == 0:
            arguments.append(f'--video={shown(output.with_suffix(".mp4"))}')
            arguments.append(f'--video_episodes={self.size.filmed}')
        how = {None: '', True: ' with plans', False: ' without plans'}[plan]
        return Stage(f'{verb} {self.name}{how}', ('-m', 'rt2_jax.evaluate', *arguments), is_done)

    def video(self, suites: Sequence[str], plan: bool | None) -> epath.Path | None:
        """The video of the evaluation that played most of the suites, the newest of several."""
        best, most = None, 0
        for path, record in self._evaluations(plan):
            common = len(set(suites) & set(record['policies']['checkpoint']))
            if common >= max(most, 1) and path.with_suffix('.mp4').exists():
                best, most = path.with_suffix('.mp4'), common
        return best

    def manifests(self, plan: bool | None) -> list[dict[str, Any]]:
        """The manifests of its evaluations; the config, which the run has, is left out."""
        return [
            {name: value for name, value in record['manifest'].items() if name != 'config'}
            for _, record in self._evaluations(plan)
        ]

    def _evaluation_file(self, number: int) -> epath.Path:
        return self.folders.evaluations(self.row.name, self.seed) / f'{number}.json'

    def _evaluation_numbers(self) -> list[int]:
        names = paths.files(self.folders.evaluations(self.row.name, self.seed))
        stems = [name.removesuffix('.json') for name in names if name.endswith('.json')]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _evaluations(self, plan: bool | None) -> Iterator[tuple[epath.Path, dict[str, Any]]]:
        """The records of evaluations of this very run, with or without plans, the oldest first."""
        for path in map(self._evaluation_file, self._evaluation_numbers()):
            record = records.read(path, TableError)
            try:
                why, planned = self._mismatch(record['manifest']), record['manifest']['plan']
                record['policies']['checkpoint']
            except (KeyError, TypeError):
                why, planned = 'it is no evaluation of a checkpoint', None
            if why:
                _warn(f'{path} is not counted: {why}')
            elif planned == self.plans(plan):
                yield path, record

    def _mismatch(self, manifest: Mapping[str, Any]) -> str:
        """Why an evaluation is not one of this run; '' if it is."""
        if manifest['step'] != self.config.total_steps:
            return f'it is of step {manifest["step"]}, not of {self.config.total_steps}'
        for name, value in _STANDARD.items():
            if manifest.get(name, value) != value:  # older ones don't say all
                return f'it has {name}={manifest[name]!r}, not {value!r}'
        if manifest['seeds']['first_episode']:
            return 'it does not begin with episode 0'
        if lines := configuration.differing(manifest['config'], self.config):
            return f'it is of another config: {"; ".join(lines)}'
        return ''


@functools.cache  # once is enough
def _warn(message: str) -> None:
    logging.warning('%s', message)


def shown(path: epath.PathLike) -> str:
    """A path for a command: below the folder that the commands run in, it is relative to that."""
    text, here = os.fspath(path), os.getcwd() + os.sep
    return text.removeprefix(here)
