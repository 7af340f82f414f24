"""Runs jobs of episodes in several processes, with progress; a failure stops them all.

A job writes its parts into one directory, and the same command goes on with an interrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import concurrent.futures
import concurrent.futures.process
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from typing import Any

from absl import logging
from etils import epath

from rt2_jax import exit_codes, paths, records
from rt2_jax.errors import UserError


def run(task: Callable, jobs: list[tuple], processes: int, done_word: str) -> None:
    """Calls task(*job) for each job in parallel; the first failure ends it all.

    Args:
        task: calls `tick` after every episode.
        jobs: arguments, the last two of which are the first episode and the one after the last.
        processes: at once.
        done_word: what has happened to an episode that is done, for the line of progress.

    Raises:
        BrokenProcessPool: a process died.
    """
    # OpenGL contexts and threads don't survive a fork.
    context = multiprocessing.get_context('spawn')
    done, stop = context.SimpleQueue(), context.Event()
    progress = threading.Thread(
        target=_report,
        args=(done, sum(end - start for *_, start, end in jobs), done_word),
        daemon=True,
    )
    progress.start()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(jobs)) or 1,
        mp_context=context,
        initializer=_start_worker,
        initargs=(done, stop),
    )
    try:
        futures = [pool.submit(task, *job) for job in jobs]
        for future in concurrent.futures.as_completed(futures):
            future.result()
    except BaseException as error:
        stop.set()
        pool.shutdown(cancel_futures=True)
        if not isinstance(error, concurrent.futures.process.BrokenProcessPool):
            logging.error('stopped; run the same command again to go on with it')
        raise
    finally:
        done.put(None)
        progress.join()
    pool.shutdown()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """For a command: SIGTERM, too, ends its workers as Ctrl-C does, and then it with exit code STOPPED."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(exit_codes.STOPPED)


def claim(directory: epath.Path, note: str, about: Any, kind: str, error: type[UserError]) -> Any:
    """Makes a directory ready for a job's parts.

    Args:
        directory: where they are to lie.
        note: name of the file that says what the job is.
        about: what it is, for JSON.
        kind: what the job makes, for messages.
        error: the class of the error to raise.

    Returns:
        What the note says: `about`, or what another job was.

    Raises:
        UserError: of the class `error`; something else lies there.
    """
    path = directory / note
    if path.exists():
        return records.read(path, error)
    if directory.exists() and any(directory.iterdir()):
        raise error(
            f"{directory} isn't empty and holds no {kind} of this program; choose another --output"
        )
    directory.mkdir(parents=True, exist_ok=True)
    paths.write(path, json.dumps(about, indent=2).encode())
    return about


def clear(directory: epath.Path) -> None:
    """Deletes what an interrupted job had half written."""
    for name in paths.files(directory):
        if os.path.basename(name).startswith(paths.NEW):
            paths.delete(directory / name)


_done: Any = None  # a worker's end of the progress queue
_stop: Any = None  # and of the event that stops it


def tick() -> None:
    """Counts an episode; called in a worker.

    Raises:
        InterruptedError: another job failed, or Ctrl-C was pressed.
    """
    _done.put(1)
    if _stop.is_set():
        raise InterruptedError('stopped')


def _start_worker(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    # Ctrl-C reaches every process; the parent stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _report(done: Any, episodes: int, done_word: str) -> None:
    """Prints progress until None arrives: one rewritten line on a terminal, else one in 10 s."""
    terminal = sys.stderr.isatty()
    begun = last = time.monotonic()
    finished = 0
    while done.get() is not None:
        finished += 1
        now = time.monotonic()
        if finished < episodes and now - last < (0.2 if terminal else 10.0):
            continue
        last = now
        rate = finished / max(now - begun, 1e-9)
        line = (
            f'{done_word} {finished}/{episodes} episodes, {rate:.1f} a second, '
            f'{(episodes - finished) / rate:.0f} s left'
        )
        print(
            f'\r{line}\033[K' if terminal else line,
            end='' if terminal else '\n',
            file=sys.stderr,
            flush=True,
        )
    if terminal and finished:
        print(file=sys.stderr)
