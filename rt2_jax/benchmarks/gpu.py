"""What an accelerator gives, in one command: training, policies, memory, compile times.

    python -m rt2_jax.benchmarks.gpu --output=FILE.json [--rows=train_tiny,policy_1b_int8_b1] [--toy]

Rows: `card` is the FLOP/s of large matrix products and the bytes/s of reading memory; `train_*` the
training step's model FLOP/s, whose limit is the card's; `policy_SIZE_WEIGHTS_bBATCH` how many calls a
second a policy answers, from pixels on the host to eight tokens on the host, whose limit reads what a
call must read at the card's speed and computes in no time, and whose peer is `peer_SIZE_bBATCH`,
`generate` of transformers with a T5 and a SigLIP tower of the same size in bfloat16. All weights are
random, so nothing is downloaded. Times are medians.

Each row is a process of its own (gpu_row.py) with a time limit. The file is written after each row, and
the same command goes on from it: what is measured stays, what failed is tried again. A row that runs out
of memory is tried with its next smaller batch, if it has one. --toy runs every row at toy size on
whatever device there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import re
import subprocess
import sys
from typing import Any

from absl import flags
from etils import epath

from rt2_jax import command, paths
from rt2_jax.nearest import check

FLAGS = flags.FLAGS
_OUT_OF_MEMORY = re.compile(r'RESOURCE_EXHAUSTED|out of memory|OutOfMemory', re.IGNORECASE)
_COLUMNS = ('row', 'ours', 'peer', 'limit', 'ratio_peer', 'ratio_limit', 'compile_s', 'peak_GB')


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row measures.

    Attributes:
        kind: of `gpu_row.MEASURES`.
        size: of `gpu_row.TRAIN` or of `decode_model.SIZES`.
        batch_sizes: to try in this order, the next where one runs out of memory.
        weights: of a policy: bfloat16 or int8.
    """

    kind: str
    size: str = ''
    batch_sizes: tuple[int, ...] = (1,)
    weights: str = ''


POLICY_SIZES, POLICY_BATCHES = ('1b', '3b', '5b'), (1, 8)
ROWS = {
    'card': Row('card'),
    'train_tiny': Row('train', 'tiny', (256,)),
    'train_300m': Row('train', '300m', (128, 64, 32)),
    'train_1b': Row('train', '1b', (32, 16, 8)),
}
for _size in POLICY_SIZES:
    for _batch in POLICY_BATCHES:
        ROWS[f'peer_{_size}_b{_batch}'] = Row('peer', _size, (_batch,))
        for _weights in ('bfloat16', 'int8'):
            ROWS[f'policy_{_size}_{_weights}_b{_batch}'] = Row('policy', _size, (_batch,), _weights)


def run_row(name: str, *, limit_s: float, repeats: int, toy: bool) -> dict[str, Any]:
    """Measures a row in a process of its own.

    Args:
        name: of the row.
        limit_s: seconds after which the process is stopped.
        repeats: measurements, of which the median counts.
        toy: at toy size.

    Returns:
        What gpu_row.py measured; else {'failed': ...} or {'skipped': ...} with the reason.
    """
    environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.92'} | os.environ
    if ROWS[name].kind == 'peer':
        environment['JAX_PLATFORMS'] = 'cpu'  # the card is torch's
    batch_sizes = ROWS[name].batch_sizes
    result: dict[str, Any] = {}
    for batch in (4,) if toy and len(batch_sizes) > 1 else batch_sizes:
        arguments = json.dumps(dict(name=name, batch=batch, repeats=repeats, toy=toy))
        line = [sys.executable, '-m', 'rt2_jax.benchmarks.gpu_row', arguments]
        result = _run(line, environment, limit_s) | {'batch_size': batch}
        if not result.get('failed', '').startswith('out of memory'):
            break
    return result


def _run(line: Sequence[str], environment: Mapping[str, str], limit_s: float) -> dict[str, Any]:
    try:
        process = subprocess.run(
            line, capture_output=True, text=True, timeout=limit_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return {'failed': f'stopped after {limit_s:g} s (--limit_s)'}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    return {'failed': reason(process.returncode, process.stderr)}


def reason(code: int, errors: str) -> str:
    """Why a process ended with `code`, in one line, from what it wrote to stderr."""
    if _OUT_OF_MEMORY.search(errors):
        return f'out of memory: {_line(errors, _OUT_OF_MEMORY)}'
    if code < 0:
        return f'killed by signal {-code} (9 is often the host out of memory)'
    return _line(errors, re.compile(r'^[\w.]*(Error|Exception|Exit|Interrupt)\b')) or f'exit {code}'


def _line(text: str, pattern: re.Pattern[str]) -> str:
    lines = [line.strip() for line in text.splitlines() if pattern.search(line)]
    return lines[-1][:300] if lines else ''


def compared(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The measured rows with their peer, their limit and the ratios to both."""
    card = rows.get('card', {})
    result = {}
    for name, row in rows.items():
        result[name] = dict(row)
        if 'ours' not in row:
            continue
        kind, peer, limit, missing = ROWS[name].kind, None, None, ''
        if kind == 'policy':
            other = f'peer_{ROWS[name].size}_b{ROWS[name].batch_sizes[0]}'
            measured = rows.get(other, {'skipped': f'--rows leaves {other} out'})
            peer = measured.get('ours')
            missing = measured.get('skipped', measured.get('failed', ''))
        if 'ours' in card and kind == 'policy':
            limit = card['bytes_per_second'] / row['bytes_to_read']
        elif 'ours' in card and kind == 'train':
            limit = card['flops_bfloat16']
        result[name] |= {
            'peer': peer,
            'limit': limit,
            'ratio_peer': row['ours'] / peer if peer else None,
            'ratio_limit': row['ours'] / limit if limit else None,
        } | ({'peer_missing': missing} if missing else {})
    return result


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows for people."""
    lines: list[tuple[str, ...]] = [_COLUMNS]
    for name, row in rows.items():
        if 'ours' not in row:
            lines.append((name, row.get('skipped') or row.get('failed', '')))
            continue
        peak = row.get('peak_bytes')
        lines.append((
            f'{name} ({row["unit"]})',
            *(_number(row.get(key)) for key in _COLUMNS[1:6]),
            _number(row.get('compile_seconds')),
            _number(peak / 1e9 if peak else None),
        ))  # fmt: skip
    first = max(len(line[0]) for line in lines)
    return '\n'.join(
        f'{line[0]:<{first}}  ' + '  '.join(f'{cell:>11}' for cell in line[1:]) for line in lines
    )


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4g}'


def selected(names: Sequence[str]) -> list[str]:
    """The rows to measure, in the order of `ROWS`, the card first; all where none is named.

    Raises:
        ValueError: an unknown row; the nearest is named.
    """
    for name in names:
        check('row', name, ROWS)
    return [name for name in ROWS if not names or name in names or name == 'card']


def measure(path: epath.Path, names: Sequence[str], **settings: Any) -> dict[str, dict[str, Any]]:
    """Measures the rows that the file has not got yet, and writes it after each.

    Args:
        path: of the JSON file.
        names: of the rows.
        **settings: of `run_row`.

    Raises:
        SystemExit: there is no accelerator, or the file is of another one.
    """
    rows = json.loads(path.read_text())['rows'] if path.exists() else {}
    _same_device(path, rows, settings['toy'])
    for name in names:
        if 'ours' in rows.get(name, {}):
            continue
        print(f'{name} ...', flush=True)
        row = run_row(name, **settings)
        if name == 'card' and 'ours' not in row:
            sys.exit(f'gpu: {row.get("skipped") or row["failed"]}')
        rows[name] = row
        _same_device(path, rows, settings['toy'])
        rows = compared(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.write(path, json.dumps({'rows': rows}, indent=2).encode())
    return rows


def _same_device(path: epath.Path, rows: Mapping[str, Mapping[str, Any]], toy: bool) -> None:
    """Checks that all rows are of one device and size, that of this command."""
    manifests = [
        row['manifest']
        for name, row in rows.items()
        if 'manifest' in row and ROWS[name].kind != 'peer'
    ]
    devices = sorted({manifest['device'] for manifest in manifests})
    if len(devices) > 1:
        sys.exit(f'gpu: {path} has rows of {" and ".join(devices)}; give another --output')
    if any(manifest['toy'] != toy for manifest in manifests):
        sys.exit(
            f'gpu: {path} was made {"without" if toy else "with"} --toy; give another --output'
        )


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write, or to go on from.')
    flags.DEFINE_list('rows', [], f'Which to measure; all by default: {", ".join(ROWS)}.')
    flags.DEFINE_float('limit_s', 300.0, 'Seconds that a row may take.', lower_bound=0.1)
    flags.DEFINE_integer('repeats', 20, 'Measurements, of which the median counts.', lower_bound=1)
    flags.DEFINE_bool('toy', False, 'At toy size, on whatever device there is.')
    flags.mark_flag_as_required('output')


def main(_: list[str]) -> None:
    """Measures the rows and prints the table."""
    names = selected(FLAGS.rows)
    rows = measure(
        paths.of(FLAGS.output), names, limit_s=FLAGS.limit_s, repeats=FLAGS.repeats, toy=FLAGS.toy
    )
    print(table(rows))


if __name__ == '__main__':
    define_flags()
    command.run('gpu', main)
