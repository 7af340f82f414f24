"""openpi's protocol: metadata on connection, then one observation in and one reply out, in turns.

The reply to an observation: `actions` float32 [1, D] (a horizon of one) in the robot's own numbers or
those of ws://HOST:PORT/?convention=NAME, `terminate` bool [1] where the action space has that number,
`plan`, `log_prob`, `entropies` float32 [1, L], `episode_step`. To a question ("Q: what is on the table?
A:"): `text`. Both: `policy_timing` and `server_timing`, milliseconds. A message that only says that an
episode begins is answered by {'reset': True}. While the server warms up, a connection is accepted and
gets its metadata when all is compiled.

Every array has the horizon as its first axis, along which openpi's chunk broker slices.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.policy.conventions import Convention
from rt2_jax.policy.decision import Decision
from rt2_jax.serving import msgpack_arrays, requests
from rt2_jax.serving.description import describe
from rt2_jax.serving.refusals import Malformed, NotReady, Refusal
from rt2_jax.serving.robots import Connected
from rt2_jax.serving.service import Answered, Request, Service

_ERROR, _RESTART = 1011, 1012


async def converse(websocket: WebSocket, service: Service, convention: Convention) -> None:
    """Serves one robot, in the numbers that it asks for, until it leaves."""
    service.connected(1)
    first = None
    try:
        await websocket.accept()
        first = asyncio.create_task(websocket.receive())
        if await _warm(service, first):
            metadata = describe(service.policy, convention)
            await websocket.send_bytes(msgpack_arrays.packb(metadata))
            await _turns(websocket, service, convention, first)
    except NotReady as refusal:
        await websocket.close(_RESTART, str(refusal))
    except (WebSocketDisconnect, OSError):
        pass  # the robot left in the middle
    finally:
        if first:
            first.cancel()
        service.connected(-1)


async def _warm(service: Service, first: asyncio.Task) -> bool:
    """Waits until the server is ready, and tells whether the robot is still there."""
    ready = asyncio.create_task(service.warm())
    try:
        await asyncio.wait([ready, first], return_when=asyncio.FIRST_COMPLETED)
        if first.done() and first.result()['type'] == 'websocket.disconnect':
            return False
        await ready
        return True
    finally:
        ready.cancel()


async def _turns(
    websocket: WebSocket, service: Service, convention: Convention, first: asyncio.Task
) -> None:
    robot = service.new_robot(convention)
    previous: float | None = None
    event = await first
    while event['type'] != 'websocket.disconnect':
        begin = time.monotonic()
        try:
            changed = robot.copy()
            with service.counted('openpi') as request, service.slot():
                reply = await _reply(request, event.get('bytes'), service, changed, previous)
                await websocket.send_bytes(reply)
            robot = changed
        except Refusal as refusal:
            await websocket.send_text(f'{type(refusal).__name__}: {refusal}')
            if refusal.closes:
                await websocket.close(_ERROR)
                return
        previous = 1000 * (time.monotonic() - begin)
        event = await websocket.receive()


async def _reply(
    request: Request,
    message: bytes | None,
    service: Service,
    robot: Connected,
    previous: float | None,
) -> bytes:
    if message is None:
        raise Malformed('A text came; an observation is a binary message of msgpack.')
    read = lambda: requests.from_openpi(message, service.limits)
    answered = await service.answer(request, read, robot)
    content = {'reset': True}
    if answered.answer is not None:
        content = _content(answered.answer, robot, service) | _timing(answered, previous)
    return msgpack_arrays.packb(content, msgpack_numpy=answered.asked.msgpack_numpy)


def _content(answer: Decision | str, robot: Connected, service: Service) -> dict[str, Any]:
    if isinstance(answer, str):
        return {'text': answer}
    flag = service.policy.action_tokenizer.space.terminate
    return {
        'actions': robot.command(answer.action)[None].astype(np.float32),
        **({'terminate': answer.action[None, 0] > 0.5} if flag else {}),
        'episode_step': robot.steps,
        'plan': answer.plan,
        'log_prob': answer.log_prob,
        'entropies': answer.entropies[None],
    }


def _timing(answered: Answered, previous: float | None) -> dict[str, Any]:
    took = answered.milliseconds
    server = {f'{stage}_ms': took[stage] for stage in ('prepare', 'queue')}
    server |= {'infer_ms': took['total'], 'batch_size': answered.batch}
    if previous is not None:
        server['prev_total_ms'] = previous
    return {'policy_timing': {'infer_ms': took['infer']}, 'server_timing': server}
