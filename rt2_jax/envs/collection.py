"""What collections of scripted episodes share, whatever the world: parts, interruption, the summary.

A collection is a data set that is written by several processes, a part at a time. Each episode
depends on the settings and its number alone, so the number of processes changes nothing. SIGTERM and Ctrl-C
end it with exit code 75 (rt2_jax/exit_codes.py); the same command goes on with the first unfinished part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures.process
import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from typing import Any

from absl import app, flags, logging
from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.data import worker_pool
from rt2_jax.envs.collected_files import FORMATS, Plan, RldsFiles
from rt2_jax.errors import UserError
from rt2_jax.nearest import check

FLAGS = flags.FLAGS

COLLECTION_JSON = 'collection.json'
SEEDS, SEED_STRIDE = 10, 1_000_000  # collections of a suite, and episodes of each at most
CRASHES = 3  # after so many deaths of workers a collection gives up


class OutputError(UserError, ValueError):
    """The output directory holds something else."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the episodes of every collection depend on; each world's own has its suite besides.

    Attributes:
        episodes: how many.
        seed: 0 to 9; collections with different seeds share no scene.
        noise: execution noise, see `world.Make`.
        detours: how often the robot is carried off, 0 to 1.
        image_size: side of the frames, pixels.
        quality: JPEG quality; videos have their own, see video_writer.
        format: 'rlds' or 'lerobot'.
    """

    episodes: int
    seed: int = 0
    noise: float = 0.1
    detours: float = 0.05
    image_size: int = 128
    quality: int = 95
    format: str = 'rlds'

    def __post_init__(self) -> None:
        check('format', self.format, FORMATS)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f'noise is a share of a usual step, 0 or more; got {self.noise}')
        if self.image_size < 1:
            raise ValueError(f'image_size must be 1 or more; got {self.image_size}')
        if not 0 <= self.detours <= 1:
            raise ValueError(f'detours is a probability, 0 to 1; got {self.detours}')
        if not 0 < self.episodes <= SEED_STRIDE:
            raise ValueError(f'episodes must be 1 to {SEED_STRIDE}; got {self.episodes}')
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f'seed must be 0 to {SEEDS - 1}; got {self.seed}')


def collect(
    output: epath.PathLike,
    make_plan: Callable[[Any], Plan],
    settings: Any,
    play: Callable[[Any, int], Mapping[str, Any]],
    processes: int | None = None,
) -> dict[str, Any]:
    """Collects episodes into `output`, or goes on where an interrupted collection stopped.

    Args:
        output: the data set's directory.
        make_plan: `settings` to what it is to become.
        settings: what the episodes depend on, a dataclass.
        play: `settings` and an episode's number to the episode, as the schema lays it out, frames as uint8
            [H, W, 3]. It runs in other processes, as `make_plan` does: both are functions of modules.
        processes: how many at once; one per core by default.

    Returns:
        A summary: episodes, steps, and success by task.

    Raises:
        OutputError: `output` holds something other than this collection.
        BrokenProcessPool: workers died `CRASHES` times.
    """
    files = make_plan(settings).files(paths.of(output))
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
            (make_plan, play, files.directory, settings, part, *starts[part : part + 2].tolist())
            for part in left
        ]
        try:
            worker_pool.run(_collect_part, jobs, processes or os.cpu_count() or 1, 'collected')
            break
        except concurrent.futures.process.BrokenProcessPool:
            # Drivers of OpenGL crash now and then, and take the process with them.
            if crashes == CRASHES:
                raise
            logging.warning('a worker died; its part is collected again')
    files.finish()
    return summary(files)


def _collect_part(
    make_plan: Callable[[Any], Plan],
    play: Callable[[Any, int], Mapping[str, Any]],
    directory: epath.Path,
    settings: Any,
    part: int,
    start: int,
    stop: int,
) -> None:
    """Writes the episodes from `start` to before `stop`, whole or not at all."""

    def episodes() -> Iterator[Mapping[str, Any]]:
        for number in range(start, stop):
            yield play(settings, number)
            worker_pool.tick()

    make_plan(settings).files(directory).write(part, episodes())


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


def define_flags(defaults: Any) -> None:
    """Defines the flags of every `collect` command; `defaults` are its Settings."""
    flags.DEFINE_integer('episodes', None, 'Episodes to collect.', lower_bound=1)
    flags.DEFINE_string('output', None, 'Directory of the data set.')
    flags.DEFINE_float('noise', defaults.noise, 'Execution noise, a share of a usual step.')
    flags.DEFINE_float('detours', defaults.detours, 'How often the robot is carried off, 0 to 1.')
    flags.DEFINE_integer('seed', defaults.seed, '0 to 9; different seeds share no layout.')
    flags.DEFINE_integer('processes', None, 'Processes; one per core by default.', lower_bound=1)
    flags.DEFINE_integer('image_size', defaults.image_size, 'Side of the frames, pixels.')
    flags.DEFINE_enum('format', defaults.format, list(FORMATS), 'Of the files.')
    flags.mark_flags_as_required(['episodes', 'output'])


def run(
    argv: Sequence[str],
    make_settings: type[Any],
    collecting: Callable[[epath.PathLike, Any, int | None], dict[str, Any]],
) -> None:
    """The main of a `collect` command: collects by its flags, and prints the summary.

    Args:
        argv: arguments that are no flags; there must be none.
        make_settings: the command's Settings, of which each field with a flag takes it.
        collecting: the command's `collect`.
    """
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {argv[1:]}')
    names = [field.name for field in dataclasses.fields(make_settings)]
    settings = make_settings(**{name: FLAGS[name].value for name in names if name in FLAGS})
    started = time.monotonic()
    with worker_pool.stoppable():
        result = collecting(FLAGS.output, settings, FLAGS.processes)
    success = ', '.join(f'{task} {rate:.1%}' for task, rate in result['success'].items())
    print(
        f'{FLAGS.output}: {result["episodes"]} episodes, {result["steps"]} steps in '
        f'{time.monotonic() - started:.0f} s; success: {success}'
    )


def _prepare(files: RldsFiles, settings: Any) -> bool:
    """Makes the directory ready; True if the collection is complete in it already."""
    output, plan, complete = files.directory, files.plan, files.is_complete
    about = json.loads(json.dumps({'version': plan.version, **dataclasses.asdict(settings)}))
    about['environment'] = _fingerprint(plan.code)
    before = worker_pool.claim(output, COLLECTION_JSON, about, 'collection', OutputError)
    before = {'format': 'rlds'} | before  # once the only one
    differing = [k for k in sorted({*before, *about}) if before.get(k) != about.get(k)]
    if complete and differing == ['environment']:
        logging.warning('%s was collected by another version of the environment', output)
    elif differing:
        fields = ', '.join(f'{k}={before.get(k)!r} (now {about.get(k)!r})' for k in differing)
        raise OutputError(
            f'{output} holds a collection with other settings: {fields}. Choose another '
            '--output, or delete it to start afresh.'
        )
    worker_pool.clear(output)
    return complete


def _fingerprint(code: Sequence[epath.Path]) -> str:
    """Of the code of a world but for its `collect.py`."""
    digest = hashlib.sha256()
    for place in code:
        for path in sorted(place.glob('*.py')) if place.is_dir() else [place]:
            if path.name != 'collect.py':
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
