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
import functools
import time
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.policy.conventions import CONVENTIONS, Convention
from rt2_jax.serving import codec, dialects, messages
from rt2_jax.serving.dialects import Needs
from rt2_jax.serving.limits import Malformed, NotReady, Refusal
from rt2_jax.serving.service import Service, Session, Timing

_ERROR, _RESTART = 1011, 1012  # websocket close codes


def describe(policy: Policy, convention: Convention) -> dict[str, Any]:
    """`describe_policy` and the keys that are read here; GET / gives it too."""
    read = Needs.of(policy).dialects(dialects.WEBSOCKET)
    keys = dict.fromkeys(key for dialect in read for key in dialect.needed)
    return describe_policy(policy, convention) | {
        'observation_keys': [*keys, *dialects.WEBSOCKET_KEYS],
        'ignored_keys': list(dialects.ignored_keys(read)),
    }


def describe_policy(policy: Policy, convention: Convention) -> dict[str, Any]:
    """Metadata of the policy, of plain values that both msgpack and JSON hold.

    Args:
        policy: that is served.
        convention: of the actions.
    """
    card = policy.embodiment
    kept = {
        'frames': policy.frames > 1,
        'gripper': convention.needs_memory,
        'terminate': policy.settings.patience > 1 and policy.action_tokenizer.space.terminate,
    }
    metadata = {
        'model': policy.config.model.name if policy.config else type(policy.model).__name__,
        'step': policy.step,
        'source': policy.source,
        'sources': list(policy.sources),
        **convention.describe(),
        'conventions': dict(CONVENTIONS),
        'action_horizon': 1,
        'terminate': policy.action_tokenizer.space.terminate,
        'image_size': policy.image_size,
        'frames': policy.frames,
        'frame_stride': policy.frame_stride,
        'plan': policy.plan,
        'remembers': [name for name, is_kept in kept.items() if is_kept],
    }
    if policy.cameras:
        metadata['cameras'] = list(policy.cameras)
    if space := policy.settings.state_space:
        names = ('names', 'units', 'low', 'high')
        metadata['state'] = {name: list(getattr(space, name)) for name in names}
    if card:
        metadata |= {
            'card': card.name,
            'hz': card.frequency,
            'action_frame': card.frame,
            'action_motion': card.motion,
        }
    return metadata


async def serve(websocket: WebSocket, service: Service, convention: Convention) -> None:
    """Serves one robot in the convention that it asks for, until it leaves."""
    service.count_robots(1)
    first = None
    try:
        await websocket.accept()
        first = asyncio.create_task(websocket.receive())
        if await _wait_until_warm(service, first):
            metadata = describe(service.policy, convention)
            await websocket.send_bytes(codec.packb(metadata))
            await _answer_messages(websocket, service, convention, first)
    except NotReady as refusal:
        await websocket.close(_RESTART, str(refusal))
    except (WebSocketDisconnect, OSError):
        pass  # the robot left in the middle
    finally:
        if first:
            first.cancel()
        service.count_robots(-1)


async def _wait_until_warm(service: Service, first: asyncio.Task) -> bool:
    """Waits until the server is ready; False if the robot leaves before."""
    warm = asyncio.create_task(service.wait_until_warm())
    try:
        await asyncio.wait([warm, first], return_when=asyncio.FIRST_COMPLETED)
        if first.done() and first.result()['type'] == 'websocket.disconnect':
            return False
        await warm
        return True
    finally:
        warm.cancel()


async def _answer_messages(
    websocket: WebSocket, service: Service, convention: Convention, first: asyncio.Task
) -> None:
    session = service.new_session(convention)
    previous: float | None = None
    event = await first
    while event['type'] != 'websocket.disconnect':
        begin = time.monotonic()
        try:
            changed = session.copy()
            with service.count_request('openpi') as labels, service.slot():
                reply = await _reply(labels, event.get('bytes'), service, changed, previous)
                await websocket.send_bytes(reply)
            session = changed
        except Refusal as refusal:
            await websocket.send_text(f'{type(refusal).__name__}: {refusal}')
            if refusal.closes:
                await websocket.close(_ERROR)
                return
        previous = 1000 * (time.monotonic() - begin)
        event = await websocket.receive()


async def _reply(
    labels: dict[str, str],
    message: bytes | None,
    service: Service,
    session: Session,
    previous: float | None,
) -> bytes:
    if message is None:
        raise Malformed('A text came; an observation is a binary message of msgpack.')
    read = functools.partial(messages.from_openpi, message, service.limits, service.needs)
    request, answer, timing = await service.answer(labels, read, session)
    reply: dict[str, Any] = {'reset': True}
    if answer is not None and timing is not None:
        reply = _content(answer, session, service) | _timing(timing, previous)
    return codec.packb(reply, msgpack_numpy=request.msgpack_numpy)


def _content(answer: Answer | str, session: Session, service: Service) -> dict[str, Any]:
    if isinstance(answer, str):
        return {'text': answer}
    flag = service.policy.action_tokenizer.space.terminate
    return {
        'actions': session.command(answer.action)[None].astype(np.float32),
        **({'terminate': np.array([session.ends(answer.action)])} if flag else {}),
        'episode_step': session.steps,
        'plan': answer.plan,
        'log_prob': answer.log_prob,
        'entropies': answer.entropies[None],
    }


def _timing(timing: Timing, previous: float | None) -> dict[str, Any]:
    took = timing.milliseconds
    server = {f'{stage}_ms': took[stage] for stage in ('prepare', 'queue')}
    server |= {'infer_ms': took['total'], 'batch_size': timing.batch_size}
    if previous is not None:
        server['prev_total_ms'] = previous
    return {'policy_timing': {'infer_ms': took['infer']}, 'server_timing': server}
