"""Compiling for minutes: progress while it lasts, and what the compiler says where it fails."""

from collections.abc import Callable
import concurrent.futures
import dataclasses
import os
import re
import threading
import time
from typing import Any, TextIO, TypeVar

from etils import epath
import jax

T = TypeVar('T')

_UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
# '24.33G', '15.75 GiB', 'size=17179869184', 'allocate 1234567 bytes'.
_SIZE = re.compile(r'\b(\d+(?:\.\d+)?)\s?([KMGT])(?:i?B)?\b|(?:size=|allocat\w+ )(\d+)\b')


@dataclasses.dataclass(frozen=True)
class Failure:
    """A program that the compiler refused.

    Attributes:
        message: the first line of what the compiler said.
        out_of_memory: whether it said that the device's memory is too small.
        needed: bytes that one device would need, where the message names them.
        limit: bytes that one device has, where the message names them.
    """

    message: str
    out_of_memory: bool
    needed: int | None = None
    limit: int | None = None


def read_failure(text: str) -> Failure:
    """Reads the compiler's message; any wording is a `Failure`.

    Compilers word this differently in each version, but all name what is needed before what is there:

        Ran out of memory on HBM, the total memory required for HLO temporaries (24.33G) exceeds
        available HBM (15.75G).                                                    libtpu 0.0.42.1
        Ran out of memory in memory space hbm. Used 21.95G of 15.48G hbm.          libtpu of 2020-2025
        Allocation (size=34359738368) would exceed memory (size=17179869184)       libtpu, one array
        Out of memory while trying to allocate 34359738368 bytes.                  GPU

    Args:
        text: of a `jax.errors.JaxRuntimeError`.
    """
    message = text.strip().splitlines()[0].strip() if text.strip() else 'no message'
    lowered = text.lower()
    if 'resource_exhausted' not in lowered and 'out of memory' not in lowered:
        return Failure(message, out_of_memory=False)
    sizes = [
        int(match[3]) if match[3] else int(float(match[1]) * _UNITS[match[2]])
        for match in _SIZE.finditer(text)
    ]
    needed = sizes[0] if sizes else None
    # A limit that is larger than the need is some other number.
    limit = sizes[1] if len(sizes) > 1 and sizes[1] < sizes[0] else None
    return Failure(message, out_of_memory=True, needed=needed, limit=limit)


def use_cache(directory: epath.PathLike) -> None:
    """Keeps compiled programs in a directory from now on, and takes them from there."""
    jax.config.update('jax_compilation_cache_dir', os.fspath(directory))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def trace_and_compile(trace: Callable[[], Any], stream: TextIO) -> tuple[Any, Any, float]:
    """Traces, lowers and compiles a program, with progress lines.

    Args:
        trace: gives the traced function, as `jax.jit(...).trace` does.
        stream: where progress goes.

    Returns:
        The traced function; the compiled program, or a `Failure`; and seconds in all.
    """
    begin = time.perf_counter()
    traced = with_progress('tracing', trace, stream)
    lowered = with_progress('lowering', traced.lower, stream)
    try:
        compiled = with_progress('compiling', lowered.compile, stream)
    except jax.errors.JaxRuntimeError as error:
        compiled = read_failure(str(error))
    return traced, compiled, time.perf_counter() - begin


def with_progress(phase: str, work: Callable[[], T], stream: TextIO, every: float = 15.0) -> T:
    """Returns `work()`, and writes a line every so often while it lasts.

    The work runs in a thread of its own, because the compiler does not let go of Python: so Ctrl-C
    raises KeyboardInterrupt here at once. The thread cannot be stopped; the process should end then.

    Args:
        phase: what is done, for the lines.
        work: what to do.
        stream: where the lines go.
        every: seconds between two lines.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    threading.Thread(target=_fulfil, args=(future, work), daemon=True).start()
    begin = time.perf_counter()
    while not concurrent.futures.wait([future], timeout=every).done:
        print(f'{phase}: {time.perf_counter() - begin:.0f} s so far', file=stream, flush=True)
    return future.result()


def _fulfil(future: concurrent.futures.Future, work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # goes on in the thread that waits
        future.set_exception(error)
