"""tpu_vm.sh: a job that outlives its connection, and slices that are preempted.

No cloud is at hand, so tests/launch/stand_in/gcloud answers: its hosts are folders and its ssh a shell
in them, on which the real scripts run. gcloud's own parser reads the command lines where it is
installed.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WHERE = ['--name=rt2', '--zone=z', '--type=v5p-16', '--poll=1']
JOB = ['--', '--config=configs/rt2_pali_x_55b.py', '--workdir=gs://b/r 2']

# Ends with the codes of $CLOUD/codes, one a start of the host; "serve" runs until SIGTERM, then saves.
PYTHON = """#!/usr/bin/env bash
echo "start: $*"
line=$(sed -n "$(grep -c '^== ' runs/tpu_host/log)p" "$CLOUD/codes")
if [[ $line == serve ]]; then
    trap 'echo saved; exit 75' TERM
    while true; do sleep 0.05; done
fi
exit "$line"
"""


class Cloud:
    def __init__(self, folder: pathlib.Path, codes: str):
        self.folder = folder
        (folder / 'codes').write_text(codes.replace(' ', '\n') + '\n')
        (folder / 'python').write_text(PYTHON)
        (folder / 'python').chmod(0o755)
        path = f'{ROOT / "tests/launch/stand_in"}:{os.environ["PATH"]}'
        self.environment = os.environ | {'CLOUD': str(folder), 'PATH': path}

    def launch(self, *arguments):
        return subprocess.run(
            ['bash', ROOT / 'launch/tpu_vm.sh', *WHERE, *arguments, *JOB],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def start(self, *arguments):
        return subprocess.Popen(
            ['bash', ROOT / 'launch/tpu_vm.sh', *WHERE, *arguments, *JOB],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def calls(self, verb: str) -> int:
        return (self.folder / 'calls').read_text().count(f'queued-resources {verb}')


@pytest.fixture
def cloud(tmp_path):
    clouds = []

    def make(codes):
        clouds.append(Cloud(tmp_path, codes))
        return clouds[-1]

    yield make
    for made in clouds:
        made.launch('--steps=stop')


def wait_for(stream, words):
    for line in stream:
        if words in line:
            return
    pytest.fail(f'ended without saying {words!r}')


def test_a_job_outlives_the_connection_and_can_be_stopped(cloud):
    made = cloud('serve 0')
    result = made.launch('--steps=create,install,run')
    assert result.returncode == 0, result.stderr
    status = made.launch('--steps=status').stdout
    assert status.count(': running\n') == 2
    again = made.launch('--steps=run')
    assert again.returncode != 0 and 'a job runs on' in again.stderr
    assert made.launch('--steps=stop').returncode == 0
    deadline = time.monotonic() + 20
    while ': running' in (status := made.launch('--steps=status').stdout):
        assert time.monotonic() < deadline
    assert status.count(': 75\n') == 2
    logs = made.launch('--steps=logs').stdout
    assert 'saved' in logs and 'start: -u -m rt2_jax.train' in logs and 'gs://b/r 2' in logs
    assert 'starting again from what is saved' in made.launch('--steps=watch').stdout


def test_a_preempted_slice_is_asked_for_again(cloud):
    made = cloud('serve')
    process = made.start('--slices=2')
    wait_for(process.stdout, 'rt2: running')
    # The job is done once it has been started on new hosts.
    (made.folder / 'codes').write_text('0\n')
    for pid in made.folder.glob('nodes/*/*/rt2_jax/runs/tpu_host/pid'):
        os.kill(int(pid.read_text()), 9)
    (made.folder / 'state').write_text('SUSPENDED\n')
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'asking for it again' in output and output.endswith('tpu_vm.sh: done\n')
    assert made.calls('create') == 2 and made.calls('delete') == 1


@pytest.mark.parametrize(
    'codes, code, says, starts',
    [
        ('75 143 0', 0, 'done', 3),
        ('1', 1, 'an error that a restart does not mend (code 1)', 1),
        ('134 70 0', 0, 'crashed (70): restart 2 of 2', 3),
        ('134 134 134', 70, 'crashed (134) after 2 restarts', 3),
    ],
)
def test_what_each_exit_code_does(cloud, codes, code, says, starts):
    made = cloud(codes)
    result = made.launch('--restarts=2')
    assert result.returncode == code, result.stderr
    assert says in result.stdout + result.stderr
    logs = list(made.folder.glob('nodes/rt2/*/rt2_jax/runs/tpu_host/log'))
    assert [log.read_text().count('start: ') for log in logs] == [starts, starts]


def test_uncommitted_work_is_warned_of(tmp_path):
    copy = tmp_path / 'checkout'
    (copy / 'launch').mkdir(parents=True)
    for name in ('tpu_vm.sh', 'common.sh'):
        shutil.copy(ROOT / 'launch' / name, copy / 'launch')
    git = ['git', '-C', copy, '-c', 'user.name=a', '-c', 'user.email=a@b']
    for command in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'Launchers']):
        subprocess.run([*git, *command], check=True)
    command = ['bash', copy / 'launch/tpu_vm.sh', *WHERE, '--steps=install', '--dry_run']
    assert not subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (copy / 'launch/new.sh').touch()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'uncommitted work is not installed, but HEAD' in result.stderr


def test_gcloud_itself_knows_the_arguments(tmp_path):
    if not shutil.which('gcloud'):
        pytest.skip("gcloud's parser is not installed: https://cloud.google.com/sdk/docs/install")
    flags = [
        '--slices=2', '--spot', '--network=n', '--subnetwork=s', '--service_account=a@b',
        '--valid_until=24h', '--internal_ips', '--create_flag=--labels=team=a',
        '--steps=create,install,status,delete', '--dry_run',
    ]  # fmt: skip
    printed = subprocess.run(
        ['bash', ROOT / 'launch/tpu_vm.sh', *WHERE, *flags],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    commands = [shlex.split(line) for line in re.findall(r'^gcloud .*', printed, re.M)]
    kinds = {tuple(command[3:5]): command for command in commands}
    assert len(kinds) == 4
    environment = os.environ | {'CLOUDSDK_CONFIG': str(tmp_path), 'CLOUDSDK_CORE_PROJECT': 'p'}
    for command in kinds.values():
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=120,
        )  # fmt: skip
        # Without an account it goes no further than its parser.
        assert 'active account' in result.stderr, result.stderr
