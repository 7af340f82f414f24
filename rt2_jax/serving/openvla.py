"""OpenVLA's protocol: POST /act, and in its manner POST /answer. Each request stands alone.

The reply of /act is the action float64 [D] in the robot's own numbers, or in those of
/act?convention=NAME; where the action space has a terminate number, the header `RT2-Terminate` is 1
or 0, which OpenVLA's own clients ignore. OpenVLA-OFT's clients get a list of one action. The reply of
/answer is {"text": ...}. A doubly encoded request gets a JSON text of the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
import functools
import json
from typing import Any, cast

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from rt2_jax.nearest import nearest
from rt2_jax.policy.answers import Answer
from rt2_jax.policy.conventions import Convention
from rt2_jax.serving import codec, messages
from rt2_jax.serving.limits import Limits, Malformed, TooLarge, TooSlow
from rt2_jax.serving.messages import Request
from rt2_jax.serving.service import Service

TERMINATE, CONVENTION = 'RT2-Terminate', 'RT2-Convention'


async def act(http: HTTPRequest, service: Service) -> Response:
    """The next action."""
    policy, convention = service.policy, service.convention(convention_name(http.query_params))
    card = policy.embodiment.name if policy.embodiment else ''
    if convention.needs_memory:
        raise Malformed(
            f"The convention 'position' follows the gripper of {card!r} from step to step, and POST "
            "/act remembers no robot: connect by websocket, or ask for 'robot'."
        )
    read = functools.partial(
        messages.from_act,
        limits=service.limits,
        source=policy.source,
        sources=policy.sources,
        card=card,
        needs=service.needs,
    )
    request, answer = await _answer(http, service, convention, read)
    action = cast(Answer, answer).action
    headers = {CONVENTION: convention.name}
    if policy.action_tokenizer.space.terminate:
        headers[TERMINATE] = str(int(action[0] > 0.5))
    command = convention.values(action)
    return _json([command] if request.chunks else command, request.encoded, headers)


async def answer(http: HTTPRequest, service: Service) -> Response:
    """An answer in words."""
    read = functools.partial(messages.from_answer, limits=service.limits)
    request, text = await _answer(http, service, service.convention(), read)
    return _json({'text': text}, request.encoded)


def convention_name(query: Mapping[str, str]) -> str | None:
    """The NAME of '?convention=NAME'; Malformed for another parameter."""
    for name in query:
        if name != 'convention':
            raise Malformed(f'Unknown parameter {name[:80]!r}{nearest(name[:80], ["convention"])}')
    return query.get('convention')


async def _answer(
    http: HTTPRequest, service: Service, convention: Convention, read: Callable[[bytes], Request]
) -> tuple[Request, Answer | str | None]:
    with service.count_request('openvla') as labels:
        body = await read_body(http, service.limits)
        with service.slot():
            session = service.new_session(convention)
            read_message = functools.partial(read, body)
            request, answer, _ = await service.answer(labels, read_message, session)
    return request, answer


def _json(value: Any, encoded: bool, headers: dict[str, str] | None = None) -> Response:
    text = codec.dumps(value)
    text = json.dumps(text) if encoded else text
    return Response(text, media_type='application/json', headers=headers)


async def read_body(http: HTTPRequest, limits: Limits) -> bytes:
    """The body of an HTTP request.

    Raises:
        TooLarge: than the limits allow.
        TooSlow: it took longer than they allow.
    """
    length = http.headers.get('content-length', '')
    if length.isdigit() and int(length) > limits.message_bytes:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds_to_send):
            async for part in http.stream():
                size += len(part)
                if size > limits.message_bytes:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError:
        raise TooSlow(f'The body took more than {limits.seconds_to_send:g} s.') from None
    return b''.join(parts)


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(f'The message is larger than the {limits.message_bytes} bytes taken here.')
