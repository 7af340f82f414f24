"""From a client's message to the policy's answer, whichever protocol brought it.

message -> read, checked, resized (threads) -> batch (the policy's thread) -> answer
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import copy
import dataclasses
import time

from absl import logging
import numpy as np
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from rt2_jax.decoding.grammar import Kind
from rt2_jax.nearest import check
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.policy.conventions import CONVENTIONS, Convention
from rt2_jax.policy.runner import Inputs
from rt2_jax.serving.dialects import Needs
from rt2_jax.serving.limits import (
    SEND_AGAIN,
    Expired,
    Failed,
    Limits,
    Malformed,
    NotReady,
    Overloaded,
    Refusal,
)
from rt2_jax.serving.messages import Request
from rt2_jax.serving.request_batcher import Batcher
from rt2_jax.serving.request_metrics import Metrics


@dataclasses.dataclass(frozen=True)
class Settings:
    """How requests are batched, and how many may wait.

    Attributes:
        longest_wait: seconds that a batch that isn't full waits for more.
        queue: most requests that are accepted and not answered yet.
        deadline: seconds after which a request that still waits is not computed any more.
        threads: number of threads that read messages and resize pictures.
        temperature: of what is sampled; 0 takes the likeliest.
        convention: in whose numbers clients are answered that ask for no other
            (`policy/conventions.py`); None for 'robot', or 'internal' where the policy knows no card.
        alternatives: how many of the likeliest values an answer holds for each number of the action.
    """

    longest_wait: float = 0.0
    queue: int = 256
    deadline: float = 10.0
    threads: int = 2
    temperature: float = 0.0
    convention: str | None = None
    alternatives: int = 0

    def __post_init__(self) -> None:
        if self.queue < 1 or self.threads < 1 or self.deadline <= 0:
            raise ValueError(
                f'queue is {self.queue}, threads {self.threads}, deadline {self.deadline} s; at '
                'least 1, at least 1 and above 0 are needed.'
            )
        if self.convention is not None:
            check('convention', self.convention, CONVENTIONS)


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long a request took.

    Attributes:
        milliseconds: by stage, see `metrics.STAGES`.
        batch_size: how many requests were computed together.
    """

    milliseconds: dict[str, float]
    batch_size: int


class Session:
    """The robot of one client, and the convention of its actions.

    A request works on a `copy`, which replaces the session when its answer has been sent. So a refused
    request leaves no frame behind and takes none, and no gripper moves.

    Args:
        policy: that acts for it.
        convention: in whose numbers it takes actions.
    """

    def __init__(self, policy: Policy, convention: Convention) -> None:
        self._pictures, self._cameras = policy.settings.pictures, max(1, len(policy.cameras))
        self._robot = policy.robot()
        self.convention = convention

    def copy(self) -> Session:
        """An independent copy."""
        other = copy.copy(self)
        other._robot = self._robot.copy()
        return other

    @property
    def steps(self) -> int:
        """Frames since the episode began."""
        return self._robot.steps

    def observation(self, request: Request) -> np.ndarray | None:
        """What the policy sees, uint8 [F * V, H, W, 3]; None where an episode begins without a frame.

        A client that sends as many frames as the model sees keeps their history itself.

        Raises:
            Malformed: the frames don't fit.
        """
        if request.reset:
            self._robot.reset()
        if request.frames is None:
            return None
        count, cameras = len(request.frames), self._cameras
        if request.wants_text or count == self._pictures > cameras:
            return request.frames
        if count != cameras:
            raise Malformed(
                f'{count // cameras} frames came; send one a step, and the server keeps those '
                f'before it, or the {self._pictures // cameras} that this model sees.'
            )
        try:
            return self._robot.add(request.frames if cameras > 1 else request.frames[0])
        except ValueError as error:
            raise Malformed(
                f"{error} A request says so with 'reset': True, vla-eval's client with 'episode_start'."
            ) from error

    def ends(self, action: np.ndarray) -> bool:
        """Whether the episode ends with an action [L]; see `Robot.ends`."""
        return self._robot.ends(action)

    def command(self, action: np.ndarray) -> np.ndarray:
        """The numbers float64 [D] that the robot gets for an action [L]; see `Convention.values`."""
        return self.convention.values(action, self._robot)


class Service:
    """A policy that many clients share.

    The largest batch is the largest of the policy's `batch_sizes`.

    Attributes:
        robots: how many are connected by websocket.
        accepted: how many requests are accepted and not answered yet.
        needs: what the policy acts by.
        failure: what made the warm-up fail.
    """

    def __init__(
        self, policy: Policy, *, limits: Limits = Limits(), settings: Settings = Settings()
    ) -> None:
        self.policy, self.limits, self.settings = policy, limits, settings
        policy.convention(settings.convention)  # raises where there is no such
        self.needs = Needs.of(policy)
        self.metrics = Metrics(lambda: self._batcher.depth, lambda: policy.clipped_prompts)
        self._batcher = Batcher(
            self._compute,
            largest=policy.batch_sizes[-1],
            longest_wait=settings.longest_wait,
            on_batch=self.metrics.batch_size.observe,
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(settings.threads, 'prepare')
        self._action_kind = Kind.PLAN if policy.plan else Kind.ACTION
        self.robots = self.accepted = 0
        self._warm = self._stopping = False
        self._warm_or_stopping = asyncio.Event()
        self.failure: BaseException | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._warm and not self._stopping

    @property
    def state(self) -> str:
        """'Warming up', 'Ready' or 'Shutting down'."""
        if self._stopping:
            return 'Shutting down'
        return 'Ready' if self._warm else 'Warming up'

    def check_ready(self) -> None:
        """NotReady before the warm-up has ended, and when shutting down."""
        if not self.ready:
            raise NotReady(f'{self.state}.')

    def start(self, failed: Callable[[], None]) -> None:
        """Warms up in the policy's thread; `failed` is called if that raises (see `failure`)."""

        def done(error: BaseException | None) -> None:
            self.failure, self._warm = error, error is None
            self._warm_or_stopping.set()
            if error is not None:
                failed()
            else:
                logging.info('ready')

        self._batcher.start(self._warm_up, done)

    async def wait_until_warm(self) -> None:
        """Waits for the end of the warm-up; NotReady if the server stops instead."""
        await self._warm_or_stopping.wait()
        self.check_ready()

    def refuse_more(self) -> None:
        """From now on nothing is accepted."""
        self._stopping = True
        self._warm_or_stopping.set()

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

    def new_session(self, convention: Convention) -> Session:
        """The session of a client that has just come."""
        return Session(self.policy, convention)

    def count_robots(self, change: int) -> None:
        """A robot came (1) or left (-1)."""
        self.robots += change
        self.metrics.connections.set(self.robots)

    @contextlib.contextmanager
    def count_request(self, protocol: str) -> Iterator[dict[str, str]]:
        """Around one request, from its message to the answer's last byte: counts how it ends.

        Yields:
            The labels of the count: `protocol`, `outcome`, and `wants`, which is 'action', 'text',
            'reset' or 'hello' once the message is read.
        """
        labels = {'protocol': protocol, 'wants': 'unknown', 'outcome': 'answered'}
        try:
            yield labels
        except Refusal as refusal:
            labels['outcome'] = refusal.outcome
            raise
        except (ClientDisconnect, WebSocketDisconnect, asyncio.CancelledError):
            labels['outcome'] = 'disconnected'
            raise
        except Exception as error:
            logging.exception('a request by %s failed', protocol)
            labels['outcome'] = Failed.outcome
            raise Failed('The server failed, and has logged why.') from error
        finally:
            self.metrics.requests.labels(**labels).inc()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Around one request, from when it is all here to the answer's last byte: accepts it.

        Raises:
            NotReady: while warming up and shutting down.
            Overloaded: the queue is full.
        """
        self.check_ready()
        if self.accepted >= self.settings.queue:
            raise Overloaded(
                f'Overloaded: {self.accepted} requests are being answered. {SEND_AGAIN}'
            )
        self.accepted += 1
        try:
            yield
        finally:
            self.accepted -= 1

    async def answer(
        self, labels: dict[str, str], read: Callable[[], Request], session: Session
    ) -> tuple[Request, Answer | str | None, Timing | None]:
        """Answers one accepted request.

        Args:
            labels: of `count_request`.
            read: makes the request of its message; called in a thread.
            session: a copy, which the request changes.

        Returns:
            The request, its answer (a text where it is a question, None where an episode begins without
            a frame) and how long that took.

        Raises:
            Refusal: any but Overloaded.
        """
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        request, inputs = await loop.run_in_executor(self._threads, self._prepare, read, session)
        if inputs is None:
            labels['wants'] = 'reset'
            return request, None, None
        labels['wants'] = 'text' if request.wants_text else 'action'
        longest = self.settings.deadline
        deadline = begin + min(longest, request.seconds or longest)
        if time.monotonic() > deadline:
            raise Expired(f'The deadline passed while the request was read. {SEND_AGAIN}')
        ticket = self._batcher.submit(inputs, deadline)
        answer = await self._batcher.wait(ticket)
        seconds = {
            'prepare': ticket.queued - begin,
            'queue': ticket.started - ticket.queued,
            'infer': ticket.computed,
            'total': time.monotonic() - begin,
        }
        for stage, took in seconds.items():
            self.metrics.seconds[stage].observe(took)
        milliseconds = {stage: 1000 * took for stage, took in seconds.items()}
        return request, answer, Timing(milliseconds, ticket.batch)

    def _prepare(
        self, read: Callable[[], Request], session: Session
    ) -> tuple[Request, Inputs | None]:
        request = read()
        observation = session.observation(request)
        if observation is None:
            return request, None
        raw = request.wants_text
        kind = Kind.TEXT if raw else self._action_kind
        try:
            inputs = self.policy.prepare(
                observation, request.text, kind, state=request.state, raw=raw
            )
            return request, inputs
        except ValueError as error:
            raise Malformed(str(error)) from error

    def _compute(self, batch: Sequence[Inputs]) -> list[Answer | str]:
        temperature, alternatives = self.settings.temperature, self.settings.alternatives
        return self.policy.run(batch, temperature=temperature, alternatives=alternatives)

    def _warm_up(self) -> None:
        """Every batch size and kind of answer that will be used."""
        for size in self.policy.batch_sizes:
            for kind in (self._action_kind, Kind.TEXT):
                if self._stopping:
                    return
                begin = time.monotonic()
                self.policy.warm_up([size], [kind], self.settings.alternatives)
                took = time.monotonic() - begin
                logging.info('warmed up %s for batches of %d: %.1f s', kind.name, size, took)
