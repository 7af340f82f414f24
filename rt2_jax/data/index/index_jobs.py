"""How an index is made, whatever it is of: resumable, whole or not at all, by several processes of one
machine and of several machines.
"""

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

from rt2_jax import paths
from rt2_jax.data import remote
from rt2_jax.data.errors import DataSetError, IndexMismatch
from rt2_jax.data.index import index_places

ON_CORRUPT = ('raise', 'skip')

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Job(Protocol):
    """Attributes: result, the file that the job writes."""

    result: str


Job = TypeVar('Job', bound=_Job)


class _Alone:
    """What `parallel.distributed` does with a job's processes, done by this one alone."""

    by_leader = staticmethod(lambda work: work())
    together = staticmethod(lambda work: [work()])
    share = staticmethod(lambda work: work)


def _processes(together: bool) -> Any:
    if not together:
        return _Alone
    # Workers that index import this file, and need no JAX.
    from rt2_jax.parallel import distributed  # pylint: disable=g-import-not-at-top

    return distributed


def ensure(
    location: epath.Path,
    directory: epath.PathLike,
    build_it: Callable[..., Any],
    *,
    together: bool = False,
) -> None:
    """Builds an index unless it is there.

    Args:
      location: the index's folder.
      directory: what is indexed.
      build_it: builds it; takes `again` as `build`.
      together: whether all processes of the job call this, to build it together.
    """
    if _processes(together).by_leader(lambda: index_places.exists(location)):
        return
    logging.info('indexing %s into %s', directory, location)
    build_it(again=False)


def checked(check: Callable[[], list], directory: epath.PathLike, together: bool) -> list:
    """What a check of a data set returns; of a remote one, all processes of a job leave it to one.

    Args:
      check: returns what JSON can say.
      directory: the data set.
      together: whether all processes of the job call this.
    """
    processes = _processes(together)
    if remote.is_remote(directory):
        return processes.by_leader(check)
    results = []
    processes.together(lambda: results.extend(check()))
    return results


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
    together: bool = False,
    again: bool = True,
) -> epath.Path:
    """Does the jobs whose results aren't there yet, then joins the results; returns `location`.

    Args:
      work: does a job, into the file `job.result`; a module's function, so that it can go to another
        process.
      jobs: all of them; results lie in `index_places.scratch(location)`.
      join: writes the index.
      directory: what is indexed.
      location: the index's folder, of this machine or of a bucket.
      processes: how many to use on this machine; by default one a core where that is `worth_it`.
      worth_it: whether the jobs take longer than starting processes.
      progress: called with (jobs done, jobs in all), of this machine.
      together: whether all processes of the job call this: each does its share of the jobs, and the
        leader joins the results.
      again: whether an index that is there, or that another process makes meanwhile, is made again.

    Raises:
      OSError: no room on the disk; says what to do about it. What is done stays.
    """
    scratch = index_places.scratch(location)
    with contextlib.nullcontext() if together else index_places.alone(scratch):
        if not (together or again) and index_places.exists(location):
            shutil.rmtree(scratch, ignore_errors=True)
            return location
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            _build(work, jobs, join, location, processes, worth_it, progress, _processes(together))
        except DataSetError:
            shutil.rmtree(scratch, ignore_errors=True)  # to another card the parts are of no use
            raise
        except OSError as error:
            if _is_no_room(error):
                raise _no_room(error, directory, scratch, jobs) from error
            raise
        shutil.rmtree(scratch, ignore_errors=True)
    return location


def _build(work, jobs, join, location, processes, worth_it, progress, group) -> None:
    """As `build`, with the processes that `_processes` gives."""
    parts = index_places.building(location)
    present = group.by_leader(lambda: list(paths.files(parts)))
    todo = [job for job in jobs if os.path.basename(job.result) not in present]
    done = len(jobs) - len(todo)
    if done:
        logging.info('%s: goes on, %d of %d parts are there', location, done, len(jobs))
    own = _run(work, group.share(todo), processes, worth_it)
    group.together(lambda: _make(own, parts, done, len(jobs), progress))
    group.by_leader(lambda: _finish(jobs, parts, join))


def _make(
    running: Iterator[Job],
    parts: epath.Path,
    done: int,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Lets jobs run, and puts their results where all processes find them."""
    if done and progress:
        progress(done, total)
    for done, job in enumerate(running, start=done + 1):
        if paths.is_remote(parts):
            paths.upload(job.result, parts / os.path.basename(job.result))
        if progress:
            progress(done, total)


def _finish(jobs: Sequence[Job], parts: epath.Path, join: Callable[[], None]) -> None:
    """Joins the results of all processes."""
    for job in jobs:
        if paths.is_remote(parts) and not os.path.exists(job.result):
            paths.download(parts / os.path.basename(job.result), job.result)
    if missing := [job.result for job in jobs if not os.path.exists(job.result)]:
        raise IndexMismatch(
            f'{len(missing)} of {len(jobs)} parts of the index that other processes made are not in '
            f'{parts}, such as {os.path.basename(missing[0])}: set `location` to a folder that all '
            'hosts reach, or to one of a bucket'
        )
    join()
    if paths.is_remote(parts):
        for name in paths.files(parts):
            paths.delete(parts / name)


def _run(
    work: Callable[[Job], Any], jobs: Sequence[Job], processes: int | None, worth_it: bool
) -> Iterator[Job]:
    """Does jobs, in any order; yields each that is done."""
    if processes is None:
        processes = min(len(jobs), os.cpu_count() or 1) if worth_it else 1
    if processes <= 1:
        for job in jobs:
            work(job)
            yield job
        return
    # Forking a process that runs JAX's threads may hang it.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(work, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(running):
                future.result()
                yield running[future]
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
