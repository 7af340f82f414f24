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

Each is a process; they take turns (turns.py) on the same cores, and the best turn of each counts. The
machine's speeds are measured among them. On a GPU the same command measures there (give it to ours by
JAX_PLATFORMS=cuda; the peer takes one that torch sees).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from absl import flags, logging
from etils import epath

from rt2_jax import command, convert, paths
from rt2_jax.benchmarks import decode_model, turns
from rt2_jax.checkpoints import loading
from rt2_jax.decoding import compact
from rt2_jax.evaluation import report
from rt2_jax.models import cost

FLAGS = flags.FLAGS
_PEERS = ('float32', 'bfloat16')


def write(directory: epath.Path, size: str) -> None:
    """Writes the weights in all their forms, where they are not there yet."""
    if (directory / 'siglip' / 'config.json').exists():
        return
    decode_model.write(directory / 'ours', decode_model.SIZES[size])
    for name in ('t5', 'siglip'):
        convert.export(directory / 'ours', name, directory / name)


def missing_peer() -> str:
    """Why the peer can't be measured; '' if it can."""
    tried = subprocess.run(
        [sys.executable, '-c', 'import torch, transformers'], capture_output=True, text=True
    )
    return '' if tried.returncode == 0 else tried.stderr.strip().splitlines()[-1]


def commands(directory: epath.Path, batch: int, kinds: Sequence[str], peers: Sequence[str]) -> dict:
    """Command lines by part; `*_prefill` encode alone."""
    module = lambda name: [sys.executable, '-m', f'rt2_jax.benchmarks.{name}']
    ours = [*module('decode_ours'), f'--directory={directory / "ours"}', f'--batch_size={batch}']
    peer = [*module('decode_transformers'), f'--directory={directory}', f'--batch_size={batch}']
    found = {kind: [*ours, f'--part={kind}'] for kind in kinds}
    found |= {f'peer_{dtype}': [*peer, f'--dtype={dtype}'] for dtype in peers}
    found |= {f'{part}_prefill': [*command, '--prefill'] for part, command in found.items()}
    return found | {part: [*ours, f'--part={part}'] for part in ('read', 'multiply')}


def side_by_side(
    asked: Mapping[str, Sequence[str]], *, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measures in turns; by part: rows a second (the best turn's, and all turns'), CPU ms a row."""
    cores = sorted(os.sched_getaffinity(0))
    taken: dict[str, list[dict[str, Any]]] = {part: [] for part in asked}
    with contextlib.ExitStack() as stack:
        readers = {}
        for part, command in asked.items():
            readers[part] = stack.enter_context(turns.Reader(command, cores))
            logging.info('%s: %s', part, readers[part].about)
        for _ in range(rounds):
            for part, reader in readers.items():
                taken[part].append(reader.turn(seconds=seconds, least=1))
    found = {}
    for part, measured in taken.items():
        rates = [turn['steps'] / turn['seconds'] for turn in measured]
        found[part] = {
            'per_second': round(max(rates), 4),
            'turns': [round(rate, 4) for rate in rates],
            'cpu_ms': round(min(1e3 * t['cpu_seconds'] / t['steps'] for t in measured), 2),
        }
    return found


def compared(found: Mapping[str, Mapping[str, Any]], size: str, batch: int) -> dict[str, Any]:
    """The figures of a batch size, from what was measured."""
    rate = lambda part: found[part]['per_second']
    kinds = [kind for kind in compact.TYPES if kind in found]
    kind = max(kinds, key=rate)
    bandwidth, flops = rate('read') * (1 << 24), rate('multiply') * 1e9
    needed = decode_model.bytes_read(size, kind, batch)
    reading = {part: count / bandwidth for part, count in needed.items()}
    encoding = cost.decode_flops(decode_model.SIZES[size], decode_model.data(), batch) / flops
    own = {
        'ours': rate(kind),
        'limit': batch / sum(reading.values()),
        'limit_computing': batch / (max(reading['prefill'], encoding) + reading['steps']),
    }
    prefill = 1e3 * batch / rate(f'{kind}_prefill')
    whole = 1e3 * batch / rate(kind)
    result = {
        **{name: round(value, 4) for name, value in own.items()},
        'ratio_limit': round(own['ours'] / own['limit'], 3),
        'ratio_limit_computing': round(own['ours'] / own['limit_computing'], 3),
        'ratio_limit_steps': round(1e3 * reading['steps'] / max(whole - prefill, 1e-6), 3),
        'unit': 'actions/s',
        'weights': kind,
        'first_action_ms': round(whole, 2),
        'prefill_ms': round(prefill, 2),
        'bytes': {kind: decode_model.bytes_read(size, kind, batch) for kind in kinds},
        'bandwidth': round(bandwidth),
        'flops': round(flops),
        'parts': found,
    }
    if peers := [part for part in found if part in {f'peer_{dtype}' for dtype in _PEERS}]:
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
    directory = paths.of(FLAGS.directory) / FLAGS.size
    paths.of(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    write(directory, FLAGS.size)
    reason = missing_peer() if FLAGS.peer else '--nopeer'
    if reason:
        logging.warning('no peer: %s', reason)
    batches = {}
    for batch in map(int, FLAGS.batch_sizes):
        asked = commands(directory, batch, FLAGS.weights, () if reason else _PEERS)
        found = side_by_side(asked, rounds=FLAGS.rounds, seconds=FLAGS.seconds)
        batches[str(batch)] = compared(found, FLAGS.size, batch)
        print(json.dumps({batch: batches[str(batch)]}, indent=2), flush=True)
    result = {**batches[FLAGS.batch_sizes[0]], 'batches': batches, 'size': FLAGS.size}
    if reason:
        result['peer_missing'] = reason
    told = json.loads((directory / 'ours' / loading.MODEL).read_text())
    result['manifest'] = report.manifest(config=told['model'], rounds=FLAGS.rounds)
    paths.write(paths.of(FLAGS.output), json.dumps(result, indent=2).encode())


if __name__ == '__main__':
    define_flags()
    command.run('decode', main)
