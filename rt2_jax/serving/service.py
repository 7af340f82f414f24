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
from rt2_jax.policy import Policy
from rt2_jax.serving.batching import Batcher
from rt2_jax.serving.description import describe
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.metrics import Metrics
from rt2_jax.serving.refusals import Expired, Failed, Malformed, NotReady, Overloaded, Refusal
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
    """

    longest_wait: float = 0.0
    queue: int = 256
    deadline: float = 10.0
    threads: int = 2
    temperature: float = 0.0

    def __post_init__(self):
        if self.queue < 1 or self.threads < 1 or self.deadline <= 0:
            raise ValueError(
                f'queue is {self.queue}, threads {self.threads}, deadline {self.deadline} s; at '
                'least 1, at least 1 and above 0 are needed.'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """What became of a request.

    Attributes:
      answer: a Decision, or the text that was asked for.
      milliseconds: by stage, as in metrics.STAGES.
      batch: how many requests were computed together.
    """

    answer: Any
    milliseconds: dict[str, float]
    batch: int


@dataclasses.dataclass
class Request:
    """What is known of a request so far: `wants` is 'action' or 'text' once it has been read."""

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
        self.metadata = describe(policy)
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
            if error is not None:
                failed()
            else:
                logging.info('ready')

        self._batcher.start(self._warm_up, done)

    def refuse_more(self) -> None:
        """From now on nothing is accepted."""
        self._stopping = True

    async def stop(self) -> None:
        """Ends the threads; what was accepted is to be answered before."""
        self.refuse_more()
        await asyncio.get_running_loop().run_in_executor(None, self._batcher.close)
        self._threads.shutdown()

    def new_robot(self) -> Connected:
        return Connected(self.policy)

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
                f'Overloaded: {self._accepted} requests are being answered. Try again later.'
            )
        self._accepted += 1
        try:
            yield
        finally:
            self._accepted -= 1

    def check_ready(self) -> None:
        """NotReady before the warm-up has ended, and when shutting down."""
        if not self.ready:
            raise NotReady('Shutting down.' if self._stopping else 'Warming up.')

    async def answer(
        self, request: Request, read: Callable[[], Asked], robot: Connected
    ) -> Answered:
        """Answers one accepted request.

        Args:
          request: of `counted`.
          read: gives what is asked; called in a thread.
          robot: whose request it is; one at a time.

        Raises:
          Refusal: any but Overloaded.
        """
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        asked, prepared = await loop.run_in_executor(self._threads, self._prepare, read, robot)
        request.wants = 'text' if asked.wants_text else 'action'
        deadline = begin + min(self.settings.deadline, asked.seconds or self.settings.deadline)
        if time.monotonic() > deadline:
            raise Expired('The deadline passed while the request was read.')
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
        return Answered(answer, milliseconds, ticket.batch)

    def _prepare(self, read: Callable[[], Asked], robot: Connected) -> tuple[Asked, Any]:
        asked = read()
        observation = robot.observation(asked)
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
