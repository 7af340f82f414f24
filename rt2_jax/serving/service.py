"""From a message to its answer, whichever protocol brought it: the parts of the server, put together.

message -> read, checked, resized (threads) -> batch (the policy's thread) -> answer
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import dataclasses
import time
from typing import Any

from absl import logging
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from rt2_jax.decoding.grammar import Kind
from rt2_jax.nearest import check
from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import CONVENTIONS, Convention
from rt2_jax.serving.batching import Batcher
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.metrics import Metrics
from rt2_jax.serving.refusals import (
    SEND_AGAIN,
    Expired,
    Failed,
    Malformed,
    NotReady,
    Overloaded,
    Refusal,
)
from rt2_jax.serving.requests import Asked
from rt2_jax.serving.robots import Connected


@dataclasses.dataclass(frozen=True)
class Settings:
    """How requests are batched, and how many may wait.

    Attributes:
      longest_wait: seconds that a batch that isn't full waits for more.
      queue: most requests that are accepted and not answered yet.
      deadline: seconds after which a request that is still waiting is not computed any more.
      threads: that read and resize.
      temperature: of what is sampled; 0 takes the likeliest.
      convention: in whose numbers clients are answered that ask for no other
        (`rt2_jax/policy/conventions.py`); None for 'robot', or 'internal' where the policy knows no card.
    """

    longest_wait: float = 0.0
    queue: int = 256
    deadline: float = 10.0
    threads: int = 2
    temperature: float = 0.0
    convention: str | None = None

    def __post_init__(self):
        if self.queue < 1 or self.threads < 1 or self.deadline <= 0:
            raise ValueError(
                f'queue is {self.queue}, threads {self.threads}, deadline {self.deadline} s; at '
                'least 1, at least 1 and above 0 are needed.'
            )
        if self.convention is not None:
            check('convention', self.convention, CONVENTIONS)


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """What became of a request.

    Attributes:
      asked: the request.
      answer: a Decision, or the text that was asked for; None where nothing was.
      milliseconds: by stage, as in metrics.STAGES.
      batch: how many requests were computed together.
    """

    asked: Asked
    answer: Any
    milliseconds: dict[str, float]
    batch: int


@dataclasses.dataclass
class Request:
    """What is known of a request so far: `wants` is 'action', 'text' or 'reset' once it is read."""

    wants: str = 'unknown'


class Service:
    """A policy that many clients share.

    The largest batch is the largest of the policy's `batch_sizes`.

    Attributes:
      robots: how many are connected by websocket.
      failure: what made the warm-up fail.
    """

    def __init__(
        self, policy: Policy, *, limits: Limits = Limits(), settings: Settings = Settings()
    ):
        self.policy, self.limits, self.settings = policy, limits, settings
        policy.convention(settings.convention)  # raises where there is no such
        self._batcher = Batcher(
            self._compute,
            largest=policy.batch_sizes[-1],
            longest_wait=settings.longest_wait,
            on_batch=lambda size: self.metrics.batch_size.observe(size),
        )
        self.metrics = Metrics(lambda: self._batcher.depth, lambda: policy.clipped_prompts)
        self._threads = concurrent.futures.ThreadPoolExecutor(settings.threads, 'prepare')
        self._acts = Kind.PLAN if policy.plan else Kind.ACTION
        self._accepted = 0
        self.robots = 0
        self._warm = self._stopping = False
        self._settled = asyncio.Event()
        self.failure: BaseException | None = None

    @property
    def ready(self) -> bool:
        return self._warm and not self._stopping

    @property
    def accepted(self) -> int:
        """How many requests are accepted and not answered yet."""
        return self._accepted

    def start(self, failed: Callable[[], None]) -> None:
        """Warms up in the policy's thread; `failed` is called if that raises (see `failure`)."""

        def done(error: BaseException | None) -> None:
            self.failure, self._warm = error, error is None
            self._settled.set()
            if error is not None:
                failed()
            else:
                logging.info('ready')

        self._batcher.start(self._warm_up, done)

    def refuse_more(self) -> None:
        """From now on nothing is accepted."""
        self._stopping = True
        self._settled.set()

    async def warm(self) -> None:
        """Waits for the end of the warm-up; NotReady if the server stops instead."""
        await self._settled.wait()
        self.check_ready()

    async def stop(self) -> None:
        """Ends the threads; what was accepted is to be answered before."""
        self.refuse_more()
        await asyncio.get_running_loop().run_in_executor(None, self._batcher.close)
        self._threads.shutdown()

    def convention(self, name: str | None = None) -> Convention:
        """The convention of this name, of the settings' by default; Malformed if there is none."""
        try:
            return self.policy.convention(name or self.settings.convention)
        except ValueError as error:
            raise Malformed(str(error)) from error

    def new_robot(self, convention: Convention) -> Connected:
        return Connected(self.policy, convention)

    def connected(self, number: int) -> None:
        """A robot came (1) or left (-1)."""
        self.robots += number
        self.metrics.connections.set(self.robots)

    @contextlib.contextmanager
    def counted(self, protocol: str) -> Iterator[Request]:
        """Around one request, from its message to the answer's last byte: counts how it ends."""
        request, outcome = Request(), 'answered'
        try:
            yield request
        except Refusal as refusal:
            outcome = refusal.outcome
            raise
        except (ClientDisconnect, WebSocketDisconnect, asyncio.CancelledError):
            outcome = 'disconnected'
            raise
        except Exception as error:
            logging.exception('a request by %s failed', protocol)
            outcome = Failed.outcome
            raise Failed('The server failed, and has logged why.') from error
        finally:
            self.metrics.requests.labels(protocol, request.wants, outcome).inc()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Around one request, from when it is all here to the answer's last byte: accepts it.

        Raises:
          NotReady, Overloaded: it is not accepted.
        """
        self.check_ready()
        if self._accepted >= self.settings.queue:
            raise Overloaded(
                f'Overloaded: {self._accepted} requests are being answered. {SEND_AGAIN}'
            )
        self._accepted += 1
        try:
            yield
        finally:
            self._accepted -= 1

    def check_ready(self) -> None:
        """NotReady before the warm-up has ended, and when shutting down."""
        if not self.ready:
            raise NotReady(f'{self.state}.')

    @property
    def state(self) -> str:
        """'Warming up', 'Ready' or 'Shutting down'."""
        if self._stopping:
            return 'Shutting down'
        return 'Ready' if self._warm else 'Warming up'

    async def answer(
        self, request: Request, read: Callable[[], Asked], robot: Connected
    ) -> Answered:
        """Answers one accepted request.

        Args:
          request: of `counted`.
          read: gives what is asked; called in a thread.
          robot: a copy of what is remembered of whose request it is; it changes.

        Raises:
          Refusal: any but Overloaded.
        """
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        asked, prepared = await loop.run_in_executor(self._threads, self._prepare, read, robot)
        if prepared is None:
            request.wants = 'reset'
            return Answered(asked, None, {}, 0)
        request.wants = 'text' if asked.wants_text else 'action'
        deadline = begin + min(self.settings.deadline, asked.seconds or self.settings.deadline)
        if time.monotonic() > deadline:
            raise Expired(f'The deadline passed while the request was read. {SEND_AGAIN}')
        ticket = self._batcher.submit(prepared, deadline)
        answer = await self._batcher.answered(ticket)
        seconds = {
            'prepare': ticket.queued - begin,
            'queue': ticket.started - ticket.queued,
            'infer': ticket.computed,
            'total': time.monotonic() - begin,
        }
        for stage, took in seconds.items():
            self.metrics.seconds[stage].observe(took)
        milliseconds = {stage: 1000 * took for stage, took in seconds.items()}
        return Answered(asked, answer, milliseconds, ticket.batch)

    def _prepare(self, read: Callable[[], Asked], robot: Connected) -> tuple[Asked, Any]:
        asked = read()
        observation = robot.observation(asked)
        if observation is None:
            return asked, None
        kind = Kind.TEXT if asked.wants_text else self._acts
        try:
            return asked, self.policy.prepare(observation, asked.text, kind, raw=asked.wants_text)
        except ValueError as error:
            raise Malformed(str(error)) from error

    def _compute(self, batch: list[Any]) -> list[Any]:
        return self.policy.run(batch, temperature=self.settings.temperature)

    def _warm_up(self) -> None:
        """Every batch size and kind of answer that will be used."""
        for size in self.policy.batch_sizes:
            for kind in (self._acts, Kind.TEXT):
                if self._stopping:
                    return
                begin = time.monotonic()
                self.policy.warm_up([size], [kind])
                took = time.monotonic() - begin
                logging.info('warmed up %s for batches of %d: %.1f s', kind.name, size, took)
