"""The codes that tell a launcher whether to start a command again, from real processes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import in_process
import jax
import pytest

from rt2_jax import exit_codes

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = '--config=tests/training/tiny_config.py:web'


def start(module, *flags, **environment):
    return subprocess.Popen(
        [sys.executable, '-m', module, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
        | environment,
    )


def wait_for(stream, words):
    for line in stream:
        if words in line:
            return
    pytest.fail(f'the process ended without saying {words!r}')


@pytest.fixture
def endless(tmp_path):
    """A training run of two steps or more that ends by a signal alone."""
    process = start(
        'rt2_jax.train', CONFIG, f'--workdir={tmp_path / "run"}', '--config.total_steps=1000000',
        '--config.log_every=1', '--config.checkpoint_every=1000000',
        '--config.compile_cache=none',
    )  # fmt: skip
    wait_for(process.stdout, 'step 2/')
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_saves_and_says_that_there_is_more_to_do(endless, tmp_path):
    endless.send_signal(signal.SIGINT)
    output, errors = endless.communicate(timeout=60)
    assert endless.returncode == exit_codes.STOPPED, errors
    assert 'the same command goes on from it' in output and 'Traceback' not in errors
    assert [path for path in (tmp_path / 'run/checkpoints').iterdir() if path.name.isdigit()]


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(endless):
    endless.send_signal(signal.SIGINT)
    wait_for(endless.stderr, 'once more ends without it')
    endless.send_signal(signal.SIGINT)
    assert endless.wait(timeout=5) in (-signal.SIGINT, exit_codes.STOPPED)


def test_a_typo_is_the_users_to_mend(tmp_path, monkeypatch):
    process = start(
        'rt2_jax.train', CONFIG, f'--workdir={tmp_path / "run"}', '--config.batch_sise=4'
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_codes.USER_ERROR and 'batch_sise' in errors
    monkeypatch.chdir(ROOT)
    assert 'workdirr' in in_process.run(monkeypatch, 'train', CONFIG, '--workdirr=x')


def test_a_lost_host_is_no_error_of_the_user():
    error = jax.errors.JaxRuntimeError
    assert exit_codes.of_runtime_error(error('UNAVAILABLE: connection reset by peer')) == 70
    assert exit_codes.of_runtime_error(error('RESOURCE_EXHAUSTED: out of memory')) == 1


def test_a_terminated_collection_goes_on(tmp_path):
    pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")
    flags = ('--episodes=16', f'--output={tmp_path / "data"}', '--image_size=32', '--processes=1')
    process = start('rt2_jax.envs.tabletop.collect', *flags)
    deadline = time.monotonic() + 60
    while not list((tmp_path / 'data').glob('*.tfrecord*-of-*')) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_codes.STOPPED, errors
    assert 'run the same command again' in errors and 'Traceback' not in errors
    again = start('rt2_jax.envs.tabletop.collect', *flags)
    output, errors = again.communicate(timeout=60)
    assert again.returncode == exit_codes.DONE and '16 episodes' in output, errors


@pytest.mark.parametrize(
    'variables, alone',
    [
        ({'SLURM_NTASKS': '2', 'SLURM_PROCID': '0'}, True),  # sbatch's script, or salloc's shell
        ({'SLURM_NTASKS': '1', 'SLURM_STEP_NUM_TASKS': '1'}, False),
        ({}, False),
    ],
)
def test_a_process_that_srun_did_not_start_runs_alone_and_says_so(variables, alone):
    program = (
        'import jax; from rt2_jax.parallel import distributed as d; d.initialize(); '
        'print(jax.process_count())'
    )
    process = subprocess.run(
        [sys.executable, '-c', program],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ | variables,
    )  # fmt: skip
    assert process.stdout == '1\n', process.stderr
    assert ('Slurm gave this job 2 tasks' in process.stderr) == alone
