"""The server: all that one port answers.

ws  /          openpi's protocol          POST /act      OpenVLA's
GET /          the metadata               POST /answer   a question about a picture
GET /healthz   200 once warmed up         GET  /metrics  for Prometheus
ws  /vla_eval  vla-eval's, which also asks for GET /health (as /healthz) and GET /config

/, ws /, ws /vla_eval and /act take ?convention=NAME (`rt2_jax/policy/conventions.py`).

uvicorn waits for ever for headers that have begun, and for a websocket's message that has; its protocols
get a time limit here. The body of an HTTP request is timed where it is read (`openvla.read_body`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
import contextlib
import functools
import signal
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from absl import logging
import h11
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from rt2_jax.nearest import nearest
from rt2_jax.serving import limits, openpi, openvla, vla_eval
from rt2_jax.serving.limits import Overloaded, Refusal
from rt2_jax.serving.service import Service

if TYPE_CHECKING:
    from rt2_jax.serving.demo import Demo  # needs the simulator, an extra

PATHS = ('/', '/act', '/answer', '/config', '/health', '/healthz', '/metrics', '/vla_eval')
# Robots that vanish without a word are noticed after two of these, seconds.
_PING = 10.0
# Those of vla-eval are noticed by TCP, after a minute and three probes of ten seconds.
_TCP_PROBES = {'TCP_KEEPIDLE': 60, 'TCP_KEEPINTVL': 10, 'TCP_KEEPCNT': 3}
_KEEP_ALIVE = 30


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT.

    Then /healthz says 503 and nothing more is accepted; what was accepted is answered, connections
    are closed (1012, "service restart"), and `run` returns, so that the process exits with 0.

    Args:
        service: that answers.
        host: where to listen.
        port: where to listen; 0 is any free one.
        api_key: that clients must send, None for none.
        demo: see `make_app`.
        drain_seconds: the most that accepted requests are waited for.
    """

    def __init__(
        self,
        service: Service,
        *,
        host: str = '127.0.0.1',
        port: int = 8000,
        api_key: str | None = None,
        demo: Demo | None = None,
        drain_seconds: float = 30.0,
    ) -> None:
        self.service, self._drain_seconds, self._demo = service, drain_seconds, demo
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                make_app(service, api_key=api_key, failed=self._leave, demo=demo),
                host=host,
                port=port,
                http=http_protocol(limits.seconds_to_send),
                ws=websocket_protocol(limits.seconds_to_send),
                ws_max_size=limits.message_bytes,
                ws_ping_interval=_PING,
                ws_ping_timeout=_PING,
                ws_per_message_deflate=False,
                limit_concurrency=4 * limits.connections,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=5,
                lifespan='on',
                access_log=False,
                log_level='error',
                server_header=False,
            )
        )

    def serve_until_stopped(self, listener: socket.socket | None = None) -> None:
        """Runs until it is stopped; raises what made the warm-up fail, if it did.

        Args:
            listener: a socket that listens already; by default one is made.
        """
        self.run([listener] if listener else None)
        if self.service.failure:
            raise self.service.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                logging.info('listening on %s:%d', *listener.getsockname()[:2])
        if self._demo:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(self._demo.addresses(self.config.host, port), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops; uvicorn's own method would end the process by the same signal, and not with 0."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits until what was accepted is answered, then closes the connections."""
        self.service.refuse_more()
        logging.info('shutting down: %d requests to answer', self.service.accepted)
        # Handshakes that wait for the warm-up are refused before uvicorn ends them with a 500.
        await asyncio.sleep(0.02)
        end = time.monotonic() + self._drain_seconds
        while self.service.accepted and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        if self.service.accepted:
            logging.error('%d requests were not answered in time', self.service.accepted)
        await super().shutdown(sockets)

    def _leave(self) -> None:
        self.should_exit = True


def make_app(
    service: Service, *, api_key: str | None, failed: Callable[[], None], demo: Demo | None = None
) -> Starlette:
    """The ASGI application.

    Args:
        service: that answers; it is started and stopped with the application.
        api_key: that clients must send, None for none. /healthz and /health are open to all.
        failed: called if the warm-up fails.
        demo: a page to play with; its simulator ends with the application.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start(failed)
        if demo:
            warming = asyncio.create_task(demo.warm_up())
        yield
        await service.stop()
        if demo:
            await warming
            demo.close()

    def guarded(handle: Callable[[Request], Awaitable[Response]]) -> Callable[..., Any]:
        async def handler(request: Request) -> Response:
            try:
                limits.check_key(api_key, request.headers.get('authorization'))
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

    async def metadata(request: Request) -> Response:
        convention = service.convention(openvla.convention_name(request.query_params))
        return JSONResponse(openpi.describe(service.policy, convention))

    async def configuration(request: Request) -> Response:
        return JSONResponse(vla_eval.configuration(service, request.query_params))

    def check_admission(connection: WebSocket) -> None:
        limits.check_key(api_key, connection.headers.get('authorization'))
        if service.state == 'Shutting down':
            service.check_ready()
        if service.robots >= service.limits.connections:
            raise Overloaded(f'Overloaded: {service.robots} robots are connected.')

    async def serve_openpi(connection: WebSocket) -> None:
        try:
            check_admission(connection)
            convention = service.convention(openvla.convention_name(connection.query_params))
        except Refusal as refusal:
            await connection.send_denial_response(_refused(refusal))
            return
        await openpi.serve(connection, service, convention)

    async def serve_vla_eval(connection: WebSocket) -> None:
        try:
            check_admission(connection)
            options = vla_eval.Options.from_query(connection.query_params, service)
            await vla_eval.serve(connection, service, options)
        except Refusal as refusal:
            # The harness tries again and shows no reason.
            logging.warning('a vla-eval client was refused: %s', refusal)
            await connection.send_denial_response(_refused(refusal))

    act = guarded(functools.partial(openvla.act, service=service))
    answer = guarded(functools.partial(openvla.answer, service=service))
    return Starlette(
        routes=[
            Route('/healthz', health),
            Route('/health', health),
            Route('/config', guarded(configuration)),
            Route('/', guarded(metadata)),
            Route('/metrics', guarded(metrics)),
            Route('/act', act, methods=['POST']),
            Route('/answer', answer, methods=['POST']),
            WebSocketRoute('/', serve_openpi),
            WebSocketRoute('/vla_eval', serve_vla_eval),
            *(demo.routes() if demo else ()),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or no such method of it."""
    assert isinstance(error, HTTPException)
    text = str(error.detail)
    if error.status_code == 404:
        text = f'No {request.url.path!r} here{nearest(request.url.path, PATHS)}'
    return JSONResponse({'error': text}, error.status_code, headers=error.headers)


def _refused(refusal: Refusal) -> Response:
    kind = type(refusal).__name__
    return JSONResponse({'error': f'{kind}: {refusal}'}, refusal.status, headers=refusal.headers)


class _Timeout:
    """A timer that runs while something has begun and hasn't ended."""

    def __init__(self, seconds: float, give_up: Callable[[], None]) -> None:
        self._seconds, self._give_up = seconds, give_up
        self._timer: asyncio.TimerHandle | None = None

    def run(self, unfinished: bool) -> None:
        if unfinished and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._give_up)
        elif not unfinished:
            self.end()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def http_protocol(seconds: float) -> type[asyncio.Protocol]:
    """HTTP/1.1 whose headers must be there within `seconds` of connecting or of their first byte."""

    class TimedHTTP(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timeout = _Timeout(seconds, self._too_slow)
            self._timeout.run(True)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # IDLE: no request has been read from what came.
            self._timeout.run(self.conn.their_state is h11.IDLE)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timeout.end()
            super().connection_lost(exc)

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(
                    b'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n'
                    b'Content-Length: 0\r\n\r\n'
                )
                self.transport.close()

    return TimedHTTP


def websocket_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Websockets whose messages must be there within `seconds` of their first byte."""

    class TimedWebSocket(WebSocketsSansIOProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timeout = _Timeout(seconds, self._too_slow)

        def start_keepalive(self) -> None:
            # vla-eval's harness simulates between its messages, and answers no ping meanwhile.
            if self.scope['path'] != '/vla_eval':
                super().start_keepalive()
                return
            connection = self.transport.get_extra_info('socket')
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _TCP_PROBES.items():
                if hasattr(socket, name):  # Linux's
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Fragments of a message, or bytes that are no whole frame yet; unless it is us who do not
            # read on, because an earlier message is being answered.
            begun = bool(self.frames) or bool(self.conn.reader.buffer)
            self._timeout.run(begun and not self.read_paused)

        def send_receive_event_to_app(self) -> None:
            # uvicorn's own method logs a traceback for each text that is no UTF-8.
            if self.curr_msg_data_type == 'text':
                try:
                    b''.join(self.frames).decode()
                except UnicodeDecodeError:
                    self.frames = []
                    self._fail(1007, 'this text is no UTF-8')
                    return
            super().send_receive_event_to_app()

        def connection_lost(self, exc: Exception | None) -> None:
            self._timeout.end()
            super().connection_lost(exc)

        def _too_slow(self) -> None:
            self._fail(1008, f'a message took more than {seconds:g} s')

        def _fail(self, code: int, reason: str) -> None:
            if not (self.close_sent or self.transport.is_closing()):
                self.conn.fail(code, reason)
                self.handle_parser_exception()

    return TimedWebSocket
