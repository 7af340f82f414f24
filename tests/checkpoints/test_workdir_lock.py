"""A directory belongs to one run at a time, in a folder and in a bucket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from rt2_jax import paths
from rt2_jax.checkpoints import workdir_lock

RUN = """
import sys, time
from rt2_jax import paths
from rt2_jax.checkpoints import workdir_lock
with workdir_lock.hold(paths.of(sys.argv[1]), beat=0.2):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=['folder', 'bucket'])
def workdir(request, tmp_path):
    where = tmp_path if request.param == 'folder' else request.getfixturevalue('bucket').url
    return paths.of(f'{where}/runs/here')


def write_owner(workdir, **fields):
    owner = workdir_lock.Owner.this()
    workdir.mkdir(parents=True, exist_ok=True)
    record = vars(owner) | fields
    paths.write(workdir / workdir_lock.NAME, json.dumps(record).encode())
    return owner


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    workdir = paths.of(tmp_path / 'run')
    first = subprocess.Popen(
        [sys.executable, '-c', RUN, str(workdir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == 'held\n'
        words = f'in use by process {first.pid} on {socket.gethostname()}, which started at 20'
        with pytest.raises(workdir_lock.WorkdirInUse, match=words):
            with workdir_lock.hold(workdir):
                pass
    finally:
        first.send_signal(signal.SIGKILL)  # leaves its file behind
        first.wait()
    begin = time.monotonic()
    with workdir_lock.hold(workdir):
        assert json.loads(paths.read(workdir / workdir_lock.NAME))['pid'] == os.getpid()
    assert time.monotonic() - begin < 5


def test_the_file_goes_with_the_run(workdir):
    with workdir_lock.hold(workdir) as lock:
        assert paths.files(workdir).keys() == {workdir_lock.NAME}
        lock.check()
    assert not paths.files(workdir)


def test_of_another_host_only_the_beat_tells(workdir):
    """One that stands still is taken over; one that goes on is refused."""
    write_owner(workdir, host='elsewhere', pid=1)
    with workdir_lock.hold(workdir, stale=0.5):
        assert json.loads(paths.read(workdir / workdir_lock.NAME))['host'] == socket.gethostname()
    owner = write_owner(workdir, host='elsewhere', pid=1)
    lock = workdir_lock.Lock(workdir, owner, beat=0.05)
    paths.write(
        workdir / workdir_lock.NAME, json.dumps(vars(owner) | {'host': 'elsewhere'}).encode()
    )
    with pytest.raises(workdir_lock.WorkdirInUse, match='in use by'):
        with workdir_lock.hold(workdir, stale=5):
            pass
    lock.release()


def test_a_run_that_was_taken_over_stops_and_leaves_the_file(workdir):
    with workdir_lock.hold(workdir, beat=0.05) as lock:
        other = write_owner(workdir, host='elsewhere')
        end = time.monotonic() + 10
        with pytest.raises(workdir_lock.WorkdirInUse, match='taken over by .* on elsewhere'):
            while time.monotonic() < end:
                lock.check()
                time.sleep(0.02)
    assert json.loads(paths.read(workdir / workdir_lock.NAME))['token'] == other.token


def test_a_damaged_file_is_nobodys(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    paths.write(workdir / workdir_lock.NAME, b'{"host":')
    with workdir_lock.hold(workdir):
        pass
