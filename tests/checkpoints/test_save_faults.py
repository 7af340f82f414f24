"""What keeps a checkpoint from being written is known at the next step, in one line.

The disks are small tmpfs mounts, which root may make; the bucket is fake-gcs-server behind a proxy.
"""

import os
import shutil
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax import paths
from rt2_jax.checkpoints import assets, checkpoint, loading, save_failures
from rt2_jax.checkpoints.inspection import opened
from rt2_jax.training import train_state as state_lib


def state(step: int, megabytes: float = 0.1) -> state_lib.TrainState:
    params = {
        'head': {'kernel': np.random.default_rng(step).random((int(megabytes * 2**18),), 'f')}
    }
    params = {'head': {'kernel': jnp.asarray(params['head']['kernel'])}}
    return state_lib.TrainState(jnp.int32(step), params, {})


def save(checkpoints, step, megabytes=0.1):
    checkpoints.save(state(step, megabytes), {'batches': step}, step)


def failure_of(checkpoints, step, megabytes=0.1) -> str:
    """Saves and plays the loop, which checks each step, until it fails; what the user sees."""
    deadline = time.monotonic() + 60
    with pytest.raises(save_failures.SaveFailed) as failure:
        save(checkpoints, step, megabytes)
        while time.monotonic() < deadline:
            checkpoints.check()
            time.sleep(0.01)
    checkpoints.close()  # says nothing twice
    line = str(failure.value)
    print(line)
    assert '\n' not in line and str(checkpoints.directory) in line
    assert f'the checkpoint of step {step} could not be written' in line
    return line


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(f'mounting needs root: sudo {" ".join(mount)}')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def test_full_disk(disk):
    checkpoints = checkpoint.Checkpoints(disk / 'run')
    save(checkpoints, 1)
    checkpoints.wait()
    line = failure_of(checkpoints, 2, megabytes=3)
    assert 'No space left on device' in line and 'the last good one is of step 1' in line
    assert checkpoint.complete_steps(disk / 'run') == [1]


def test_read_only_disk(disk):
    checkpoints = checkpoint.Checkpoints(disk / 'run')
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    line = failure_of(checkpoints, 1)
    assert 'Read-only file system' in line and 'there is none before' in line
    with pytest.raises(paths.PathError, match='Read-only file system'):
        paths.probe(disk / 'run')


def test_bucket_keeps_what_a_folder_keeps(bucket, tokenizer, tiny):
    workdir = paths.of(f'{bucket.url}/runs/x')
    assets.write_assets(workdir, tiny.config(), tokenizer, {})
    checkpoints = checkpoint.Checkpoints(workdir, keep=2)
    for step in (1, 3, 5):
        save(checkpoints, step)
    checkpoints.close()
    assert checkpoint.complete_steps(workdir) == [3, 5]
    assert not paths.files(workdir / 'checkpoints/1')
    loaded = loading.load_for_inference(workdir)
    assert loaded.step == 5
    kernel = np.asarray(state(5).params['head']['kernel'])
    np.testing.assert_array_equal(loaded.params['head']['kernel'], kernel)
    seen = opened.open_checkpoint(workdir)
    assert seen.steps == [3, 5] and not seen.warnings
    (box,) = seen.arrays['head/kernel'].boxes()
    np.testing.assert_array_equal(seen.arrays['head/kernel'].reader()(box), kernel)
    # A folder without the object that Orbax writes last is one of a run that was killed.
    paths.delete(workdir / 'checkpoints/5/commit_success.txt')
    assert loading.load_for_inference(workdir).step == 3
    name = next(name for name in paths.files(workdir / 'checkpoints/3') if '/d/' in name)
    paths.delete(workdir / 'checkpoints/3' / name)
    with pytest.raises(checkpoint.CheckpointError, match=f'{name} is missing'):
        loading.load_for_inference(workdir)


def test_folder_that_vanished(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / 'run')
    save(checkpoints, 1)
    checkpoints.wait()
    shutil.rmtree(tmp_path / 'run')
    (tmp_path / 'run').write_text('a file in its place')
    assert 'Not a directory' in failure_of(checkpoints, 2)


# obstore puts what Orbax writes beside the arrays, TensorStore posts the arrays.
@pytest.mark.parametrize('status', [403, 404])
@pytest.mark.parametrize('methods', ['PUT POST', 'POST'])
def test_rights_or_bucket_taken_away(bucket, status, methods):
    checkpoints = checkpoint.Checkpoints(f'{bucket.url}/run')
    save(checkpoints, 1)
    checkpoints.wait()
    bucket.fault = lambda request: status if request.method in methods.split() else None
    line = failure_of(checkpoints, 2)
    assert 'the last good one is of step 1' in line
    assert {403: 'Forbidden; check the credentials', 404: ' bucket'}[
        status
    ] in line or 'Not Found' in line
    assert checkpoint.complete_steps(f'{bucket.url}/run') == [1]


@pytest.mark.parametrize('seconds', [3, pytest.param(60, marks=pytest.mark.slow)])
def test_bucket_that_is_out_for_a_while(bucket, seconds):
    """A minute: python -m pytest tests/training/test_save_faults.py -m slow -k while."""
    checkpoints = checkpoint.Checkpoints(f'{bucket.url}/run')
    back = time.monotonic() + seconds
    bucket.fault = lambda request: 503 if time.monotonic() < back else None
    save(checkpoints, 1)
    while time.monotonic() < back:
        checkpoints.check()
        time.sleep(0.1)
    checkpoints.close()
    assert any(request.status == 503 for request in bucket.requests)
    assert checkpoint.complete_steps(f'{bucket.url}/run') == [1]


def test_s3_is_refused_by_name():
    with pytest.raises(paths.PathError, match='s3://b/run: Orbax has no s3://'):
        checkpoint.Checkpoints('s3://b/run')
