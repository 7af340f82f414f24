"""SIGTERM and Ctrl-C stop training at the next step, in all processes at once."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def on_signal() -> Iterator[Callable[[int], bool]]:
    """Handles the signals; yields stop(step), to be called once a step.

    It returns True, in every process, once any process got a signal. A second Ctrl-C ends the process
    at once. Python handles a signal when a call into JAX returns, so during compilation both wait.
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
