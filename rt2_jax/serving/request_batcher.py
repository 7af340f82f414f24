"""Batches of many robots' requests, computed by the one thread that owns the policy.

    accepted -> waiting -> in a batch -> answered
                   |
                   +-> expired: never computed

A batch starts as soon as the device is free. While it computes, others arrive, so the next one is as
large as it can be without anybody waiting for it to fill: a lone robot is a batch of one at once. With
`longest_wait` above 0 a batch that is not full waits that long for more.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
import dataclasses
import threading
import time
from typing import Any

from absl import logging

from rt2_jax.policy.runner import Inputs
from rt2_jax.serving.limits import SEND_AGAIN, Expired, Failed


@dataclasses.dataclass(eq=False)
class Ticket:
    """A request that waits for its batch. Times are of time.monotonic, seconds.

    Attributes:
        inputs: of the policy; only their kind is looked at here.
        deadline: when nobody wants the answer any more.
        queued: when it began to wait.
        answer: of the policy; the future belongs to the event loop.
        started: when its batch began, 0 before.
        computed: how long the batch took.
        batch: how many were in it.
    """

    inputs: Inputs
    deadline: float
    queued: float
    answer: asyncio.Future
    started: float = 0.0
    computed: float = 0.0
    batch: int = 0


class Batcher:
    """Makes batches of one kind of answer, oldest request first.

    Args:
        compute: inputs to as many answers.
        largest: most requests of a batch.
        longest_wait: seconds that the oldest request waits for a batch to fill.
        on_batch: called with the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Inputs]], Sequence[Any]],
        *,
        largest: int,
        longest_wait: float = 0.0,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        if largest < 1 or longest_wait < 0:
            raise ValueError(
                f'A batch of at most {largest} requests that waits {longest_wait} s for them: at '
                'least 1 and 0 are needed.'
            )
        self._compute, self._largest, self._longest_wait = compute, largest, longest_wait
        self._on_batch = on_batch
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def start(
        self, warm_up: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        """Starts the thread, which warms up first.

        Args:
            warm_up: called in the thread.
            done: called on the event loop with the error that the warm-up raised, None if it went well.
        """
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, args=(warm_up, done), name='policy')
        self._thread.start()

    def submit(self, inputs: Inputs, deadline: float) -> Ticket:
        """Puts a request into the queue; called on the event loop."""
        ticket = Ticket(inputs, deadline, time.monotonic(), self._loop.create_future())
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    async def wait(self, ticket: Ticket) -> Any:
        """The answer; Expired as soon as the deadline passes before its batch began."""
        remaining = ticket.deadline - time.monotonic()
        done, _ = await asyncio.wait([ticket.answer], timeout=max(remaining, 0))
        if not done:
            with self._changed:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    raise _expired()
        return await ticket.answer

    def close(self) -> None:
        """Ends the thread when all that waits is computed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    def _work(self, warm_up: Callable[[], None], done: Callable[..., None]) -> None:
        try:
            warm_up()
        except BaseException as error:
            self._loop.call_soon_threadsafe(done, error)
            return
        self._loop.call_soon_threadsafe(done, None)
        while batch := self._next():
            self._on_batch(len(batch))
            try:
                answers = self._compute([ticket.inputs for ticket in batch])
            except Exception:  # the others' batches go on
                logging.exception('a batch of %d failed', len(batch))
                failure = Failed('The policy failed; the server has logged why.')
                answers = [failure] * len(batch)
            took = time.monotonic() - batch[0].started
            for ticket in batch:
                ticket.computed, ticket.batch = took, len(batch)
            self._loop.call_soon_threadsafe(_deliver, batch, answers)

    def _next(self) -> list[Ticket]:
        """The next batch; empty once closed and done."""
        with self._changed:
            while True:
                now = time.monotonic()
                if not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                # The event loop may be too busy to notice these, or their clients may be gone.
                late = [ticket for ticket in self._waiting if ticket.deadline <= now]
                if late:
                    self._remove(late)
                    errors = [_expired() for _ in late]
                    self._loop.call_soon_threadsafe(_deliver, late, errors)
                    continue
                oldest = self._waiting[0]
                kind = oldest.inputs.kind
                batch = [ticket for ticket in self._waiting if ticket.inputs.kind == kind]
                remaining = oldest.queued + self._longest_wait - now
                if len(batch) < self._largest and remaining > 0 and not self._closed:
                    self._changed.wait(remaining)
                    continue
                batch = batch[: self._largest]
                for ticket in batch:
                    ticket.started = now
                self._remove(batch)
                return batch

    def _remove(self, tickets: Sequence[Ticket]) -> None:
        removed = set(map(id, tickets))
        self._waiting = collections.deque(x for x in self._waiting if id(x) not in removed)


def _expired() -> Expired:
    return Expired(f'The deadline passed while the request waited. {SEND_AGAIN}')


def _deliver(batch: Sequence[Ticket], answers: Sequence[Any]) -> None:
    for ticket, answer in zip(batch, answers, strict=True):
        if ticket.answer.done():  # the client has gone
            continue
        if isinstance(answer, Exception):
            ticket.answer.set_exception(answer)
        else:
            ticket.answer.set_result(answer)
