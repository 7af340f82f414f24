"""A lock on a run's directory: `running.json` names the run that writes there, with a heartbeat.

A bucket has no locks, so the file is written again every `BEAT` seconds with the next number. A run that
died leaves it behind. The next run takes over at once where it sees that the process is gone (on the same
host), else when the number has not changed for `STALE` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import json
import os
import socket
import threading
import time
import uuid

from absl import logging
from etils import epath

from rt2_jax import paths
from rt2_jax.errors import UserError
from rt2_jax.parallel import distributed

NAME = 'running.json'
BEAT = 15.0  # seconds
STALE = 60.0  # seconds


class WorkdirInUse(UserError):
    """Another run writes into this directory."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Which run a directory belongs to.

    Attributes:
        host, pid: of its leading process.
        started: when it began, ISO 8601 in UTC.
        token: of this start alone.
        beat: how often the file was written.
        seconds: when it was last written, seconds since the epoch by the clock of `host`.
    """

    host: str
    pid: int
    started: str
    token: str
    beat: int
    seconds: float

    @classmethod
    def this(cls) -> Owner:
        """This process, which starts now."""
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        return cls(socket.gethostname(), os.getpid(), started, uuid.uuid4().hex, 0, time.time())

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host}, which started at {self.started}'


class Lock:
    """A lock that is held; see `hold`."""

    def __init__(self, workdir: epath.Path, owner: Owner, beat: float) -> None:
        self._path, self._owner, self._beat = workdir / NAME, owner, beat
        self._other: Owner | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._write()
        self._thread.start()

    def check(self) -> None:
        """Raises WorkdirInUse if another run has taken the directory over."""
        if self._other:
            raise WorkdirInUse(
                f'{self._path.parent} was taken over by {self._other}; this run has stopped'
            )

    def release(self) -> None:
        """Ends the beat and removes the file, unless another run has it by now."""
        self._ended.set()
        self._thread.join()
        if not self._other:
            with contextlib.suppress(paths.PathError):
                paths.delete(self._path)

    def _keep(self) -> None:
        while not self._ended.wait(self._beat):
            try:
                there = _read(self._path)
                if there and there.token != self._owner.token:
                    self._other = there
                    return
                self._write()
            except paths.PathError as error:  # the next beat may get through
                logging.warning('%s', error)

    def _write(self) -> None:
        beat, now = self._owner.beat + 1, time.time()
        self._owner = dataclasses.replace(self._owner, beat=beat, seconds=now)
        paths.write(self._path, json.dumps(dataclasses.asdict(self._owner)).encode())


class NoLock:
    """What `hold` gives the other processes of a job."""

    def check(self) -> None:
        """Does nothing."""


@contextlib.contextmanager
def hold(workdir: epath.Path, beat: float = BEAT, stale: float = STALE) -> Iterator[Lock | NoLock]:
    """Locks a run's directory, on the leading process of a job.

    Every process first checks that it may write there.

    Args:
        workdir: the directory; made if it isn't there, and removed if it stays empty.
        beat: seconds between two writings of the file.
        stale: seconds without one after which a run counts as dead.

    Raises:
        WorkdirInUse: another run is in it, with its host, process and time.
        paths.PathError: the directory cannot be written.
    """
    made = not paths.is_remote(workdir) and not workdir.exists()
    paths.probe(workdir)  # first: at a bucket that does not answer it gives up sooner than the lock
    if not distributed.is_leader():
        yield NoLock()
        return
    owner = _read(workdir / NAME)
    if owner and _runs(workdir, owner, stale):
        raise WorkdirInUse(
            f'{workdir} is in use by {owner}: wait for it, stop it, or take another --workdir'
        )
    lock = Lock(workdir, Owner.this(), beat)
    try:
        yield lock
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(workdir)


def _read(path: epath.Path) -> Owner | None:
    try:
        return Owner(**json.loads(paths.read(path)))
    except (paths.NoSuchPath, ValueError, TypeError):  # nobody's, or of no run
        return None


def _runs(workdir: epath.Path, owner: Owner, stale: float) -> bool:
    """Whether a run is alive: by its process on this host, else by its heartbeat."""
    if owner.host == socket.gethostname():
        if owner.pid == os.getpid() or not _exists(owner.pid):
            return False
        if time.time() - owner.seconds < stale:
            return True
    print(f'{workdir} was used by {owner}: waiting up to {stale:.0f} s for its next sign of life')
    end = time.monotonic() + stale
    while time.monotonic() < end:
        time.sleep(min(1.0, stale / 4))
        there = _read(workdir / NAME)
        if there is None:
            return False
        if (there.token, there.beat) != (owner.token, owner.beat):
            return True
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
