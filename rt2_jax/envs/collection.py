"""What collections of scripted episodes share, whatever the world: parts, interruption, the summary.

A collection is a data set that is written by several processes, a part at a time. Each episode
depends on the settings and its number alone, so the number of processes changes nothing. SIGTERM and Ctrl-C
end it with exit code 75 (rt2_jax/exit_codes.py); the same command goes on with the first unfinished part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
import concurrent.futures.process
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import sys
import time
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from rt2_jax import exit_codes, paths, records
from rt2_jax.data import worker_pool
from rt2_jax.envs.collected_files import Plan, RldsFiles
from rt2_jax.errors import UserError

COLLECTION_JSON = 'collection.json'
CRASHES = 3  # after so many deaths of workers a collection gives up


class OutputError(UserError, ValueError):
    """The output directory holds something else."""


def collect(
    output: epath.PathLike,
    plan: Plan,
    settings: Any,
    collect_part: Callable[[epath.Path, Any, int, int, int], None],
    processes: int | None = None,
) -> dict[str, Any]:
    """Collects episodes into `output`, or goes on where an interrupted collection stopped.

    Args:
        output: the data set's directory.
        plan: what it is to become.
        settings: what the episodes depend on, a dataclass.
        collect_part: writes a part of a directory: with `settings`, the part's number, the number of its
            first episode, and the one after its last. It runs in other processes, and calls `write_part`.
        processes: how many at once; one per core by default.

    Returns:
        A summary: episodes, steps, and success by task.

    Raises:
        OutputError: `output` holds something other than this collection.
        BrokenProcessPool: workers died `CRASHES` times.
    """
    files = plan.files(paths.of(output))
    starts = np.concatenate([[0], np.cumsum(files.lengths)])
    for crashes in itertools.count(1):
        if _prepare(files, settings):
            logging.info('%s is complete already; nothing to do', files.directory)
            return summary(files)
        count = len(files.lengths)
        left = [part for part in range(count) if not files.is_part(part)]
        if len(left) < count:
            there = count - len(left)
            logging.info('going on with %s: %d of %d parts are there', output, there, count)
        jobs = [
            (files.directory, settings, part, int(starts[part]), int(starts[part + 1]))
            for part in left
        ]
        try:
            worker_pool.run(collect_part, jobs, processes or os.cpu_count() or 1, 'collected')
            break
        except concurrent.futures.process.BrokenProcessPool:
            # Drivers of OpenGL crash now and then, and take the process with them.
            if crashes == CRASHES:
                raise
            logging.warning('a worker died; its part is collected again')
    files.finish()
    return summary(files)


def write_part(files: RldsFiles, part: int, episodes: Iterable[Mapping[str, Any]]) -> None:
    """Writes one part, whole or not at all; progress counts its episodes.

    Args:
        files: of the collection.
        part: its number.
        episodes: as the schema lays them out, frames as uint8 [H, W, 3].
    """

    def counted() -> Iterator[Mapping[str, Any]]:
        for episode in episodes:
            yield episode
            worker_pool.tick()

    files.write(part, counted())


def summary(files: RldsFiles) -> dict[str, Any]:
    """Counts of what the files hold; raises as their `outcomes`."""
    tried: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    total = 0
    for task, success, steps in files.outcomes():
        tried[task] += 1
        succeeded[task] += success
        total += steps
    return {
        'episodes': sum(tried.values()),
        'steps': total,
        'success': {task: succeeded[task] / tried[task] for task in sorted(tried)},
    }


def run(output: str, collecting: Callable[[], dict[str, Any]]) -> None:
    """The end of a `collect` command: collects, and prints the summary.

    Args:
        output: names the data set's directory in what is printed.
        collecting: does it, and gives the summary.
    """
    started = time.monotonic()
    # As Ctrl-C does: a preempted collection ends its workers and says how to go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = collecting()
    except KeyboardInterrupt:
        sys.exit(exit_codes.STOPPED)
    success = ', '.join(f'{task} {rate:.1%}' for task, rate in result['success'].items())
    print(
        f'{output}: {result["episodes"]} episodes, {result["steps"]} steps in '
        f'{time.monotonic() - started:.0f} s; success: {success}'
    )


def _prepare(files: RldsFiles, settings: Any) -> bool:
    """Makes the directory ready; True if the collection is complete in it already."""
    output, plan, complete = files.directory, files.plan, files.is_complete
    about = json.loads(json.dumps({'version': plan.version, **dataclasses.asdict(settings)}))
    about['environment'] = _fingerprint(plan.code)
    path = output / COLLECTION_JSON
    if path.exists():
        before = {'format': 'rlds'} | records.read(path, OutputError)  # once the only one
        differing = [k for k in sorted({*before, *about}) if before.get(k) != about.get(k)]
        if complete and differing == ['environment']:
            logging.warning('%s was collected by another version of the environment', output)
        elif differing:
            fields = ', '.join(f'{k}={before.get(k)!r} (now {about.get(k)!r})' for k in differing)
            raise OutputError(
                f'{output} holds a collection with other settings: {fields}. Choose another '
                '--output, or delete it to start afresh.'
            )
    elif output.exists() and any(output.iterdir()):
        raise OutputError(
            f"{output} isn't empty and holds no collection of this program; choose another --output"
        )
    else:
        output.mkdir(parents=True, exist_ok=True)
        paths.write(path, json.dumps(about, indent=2).encode())
    for name in paths.files(output):
        if os.path.basename(name).startswith(paths.NEW):  # left over
            paths.delete(output / name)
    return complete


def _fingerprint(code: epath.Path) -> str:
    """Of the code of a world but for its `collect.py`."""
    digest = hashlib.sha256()
    for path in sorted(code.glob('*.py')):
        if path.name != 'collect.py':
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
