"""The figures of a table, from the episodes of its evaluations.

Success of a policy's seeds is pooled: an interval is that of all their episodes. It does not hold how far
training runs differ, for which `seeds` has each one's own success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rt2_jax.evaluation import report
from rt2_jax.evaluation.paper_rows import Row, Table
from rt2_jax.evaluation.table_job import Job, collection
from rt2_jax.evaluation.table_runs import shown
from rt2_jax.manifest import make_manifest

Episodes = Sequence[Mapping[str, Any]]  # records of closed_loop.Rollout
BySeed = Mapping[int, Episodes]


def gather(job: Job, table: Table) -> dict[str, Any]:
    """The table as it is written: everything in it is measured.

    Returns:
        `table`, `title`, `source`; `columns` and `averaged`, suites; `average`, the name of that column;
        `rows`, see `_row`; `difference` by column where two rows are compared, see
        `report.paired_difference`; and `manifest`.
    """
    columns = job.columns(table)
    averaged = [name for name in table.averaged if name in columns]
    rows = [_row(job, table, row) for row in table.rows]
    results: dict[str, Any] = {
        'table': table.name,
        'title': table.title,
        'source': table.source,
        'columns': list(columns),
        'average': table.average,
        'averaged': averaged,
        'rows': rows,
    }
    if table.paired and all(row['built'] for row in rows):
        results['difference'] = _differences(job, table, averaged)
    results['manifest'] = _manifest(job, table)
    return results


def _row(job: Job, table: Table, row: Row) -> dict[str, Any]:
    """A row: what it is, its actions a second, `cells` by column and `average`, and the paper's numbers."""
    *paper, paper_average = table.paper(row)
    columns = job.columns(table)
    result = {
        'label': row.label,
        'name': row.name,
        'config': row.config,
        'built': bool(row.config),
        'paper': {
            'model': row.model,
            'cells': dict(zip(columns, paper, strict=False)),
            'average': paper_average,
        },
    }
    if not row.config:
        return result
    by_suite = _by_suite(job, table, row)
    averaged = [name for name in table.averaged if name in columns]
    # As many episodes in each column, so that the average of the columns is that of the episodes.
    every = {
        run.seed: [episode for name in averaged for episode in by_suite[name][run.seed]]
        for run in job.runs(row)
    }
    return result | {
        'plan': job.runs(row)[0].plans(row.plan),
        'actions_per_second': job.runs(row)[0].actions_per_second(row.plan),
        'cells': {name: _cell(by_suite[name]) for name in columns},
        'average': _cell(every) if averaged else None,
    }


def _by_suite(job: Job, table: Table, row: Row) -> dict[str, BySeed]:
    by_seed = {run.seed: run.rollouts(row.plan) for run in job.runs(row)}
    return {
        name: {seed: suites[name] for seed, suites in by_seed.items()}
        for name in job.columns(table)
    }


def _cell(by_seed: BySeed) -> dict[str, Any]:
    """Pooled success, recognition and execution (see `closed_loop.summary`), success by seed and group."""
    episodes = [episode for own in by_seed.values() for episode in own]
    recognised = [episode for episode in episodes if episode['recognised']]
    figures = _success(episodes)
    figures['recognition'] = report.share(len(recognised), len(episodes))
    figures['execution'] = report.share(_count(recognised), len(recognised))
    figures['seeds'] = {str(seed): _success(own) for seed, own in by_seed.items()}
    groups = sorted({episode['group'] for episode in episodes})
    if len(groups) > 1:
        figures['groups'] = {
            group: _success([e for e in episodes if e['group'] == group]) for group in groups
        }
    return figures


def _success(episodes: Episodes) -> dict[str, Any]:
    return report.proportion(_count(episodes), len(episodes))


def _count(episodes: Iterable[Mapping[str, Any]]) -> int:
    return sum(bool(episode['success']) for episode in episodes)


def _differences(job: Job, table: Table, averaged: Sequence[str]) -> dict[str, Any]:
    """The second row less the first, by column and for the average, over the same episodes."""
    first, second = (_by_suite(job, table, row) for row in table.rows)
    pairs = {name: _pairs(first[name], second[name]) for name in job.columns(table)}
    pairs[table.average] = [pair for name in averaged for pair in pairs[name]]
    return {name: _difference(outcomes) for name, outcomes in pairs.items() if outcomes}


def _pairs(first: BySeed, second: BySeed) -> list[tuple[bool, bool]]:
    return [
        (bool(a['success']), bool(b['success']))
        for seed in first
        for a, b in zip(first[seed], second[seed], strict=True)
    ]


def _difference(outcomes: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    return report.paired_difference(
        outcomes.count((True, False)), outcomes.count((False, True)), len(outcomes)
    )


def _manifest(job: Job, table: Table) -> dict[str, Any]:
    """What it takes to make the table again."""
    policies = {}
    for row in table.rows:
        for run in job.runs(row):
            how = {None: '', True: ', plans', False: ', no plans'}[row.plan]
            policies[f'{run.name}{how}'] = {
                'run': shown(run.directory),
                'config': run.config.to_dict(),
                'evaluations': run.manifests(row.plan),
            }
    return make_manifest(
        episodes=job.size.evaluated,
        seeds={row.name: [run.seed for run in job.runs(row)] for row in table.rows},
        data={'directory': shown(job.folders.data)} | collection(job.folders.data),
        policies=policies,
    )
