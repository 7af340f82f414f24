"""How fast one action is decoded, beside transformers and beside what the memory can do.

    python -m rt2_jax.benchmarks.decode --output=FILE.json [--size=base|1b|3b|5b] [--batch_sizes=1,8]

From pixels and prompt on the host to 8 action tokens on the host, with random weights in T5 v1.1's and
SigLIP's sizes (decode_model.py). `ours` is the sampler's actions/s with the faster of bfloat16 and int8
weights, `peer` those of `generate` in transformers with the same weights, tower, prompt and tokens, in
the faster of float32 and bfloat16, `limit` those of a machine that reads what must be read for an action
in our type at its memory's speed and computes in no time: the weights once, the decoder's eight times
without what the cache has of them, some rows of the output matrix, and the cache. `limit_computing` adds
the time of the encoder's and the tower's products at the machine's speed of matrix products, where that
is longer than their reading. All this by batch size; the figures on top are those of the first one.

Each is a process; they take turns (harness.py) on the same cores, and the best turn of each counts. The
machine's speeds are measured among them. On a GPU the same command measures there (give it to ours by
JAX_PLATFORMS=cuda; the peer takes one that torch sees).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import os
from typing import Any

from absl import flags, logging
from etils import epath
import flax
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax import command, convert, paths
from rt2_jax.benchmarks import decode_model, harness, machine
from rt2_jax.checkpoints import loading
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.estimation import model_flops
from rt2_jax.models import backbone
from rt2_jax.weights import tensors

FLAGS = flags.FLAGS
_PEERS = ('float32', 'bfloat16')


def write(directory: epath.Path, size: str) -> None:
    """Writes the weights in all their forms, where they are not there yet."""
    if (directory / 'siglip' / 'config.json').exists():
        return
    decode_model.write(directory / 'ours', decode_model.SIZES[size])
    for name in ('t5', 'siglip'):
        convert.export(directory / 'ours', name, directory / name)


def policy(directory: epath.Path, kind: str) -> tuple[Sampler, Any]:
    """The sampler, and parameters on the device, with weights of `compact.WEIGHTS`."""
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
    """Decodes for ever; yields the decoded tokens' log-probabilities of each row.

    `prefill` alone encodes, and fills the cache.
    """
    sampler, params = policy(directory, kind)
    vocab = sampler.model.vocab
    images, prompt, tokens = decode_model.inputs(batch, vocab)
    encode = jax.jit(functools.partial(sampler.model.apply, method='prefill'), static_argnums=3)
    while True:
        if prefill:
            jax.block_until_ready(encode({'params': params}, images, prompt, decode_model.LENGTH))
            yield list(range(batch))
            continue
        samples = sampler(params, images, prompt, Kind.ACTION, forced=tokens)
        assert np.array_equal(samples.tokens[:, 0], tokens)
        yield [row.tobytes() for row in np.asarray(samples.log_probs[:, 0])]


def stream(part: str, directory: str = '', batch: int = 1, prefill: bool = False) -> harness.Stream:
    """A worker: 'read', 'multiply', or `actions` with weights of this kind."""
    speeds = {'read': machine.read, 'multiply': machine.multiply}
    if part in speeds:
        return harness.Stream(speeds[part]())
    return harness.Stream(actions(epath.Path(directory), part, batch, prefill))


def missing_peer() -> str:
    """Why the peer can't be measured; '' if it can."""
    return harness.missing('torch, transformers')


def commands(
    directory: epath.Path, batch: int, kinds: Sequence[str], peers: Sequence[str]
) -> dict[str, list[str]]:
    """Command lines by part; `*_prefill` encode alone."""
    make = harness.worker_command
    lines = {part: make('decode:stream', part=part) for part in ('read', 'multiply')}
    for suffix in ('', '_prefill'):
        common: dict[str, Any] = dict(batch=batch, prefill=bool(suffix))
        for kind in kinds:
            ours = dict(part=kind, directory=str(directory / 'ours'), **common)
            lines[f'{kind}{suffix}'] = make('decode:stream', **ours)
        for dtype in peers:
            peer = dict(dtype=dtype, directory=str(directory), **common)
            lines[f'peer_{dtype}{suffix}'] = make('decode_transformers:stream', **peer)
    return lines


def compared(parts: Mapping[str, Mapping[str, Any]], size: str, batch: int) -> dict[str, Any]:
    """The figures of a batch size, from those of `harness.take_turns` by part."""
    rate = lambda part: parts[part]['per_second']
    kinds = [kind for kind in compact.TYPES if kind in parts]
    kind = max(kinds, key=rate)
    bandwidth, flops = rate('read') * (1 << 24), rate('multiply') * 1e9
    needed = decode_model.bytes_read(size, kind, batch)
    config = decode_model.SIZES[size] | {'dtype': 'bfloat16'}
    reading = {part: count / bandwidth for part, count in needed.items()}
    encoding = model_flops.decode_flops(config, decode_model.data(), batch) / flops
    figures = {
        'ours': rate(kind),
        'limit': batch / sum(reading.values()),
        'limit_computing': batch / (max(reading['prefill'], encoding) + reading['steps']),
    }
    prefill, whole = 1e3 * batch / rate(f'{kind}_prefill'), 1e3 * batch / rate(kind)
    result = {
        **{name: round(value, 4) for name, value in figures.items()},
        'ratio_limit': round(figures['ours'] / figures['limit'], 3),
        'ratio_limit_computing': round(figures['ours'] / figures['limit_computing'], 3),
        'ratio_limit_steps': round(1e3 * reading['steps'] / max(whole - prefill, 1e-6), 3),
        'unit': 'actions/s',
        'weights': kind,
        'first_action_ms': round(whole, 2),
        'prefill_ms': round(prefill, 2),
        'bytes': {kind: decode_model.bytes_read(size, kind, batch) for kind in kinds},
        'bandwidth': round(bandwidth),
        'flops': round(flops),
        'parts': parts,
    }
    if peers := [part for part in parts if part in {f'peer_{dtype}' for dtype in _PEERS}]:
        best = max(peers, key=rate)
        result |= {
            'peer': rate(best),
            'ratio_peer': round(rate(kind) / rate(best), 3),
            'peer_dtype': best.removeprefix('peer_'),
            'peer_first_action_ms': round(1e3 * batch / rate(best), 2),
        }
    return result


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_enum('size', 'base', list(decode_model.SIZES), 'Of the model.')
    flags.DEFINE_list('batch_sizes', ['1', '8'], 'Rows a call.')
    flags.DEFINE_list('weights', ['bfloat16', 'int8'], f'Of {", ".join(compact.WEIGHTS)}.')
    flags.DEFINE_string('directory', 'runs/decode', 'Where the weights are, made where missing.')
    flags.DEFINE_bool('peer', True, 'Whether to measure transformers too.')
    flags.DEFINE_integer('rounds', 4, 'Turns of each.')
    flags.DEFINE_float('seconds', 3.0, 'Length of a turn, to the end of a call.')
    flags.mark_flags_as_required(['output'])


def main(_: list[str]) -> None:
    """Writes the weights where they are missing, and measures."""
    directory = paths.of(FLAGS.directory) / FLAGS.size
    write(directory, FLAGS.size)
    reason = missing_peer() if FLAGS.peer else '--nopeer'
    if reason:
        logging.warning('no peer: %s', reason)
    cores = sorted(os.sched_getaffinity(0))
    batches = {}
    for batch in map(int, FLAGS.batch_sizes):
        lines = commands(directory, batch, FLAGS.weights, () if reason else _PEERS)
        parts = harness.take_turns(lines, cores, rounds=FLAGS.rounds, seconds=FLAGS.seconds)
        batches[str(batch)] = compared(parts, FLAGS.size, batch)
        print(json.dumps({batch: batches[str(batch)]}, indent=2), flush=True)
    result = {**batches[FLAGS.batch_sizes[0]], 'batches': batches, 'size': FLAGS.size}
    if reason:
        result['peer_missing'] = reason
    model = json.loads((directory / 'ours' / loading.MODEL).read_text())['model']
    harness.publish(result, FLAGS.output, config=model, rounds=FLAGS.rounds)


if __name__ == '__main__':
    define_flags()
    command.run('decode', main)
