"""The server: uvicorn, which answers what it has accepted before it leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

from absl import logging
import uvicorn

from rt2_jax.serving.app import make_app
from rt2_jax.serving.patience import http_protocol, websocket_protocol
from rt2_jax.serving.service import Service

# Robots that vanish without a word are noticed after two of these, seconds.
_PING = 10.0
_KEEP_ALIVE = 30


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT.

    Then /healthz says 503 and nothing more is accepted; what was accepted is answered, connections
    are closed (1012, "service restart"), and `run` returns, so that the process exits with 0.

    Args:
      service: what answers.
      host, port: where to listen.
      api_key: see app.make_app.
      drain_seconds: the most that accepted requests are waited for.
    """

    def __init__(
        self,
        service: Service,
        *,
        host: str = '127.0.0.1',
        port: int = 8000,
        api_key: str | None = None,
        drain_seconds: float = 30.0,
    ):
        self.service, self._drain_seconds = service, drain_seconds
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                make_app(service, api_key=api_key, failed=self._leave),
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

    def serve_on(self, listener: socket.socket | None = None) -> None:
        """Runs until told to leave; raises what made the warm-up fail, if it did.

        Args:
          listener: a socket that listens already; by default one is made.
        """
        self.run([listener] if listener else None)
        if self.service.failure:
            raise self.service.failure

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                logging.info('listening on %s:%d', *listener.getsockname()[:2])

    def handle_exit(self, sig, frame) -> None:
        """uvicorn's own would end the process by the same signal again, and so not with 0."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        self.service.refuse_more()
        logging.info('shutting down: %d requests to answer', self.service.accepted)
        end = time.monotonic() + self._drain_seconds
        while self.service.accepted and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        if self.service.accepted:
            logging.error('%d requests were not answered in time', self.service.accepted)
        await super().shutdown(sockets)

    def _leave(self) -> None:
        self.should_exit = True
