"""openpi's protocol: metadata on connection, then one observation in and one reply out, in turns.

The reply to an observation: `actions` float32 [1, D] (a horizon of one), `terminate` bool [1] where
the action space has that number, `plan`, `log_prob`, `entropies` float32 [1, L]. To a question
("Q: what is on the table? A:"): `text`. Both: `policy_timing` and `server_timing`, milliseconds.
Every array has the horizon as its first axis, along which openpi's chunk broker slices.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.decoding.decision import Decision
from rt2_jax.serving import msgpack_arrays, requests
from rt2_jax.serving.refusals import Malformed, Refusal
from rt2_jax.serving.robots import Connected
from rt2_jax.serving.service import Answered, Request, Service

_ERROR = 1011


async def converse(websocket: WebSocket, service: Service) -> None:
    """Serves one robot until it leaves."""
    service.connected(1)
    try:
        await websocket.accept()
        await websocket.send_bytes(msgpack_arrays.packb(service.metadata))
        await _turns(websocket, service)
    except (WebSocketDisconnect, OSError):
        pass  # the robot left in the middle
    finally:
        service.connected(-1)


async def _turns(websocket: WebSocket, service: Service) -> None:
    robot = service.new_robot()
    previous: float | None = None
    while True:
        event = await websocket.receive()
        if event['type'] == 'websocket.disconnect':
            return
        begin = time.monotonic()
        try:
            with service.counted('openpi') as request, service.slot():
                reply = await _reply(request, event.get('bytes'), service, robot, previous)
                await websocket.send_bytes(reply)
        except Refusal as refusal:
            await websocket.send_text(f'{type(refusal).__name__}: {refusal}')
            if refusal.closes:
                await websocket.close(_ERROR)
                return
        previous = 1000 * (time.monotonic() - begin)


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
    found = _content(answered.answer, robot, service) | _timing(answered, previous)
    return msgpack_arrays.packb(found)


def _content(answer: Decision | str, robot: Connected, service: Service) -> dict[str, Any]:
    if isinstance(answer, str):
        return {'text': answer}
    action = robot.settled(answer.action)
    flag = service.policy.action_tokenizer.space.terminate
    return {
        'actions': action[None, flag:],
        **({'terminate': action[None, 0] > 0.5} if flag else {}),
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
