"""What collections of scripted episodes share, whatever the world: shards, interruption, the summary.

A collection is an RLDS data set that is written by several processes, a shard at a time. Each episode
depends on the settings and its number alone, so the number of processes changes nothing. SIGTERM and Ctrl-C
end it with exit code 75 (rt2_jax/exit_codes.py); the same command goes on with the first unfinished shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
import tensorflow_datasets as tfds

from rt2_jax import exit_codes, paths, records
from rt2_jax.data.readers import tf_example, tfrecord
from rt2_jax.data.robot import rlds_writer
from rt2_jax.envs import pool
from rt2_jax.errors import UserError

COLLECTION_JSON = 'collection.json'
SPLIT = 'train'

# Shards by number of episodes alone: enough for many processes, small enough to lose little.
LEAST_SHARDS = 16
EPISODES_A_SHARD = 100
CRASHES = 3  # after so many deaths of workers a collection gives up


class OutputError(UserError, ValueError):
    """The output directory holds something else."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a collection is to become.

    Attributes:
        name: the data set's name.
        version: of its schema, such as '0.1.0'.
        description: what it holds.
        features: its schema; `episode_metadata` has `task`, a text, and `success`, a flag.
        episodes: how many.
        code: the folder of the world's code, of which a collection must come from one version.
    """

    name: str
    version: str
    description: str
    features: tfds.features.FeaturesDict
    episodes: int
    code: epath.Path


def shard_lengths(episodes: int) -> list[int]:
    """Episodes of each shard of a collection."""
    shards = max(min(LEAST_SHARDS, episodes), -(-episodes // EPISODES_A_SHARD))
    return [len(part) for part in np.array_split(np.arange(episodes), shards)]


def collect(
    output: epath.PathLike,
    plan: Plan,
    settings: Any,
    collect_shard: Callable[[epath.Path, Any, int, int], None],
    processes: int | None = None,
) -> dict[str, Any]:
    """Collects episodes into `output`, or goes on where an interrupted collection stopped.

    Args:
        output: the data set's directory.
        plan: what it is to become.
        settings: what the episodes depend on, a dataclass.
        collect_shard: writes the shard of a path: with `settings`, the number of its first episode, and
            the one after its last. It runs in other processes, and calls `write_shard`.
        processes: how many at once; one per core by default.

    Returns:
        A summary: episodes, steps, and success by task.

    Raises:
        OutputError: `output` holds something other than this collection.
        BrokenProcessPool: workers died `CRASHES` times.
    """
    output = paths.of(output)
    lengths = shard_lengths(plan.episodes)
    shards = [
        output / rlds_writer.shard_name(plan.name, SPLIT, shard, len(lengths))
        for shard in range(len(lengths))
    ]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for crashes in itertools.count(1):
        if _prepare(output, plan, settings):
            logging.info('%s is complete already; nothing to do', output)
            return summary(shards)
        left = [shard for shard, path in enumerate(shards) if not path.exists()]
        if len(left) < len(shards):
            done = len(shards) - len(left)
            logging.info('going on with %s: %d of %d shards are there', output, done, len(shards))
        jobs = [(shards[s], settings, int(starts[s]), int(starts[s + 1])) for s in left]
        try:
            pool.run(collect_shard, jobs, processes or os.cpu_count() or 1)
            break
        except concurrent.futures.process.BrokenProcessPool:
            # Drivers of OpenGL crash now and then, and take the process with them.
            if crashes == CRASHES:
                raise
            logging.warning('a worker died; its shard is collected again')
    rlds_writer.finish(
        output,
        plan.features,
        name=plan.name,
        version=plan.version,
        description=plan.description,
        shard_lengths=lengths,
        split=SPLIT,
    )
    return summary(shards)


def write_shard(
    path: epath.Path,
    features: tfds.features.FeaturesDict,
    episodes: Iterable[Mapping[str, Any]],
    quality: int,
) -> None:
    """Writes one shard, whole or not at all; progress counts its episodes.

    Args:
        path: of the shard.
        features: the schema.
        episodes: as the schema lays them out, frames as uint8 [H, W, 3].
        quality: JPEG quality of the frames.
    """
    encode = rlds_writer.EpisodeEncoder(features, quality)

    def payloads() -> Iterator[bytes]:
        for episode in episodes:
            yield encode(episode)
            pool.tick()

    rlds_writer.write_shard(path, payloads())


def summary(shards: Sequence[epath.Path]) -> dict[str, Any]:
    """Counts of what the shards hold, checking every record on the way.

    Raises:
        tfrecord.CorruptRecord: a damaged record.
    """
    tried: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    steps = 0
    for path in shards:
        for record in tfrecord.scan(path):
            if record.error:
                raise record.error
            payload = record.payload or b''
            features = tf_example.parse(payload)
            start, end = features['episode_metadata/task'].values[0].tolist()
            task = payload[start:end].decode()
            tried[task] += 1
            succeeded[task] += int(features['episode_metadata/success'].values[0])
            steps += len(features['steps/is_first'].values)
    return {
        'episodes': sum(tried.values()),
        'steps': steps,
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


def _prepare(output: epath.Path, plan: Plan, settings: Any) -> bool:
    """Makes `output` ready; True if the collection is complete in it already."""
    complete = (output / rlds_writer.DATASET_INFO_JSON).exists()
    about = json.loads(json.dumps({'version': plan.version, **dataclasses.asdict(settings)}))
    about['environment'] = _fingerprint(plan.code)
    path = output / COLLECTION_JSON
    if path.exists():
        before = records.read(path, OutputError)
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
    for leftover in output.glob(f'{paths.NEW}*'):
        leftover.unlink()
    return complete


def _fingerprint(code: epath.Path) -> str:
    """Of the code of a world but for its `collect.py`."""
    digest = hashlib.sha256()
    for path in sorted(code.glob('*.py')):
        if path.name != 'collect.py':
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
