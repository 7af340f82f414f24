"""OpenVLA's protocol: POST /act, and in its manner POST /answer. Each request stands alone.

The reply of /act is the action float64 [D] in the robot's own numbers, or in those of
/act?convention=NAME; where the action space has a terminate number, the header `RT2-Terminate` is 1
or 0, which OpenVLA's own clients do not look at. OpenVLA-OFT's get a list of one action. The reply
of /answer is {"text": ...}. A doubly encoded request is answered by a JSON text of the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rt2_jax.nearest import nearest
from rt2_jax.policy.conventions import Convention
from rt2_jax.serving import json_arrays, requests
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.refusals import Malformed, TooLarge, TooSlow
from rt2_jax.serving.requests import Asked
from rt2_jax.serving.service import Answered, Service

TERMINATE, CONVENTION = 'RT2-Terminate', 'RT2-Convention'


async def act(request: Request, service: Service) -> Response:
    """The next action."""
    policy, convention = service.policy, service.convention(convention_name(request.query_params))
    if convention.needs_memory:
        raise Malformed(
            f"The convention 'position' follows the gripper of {policy.embodiment.name!r} from step "
            "to step, and POST /act remembers no robot: connect by websocket, or ask for 'robot'."
        )
    answered = await _answered(
        request,
        service,
        convention,
        lambda body: requests.from_act(
            body,
            service.limits,
            policy.source,
            policy.sources,
            policy.embodiment.name if policy.embodiment else '',
        ),
    )
    action = answered.answer.action
    headers = {CONVENTION: convention.name}
    if policy.action_tokenizer.space.terminate:
        headers[TERMINATE] = str(int(action[0] > 0.5))
    command = convention.values(action)
    value = [command] if answered.asked.chunks else command
    return _json(value, answered.asked.encoded, headers)


async def answer(request: Request, service: Service) -> Response:
    """An answer in words."""
    read = lambda body: requests.from_answer(body, service.limits)
    answered = await _answered(request, service, service.convention(), read)
    return _json({'text': answered.answer}, answered.asked.encoded)


def convention_name(query: Mapping[str, str]) -> str | None:
    """What '?convention=NAME' asks for; Malformed for another parameter."""
    for name in query:
        if name != 'convention':
            raise Malformed(f'Unknown parameter {name[:80]!r}{nearest(name[:80], ["convention"])}')
    return query.get('convention')


async def _answered(
    request: Request, service: Service, convention: Convention, read: Callable[[bytes], Asked]
) -> Answered:
    with service.counted('openvla') as counted:
        body = await read_body(request, service.limits)
        with service.slot():
            robot = service.new_robot(convention)
            return await service.answer(counted, lambda: read(body), robot)


def _json(value: Any, encoded: bool, headers: dict[str, str] | None = None) -> Response:
    text = json_arrays.dumps(value)
    text = json.dumps(text) if encoded else text
    return Response(text, media_type='application/json', headers=headers)


async def read_body(request: Request, limits: Limits) -> bytes:
    """A request's body.

    Raises:
      TooLarge, TooSlow: it is.
    """
    length = request.headers.get('content-length', '')
    if length.isdigit() and int(length) > limits.message_bytes:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds_to_send):
            async for part in request.stream():
                size += len(part)
                if size > limits.message_bytes:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError:
        raise TooSlow(f'The body took more than {limits.seconds_to_send:g} s.') from None
    return b''.join(parts)


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(f'The message is larger than the {limits.message_bytes} bytes taken here.')
