"""All that one port answers.

ws  /          openpi's protocol          POST /act      OpenVLA's
GET /          what is served             POST /answer   a question about a picture
GET /healthz   200 once warmed up         GET  /metrics  for Prometheus

/, ws / and /act take ?convention=NAME (`rt2_jax/policy/conventions.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
import contextlib
import functools
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from rt2_jax.nearest import nearest
from rt2_jax.serving import access, openpi, openvla
from rt2_jax.serving.description import describe
from rt2_jax.serving.refusals import Overloaded, Refusal
from rt2_jax.serving.service import Service

PATHS = ('/', '/act', '/answer', '/healthz', '/metrics')


def make_app(
    service: Service, *, api_key: str | None = None, failed: Callable[[], None] = lambda: None
) -> Starlette:
    """The ASGI application.

    Args:
      service: what answers; it is started and stopped with the application.
      api_key: that clients must bring, None for none. /healthz is open to all.
      failed: called if the warm-up fails.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette):
        service.start(failed)
        yield
        await service.stop()

    def guarded(handle: Callable[[Request], Awaitable[Response]]) -> Callable[..., Any]:
        async def handler(request: Request) -> Response:
            try:
                access.check_key(api_key, request.headers.get('authorization'))
                return await handle(request)
            except Refusal as refusal:
                return _refused(refusal)
            except ClientDisconnect:
                return Response()  # to nobody

        return handler

    async def health(_: Request) -> Response:
        if service.ready:
            return PlainTextResponse('OK\n')
        return PlainTextResponse(f'{service.state}\n', 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def described(request: Request) -> Response:
        convention = service.convention(openvla.convention_name(request.query_params))
        return JSONResponse(describe(service.policy, convention))

    async def websocket(connection: WebSocket) -> None:
        try:
            access.check_key(api_key, connection.headers.get('authorization'))
            convention = service.convention(openvla.convention_name(connection.query_params))
            if service.state == 'Shutting down':
                service.check_ready()
            if service.robots >= service.limits.connections:
                raise Overloaded(f'Overloaded: {service.robots} robots are connected.')
        except Refusal as refusal:
            await connection.send_denial_response(_refused(refusal))
            return
        await openpi.converse(connection, service, convention)

    return Starlette(
        routes=[
            Route('/healthz', health),
            Route('/', guarded(described)),
            Route('/metrics', guarded(metrics)),
            Route(
                '/act', guarded(functools.partial(openvla.act, service=service)), methods=['POST']
            ),
            Route(
                '/answer',
                guarded(functools.partial(openvla.answer, service=service)),
                methods=['POST'],
            ),
            WebSocketRoute('/', websocket),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


async def _http_error(request: Request, error: HTTPException) -> Response:
    """A path or a method that isn't there."""
    text = str(error.detail)
    if error.status_code == 404:
        text = f'No {request.url.path!r} here{nearest(request.url.path, PATHS)}'
    return JSONResponse({'error': text}, error.status_code, headers=error.headers)


def _refused(refusal: Refusal) -> Response:
    kind = type(refusal).__name__
    return JSONResponse({'error': f'{kind}: {refusal}'}, refusal.status, headers=refusal.headers)
