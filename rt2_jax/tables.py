"""Makes a table of RT-2's paper: trains and measures what is missing, and writes it with intervals.

    python -m rt2_jax.tables --table=4 [--quick] [--workdir=runs/tables] [--seeds=2] [--episodes=200] \
        [--rows=rt1,cofinetune]

Tables: `4` generalization, `5` emergent skills, `6` two sizes from scratch, fine-tuned and co-fine-tuned;
`cot` with a plan against without, the same policy in the same episodes. Several by comma share what they
can. Rows and columns are in rt2_jax/evaluation/paper_rows.py, one line a policy; one whose model the code
base lacks shows as 'not built'.

All work is done by the documented commands (build_vocabulary, collect, train, evaluate), each printed
before it starts. What is there is used: finished runs aren't trained again, nor are suites that were
measured with as many episodes. So the same command goes on where it was interrupted. A run whose config
has changed since is refused.

WORKDIR/full (or WORKDIR/quick) holds everything, laid out as rt2_jax/evaluation/table_runs.py says; a
table's own folder in it has table.md, table.png, results.json and a video a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import sys

from absl import app, flags, logging
from etils import epath

from rt2_jax import command, exit_codes, paths
from rt2_jax.checkpoints import checkpoint, workdir_lock
from rt2_jax.data.looking import charts
from rt2_jax.evaluation import command_runner, table_picture, table_results, table_text
from rt2_jax.evaluation.paper_rows import TABLES, Table
from rt2_jax.evaluation.table_job import Job
from rt2_jax.evaluation.table_runs import FULL, QUICK, Folders, shown
from rt2_jax.nearest import check
from rt2_jax.policy.from_flags import FlagError

FLAGS = flags.FLAGS

AGAIN = 'The same command goes on from here.'


def run(job: Job) -> None:
    """Does what is missing, then writes the tables.

    Raises:
        TableError: a run is of another config than its row.
        CommandFailed: a command failed.
        WorkdirInUse: another command is at work in the folder.
        PathError: the folder cannot be written.
        MissingPackage: matplotlib is not installed.
        KeyboardInterrupt: stopped by a signal.
    """
    charts.require()  # fails now, not when all is trained
    checkpoint.check_workdir(job.folders.root)
    with workdir_lock.hold(job.folders.root):
        for stage in job.stages():
            command_runner.run(stage.name, stage.arguments)
            if not stage.is_done():
                raise command_runner.CommandFailed(
                    f'{stage.name} ended before its work was done. {AGAIN}'
                )
        for table in job.tables:
            write(job, table)


def write(job: Job, table: Table) -> None:
    """Writes a table that is measured, and prints it."""
    folder = job.folders.table(table)
    folder.mkdir(parents=True, exist_ok=True)
    results = table_results.gather(job, table)
    videos = copy_videos(job, table, folder)
    for row in results['rows']:
        row['video'] = videos.get(row['label'])
    text = table_text.markdown(results, videos)
    paths.write(folder / 'results.json', (json.dumps(results, indent=2) + '\n').encode())
    paths.write(folder / 'table.md', text.encode())
    charts.save(folder / 'table.png', table_picture.draw(results))
    print(f'\n{text}\n{shown(folder)}: table.md, table.png, results.json', flush=True)


def copy_videos(job: Job, table: Table, folder: epath.Path) -> dict[str, str]:
    """Copies a video of each policy's first seed; their names by row label."""
    names = {}
    for row in table.rows:
        for policy in job.runs(row)[:1]:
            if video := policy.video(job.columns(table), row.plan):
                how = {None: '', True: '_plans', False: '_no_plans'}[row.plan]
                names[row.label] = f'{row.name}{how}.mp4'
                with paths.local_copy(video) as local:
                    paths.upload(local, folder / names[row.label])
    return names


def list_missing(job: Job) -> None:
    """Prints the commands that would run."""
    stages = list(job.stages())
    for stage in stages:
        print('python', *stage.arguments)
    if not stages:
        print('nothing is missing')


def some_rows(table: Table, names: Sequence[str]) -> Table:
    """A table with only the rows of these folder names.

    Raises:
        FlagError: the table has no such row.
    """
    known = [row.name for row in table.rows]
    try:
        wanted = {check(f'row of table {table.name}', name, known) for name in names}
    except ValueError as error:
        raise FlagError(f'--rows: {error}') from error
    return dataclasses.replace(table, rows=tuple(row for row in table.rows if row.name in wanted))


def job_of_flags() -> Job:
    """The tables that the flags name.

    Raises:
        FlagError: no such table or row.
    """
    try:
        tables = [TABLES[check('table', name, TABLES)] for name in FLAGS.table]
    except ValueError as error:
        raise FlagError(f'--table: {error}') from error
    if not tables:
        raise FlagError(f'--table names none of {", ".join(TABLES)}')
    if FLAGS.rows:
        tables = [some_rows(table, FLAGS.rows) for table in tables]
    size = QUICK if FLAGS.quick else FULL
    size = dataclasses.replace(
        size, seeds=FLAGS.seeds or size.seeds, evaluated=FLAGS.episodes or size.evaluated
    )
    root = paths.of(FLAGS.workdir) / ('quick' if FLAGS.quick else 'full')
    data = paths.of(FLAGS.data) if FLAGS.data else root / 'data'
    return Job(tables, Folders(root, data), size)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_list('table', None, f'One or more of {", ".join(TABLES)}, by comma.')
    flags.DEFINE_list('rows', None, 'Only these rows, by folder name, such as rt1,cofinetune.')
    flags.DEFINE_bool('quick', False, 'The whole path in minutes; its numbers mean nothing.')
    flags.DEFINE_string('workdir', 'runs/tables', 'Where everything goes.')
    flags.DEFINE_integer(
        'seeds', None, f'Training seeds of the headline rows; {FULL.seeds}, or 1 if quick.', 1
    )
    flags.DEFINE_integer(
        'episodes', None, f'A suite, by policy and seed; {FULL.evaluated}, or 4 if quick.', 1
    )
    flags.DEFINE_string(
        'data', None, "Episodes to learn from; by default the workdir's, collected."
    )
    flags.DEFINE_bool('list_missing', False, 'Only prints the commands that would run.')
    flags.mark_flag_as_required('table')


def main(argv: list[str]) -> None:
    """Makes the tables that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f'Unknown arguments: {argv[1:]}')
    logging.set_verbosity(logging.WARNING)
    job = job_of_flags()
    if FLAGS.list_missing:
        list_missing(job)
        return
    try:
        run(job)
    except KeyboardInterrupt:
        print(f'\ntables: interrupted. {AGAIN}', file=sys.stderr)
        sys.exit(exit_codes.STOPPED)


if __name__ == '__main__':
    define_flags()
    command.run('tables', main)
