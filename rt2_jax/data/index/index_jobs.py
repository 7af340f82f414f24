"""Runs the jobs of building an index, by the processes of one machine or of several.

An index is made whole or not at all; what a stopped build left is used by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import errno
import multiprocessing
import os
import shutil
from typing import Any

from absl import logging
from etils import epath

from rt2_jax import paths
from rt2_jax.data import remote_files
from rt2_jax.data.data_errors import DataSetError, IndexMismatch
from rt2_jax.data.index import index_places

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to write.

    Attributes:
        result: the file.
        write: writes it; can go to another process.
    """

    result: str
    write: Callable[[], None]


class _OneProcess:
    """Stands in for `parallel.distributed` where a process works alone."""

    by_leader = staticmethod(lambda work: work())
    together = staticmethod(lambda work: [work()])
    share = staticmethod(lambda work: work)


def processes_of(together: bool) -> Any:
    """The processes that index: this one, or all of the job (`parallel.distributed`)."""
    if not together:
        return _OneProcess
    # Workers that index import this file, and need no JAX.
    from rt2_jax.parallel import distributed  # pylint: disable=g-import-not-at-top

    return distributed


def ask_once(question: Callable[[], list], directory: epath.PathLike, together: bool) -> list:
    """What a question about a data set returns; one process asks for all where the set is remote.

    Args:
        question: returns what JSON can say.
        directory: the data set.
        together: whether all processes of the job call this.
    """
    processes = processes_of(together)
    if remote_files.is_remote(directory):
        return processes.by_leader(question)
    results = []
    processes.together(lambda: results.extend(question()))
    return results


def build(
    jobs: Sequence[Job],
    join: Callable[[], None],
    *,
    directory: epath.PathLike,
    location: epath.Path,
    processes: int,
    progress: Progress | None = None,
    together: bool = False,
    again: bool = True,
) -> epath.Path:
    """Does the jobs whose results are missing, then joins the results.

    Args:
        jobs: all of them; results lie in `index_places.scratch(location)`.
        join: writes the index.
        directory: the data set.
        location: the index's folder, of this machine or of a bucket.
        processes: how many to use on this machine.
        progress: called with (jobs done, jobs in all), of this machine.
        together: whether all processes of the job call this: each does its share of the jobs, and the
            leader joins the results.
        again: whether an index that is there, or that another process makes meanwhile, is made again.

    Returns:
        `location`.

    Raises:
        OSError: no room on the disk; says what to do about it. Finished parts stay.
    """
    scratch = index_places.scratch(location)
    with contextlib.nullcontext() if together else index_places.locked(scratch):
        if not (together or again) and index_places.exists(location):
            shutil.rmtree(scratch, ignore_errors=True)
            return location
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            _build(jobs, join, location, processes, progress, processes_of(together))
        except DataSetError:
            shutil.rmtree(scratch, ignore_errors=True)  # to another card the parts are of no use
            raise
        except OSError as error:
            if _is_no_room(error):
                raise _no_room(error, directory, scratch, jobs) from error
            raise
        shutil.rmtree(scratch, ignore_errors=True)
    return location


def _build(
    jobs: Sequence[Job],
    join: Callable[[], None],
    location: epath.Path,
    processes: int,
    progress: Progress | None,
    group: Any,
) -> None:
    parts = index_places.building(location)
    present = group.by_leader(lambda: list(paths.files(parts)))
    missing = [job for job in jobs if os.path.basename(job.result) not in present]
    done = len(jobs) - len(missing)
    if done:
        logging.info('%s: goes on, %d of %d parts are there', location, done, len(jobs))
    running = _run(group.share(missing), processes)
    group.together(lambda: _collect(running, parts, done, len(jobs), progress))
    group.by_leader(lambda: _finish(jobs, parts, join))


def _run(jobs: Sequence[Job], processes: int) -> Iterator[Job]:
    """Does jobs, in any order; yields each when it is done."""
    if processes <= 1:
        for job in jobs:
            job.write()
            yield job
        return
    # Forking a process that runs JAX's threads may hang it.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(job.write): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(running):
                future.result()
                yield running[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(
    finished: Iterator[Job], parts: epath.Path, done: int, total: int, progress: Progress | None
) -> None:
    """Puts the results of jobs where all processes find them."""
    if done and progress:
        progress(done, total)
    for done, job in enumerate(finished, start=done + 1):
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


def _is_no_room(error: OSError) -> bool:
    # Where it writes less than it should, numpy says so in words alone.
    return error.errno in _NO_ROOM or (error.errno is None and 'requested and' in str(error))


def _no_room(
    error: OSError, directory: epath.PathLike, scratch: epath.Path, jobs: Sequence[Job]
) -> OSError:
    """The error with what to do about it."""
    number, done = error.errno or errno.ENOSPC, sum(os.path.exists(job.result) for job in jobs)
    return OSError(
        number,
        f'{os.strerror(number)} while indexing {directory}: {done} of {len(jobs)} parts are done and '
        f'kept in {scratch}. Make room, or set `location` to a folder on another disk, and run the '
        'same command again',
    )
