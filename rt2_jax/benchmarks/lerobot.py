"""How fast a LeRobot data set becomes batches, beside lerobot's own loader and beside decoding alone.

    python -m rt2_jax.benchmarks.lerobot --output=FILE.json --peer_python=PYTHON [--directory=DIR]

DIR gets a data set of RT-1's pictures (benchmarks/kitchen.py, converted by data/convert_episodes.py; once).
`ours` is the project's pipeline in frames/s, shuffled and resized to 224 pixels; `peer` lerobot's loader on
the same files with the same size, with PyAV, as ours; `peer_torchcodec` with its other decoder, where it
loads; `limit` decoding alone, of coded frames in memory. Each is a process on the same cores; they take turns
(harness.py), and the best turn of each counts. `first_batch_seconds` is from the imports on, `peak_bytes` of
the process itself, `shared_bytes` of its own processes too. The index is made before anybody is timed, and
`index_seconds` says how long that took.

PYTHON needs lerobot: python3.11 -m venv L && L/bin/pip install lerobot==0.4.4.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib
import sys
import time
from typing import Any

from absl import flags, logging
import numpy as np

from rt2_jax import command, paths
from rt2_jax.benchmarks import data, harness, kitchen
from rt2_jax.data import cards, convert_episodes
from rt2_jax.data.readers import lerobot_directory, video_packets
from rt2_jax.data.robot import rlds, rlds_writer

FLAGS = flags.FLAGS
_PICTURES = 300  # that the data set's frames are dealt from
_SIZE = 224  # as `data.batches` resizes to
_LIMIT_FRAMES = 2000  # in memory


def stream(directory: str, batch_size: int) -> harness.Stream:
    """A worker: the project's pipeline, as `train` makes it."""
    return data.batches(rlds.open_source(directory, str(_card(directory))), batch_size)


def limit(directory: str, batch_size: int) -> harness.Stream:
    """A worker: decoding alone, of coded frames in memory, one thread a core and nothing kept."""
    return harness.Stream(_decode(directory, batch_size))


def _decode(directory: str, batch_size: int) -> Iterator[range]:
    rng, frames = np.random.default_rng(0), []
    videos = sorted(pathlib.Path(directory).glob('videos/**/*.mp4'))
    for video in videos:
        packets, content = video_packets.read(str(video), 0.0), video.read_bytes()
        some = rng.permutation(len(packets.times))[: -(-_LIMIT_FRAMES // len(videos))]
        for own in some.tolist():
            first = own - int(packets.backs[own])
            coded = [
                content[packets.offsets[i] : packets.offsets[i] + packets.lengths[i]]
                for i in range(first, own + 1)
            ]
            frames.append((packets.codec, coded, [own - first]))
    order = rng.permutation(len(frames)).tolist()
    return harness.in_threads(
        lambda row: video_packets.decode(*frames[order[row % len(order)]]), batch_size
    )


def _card(directory: str) -> pathlib.Path:
    return pathlib.Path(directory) / convert_episodes.CARD_JSON


def make(directory: str, episodes: int) -> None:
    """Makes the data set where it is missing, by way of RLDS in a folder beside it."""
    if lerobot_directory.is_lerobot(directory):
        return
    as_rlds = f'{directory}_rlds'
    if not (paths.of(as_rlds) / rlds_writer.DATASET_INFO_JSON).exists():
        kitchen.write(as_rlds, episodes=episodes, pictures=kitchen.frames(_PICTURES))
    convert_episodes.convert(as_rlds, kitchen.CARD, 'lerobot', directory)


def measure(directory: str, batch_size: int, peer_python: str) -> dict[str, Any]:
    """Measures all in turns; see the module's text for the figures."""
    begin = time.monotonic()
    card = cards.find(str(_card(directory)))
    frames = len(rlds.open_source(directory, card))  # indexed before anybody is timed
    result: dict[str, Any] = {'frames': frames, 'index_seconds': round(time.monotonic() - begin, 2)}
    common: dict[str, Any] = dict(directory=directory, batch_size=batch_size)
    parts = {
        'ours': harness.worker_command('lerobot:stream', **common),
        'limit': harness.worker_command('lerobot:limit', **common),
    }
    for part, backend, modules in (
        ('peer', 'pyav', 'lerobot.datasets.lerobot_dataset, torchvision'),
        ('peer_torchcodec', 'torchcodec', 'lerobot.datasets.lerobot_dataset, torchcodec.decoders'),
    ):
        if reason := harness.missing(modules, peer_python):
            logging.warning(
                'no %s: %s; --peer_python names an interpreter with lerobot', part, reason
            )
            result[f'{part}_missing'] = reason
            continue
        parts[part] = harness.worker_command(
            'lerobot_peer:stream', peer_python, size=_SIZE, backend=backend, **common
        )
    cores = sorted(os.sched_getaffinity(0))
    measured = harness.take_turns(parts, cores, rounds=FLAGS.rounds, seconds=FLAGS.seconds, least=2)
    rates = {part: figures['per_second'] for part, figures in measured.items()}
    return rates | result | {'cores': len(cores), 'parts': measured}


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_string(
        'directory', 'runs/data/kitchen_lerobot', 'The data set, made where missing.'
    )
    flags.DEFINE_integer('episodes', 400, 'Episodes of a data set to be made.')
    flags.DEFINE_integer('batch_size', 64, 'Steps a batch.')
    flags.DEFINE_string('peer_python', sys.executable, 'An interpreter that has lerobot.')
    flags.DEFINE_integer('rounds', 4, 'Turns of each reader.')
    flags.DEFINE_float('seconds', 4.0, 'Length of a turn.')
    flags.mark_flags_as_required(['output'])


def main(_: list[str]) -> None:
    """Makes the data set where it is missing, and measures."""
    make(FLAGS.directory, FLAGS.episodes)
    result = measure(FLAGS.directory, FLAGS.batch_size, FLAGS.peer_python)
    harness.publish(result, FLAGS.output, episodes=FLAGS.episodes, batch_size=FLAGS.batch_size)


if __name__ == '__main__':
    define_flags()
    command.run('lerobot', main)
