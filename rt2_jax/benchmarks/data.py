"""How fast robot episodes become batches, beside tf.data and beside what the cores can do.

    python -m rt2_jax.benchmarks.data --output=FILE.json --directory=DIR [--peer_python=PYTHON]

DIR gets a data set of 2,000 episodes in RT-1's schema (benchmarks/kitchen.py; once). `ours` is the
project's pipeline in steps/s, `peer` a tf.data pipeline as Octo's and OpenVLA's
(data_tensorflow.py) whose shuffle buffer gives as many distinct episodes a batch as ours, `limit`
JPEG decoding and resizing alone, of pictures in memory, and `limit_reading` with reading the files;
`cores` has them and two more, our batches placed on the devices and the peer with the cheaper bilinear
resize, on 1 core and on all. Each is a process; they take turns (harness.py), and the best turn of each
counts. The files are read once before each round; a DIR in /dev/shm makes sure that nobody waits for a
disk. The peer needs TensorFlow in PYTHON: `pip install 'rt2_jax[peer]'`.

--minutes=M samples the memory of our reader, with a fast consumer and a slow one, for M minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import concurrent.futures
import json
import os
import sys
import time
from typing import Any

from absl import flags, logging
from etils import epath
import jax
import numpy as np

from rt2_jax import command, paths
from rt2_jax.benchmarks import harness, kitchen
from rt2_jax.data import images, pipeline
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Sources
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.schedules import Schedule
from rt2_jax.parallel import mesh as mesh_lib, sharding
from rt2_jax.text.tokenizer import Tokenizer

FLAGS = flags.FLAGS

# Pictures that the data set's frames are dealt from.
_FRAMES = 300
# The peer's batch has as many distinct episodes as ours if it has this share of them.
_EQUAL = 0.97
_BUFFERS = (1_000, 10_000, 20_000, 40_000)
# A slow consumer's seconds a batch, on top.
_PAUSE = 2.0
_LIMIT_PICTURES = 2000  # in memory


def stream(directory: str, batch_size: int, placed: bool) -> harness.Stream:
    """A worker: the project's pipeline, as `train` makes it.

    Args:
        directory: the data set.
        batch_size: steps a batch.
        placed: whether batches go to the devices; else they are numpy arrays.
    """
    where = sharding.batch_sharding(mesh_lib.make_mesh({'fsdp': jax.device_count()}))
    return batches(rlds.open_source(directory, kitchen.CARD), batch_size, where if placed else None)


def batches(source: StepSource, batch_size: int, where: Any = None) -> harness.Stream:
    """The project's pipeline over one robot set, frames resized to 224 pixels.

    Args:
        source: of the set.
        batch_size: steps a batch.
        where: the sharding of batches that go to the devices; None leaves them numpy arrays.
    """
    data = DataConfig(
        image_size=224,
        prompt_length=64,
        target_length=64,
        robot_share=Schedule(start=1.0),
        threads=len(os.sched_getaffinity(0)),
        read_ahead=3,
    )
    iterator = pipeline.make_iterator(
        Sources.of({'kitchen': (source, 1.0)}, {}),
        Tokenizer.load_default(),
        data,
        batches=1_000_000,
        batch_size=batch_size,
        sharding=where,
        rows=range(batch_size) if where is None else None,
    )
    return harness.Stream(
        iterator,
        lambda batch: [prompt.tobytes() for prompt in np.asarray(batch['prompt'])],
        lambda: len(json.dumps(iterator.get_state())),
    )


def limit(directory: str, batch_size: int, reading: bool) -> harness.Stream:
    """A worker: decoding and resizing alone, one thread a core and nothing kept.

    Args:
        directory: the data set.
        batch_size: pictures a batch.
        reading: whether each is read from the data set, or lies in memory.
    """
    return harness.Stream(_decode(directory, batch_size, reading))


def _decode(directory: str, batch_size: int, reading: bool) -> Iterator[range]:
    places = _places(directory)
    in_memory = [] if reading else [os.pread(*place) for place in places[:_LIMIT_PICTURES]]

    def work(row: int) -> None:
        encoded = (
            os.pread(*places[row % len(places)]) if reading else in_memory[row % len(in_memory)]
        )
        images.resize(images.decode(encoded)[None], 224)

    return harness.in_threads(work, batch_size)


def _places(directory: str) -> list[tuple[int, int, int]]:
    """Open file, length and offset of every step's picture, in random order."""
    source = rlds.open_source(directory, kitchen.CARD)
    arrays = source.index.arrays
    rows = np.random.default_rng(0).permutation(source.table.all_rows())
    episodes = np.searchsorted(arrays['episode_first'], rows, side='right') - 1
    opened = [os.open(file, os.O_RDONLY) for file in source.index.files]
    files = [opened[number] for number in arrays['episode_file'][episodes].tolist()]
    lengths, offsets = (arrays[f'image_{what}'][rows, 0].tolist() for what in ('length', 'offset'))
    return list(zip(files, lengths, offsets, strict=True))


def commands(
    directory: str, peer_python: str, batch_size: int, shuffle: int
) -> dict[str, list[str]]:
    """The workers' command lines by part."""
    common: dict[str, Any] = dict(directory=directory, batch_size=batch_size)
    peer = dict(python=peer_python, shuffle=shuffle, **common)
    bilinear: dict[str, Any] = dict(method='bilinear', antialias=False)
    make = harness.worker_command
    return {
        'ours': make('data:stream', placed=False, **common),
        'trainer': make('data:stream', placed=True, **common),
        'limit': make('data:limit', reading=False, **common),
        'limit_reading': make('data:limit', reading=True, **common),
        'peer': make('data_tensorflow:stream', **peer),
        'peer_bilinear': make('data_tensorflow:stream', **peer, **bilinear),
    }


def missing_peer(peer_python: str) -> str:
    """Why the peer can't be measured; '' if it can."""
    return harness.missing('tensorflow, tensorflow_datasets', peer_python)


def equal_shuffle(
    directory: str, peer_python: str, cores: Sequence[int], batch_size: int, distinct: float
) -> dict[str, Any]:
    """Finds the smallest shuffle buffer whose batches hold `distinct` episodes on average.

    Args:
        directory: the data set; its steps are the largest buffer tried.
        peer_python: the peer's interpreter.
        cores: for it.
        batch_size: steps a batch.
        distinct: episodes a batch.

    Returns:
        `buffer`, in steps, and `distinct` by the buffers tried.
    """
    steps = count_steps(directory)
    tried = {}
    for buffer in [*(size for size in _BUFFERS if size < steps), steps]:
        peer = harness.worker_command(
            'data_tensorflow:stream',
            peer_python,
            directory=directory,
            batch_size=batch_size,
            shuffle=buffer,
            image_size=0,
        )
        with harness.Worker(peer, cores) as worker:
            # A step may stay in the buffer for long: only then is it mixed as it will stay.
            worker.turn(least=2 * buffer // batch_size)
            tried[buffer] = worker.turn(least=20)['distinct']
        logging.info('a buffer of %d steps: %.1f episodes a batch', buffer, tried[buffer])
        if tried[buffer] >= distinct:
            break
    return {'buffer': buffer, 'distinct': tried}


def side_by_side(
    parts: dict[str, list[str]],
    directory: str,
    cores: Sequence[int],
    *,
    rounds: int,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Measures workers in turns: the figures of `harness.take_turns`, rates as steps_per_second."""

    def into_memory() -> None:
        for path in epath.Path(directory).glob('*tfrecord*'):
            with open(path, 'rb') as file:
                while file.read(1 << 22):
                    pass

    measured = harness.take_turns(
        parts, cores, rounds=rounds, seconds=seconds, least=2, before_round=into_memory
    )
    return {
        part: {'steps_per_second': figures.pop('per_second'), **figures}
        for part, figures in measured.items()
    }


def memory_over_time(
    command_line: Sequence[str], cores: Sequence[int], minutes: float
) -> dict[str, Any]:
    """Resident memory of a reader whose batches are taken at once, and of one whose are not.

    Both pause at first, until as much is read ahead as may be: a consumer that never pauses would come
    to that only when something else holds it up, an hour into a run or never.

    Returns:
        For 'fast' and 'slow' the figures of `harness.growth`, and `minutes`.
    """
    pauses = {'fast': 0.0, 'slow': _PAUSE}
    samples: dict[str, list[int]] = {name: [] for name in pauses}
    with (
        harness.Worker(command_line, cores) as fast,
        harness.Worker(command_line, cores) as slow,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        workers = {'fast': fast, 'slow': slow}
        for worker in workers.values():
            worker.turn(least=3, pause=_PAUSE)
        running = [
            pool.submit(workers[name].turn, seconds=60 * minutes, pause=pause)
            for name, pause in pauses.items()
        ]
        while not any(turn.done() for turn in running):
            time.sleep(min(1.0, minutes))
            for name, worker in workers.items():
                samples[name].append(worker.memory('VmRSS'))
        for turn in running:
            turn.result()
    grown: dict[str, Any] = {name: harness.growth(taken) for name, taken in samples.items()}
    return grown | {'minutes': minutes}


def measure(directory: str, batch_size: int) -> dict[str, Any]:
    """Measures all that the flags ask for; see the module's text for the figures."""
    python, available = FLAGS.peer_python, sorted(os.sched_getaffinity(0))
    parts = commands(directory, python, batch_size, FLAGS.shuffle)
    result: dict[str, Any] = {}
    if FLAGS.minutes:
        result['memory'] = memory_over_time(parts['ours'], available, FLAGS.minutes)
    if not FLAGS.rounds:
        return result
    if reason := missing_peer(python):
        logging.warning(
            "no peer: %s. pip install 'rt2_jax[peer]', or name another interpreter by "
            '--peer_python',
            reason,
        )
        parts = {part: line for part, line in parts.items() if 'peer' not in part}
        result['peer_missing'] = reason
    else:
        with harness.Worker(parts['ours'], available) as worker:
            distinct = worker.turn(least=20)['distinct']
        equal = equal_shuffle(directory, python, available, batch_size, _EQUAL * distinct)
        result['shuffle'] = {'ours': distinct} | equal
        parts = commands(directory, python, batch_size, FLAGS.shuffle or equal['buffer'])
    numbers = sorted({1, len(available)})
    result['cores'] = {
        str(number): side_by_side(
            parts, directory, available[:number], rounds=FLAGS.rounds, seconds=FLAGS.seconds
        )
        for number in numbers
    }
    best = result['cores'][str(numbers[-1])]
    rates = {part: figures['steps_per_second'] for part, figures in best.items()}
    ratios = {f'ratio_{part}': rates['ours'] / rates[part] for part in rates if 'limit' in part}
    if 'peer' in rates:
        ratios['ratio_peer'] = rates['ours'] / rates['peer']
        ratios['ratio_memory'] = best['ours']['peak_bytes'] / best['peer']['peak_bytes']
    return rates | {name: round(value, 3) for name, value in ratios.items()} | result


def count_steps(directory: str) -> int:
    """Steps of the data set, which is indexed if it was not."""
    return len(rlds.open_source(directory, kitchen.CARD))


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_string('directory', 'runs/data/kitchen', 'The data set, made where missing.')
    flags.DEFINE_integer('episodes', 2000, 'Episodes of a data set to be made.')
    flags.DEFINE_integer('batch_size', 256, 'Steps a batch.')
    flags.DEFINE_string('peer_python', sys.executable, 'An interpreter that has TensorFlow.')
    flags.DEFINE_integer(
        'shuffle', 0, "Steps in the peer's shuffle buffer; 0: as for equal quality."
    )
    flags.DEFINE_integer('rounds', 4, 'Turns of each reader; 0: none.')
    flags.DEFINE_float('seconds', 4.0, 'Length of a turn.')
    flags.DEFINE_float('minutes', 0.0, 'For how long to watch the memory.')
    flags.mark_flags_as_required(['output'])


def main(_: list[str]) -> None:
    """Makes the data set where it is missing, and measures."""
    if not (paths.of(FLAGS.directory) / 'dataset_info.json').exists():
        kitchen.write(FLAGS.directory, episodes=FLAGS.episodes, pictures=kitchen.frames(_FRAMES))
    count_steps(FLAGS.directory)  # indexed before anybody is timed
    result = measure(FLAGS.directory, FLAGS.batch_size)
    harness.publish(result, FLAGS.output, episodes=FLAGS.episodes, batch_size=FLAGS.batch_size)


if __name__ == '__main__':
    define_flags()
    command.run('data', main)
