"""Training with its workdir in a bucket: processes that are killed, several that write together, faults.

python -m pytest -m slow tests/test_train_bucket.py
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import test_train as runs
from test_train import cache, episodes  # noqa: F401  fixtures

from rt2_jax import paths
from rt2_jax.checkpoints import loading
from rt2_jax.parallel.sharding import named_leaves

STEPS = '--config.total_steps=12'


def start(*arguments):
    return subprocess.Popen(
        runs.command(*arguments, STEPS),
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )


def until(process, words) -> list[str]:
    """Lines that the process prints, up to one with these words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail(f'the process ended by itself: {"".join(lines)} {process.stderr.read()}')


def same_parameters(one, other) -> None:
    ours, theirs = (named_leaves(loading.load_for_inference(w).params) for w in (one, other))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.slow
def test_killed_run_goes_on_to_the_bit_as_on_disk(bucket, episodes, cache, tmp_path):  # noqa: F811
    workdir = f'{bucket.url}/runs/x'
    assert runs.run(tmp_path / 'disk', cache, episodes, STEPS).returncode == 0
    process = start(workdir, cache, episodes)
    until(process, 'step 9/12')
    process.send_signal(signal.SIGKILL)
    process.communicate()
    bucket.clear()
    result = runs.run(workdir, cache, episodes, STEPS)
    assert result.returncode == 0, result.stderr
    assert 'resumed at step' in result.stdout and f'done: 12 steps in {workdir}' in result.stdout
    assert runs.curve(workdir) == runs.curve(tmp_path / 'disk')
    same_parameters(workdir, tmp_path / 'disk')
    below = {name.split('/')[0] for name in paths.files(workdir)}
    assert {'checkpoints', 'config.json', 'metrics.jsonl', 'tensorboard'} <= below
    assert bucket.bytes('GET', prefix='runs/x/checkpoints') < 8e6
    assert not (runs.ROOT / 'gs:').exists()


@pytest.mark.slow
def test_two_processes_write_to_one_bucket(bucket, episodes, cache, tmp_path):  # noqa: F811
    pod = [sys.executable, 'launch/local_pod.py', '--processes=2', '--']
    for workdir in (f'{bucket.url}/pod', tmp_path / 'pod'):
        command = pod + runs.command(workdir, cache, episodes, STEPS, '--config.mesh.fsdp=2')
        result = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stdout + result.stderr
    assert runs.curve(f'{bucket.url}/pod') == runs.curve(tmp_path / 'pod')
    same_parameters(f'{bucket.url}/pod', tmp_path / 'pod')


@pytest.mark.slow
def test_a_save_that_fails_ends_the_run_with_one_line(bucket, episodes, cache):  # noqa: F811
    workdir = f'{bucket.url}/run'
    process = start(workdir, cache, episodes)

    def fault(request):
        saving = request.key.startswith('run/checkpoints/8')
        return 403 if saving and request.method in ('PUT', 'POST') else None

    bucket.fault = fault
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 1, output + errors
    line = next(line for line in errors.splitlines() if line.startswith('train: '))
    print(line)
    assert 'the checkpoint of step 8' in line and 'the last good one is of step 4' in line
    assert 'Traceback' not in errors and 'done' not in output


@pytest.mark.slow
def test_a_bucket_without_rights_is_known_before_compiling(bucket, episodes, cache):  # noqa: F811
    bucket.fault = lambda request: 403 if request.method == 'PUT' else None
    result = runs.run(f'{bucket.url}/run', cache, episodes)
    line = f'train: cannot write to {bucket.url}/run: the server answered: 403 Forbidden; check the'
    assert result.returncode == 1 and line in result.stderr
    assert 'Traceback' not in result.stderr and 'compiled' not in result.stdout
