"""SIGTERM and Ctrl-C: training saves at the next step and stops, in all processes at once."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def on_signal() -> Iterator[Callable[[int], bool]]:
    """Gives stop(step), asked once a step: True in every process once a signal came to any.

    A second Ctrl-C ends the process at once. Python acts on a signal when a call into JAX returns,
    so while the program compiles, both wait.
    """
    several = jax.process_count() > 1
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print('Ctrl-C: saving; once more ends without it', file=sys.stderr, flush=True)
        if several:
            # JAX agrees on a step over SIGTERM alone.
            os.kill(os.getpid(), signal.SIGTERM)
        received.append(number)

    handlers = {signal.SIGINT: interrupt}
    if not several:
        handlers[signal.SIGTERM] = lambda number, _: received.append(number)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        # With several processes, JAX has taken SIGTERM itself.
        yield multihost_utils.reached_preemption_sync_point if several else lambda _: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
