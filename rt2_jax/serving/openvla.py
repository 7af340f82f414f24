"""OpenVLA's protocol: POST /act, and in its manner POST /answer. Each request stands alone.

The reply of /act is the action float64 [D] in its units; where the action space has a terminate
number, the header `RT2-Terminate` is 1 or 0, which OpenVLA's own clients do not look at. The reply
of /answer is {"text": ...}. A doubly encoded request is answered by a JSON text of the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import json
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from rt2_jax.serving import json_arrays, requests
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.refusals import TooLarge, TooSlow
from rt2_jax.serving.requests import Asked
from rt2_jax.serving.service import Service

TERMINATE = 'RT2-Terminate'


async def act(request: Request, service: Service) -> Response:
    """The next action."""
    policy = service.policy
    decision, encoded = await _answered(
        request,
        service,
        lambda body: requests.from_act(body, service.limits, policy.source, policy.sources),
    )
    flag = policy.action_tokenizer.space.terminate
    headers = {TERMINATE: str(int(decision.action[0] > 0.5))} if flag else {}
    return _json(decision.action[flag:].astype(np.float64), encoded, headers)


async def answer(request: Request, service: Service) -> Response:
    """An answer in words."""
    text, encoded = await _answered(
        request, service, lambda body: requests.from_answer(body, service.limits)
    )
    return _json({'text': text}, encoded)


async def _answered(
    request: Request, service: Service, read: Callable[[bytes], tuple[Asked, bool]]
) -> tuple[Any, bool]:
    """The policy's answer, and whether the request was doubly encoded."""
    encoded = False
    with service.counted('openvla') as counted:
        body = await read_body(request, service.limits)

        def asked() -> Asked:
            nonlocal encoded
            found, encoded = read(body)
            return found

        with service.slot():
            answered = await service.answer(counted, asked, service.new_robot())
    return answered.answer, encoded


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
