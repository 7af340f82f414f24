"""Several real processes on this machine: the same curve, the same examples, and what faults do."""

import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rt2_jax import exit_codes
from rt2_jax.checkpoints import loading, param_shapes
from rt2_jax.parallel import sharding
from rt2_jax.training import metrics
from rt2_jax.weights import tensors

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = [sys.executable, '-m', 'rt2_jax.train', '--config=tests/training/tiny_config.py:web']


def pod(processes, devices, *command):
    arguments = [f'--processes={processes}', f'--devices_per_process={devices}', '--', *command]
    return subprocess.Popen(
        [sys.executable, 'launch/local_pod.py', *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Compiles fast and runs slow: the steps are tiny.
        env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )


def train(processes, devices, workdir, cache, *flags):
    process = pod(
        processes,
        devices,
        *TRAIN,
        f'--workdir={workdir}',
        f'--config.compile_cache={cache}',
        '--config.log_examples=true',
        '--config.log_every=1',
        '--config.checkpoint_every=4',
        '--config.total_steps=12',
        *flags,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


def losses(workdir):
    return np.array([row['loss'] for row in metrics.read(workdir)])


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def alone(tmp_path_factory, cache):
    """One process with one device: what all others must repeat."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    train(1, 1, workdir, cache)
    return workdir


@pytest.mark.slow
def test_two_processes_repeat_what_one_does(alone, cache, tmp_path):
    train(2, 2, tmp_path / 'run', cache, '--config.mesh.fsdp=2')
    assert metrics.read_examples(tmp_path / 'run') == metrics.read_examples(alone)
    np.testing.assert_allclose(losses(tmp_path / 'run'), losses(alone), rtol=2e-4)


@pytest.mark.slow
def test_two_processes_start_from_weights_on_disk_as_one_does(cache, tokenizer, tmp_path):
    """Each reads its slices of the files; what no file has begins at random, alike."""
    config = runpy.run_path(ROOT / 'tests/training/tiny_config.py')['get_config']('web')
    named = sharding.named_leaves(param_shapes.random(config, tokenizer, seed=5))
    kept = {n: tensors.of_array(n, x) for n, x in named.items() if not n.startswith('projection')}
    tensors.write_safetensors(tmp_path / 'weights', kept)
    (tmp_path / 'weights' / loading.MODEL).write_text('{"model": {}}')
    flags = [f'--config.init_from={tmp_path / "weights"}', '--config.total_steps=3']
    train(1, 1, tmp_path / 'one', cache, *flags)
    train(2, 2, tmp_path / 'two', cache, *flags, '--config.mesh.fsdp=4')
    train(1, 1, tmp_path / 'other', cache, '--config.total_steps=3')
    np.testing.assert_allclose(losses(tmp_path / 'two'), losses(tmp_path / 'one'), rtol=1e-5)
    assert abs(losses(tmp_path / 'other') - losses(tmp_path / 'one')).max() > 0.01


@pytest.mark.slow
def test_two_processes_start_from_a_run_as_one_does(alone, cache, tmp_path):
    """Over other axes than it was saved, and over other devices."""
    flags = [f'--config.init_from={alone}', '--config.total_steps=3']
    train(1, 1, tmp_path / 'one', cache, *flags)
    train(2, 2, tmp_path / 'two', cache, *flags, '--config.mesh.fsdp=2', '--config.mesh.tensor=2')
    np.testing.assert_allclose(losses(tmp_path / 'two'), losses(tmp_path / 'one'), rtol=1e-5)
    assert losses(alone)[0] - losses(tmp_path / 'one')[0] > 0.01


@pytest.mark.slow
def test_four_processes_that_start_from_a_run_read_a_quarter_each(tmp_path):
    """python -m pytest -m slow tests/launch/test_local_pod.py -k quarter; needs 4 GB, Linux."""
    figures = []
    for name, start in {'first': '', 'next': str(tmp_path / 'first')}.items():
        output = tmp_path / f'{name}.json'
        sizes = dict(width=512, mlp=2048, depth=4, heads=8, head_dim=64)
        process = pod(
            4, 1, sys.executable, '-m', 'rt2_jax.benchmarks.host_memory',
            '--config=tests/training/tiny_config.py:web', '--config.mesh.fsdp=4',
            '--config.optimizer.name=adafactor', '--config.optimizer.weight_decay=0',
            *(f'--config.model.{part}.{k}={v}' for part in ('encoder', 'decoder') for k, v in sizes.items()),
            f'--config.init_from={start}', f'--workdir={tmp_path / name}', f'--output={output}',
        )  # fmt: skip
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        figures.append(json.loads(output.read_text()))
    size = sum(path.stat().st_size for path in (tmp_path / 'first/checkpoints/1/params').rglob('*'))
    random, started = (figure['made'] for figure in figures)
    print(f'parameters {size:,} bytes; a process read {started["read_bytes"]:,}')
    assert started['read_bytes'] - random['read_bytes'] < 0.35 * size
    assert started['of_whole'] < 0.6


@pytest.mark.slow
def test_200_steps_are_the_same_however_they_are_split(cache, tmp_path):
    """Loss within 1e-6 of one device for 75 steps; then float32 sums in another order drift apart."""
    steps = ['--config.total_steps=200', '--config.checkpoint_every=200']
    splits = {
        'one': (1, 1, []),
        'eight': (1, 8, [f'--config.mesh.{axis}=2' for axis in ('data', 'fsdp', 'tensor')]),
        'two': (2, 1, []),
        'four': (4, 1, ['--config.mesh.fsdp=2']),
    }
    for name, (processes, devices, mesh) in splits.items():
        train(processes, devices, tmp_path / name, cache, *steps, *mesh)
    one = losses(tmp_path / 'one')
    assert len(one) == 200 and one[-20:].mean() < 0.8 * one[:20].mean()
    for name in splits:
        assert metrics.read_examples(tmp_path / name) == metrics.read_examples(tmp_path / 'one')
        apart = np.abs(losses(tmp_path / name) / one - 1)
        print(
            f'{name}: largest relative difference {apart.max():.1e}, at step {apart.argmax() + 1}'
        )
        assert apart[:75].max() < 1e-6 and apart.max() < 5e-3


@pytest.mark.slow
def test_processes_may_come_and_go_between_resumes(alone, cache, tmp_path):
    workdir = tmp_path / 'run'
    train(2, 1, workdir, cache, '--config.total_steps=4', '--config.mesh.fsdp=2')
    train(4, 1, workdir, cache, '--config.total_steps=8', '--config.mesh.tensor=2')
    train(1, 1, workdir, cache)
    assert metrics.read_examples(workdir) == metrics.read_examples(alone)
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=2e-4)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")
    found = []
    for processes in (1, 2):
        output = tmp_path / f'{processes}.json'
        process = pod(
            processes, 2, sys.executable, '-m', 'rt2_jax.evaluate',
            '--workdir=package:tabletop_pretrained', '--suite=seen,offline', '--episodes=3',
            '--questions=11', '--parallel=4', '--mesh=data=2', f'--output={output}',
        )  # fmt: skip
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        found.append(json.loads(output.read_text()))
    assert [results['manifest']['processes'] for results in found] == [1, 2]
    one, two = (results['policies']['checkpoint'] for results in found)
    assert one['seen']['rollouts'] == two['seen']['rollouts'] and len(one['seen']['rollouts']) == 3
    assert one['offline']['web'] == two['offline']['web']
    assert one['offline']['actions']['steps'] == two['offline']['actions']['steps']
    np.testing.assert_allclose(*(x['offline']['actions']['loss'] for x in (one, two)), rtol=1e-3)


def test_one_process_that_fails_ends_all_and_is_named():
    program = (
        'import os, sys, time\n'
        'if os.environ["JAX_PROCESS_ID"] == "1": sys.exit("no such slice")\n'
        'time.sleep(60)'
    )
    begin = time.monotonic()
    process = pod(3, 1, sys.executable, '-c', program)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - begin < 20
    assert 'process 1 of 3 ended with code 1' in err and 'no such slice' in err


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_resume_works(alone, cache, tmp_path):
    workdir = tmp_path / 'run'
    flags = [f'--workdir={workdir}', f'--config.compile_cache={cache}', '--config.log_every=1']
    flags += [
        '--config.log_examples=true',
        '--config.checkpoint_every=4',
        '--config.total_steps=12',
    ]
    process = pod(2, 1, *TRAIN, *flags)
    for line in process.stdout:
        if 'step 6/' in line:
            break
    listed = subprocess.run(
        ['pgrep', '-f', f'rt2_jax.train.*{workdir}'], capture_output=True, text=True
    )
    children = [int(pid) for pid in listed.stdout.split()]
    victim = next(
        pid
        for pid in children
        if b'JAX_PROCESS_ID=1' in pathlib.Path(f'/proc/{pid}/environ').read_bytes()
    )
    os.kill(victim, signal.SIGKILL)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begin < 60
    assert process.returncode == 128 + signal.SIGKILL
    assert 'process 1 of 2 was killed by signal 9' in err
    train(2, 1, workdir, cache)
    assert metrics.read_examples(workdir) == metrics.read_examples(alone)
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_every_process(cache, tmp_path, number):
    workdir = tmp_path / 'run'
    process = pod(
        2, 1, *TRAIN, f'--workdir={workdir}', f'--config.compile_cache={cache}',
        '--config.total_steps=100000', '--config.log_every=1', '--config.checkpoint_every=100000',
    )  # fmt: skip
    for line in process.stdout:
        if 'step 5/' in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.STOPPED, out + err
    assert 'stopped by a signal' in out and 'local_pod: stopped early and saved' in err
    assert [path for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]
