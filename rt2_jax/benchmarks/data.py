"""How fast robot episodes become batches, beside tf.data and beside what the cores can do.

    python -m rt2_jax.benchmarks.data --output=FILE.json --directory=DIR [--peer_python=PYTHON]

DIR gets a data set of 2,000 episodes in RT-1's schema (benchmarks/kitchen.py; once). `ours` is the
project's pipeline in steps/s, `peer` a tf.data pipeline as Octo's and OpenVLA's
(data_tensorflow.py) whose shuffle buffer gives as many distinct episodes a batch as ours, `limit`
JPEG decoding and resizing alone, of pictures in memory, and `limit_reading` with reading the files;
`cores` has them and two more, our batches placed on the devices and the peer with the cheaper bilinear
resize, on 1 core and on all. Each is a process; they take turns (turns.py), and the best turn of each
counts. The files are read once before each round; a DIR in /dev/shm makes sure that nobody waits for a
disk. The peer needs TensorFlow in PYTHON: `pip install 'rt2_jax[peer]'`.

--minutes=M samples the memory of our reader, with a fast consumer and a slow one, for M minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import flags, logging
from etils import epath

from rt2_jax import command, paths
from rt2_jax.benchmarks import data_reading, kitchen, turns
from rt2_jax.data.robot import rlds
from rt2_jax.manifest import make_manifest

FLAGS = flags.FLAGS

# Pictures that the data set's frames are dealt from.
_FRAMES = 300
# The peer's batch has as many distinct episodes as ours if it has this share of them.
_EQUAL = 0.97
_BUFFERS = (1_000, 10_000, 20_000, 40_000)
# A slow consumer's seconds a batch, on top.
_PAUSE = 2.0


def commands(directory: str, peer_python: str, batch_size: int, shuffle: int) -> dict[str, list]:
    """The readers' command lines by part."""
    ours = [sys.executable, '-m', 'rt2_jax.benchmarks.data_reading']
    peer = [peer_python, '-m', 'rt2_jax.benchmarks.data_tensorflow', f'--shuffle={shuffle}']
    common = [f'--directory={directory}', f'--batch_size={batch_size}']
    found = {part: [*ours, *common, f'--part={part}'] for part in data_reading.PARTS}
    found['peer'] = [*peer, *common]
    found['peer_bilinear'] = [*peer, *common, '--method=bilinear', '--noantialias']
    return found


def missing_peer(peer_python: str) -> str:
    """Why the peer can't be measured; '' if it can."""
    tried = subprocess.run(
        [peer_python, '-c', 'import absl, tensorflow, tensorflow_datasets'],
        capture_output=True,
        text=True,
    )
    return '' if tried.returncode == 0 else tried.stderr.strip().splitlines()[-1]


def equal_shuffle(
    command: Sequence[str], cores: Sequence[int], *, batch_size: int, steps: int, wanted: float
) -> dict[str, Any]:
    """Finds the smallest shuffle buffer whose batches hold `wanted` distinct episodes on average.

    Args:
      command: the peer's command line.
      cores: for it.
      batch_size: that it was told.
      steps: steps of the data set, which is the largest buffer tried.
      wanted: distinct episodes a batch.

    Returns:
      `buffer`, in steps, and `distinct` by the buffers tried.
    """
    distinct = {}
    for buffer in [*(size for size in _BUFFERS if size < steps), steps]:
        asked = [*command, f'--shuffle={buffer}', '--image_size=0']
        with turns.Reader(asked, cores) as reader:
            # A step may stay in the buffer for long: only then is it mixed as it will stay.
            reader.turn(least=2 * buffer // batch_size)
            distinct[buffer] = reader.turn(least=20)['distinct']
        logging.info('a buffer of %d steps: %.1f episodes a batch', buffer, distinct[buffer])
        if distinct[buffer] >= wanted:
            break
    return {'buffer': buffer, 'distinct': distinct}


def side_by_side(
    asked: Mapping[str, Sequence[str]],
    directory: str,
    cores: Sequence[int],
    *,
    rounds: int,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Measures readers in turns.

    Args:
      asked: command lines by part.
      directory: the data set.
      cores: that each may use.
      rounds: turns of each.
      seconds: a turn.

    Returns:
      By part: steps_per_second (the best turn's), all turns', CPU microseconds a step, seconds until
      its libraries were there and from then to the first batch, peak memory, distinct episodes a
      batch and bytes of resume state.
    """
    readers = {}
    try:
        for part, command in asked.items():
            _into_memory(directory)
            readers[part] = turns.Reader(command, cores)
            readers[part].turn(seconds=seconds / 2)
        taken: dict[str, list[dict[str, Any]]] = {part: [] for part in readers}
        for _ in range(rounds):
            _into_memory(directory)
            for part, reader in readers.items():
                taken[part].append(reader.turn(seconds=seconds, least=2))
        return {part: _summary(readers[part], taken[part]) for part in readers}
    finally:
        for reader in readers.values():
            reader.__exit__()


def _summary(reader: turns.Reader, taken: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [turn['steps'] / turn['seconds'] for turn in taken]
    return {
        'steps_per_second': round(max(rates), 1),
        'turns': [round(rate, 1) for rate in rates],
        'cpu_microseconds': round(
            min(1e6 * turn['cpu_seconds'] / turn['steps'] for turn in taken), 1
        ),
        'distinct': round(statistics.mean(turn['distinct'] for turn in taken), 1),
        'peak_bytes': reader.memory(),
        **reader.about,
        **reader.state(),
    }


def _into_memory(directory: str) -> None:
    """Reads the data set once, so that nobody waits for the disk."""
    for path in epath.Path(directory).glob('*tfrecord*'):
        with open(path, 'rb') as file:
            while file.read(1 << 22):
                pass


def memory_over_time(command: Sequence[str], cores: Sequence[int], minutes: float) -> dict:
    """Resident memory of a reader whose batches are taken at once, and of one whose are not.

    Both pause at first, until as much is read ahead as may be: a consumer that never pauses would come
    to that only when something else holds it up, an hour into a run or never.

    Returns:
      For 'fast' and 'slow': bytes at the start (the mean of the second tenth of the time; the first
      is for warming up), at the end (the mean of the last tenth), growth from one to the other, and
      the highest sample.
    """
    pauses = {'fast': 0.0, 'slow': _PAUSE}
    samples: dict[str, list[int]] = {name: [] for name in pauses}
    with turns.Reader(command, cores) as fast, turns.Reader(command, cores) as slow:
        readers = {'fast': fast, 'slow': slow}
        for reader in readers.values():
            reader.turn(least=3, pause=_PAUSE)
        with concurrent.futures.ThreadPoolExecutor(len(readers)) as pool:
            running = [
                pool.submit(readers[name].turn, seconds=60 * minutes, pause=pause)
                for name, pause in pauses.items()
            ]
            while not any(one.done() for one in running):
                time.sleep(min(1.0, minutes))
                for name, reader in readers.items():
                    samples[name].append(reader.memory('VmRSS'))
            for one in running:
                one.result()
    return {name: growth(taken) for name, taken in samples.items()} | {'minutes': minutes}


def growth(samples: Sequence[int]) -> dict[str, float]:
    """From the second tenth of `samples` to the last; see `memory_over_time`."""
    tenth = max(1, len(samples) // 10)
    start, end = statistics.mean(samples[tenth : 2 * tenth]), statistics.mean(samples[-tenth:])
    return {
        'start_bytes': round(start),
        'end_bytes': round(end),
        'growth': round(end / start - 1, 4),
        'highest_bytes': max(samples),
    }


def measure() -> dict[str, Any]:
    """Runs all that the flags ask for; see the module's text for the figures."""
    directory, batch_size = FLAGS.directory, FLAGS.batch_size
    available = sorted(os.sched_getaffinity(0))
    numbers = sorted({1, len(available)})
    asked = commands(directory, FLAGS.peer_python, batch_size, 0)
    result: dict[str, Any] = {}
    if FLAGS.minutes:
        result['memory'] = memory_over_time(asked['ours'], available, FLAGS.minutes)
    if not FLAGS.rounds:
        return result
    if reason := missing_peer(FLAGS.peer_python):
        logging.warning(
            "no peer: %s. pip install 'rt2_jax[peer]', or name another interpreter by "
            '--peer_python',
            reason,
        )
        asked = {part: command for part, command in asked.items() if 'peer' not in part}
        result['peer_missing'] = reason
    else:
        with turns.Reader(asked['ours'], available) as reader:
            distinct = reader.turn(least=20)['distinct']
        result['shuffle'] = {'ours': distinct} | equal_shuffle(
            asked['peer'],
            available,
            batch_size=batch_size,
            steps=_steps(directory),
            wanted=_EQUAL * distinct,
        )
        buffer = FLAGS.shuffle or result['shuffle']['buffer']
        asked = commands(directory, FLAGS.peer_python, batch_size, buffer)
    result['cores'] = {
        str(number): side_by_side(
            asked, directory, available[:number], rounds=FLAGS.rounds, seconds=FLAGS.seconds
        )
        for number in numbers
    }
    best = result['cores'][str(numbers[-1])]
    rates = {part: best[part]['steps_per_second'] for part in best}
    ratios = {f'ratio_{part}': rates['ours'] / rates[part] for part in rates if 'limit' in part}
    if 'peer' in rates:
        ratios['ratio_peer'] = rates['ours'] / rates['peer']
        ratios['ratio_memory'] = best['ours']['peak_bytes'] / best['peer']['peak_bytes']
    return rates | {name: round(value, 3) for name, value in ratios.items()} | result


def _steps(directory: str) -> int:
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
    paths.of(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    if not (paths.of(FLAGS.directory) / 'dataset_info.json').exists():
        kitchen.write(FLAGS.directory, episodes=FLAGS.episodes, encoded=kitchen.frames(_FRAMES))
    _steps(FLAGS.directory)  # indexed before anybody is timed
    result = measure()
    print(json.dumps(result, indent=2))
    result['manifest'] = make_manifest(episodes=FLAGS.episodes, batch_size=FLAGS.batch_size)
    paths.write(paths.of(FLAGS.output), json.dumps(result, indent=2).encode())


if __name__ == '__main__':
    define_flags()
    command.run('data', main)
