"""All that some tables need: the commands that are missing, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath

from rt2_jax import records
from rt2_jax.evaluation.paper_rows import BASES, VOCABULARIES, Row, Table
from rt2_jax.evaluation.table_runs import COLLECTED, Folders, Run, Size, Stage, TableError, shown

_DATASET_INFO = 'dataset_info.json'


@dataclasses.dataclass(frozen=True)
class Job:
    """The tables of a command.

    Attributes:
        tables: their rows and columns.
        folders: where everything lies.
        size: how much of everything.
        bases: rows that others start from, by name.
    """

    tables: Sequence[Table]
    folders: Folders
    size: Size
    bases: Mapping[str, Row] = dataclasses.field(default_factory=lambda: BASES)

    def columns(self, table: Table) -> tuple[str, ...]:
        """The suites of a table that are measured."""
        return table.columns[: self.size.suites]

    def runs(self, row: Row) -> list[Run]:
        """A row's policy by seed; none where its model is not built."""
        if not row.config:
            return []
        seeds = self.size.seeds if row.headline else 1
        return [Run(row, seed, self.folders, self.size) for seed in range(seeds)]

    def stages(self) -> Iterator[Stage]:
        """What is not there yet, in order; each is decided on once those before it are done.

        Raises:
            TableError: a run's config has changed, or the user's own data set is not there.
        """
        runs = self._all_runs()
        for run in runs:
            run.check()
        needed = {name for run in runs if not run.is_trained() for name in run.collected}
        if 'tabletop' in needed:
            self._check_data()  # before hours of anything else
        yield from self._build_vocabularies(runs)
        for name in sorted(needed):
            yield from self._collect(name)
        for run in runs:
            if not run.is_trained():
                yield run.train()
        for run, suites, plan in self._measurements():
            if run.missing(suites, plan):
                yield run.measure(suites, plan)
        for table in self.tables:
            for row in table.rows:
                for run in self.runs(row)[:1]:
                    columns = self.columns(table)
                    if not (run.missing(columns, row.plan) or run.video(columns, row.plan)):
                        yield run.film(columns, row.plan)

    def _all_runs(self) -> list[Run]:
        """Every training run once, after the one that it needs to start from."""
        runs: dict[tuple[str, int], Run] = {}

        def add(run: Run) -> None:
            if run.row.starts_from and not run.is_trained():
                add(Run(self.bases[run.row.starts_from], 0, self.folders, self.size))
            runs.setdefault((run.row.name, run.seed), run)

        for table in self.tables:
            for row in table.rows:
                for run in self.runs(row):
                    add(run)
        return list(runs.values())

    def _measurements(self) -> list[tuple[Run, list[str], bool | None]]:
        """Every policy once, with all suites that the tables want of it."""
        wanted: dict[tuple[str, int, bool], tuple[Run, list[str], bool | None]] = {}
        for table in self.tables:
            for row in table.rows:
                for run in self.runs(row):
                    key = run.row.name, run.seed, run.plans(row.plan)
                    _, suites, _ = wanted.setdefault(key, (run, [], row.plan))
                    suites += [name for name in self.columns(table) if name not in suites]
        return list(wanted.values())

    def _build_vocabularies(self, runs: Sequence[Run]) -> Iterator[Stage]:
        """The commands that build the vocabularies of runs to come, where they are not there."""
        files = {epath.Path(run.config.tokenizer).name for run in runs if not run.is_trained()}
        for file in sorted(files - {''}):
            path = self.folders.vocabulary(file)
            if not path.exists():
                arguments = *VOCABULARIES[file], f'--output={shown(path)}'
                command = ('-m', 'rt2_jax.text.build_vocabulary', *arguments)
                yield Stage(f'build {file}', command, path.exists)

    def _collect(self, name: str) -> Iterator[Stage]:
        """The command that collects a set of `COLLECTED`, where it is not there."""
        data, episodes = self.folders.collected(name), self.size.collected[name]
        if _is_collected(data):
            return
        suite = COLLECTED[name]
        arguments = f'--episodes={episodes}', f'--suite={suite}', f'--output={shown(data)}'
        yield Stage(
            f'collect {episodes} episodes of {suite}',
            ('-m', 'rt2_jax.envs.tabletop.collect', *arguments),
            functools.partial(_is_collected, data),
        )

    def _check_data(self) -> None:
        """TableError where a data set of the user's own is needed, and is not there."""
        data = self.folders.data
        if data.parent != self.folders.root and not _is_collected(data):
            raise TableError(f'--data={data} holds no data set: there is no {_DATASET_INFO}')


def _is_collected(data: epath.Path) -> bool:
    return (data / _DATASET_INFO).exists()


def collection(data: epath.Path) -> dict[str, Any]:
    """What the episodes were collected with; {} where they are of another program."""
    path = data / 'collection.json'
    return records.read(path, TableError) if path.exists() else {}
