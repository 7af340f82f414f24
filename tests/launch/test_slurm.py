"""slurm.sh on a real Slurm: two nodes train together, and a job goes on by itself until it is done.

As root, with Debian's slurm-wlm and munge:  python -m pytest -m slow -s tests/launch/test_slurm.py
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import slurm_cluster

from rt2_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = '--config=tests/training/tiny_config.py:web'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not()),
]


@pytest.fixture(scope='module')
def variables():
    with slurm_cluster.cluster() as variables:
        yield variables | {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


class Job:
    """A job that launch/slurm.sh submitted, from a folder other than the checkout."""

    def __init__(self, folder, variables, options, *flags):
        self.environment = os.environ | variables | {'PYTHONPATH': str(ROOT)}
        command = [
            'bash', ROOT / 'launch/slurm.sh', f'--python={sys.executable}', f'--logs={folder}/logs',
            *options, '--', *flags,
        ]  # fmt: skip
        said = self.call(*command, cwd=folder)
        self.id, self.log = re.search(r'job (\d+); its log: (.+)', said).groups()
        self.log = pathlib.Path(self.log)

    def call(self, *command, cwd=ROOT):
        return subprocess.run(
            command, cwd=cwd, env=self.environment, check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    def field(self, name):
        return re.search(rf'\b{name}=(\S+)', self.call('scontrol', 'show', 'job', self.id))[1]

    def read(self):
        return self.log.read_text() if self.log.exists() else ''

    def wait_for(self, words, seconds=400):
        self._wait(lambda: words in self.read(), f'no {words!r}', seconds)

    def wait(self, seconds=1200):
        """Waits for the end; the state that it ended in."""
        over = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL')
        self._wait(lambda: self.field('JobState') in over, 'it did not end', seconds)
        print(f'\n--- job {self.id}: {self.field("JobState")}\n{self.read()}')
        return self.field('JobState')

    def _wait(self, done, message, seconds):
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f'{message} in {seconds} s:\n{self.read()}'
            time.sleep(0.5)


def flags(folder, cache, *more):
    return (
        CONFIG, f'--workdir={folder}/run', f'--config.compile_cache={cache}',
        '--config.log_every=1', '--config.checkpoint_every=1000000', *more,
    )  # fmt: skip


def test_two_nodes_stop_on_term_and_go_on_by_themselves(tmp_path, variables, cache):
    endless = flags(tmp_path, cache, '--config.total_steps=1000000')
    job = Job(tmp_path, variables, ['--nodes=2', '--gpus=1', '--time=60'], *endless)
    job.wait_for('step 3/')
    assert "mesh {'data': 2," in job.read()
    job.call('scancel', '--signal=TERM', job.id)
    job.wait_for('stopped early (code 75): requeued')
    job.wait_for('resumed at step')
    saved = re.search(r'stopped by a signal at step (\d+), which is saved', job.read())[1]
    assert f'resumed at step {saved} of' in job.read()
    # A job that the user cancels stays cancelled.
    job.call('scancel', job.id)
    assert job.wait() == 'CANCELLED'
    assert job.field('Restarts') == '1'


def test_requeued_by_hand_it_resumes(tmp_path, variables, cache):
    """As after a node's failure or preemption: Slurm ends the job and starts it again."""
    endless = flags(tmp_path, cache, '--config.total_steps=1000000', '--config.checkpoint_every=3')
    job = Job(tmp_path, variables, ['--nodes=1', '--gpus=2', '--time=60'], *endless)
    job.wait_for('step 5/')
    job.call('scontrol', 'requeue', job.id)
    job.wait_for('resumed at step')
    job.call('scancel', job.id)
    assert job.wait() == 'CANCELLED'


def test_a_time_limit_goes_on_to_the_end(tmp_path, variables, cache):
    """Slurm keeps time limits by the minute: TERM comes 30 to 90 s after a start, for 100 s of work."""
    batch = '--config.batch_size=64'
    short = flags(tmp_path / 'short', cache, batch, '--config.total_steps=10')
    job = Job(tmp_path, variables, ['--nodes=2', '--gpus=1', '--time=60'], *short)
    assert job.wait() == 'COMPLETED' and job.field('Restarts') == '0'
    rates = [row['speed/steps_per_second'] for row in metrics.read(tmp_path / 'short/run')[1:]]
    steps = int(100 * sum(rates) / len(rates))

    long = flags(tmp_path, cache, batch, f'--config.total_steps={steps}')
    job = Job(tmp_path, variables, ['--nodes=2', '--gpus=1', '--time=2', '--lead=30'], *long)
    assert job.wait(seconds=1800) == 'COMPLETED'
    assert int(job.field('Restarts')) == job.read().count('(code 75): requeued') >= 1
    assert f'done: {steps} steps' in job.read()
    rows = metrics.read(tmp_path / 'run')
    assert [row['step'] for row in rows] == list(range(1, steps + 1))


def test_a_typo_fails_once(tmp_path, variables, cache):
    typo = flags(tmp_path, cache, '--config.total_step=3')
    job = Job(tmp_path, variables, ['--nodes=2', '--gpus=1', '--time=60'], *typo)
    assert job.wait() == 'FAILED'
    assert job.field('Restarts') == '0' and job.field('ExitCode') == '1:0'
    assert "did you mean 'total_steps'" in job.read()


def test_a_killed_process_ends_the_job(tmp_path, variables, cache):
    endless = flags(tmp_path, cache, '--config.total_steps=1000000')
    job = Job(tmp_path, variables, ['--nodes=2', '--gpus=1', '--time=60'], *endless)
    job.wait_for('step 3/')
    listed = subprocess.run(
        ['pgrep', '-f', f'^{sys.executable} -m rt2_jax.train.*{tmp_path}'],
        capture_output=True,
        text=True,
    )
    os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
    begin = time.monotonic()
    assert job.wait() == 'FAILED'
    print(f'ended {time.monotonic() - begin:.0f} s after the kill')
    assert time.monotonic() - begin < 120 and job.field('Restarts') == '0'


def test_python_without_srun_runs_alone(tmp_path, variables, cache):
    """In sbatch's script and in salloc's shell, once, though the job has two tasks."""
    program = (
        'import jax; from rt2_jax.parallel import distributed as d; d.initialize(); '
        'print("n", jax.process_count())'
    )
    result = subprocess.run(
        ['salloc', '--quiet', '--nodes=2', '--ntasks=2', sys.executable, '-c', program],
        cwd=ROOT, env=os.environ | variables | {'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0 and 'n 1\n' in result.stdout, result.stderr
    assert 'Slurm gave this job 2 tasks, but srun did not start this process' in result.stderr


def test_evaluate_and_collect_run_too(tmp_path, variables):
    pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")
    collect = Job(
        tmp_path, variables, ['--job=collect', '--gpus=0', '--cpus_per_task=2', '--time=60'],
        '--episodes=4', '--image_size=32', '--processes=2', f'--output={tmp_path}/data',
    )  # fmt: skip
    evaluate = Job(
        tmp_path, variables, ['--job=evaluate', '--nodes=2', '--gpus=1', '--time=60'],
        '--policy=expert', '--episodes=2', '--image_size=32', f'--output={tmp_path}/results.json',
    )  # fmt: skip
    assert collect.wait() == 'COMPLETED' and '4 episodes' in collect.read()
    assert evaluate.wait() == 'COMPLETED'
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['manifest']['processes'] == 2
    assert results['policies']['expert']['seen']['episodes'] == 2
