"""Readers that benchmarks/data.py measures: the project's own, and the machine's limit.

`ours` gives batches as numpy arrays, `trainer` places them on the devices as a training run does,
and `limit` is JPEG decoding and resizing alone: pictures from memory, one thread a core, nothing
kept.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools
import json
import os
import queue
import threading
import time

from absl import app, flags
import jax
import numpy as np

from rt2_jax.benchmarks import kitchen, turns
from rt2_jax.data import images, mixture, pipeline
from rt2_jax.data.robot import rlds
from rt2_jax.parallel import mesh as mesh_lib, sharding
from rt2_jax.text.tokenizer import Tokenizer

IMPORTED = time.time()
FLAGS = flags.FLAGS
PARTS = ('ours', 'trainer', 'limit')

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
    return pipeline.make_iterator(
        {'kitchen': (source, 1.0)},
        {},
        tokenizer=Tokenizer.load_default(),
        schedule=mixture.Schedule(start=1.0),
        batches=1_000_000,
        batch_size=batch_size,
        image_size=image_size,
        prompt_length=64,
        target_length=64,
        sharding=where if placed else None,
        rows=rows,
        threads=threads,
        read_ahead=3,
    )


def limit(directory: str, *, batch_size: int, image_size: int, threads: int) -> Iterator[range]:
    """Decodes and resizes for ever; yields after every `batch_size` pictures."""
    source = rlds.open_source(directory, kitchen.CARD)
    steps = np.random.default_rng(0).integers(len(source), size=min(_LIMIT_PICTURES, len(source)))
    encoded = [_picture(source, int(i)) for i in steps]
    done = queue.Queue(maxsize=2 * batch_size // _RUN)

    def work(offset: int) -> None:
        for start in itertools.count(offset * _RUN, threads * _RUN):
            for i in range(start, start + _RUN):
                images.resize(images.decode(encoded[i % len(encoded)])[None], image_size)
            done.put(_RUN)

    for offset in range(threads):
        threading.Thread(target=work, args=(offset,), daemon=True).start()
    ready = 0
    while True:
        while ready < batch_size:
            ready += done.get()
        ready -= batch_size
        yield range(batch_size)


def _picture(source: rlds.StepSource, i: int) -> bytes:
    index, row = source.index, source.row(i)
    file = index.files[int(index.arrays['episode_file'][index.episode_of(row)])]
    with open(file, 'rb') as opened:
        opened.seek(int(index.arrays['image_offset'][row, 0]))
        return opened.read(int(index.arrays['image_length'][row, 0]))


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
    if FLAGS.part == 'limit':
        turns.serve(
            limit(FLAGS.directory, **settings),
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
    app.run(main)
