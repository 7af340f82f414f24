"""Our half of benchmarks/decode.py: the sampler, from pixels on the host to tokens on the host.

Parts: `stored` decodes with the weights as a float32 checkpoint has them, `bfloat16` and `int8` with
compact ones; `read` sums a large array on all threads and `multiply` squares matrices, which is what the
machine can do.
"""

from __future__ import annotations

from collections.abc import Iterator
import concurrent.futures
import functools
import itertools
import json
import os
import time
from typing import Any

from absl import flags
from etils import epath
import flax
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax import command
from rt2_jax.benchmarks import decode_model, turns
from rt2_jax.checkpoints import loading
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.models import backbone
from rt2_jax.training import metrics
from rt2_jax.weights import tensors

IMPORTED = time.time()
FLAGS = flags.FLAGS
PARTS = (*compact.WEIGHTS, 'read', 'multiply')
_READ_BYTES = 1 << 30  # more than caches hold
_QUEUED = 8  # sums of it on a device, so that starting one costs nothing


def policy(directory: epath.Path, kind: str) -> tuple[Sampler, Any]:
    """The sampler, and parameters on the device."""
    config = json.loads((directory / loading.MODEL).read_text())['model']
    vocab, _ = config['vocab'], config.pop('image_size')
    dtype = 'float32' if kind == compact.STORED else 'bfloat16'
    model = backbone.build(config | {'dtype': dtype}, vocab)
    named = {
        tuple(name.split('/')): jnp.asarray(tensor.read(), jnp.dtype(dtype))
        for name, tensor in tensors.open_tensors(directory).items()
    }
    params = flax.traverse_util.unflatten_dict(named)
    model, params = compact.compact(model, params, kind, decode_model.inputs(1, vocab))
    return Sampler(model, decode_model.grammar(vocab)), params


def actions(directory: epath.Path, kind: str, batch: int, prefill: bool) -> Iterator[list[Any]]:
    """Decodes for ever; yields the said tokens' log-probabilities of each row.

    `prefill` alone encodes, and fills the cache.
    """
    sampler, params = policy(directory, kind)
    vocab = sampler.model.vocab
    images, prompt, said = decode_model.inputs(batch, vocab)
    encode = jax.jit(functools.partial(sampler.model.apply, method='prefill'), static_argnums=3)
    while True:
        if prefill:
            jax.block_until_ready(encode({'params': params}, images, prompt, decode_model.LENGTH))
            yield list(range(batch))
            continue
        samples = sampler(params, images, prompt, Kind.ACTION, forced=said)
        assert np.array_equal(samples.tokens[:, 0], said)
        yield [row.tobytes() for row in np.asarray(samples.log_probs[:, 0])]


def read() -> Iterator[range]:
    """Reads memory on all threads, or a device's; yields a row for each 16 MiB."""
    rows = range(_READ_BYTES >> 24)
    if jax.default_backend() != 'cpu':
        array, sums = jnp.ones(_READ_BYTES // 4, jnp.float32), jax.jit(jnp.sum)
        while True:
            jax.block_until_ready([sums(array) for _ in range(_QUEUED)])
            yield range(_QUEUED * len(rows))
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones(_READ_BYTES // 8 // threads, np.int64) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            list(pool.map(np.bitwise_or.reduce, parts))
            yield rows


def multiply() -> Iterator[range]:
    """Multiplies bfloat16 matrices; yields a row for each GFLOP."""
    side, queued = metrics.product_size(jax.default_backend())
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    square = jax.jit(functools.partial(jnp.dot, preferred_element_type=jnp.float32))
    while True:
        jax.block_until_ready([square(x, x) for _ in range(queued)])
        yield range(round(queued * 2 * side**3 / 1e9))


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_enum('part', None, PARTS, 'What to measure.')
    flags.DEFINE_string('directory', None, 'Our weights, by benchmarks/decode_model.py.')
    flags.DEFINE_integer('batch_size', 1, 'Rows a call.')
    flags.DEFINE_bool('prefill', False, 'Only encodes.')
    flags.mark_flags_as_required(['part', 'directory'])


def main(_: list[str]) -> None:
    if FLAGS.part in compact.WEIGHTS:
        directory = epath.Path(FLAGS.directory)
        rows = actions(directory, FLAGS.part, FLAGS.batch_size, FLAGS.prefill)
    else:
        rows = {'read': read, 'multiply': multiply}[FLAGS.part]()
    first = next(rows)
    turns.serve(
        itertools.chain([first], rows),
        labels=lambda labels: labels,
        state_bytes=lambda: 0,
        imported=IMPORTED,
    )


if __name__ == '__main__':
    define_flags()
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # several share a device
    command.run('decode_ours', main)
