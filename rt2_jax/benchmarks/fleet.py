"""Many robots: each asks a server by openpi's protocol and knows the right answer.

The picture of a request determines its answer, which was computed in process before; so an answer that
belongs to another robot, or to another step, is noticed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from rt2_jax.policy import Policy
from rt2_jax.serving import codec

_INSTRUCTION = 'pick banana'
# How long an answer is waited for before it counts as lost.
_LOST = 60.0


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A message of openpi's protocol, and the bytes of the actions that answer it."""

    message: bytes
    answer: bytes


def exchanges(policy: Policy, pictures: Sequence[np.ndarray]) -> list[Exchange]:
    """Exchanges whose answers differ from each other.

    A nearly tied number may round to either side depending on the batch size; a picture whose action
    depends on it has no one right answer, and is left out.
    """
    by_answer: dict[bytes, Exchange] = {}
    by_size = []
    for size in policy.batch_sizes:
        decisions = []
        for start in range(0, len(pictures), size):
            rows = [pictures[i % len(pictures)] for i in range(start, start + size)]
            decisions += policy.act_batch(rows, [_INSTRUCTION] * size)
        values = policy.convention().values
        commands = [values(decision.action) for decision in decisions[: len(pictures)]]
        by_size.append([command.astype(np.float32).tobytes() for command in commands])
    for picture, answers in zip(pictures, zip(*by_size, strict=True), strict=True):
        if len(set(answers)) == 1:
            message = {'observation/image': picture, 'prompt': _INSTRUCTION}
            by_answer.setdefault(answers[0], Exchange(codec.packb(message), answers[0]))
    return list(by_answer.values())


async def run(
    port: int,
    requests: Sequence[Exchange],
    *,
    robots: int,
    hz: float,
    seconds: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Lets robots ask for some time.

    Args:
        port: of the server on this machine.
        requests: what they ask, at random.
        robots: how many.
        hz: how often each asks; 0 asks again as soon as it is answered. A robot whose answer takes
            longer than its period asks late, as a robot would.
        seconds: for how long.
        seed: of their choices.

    Returns:
        `answers_per_second` of `wanted_per_second`; numbers of answers that are `right` and `wrong`,
        that were `overloaded`, `refused` otherwise or `lost`; `milliseconds` from sending to the
        answer, and those that the server reports, by percentile; `batch_sizes`, the share of answers
        by size.
    """
    counts: Counter[str] = Counter({key: 0 for key in _ENDS})
    took: dict[str, list[float]] = defaultdict(list)
    ready = asyncio.Barrier(robots)
    spans: list[tuple[float, float]] = []

    async def robot(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        async with connect(
            f'ws://127.0.0.1:{port}', compression=None, max_size=None, open_timeout=60
        ) as connection:
            await connection.recv()
            await ready.wait()
            begin = due = time.monotonic()
            end = begin + seconds
            due += rng.random() / hz if hz else 0
            while due < end:
                await asyncio.sleep(due - time.monotonic())
                await _ask(connection, requests[int(rng.integers(len(requests)))], counts, took)
                now = time.monotonic()
                due = max(due + 1 / hz, now) if hz else now
            spans.append((begin, time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for number in range(robots):
            group.create_task(robot(number))
    span = max(end for _, end in spans) - min(begin for begin, _ in spans)
    batches = Counter(int(size) for size in took.pop('batch_size', []))
    answered = counts['right'] + counts['wrong']
    return {
        'robots': robots,
        'wanted_per_second': robots * hz,
        'answers_per_second': round(answered / span, 1),
        **counts,
        'milliseconds': {name: percentiles(values) for name, values in took.items()},
        'mean_batch': round(answered / max(1e-9, sum(n / size for size, n in batches.items())), 2),
        'batch_sizes': {size: round(n / answered, 3) for size, n in sorted(batches.items())},
    }


_ENDS = ('right', 'wrong', 'overloaded', 'refused', 'lost')
_STAGES = {'queue': 'queue_ms', 'prepare': 'prepare_ms', 'server': 'infer_ms'}


async def _ask(
    connection: Any, exchange: Exchange, counts: Counter[str], took: dict[str, list[float]]
) -> None:
    begin = time.monotonic()
    await connection.send(exchange.message)
    try:
        async with asyncio.timeout(_LOST):
            reply = await connection.recv()
    except TimeoutError:
        counts['lost'] += 1
        raise
    if isinstance(reply, str):
        counts['overloaded' if reply.startswith('Overloaded') else 'refused'] += 1
        return
    took['total'].append(1000 * (time.monotonic() - begin))
    answer = codec.unpackb(reply)
    counts['right' if answer['actions'].tobytes() == exchange.answer else 'wrong'] += 1
    timing = answer['server_timing']
    for stage, key in _STAGES.items():
        took[stage].append(timing[key])
    took['compute'].append(answer['policy_timing']['infer_ms'])
    took['batch_size'].append(timing['batch_size'])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f'p{q}': round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}
