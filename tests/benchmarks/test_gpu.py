"""The accelerator's benchmark at toy size: rows are measured, compared, resumed, and fail by name."""

import json
import pathlib
import subprocess
import sys

from etils import epath
import jax.numpy as jnp
import pytest

from rt2_jax.benchmarks import decode_model, gpu, gpu_row

ROOT = pathlib.Path(__file__).parents[2]


SETTINGS = dict(limit_s=300.0, repeats=2, toy=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))


@pytest.mark.slow
def test_rows_are_measured_compared_and_resumed(tmp_path):
    file = epath.Path(tmp_path) / 'gpu.json'
    rows = gpu.measure(file, gpu.selected(['policy_1b_int8_b8', 'train_1b']), **SETTINGS)
    assert rows == json.loads(file.read_text())['rows']
    assert list(rows) == ['card', 'train_1b', 'policy_1b_int8_b8']
    card, train, policy = rows.values()
    assert train['limit'] == card['flops_bfloat16'] and 0 < train['ratio_limit'] < 1
    assert train['batch_size'] == 4 and train['compile_seconds'] > 0
    assert policy['limit'] == pytest.approx(card['bytes_per_second'] / policy['bytes_to_read'])
    assert policy['ratio_limit'] == policy['ours'] / policy['limit']
    assert policy['actions_per_second'] == pytest.approx(8 * policy['ours'])
    assert policy['peer'] is None and policy['peer_missing'] == '--rows leaves peer_1b_b8 out'
    assert all({'versions', 'device', 'command'} <= set(row['manifest']) for row in rows.values())
    assert 'policy_1b_int8_b8 (Hz)' in gpu.table(rows)

    # Again, with a row that cannot end in time: the others stay as they are, and it says so.
    names = gpu.selected(['train_1b', 'peer_1b_b8'])
    again = gpu.measure(file, names, **SETTINGS | {'limit_s': 0.2})
    assert [again[name]['manifest'] for name in rows] == [row['manifest'] for row in rows.values()]
    assert again['peer_1b_b8'] == {'failed': 'stopped after 0.2 s (--limit_s)', 'batch_size': 8}
    assert again['policy_1b_int8_b8']['peer_missing'] == 'stopped after 0.2 s (--limit_s)'
    assert 'stopped after 0.2 s' in gpu.table(again)
    with pytest.raises(SystemExit, match='was made with --toy; give another --output'):
        gpu.measure(file, names, **SETTINGS | {'toy': False})


def test_the_peer_generates_as_many_tokens():
    pytest.importorskip('transformers', reason="the peer needs pip install 'rt2_jax[parity]'")
    row = gpu_row.measure('peer_1b_b1', 1, repeats=1, toy=True)
    rows = {
        'card': {'ours': 1.0, 'flops_bfloat16': 1.0, 'bytes_per_second': 100.0},
        'peer_1b_b1': row,
        'policy_1b_int8_b1': {'ours': 2 * row['ours'], 'bytes_to_read': 50, 'unit': 'Hz'},
    }
    policy = gpu.compared(rows)['policy_1b_int8_b1']
    assert policy['ratio_peer'] == 2 and policy['limit'] == 2


def test_without_an_accelerator_it_says_so_and_writes_nothing(tmp_path):
    with pytest.raises(SystemExit, match='gpu: JAX sees no accelerator: pip install'):
        gpu.measure(epath.Path(tmp_path) / 'gpu.json', ['card'], **SETTINGS | {'toy': False})
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_nearest_row(tmp_path):
    command = [sys.executable, '-m', 'rt2_jax.benchmarks.gpu', f'--output={tmp_path}/gpu.json']
    result = subprocess.run([*command, '--rows=train_1B'], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("gpu: Unknown row 'train_1B'; did you mean 'train_1b'?")


def test_reasons_of_failed_rows():
    with pytest.raises(Exception) as error:
        jnp.zeros(1 << 44, jnp.int8).block_until_ready()
    text = f'Traceback ...\n{type(error.value).__name__}: {error.value}\n'
    assert gpu.reason(1, text).startswith('out of memory: ')
    assert gpu.reason(1, "Traceback\nModuleNotFoundError: No module named 'x'\n") == (
        "ModuleNotFoundError: No module named 'x'"
    )
    assert gpu.reason(-9, '').startswith('killed by signal 9')


@pytest.mark.slow
def test_every_size_is_what_its_name_says():
    parameters = {}
    for size in gpu.POLICY_SIZES:
        row = gpu.ROWS[f'policy_{size}_bfloat16_b1']
        needed = decode_model.bytes_read(row.size, 'bfloat16', 1)
        parameters[size] = sum(needed.values())
    # What a call reads of bfloat16 weights grows with the size; the decoder's are read eight times.
    assert parameters['1b'] < parameters['3b'] < parameters['5b']
    assert len(gpu.ROWS) == 1 + 3 + 3 * 2 * 3
