"""How an index is made, whatever it is of: resumable, by several processes, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import errno
import hashlib
import multiprocessing
import os
import shutil
from typing import Any, Protocol, TypeVar

from absl import logging
from etils import epath

from rt2_jax.data import files, remote
from rt2_jax.data.errors import DataSetError

ABOUT = 'index.json'
ON_CORRUPT = ('raise', 'skip')

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Job(Protocol):
    """Attributes: result, the file that the job writes."""

    result: str


Job = TypeVar('Job', bound=_Job)


def place(location: epath.PathLike | None, directory: epath.PathLike, name: str) -> epath.Path:
    """The folder of an index: `location`, or else the default one of that name.

    That is inside the data set or, of a remote one, in the user's cache.

    Raises:
      ValueError: a remote location.
    """
    if location and remote.is_remote(location):
        raise ValueError(
            f'an index is mapped into memory, so its location must be a local folder, not {location}'
        )
    if location:
        return epath.Path(location)
    directory = files.path(directory)
    if not isinstance(directory, epath.Path):
        directory = files.default_cache() / str(directory).replace('://', '/').rstrip('/')
    return directory / 'rt2_index' / name


def building(location: epath.Path) -> epath.Path:
    """The folder in which an index is being made."""
    return location.with_name(f'{location.name}.building')


def combined(fingerprints: Sequence[str]) -> str:
    """One fingerprint of a data set from those of its files, in order."""
    return hashlib.sha256(''.join(fingerprints).encode()).hexdigest()[:32]


def build(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    join: Callable[[], None],
    *,
    directory: epath.PathLike,
    location: epath.Path,
    processes: int | None,
    worth_it: bool,
    progress: Callable[[int, int], None] | None,
) -> epath.Path:
    """Does the jobs whose results aren't there yet, then joins the results; returns `location`.

    Args:
      work: does a job, into the file `job.result`; a module's function, so that it can go to another
        process.
      jobs: all of them; results lie in `building(location)`.
      join: writes the index.
      directory: what is indexed.
      location: the index's folder.
      processes: how many to use; by default one a core where that is `worth_it`.
      worth_it: whether the jobs take longer than starting processes.
      progress: called with (jobs done, jobs in all).

    Raises:
      OSError: no room on the disk; says what to do about it. What is done stays.
    """
    scratch = building(location)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        todo = [job for job in jobs if not os.path.exists(job.result)]
        done = len(jobs) - len(todo)
        if done:
            logging.info('%s: goes on, %d of %d parts are there', location, done, len(jobs))
        if done and progress:
            progress(done, len(jobs))
        for done, _ in enumerate(_run(work, todo, processes, worth_it), start=done + 1):
            if progress:
                progress(done, len(jobs))
        join()
    except DataSetError:
        shutil.rmtree(scratch, ignore_errors=True)  # to another card the parts are of no use
        raise
    except OSError as error:
        if _is_no_room(error):
            raise _no_room(error, directory, scratch, jobs) from error
        # Another process indexing the same data came first and took the parts; its index is as good.
        of_parts = str(error.filename or '').startswith(str(scratch))
        if not (isinstance(error, FileNotFoundError) and of_parts and (location / ABOUT).exists()):
            raise
    shutil.rmtree(scratch, ignore_errors=True)
    return location


def _run(
    work: Callable[[Job], Any], jobs: Sequence[Job], processes: int | None, worth_it: bool
) -> Iterator[None]:
    """Does jobs, in any order; yields after each."""
    if processes is None:
        processes = min(len(jobs), os.cpu_count() or 1) if worth_it else 1
    if processes <= 1:
        for job in jobs:
            work(job)
            yield
        return
    # Forking a process that runs JAX's threads may hang it.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(work, job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(running):
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_no_room(error: OSError) -> bool:
    # Where it writes less than it was asked to, numpy says so in words alone.
    return error.errno in _NO_ROOM or (error.errno is None and 'requested and' in str(error))


def _no_room(error: OSError, directory, scratch: epath.Path, jobs: Sequence[Job]) -> OSError:
    """The error with what to do about it."""
    number, done = error.errno or errno.ENOSPC, sum(os.path.exists(job.result) for job in jobs)
    return OSError(
        number,
        f'{os.strerror(number)} while indexing {directory}: {done} of {len(jobs)} parts are done and '
        f'kept in {scratch}. Make room, or set `location` to a folder on another disk, and run the '
        'same command again',
    )


@contextlib.contextmanager
def written(location: epath.Path) -> Iterator[epath.Path]:
    """Gives a folder to write to, which takes its place at `location` once all is written."""
    temporary = location.with_name(f'{location.name}.incomplete-{os.getpid()}')
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _move_into_place(temporary, location)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: epath.Path, location: epath.Path) -> None:
    stale = location.with_name(f'{location.name}.stale-{os.getpid()}')
    try:
        os.rename(location, stale)
    except FileNotFoundError:
        pass
    try:
        os.rename(temporary, location)
    except OSError:
        # Another process indexing the same data at the same time came first; its index is as good.
        if not (location / ABOUT).exists():
            raise
    if stale.exists():
        shutil.rmtree(stale)
