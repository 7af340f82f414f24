"""Weights & Biases: a restarted run is the same run there, and no step is logged twice.

pip install wandb && python -m pytest tests/training/test_tracking.py
"""

from collections.abc import Iterator
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest

from rt2_jax.training import metrics, tracking

ROOT = pathlib.Path(__file__).parents[2]

# Logs each step from the checkpoint's on; ends as by kill -9 where it is asked to.
RUN = """
import os, sys
from rt2_jax.training import metrics
workdir, project, start, stop, end = sys.argv[1:]
writer = metrics.Writer(workdir, int(start), project)
for step in range(int(start) + 1, int(stop) + 1):
    # Enough values that W&B writes them: it does so in blocks of 32 KiB.
    writer.write(step, {f'loss/{i}': 1 / step for i in range(300)})
if end == 'crash':
    os._exit(9)
writer.close()
"""


def run(workdir, start, stop, end, project='robots'):
    environment = os.environ | {
        'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, '-c', RUN, str(workdir), project, str(start), str(stop), end],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == (9 if end == 'crash' else 0), result.stderr


def records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a W&B file: seven bytes, then LevelDB's log format.

    That is blocks of 32 KiB, of pieces with a checksum (4 bytes), a length (2), a kind (1: whole, 2:
    first, 3: middle, 4: last) and the data.
    """
    data, at, record = path.read_bytes(), 7, b''
    while at + 7 <= len(data):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        length, kind = struct.unpack('<HB', data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b''


def logged(workdir: pathlib.Path) -> list[tuple[str, int]]:
    """The run's id and the step of everything that W&B's files hold, in their order."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    # A folder's name begins with the time it was made at.
    for path in sorted((workdir / 'wandb').glob('offline-run-*/*.wandb')):
        for data in records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField('history'):
                rows.append((path.stem.removeprefix('run-'), record.history.step.num))
    return rows


def test_a_restarted_run_is_the_same_run_and_repeats_no_step(tmp_path):
    pytest.importorskip('wandb', reason='needs pip install wandb')
    run(tmp_path, 0, 7, 'crash')  # its last checkpoint is of step 3
    record = json.loads((tmp_path / tracking.FILE).read_text())
    assert record == {'project': 'robots', 'id': record['id'], 'step': 7}
    run(tmp_path, 3, 10, 'end')
    rows = logged(tmp_path)
    assert {name for name, _ in rows} == {record['id']}
    steps = [step for _, step in rows]
    assert 5 in steps, 'the killed run sent nothing, so nothing could be repeated'
    assert len(steps) == len(set(steps)) and steps == sorted(steps)
    assert steps[-3:] == [8, 9, 10]
    assert [row['step'] for row in metrics.read(tmp_path)] == list(range(1, 11))


def test_another_project_is_another_run(tmp_path):
    pytest.importorskip('wandb', reason='needs pip install wandb')
    run(tmp_path, 0, 2, 'end')
    first = json.loads((tmp_path / tracking.FILE).read_text())
    run(tmp_path, 2, 3, 'end', project='arms')
    second = json.loads((tmp_path / tracking.FILE).read_text())
    assert second['project'] == 'arms' and second['step'] == 3 and second['id'] != first['id']


def test_without_wandb_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match="'robots', but W&B is missing: pip install wandb"):
        tracking.WandbRun('robots', tmp_path)
