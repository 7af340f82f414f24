"""Readers that benchmarks/data.py measures: the project's own, and the machine's limit.

`ours` gives batches as numpy arrays, and `trainer` places them on the devices as a training run
does. `limit` is JPEG decoding and resizing alone, one thread a core and nothing kept, of pictures
that lie in memory (some thousands of steps, drawn from the whole set). `limit_reading` reads each from the
data set first, all steps in random order, so nothing else than reading, decoding and resizing.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools
import json
import os
import queue
import threading
import time

from absl import flags
import jax
import numpy as np

from rt2_jax import command
from rt2_jax.benchmarks import kitchen, turns
from rt2_jax.data import images, pipeline
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Sources
from rt2_jax.data.robot import rlds
from rt2_jax.data.schedules import Schedule
from rt2_jax.parallel import mesh as mesh_lib, sharding
from rt2_jax.text.tokenizer import Tokenizer

IMPORTED = time.time()
FLAGS = flags.FLAGS
PARTS = ('ours', 'trainer', 'limit', 'limit_reading')

# Pictures that a thread decodes before it says so.
_RUN = 16
_LIMIT_PICTURES = 2000


def batches(
    directory: str, *, placed: bool, batch_size: int, image_size: int, threads: int
) -> pipeline.BatchIterator:
    """The project's pipeline over the data set, as `train` makes it."""
    source = rlds.open_source(directory, kitchen.CARD)
    rows = None if placed else range(batch_size)
    where = sharding.batch_sharding(mesh_lib.make_mesh({'fsdp': jax.device_count()}))
    data = DataConfig(
        image_size=image_size,
        prompt_length=64,
        target_length=64,
        robot_share=Schedule(start=1.0),
        threads=threads,
        read_ahead=3,
    )
    return pipeline.make_iterator(
        Sources.of({'kitchen': (source, 1.0)}, {}),
        Tokenizer.load_default(),
        data,
        batches=1_000_000,
        batch_size=batch_size,
        sharding=where if placed else None,
        rows=rows,
    )


def limit(
    directory: str, *, reading: bool, batch_size: int, image_size: int, threads: int
) -> Iterator[range]:
    """Decodes and resizes for ever; yields after every `batch_size` pictures.

    Args:
      directory: the data set.
      reading: whether each is read from there, or lies in memory.
      batch_size: see above.
      image_size: side of the frames, pixels.
      threads: how many do it.
    """
    places = _places(directory)
    kept = [] if reading else [os.pread(*place) for place in places[:_LIMIT_PICTURES]]
    done = queue.Queue(maxsize=2 * batch_size // _RUN)

    def work(offset: int) -> None:
        for start in itertools.count(offset * _RUN, threads * _RUN):
            for i in range(start, start + _RUN):
                encoded = os.pread(*places[i % len(places)]) if reading else kept[i % len(kept)]
                images.resize(images.decode(encoded)[None], image_size)
            done.put(_RUN)

    for offset in range(threads):
        threading.Thread(target=work, args=(offset,), daemon=True).start()
    ready = 0
    while True:
        while ready < batch_size:
            ready += done.get()
        ready -= batch_size
        yield range(batch_size)


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


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_enum('part', None, PARTS, 'Which reader to be.')
    flags.DEFINE_string('directory', None, 'The data set, made by benchmarks/kitchen.py.')
    flags.DEFINE_integer('batch_size', 256, 'Steps a batch.')
    flags.DEFINE_integer('image_size', 224, 'Side of the frames, pixels.')
    flags.DEFINE_integer('threads', 0, 'Reading threads; 0: as many as there are cores.')
    flags.mark_flags_as_required(['part', 'directory'])


def main(_: list[str]) -> None:
    settings = {
        'batch_size': FLAGS.batch_size,
        'image_size': FLAGS.image_size,
        'threads': FLAGS.threads or len(os.sched_getaffinity(0)),
    }
    if FLAGS.part.startswith('limit'):
        turns.serve(
            limit(FLAGS.directory, reading=FLAGS.part == 'limit_reading', **settings),
            labels=lambda batch: batch,
            state_bytes=lambda: 0,
            imported=IMPORTED,
        )
        return
    iterator = batches(FLAGS.directory, placed=FLAGS.part == 'trainer', **settings)
    turns.serve(
        iterator,
        labels=lambda batch: [prompt.tobytes() for prompt in np.asarray(batch['prompt'])],
        state_bytes=lambda: len(json.dumps(iterator.get_state())),
        imported=IMPORTED,
    )
    iterator.close()


if __name__ == '__main__':
    define_flags()
    command.run('data_reading', main)
