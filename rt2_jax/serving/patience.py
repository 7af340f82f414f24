"""How long a sender may take: uvicorn's protocols, with an end to waiting for headers and messages.

uvicorn waits for ever for headers that have begun, and for a websocket's message that has. Both are
ended here; the body of an HTTP request is timed where it is read (openvla.read_body).
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class _Patience:
    """A timer that is set while something has begun and hasn't ended."""

    def __init__(self, seconds: float, give_up):
        self._seconds, self._give_up = seconds, give_up
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, unfinished: bool) -> None:
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

    class PatientHTTP(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._patience = _Patience(seconds, self._too_slow)
            self._patience.wait(True)

        def data_received(self, data):
            super().data_received(data)
            # IDLE: no request has been read from what came.
            self._patience.wait(self.conn.their_state is h11.IDLE)

        def connection_lost(self, exc):
            self._patience.end()
            super().connection_lost(exc)

        def _too_slow(self):
            if not self.transport.is_closing():
                self.transport.write(
                    b'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n'
                    b'Content-Length: 0\r\n\r\n'
                )
                self.transport.close()

    return PatientHTTP


def websocket_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Websockets whose messages must be there within `seconds` of their first byte."""

    class PatientWebSocket(WebSocketsSansIOProtocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._patience = _Patience(seconds, self._too_slow)

        def data_received(self, data):
            super().data_received(data)
            # Fragments of a message, or bytes that are no whole frame yet; unless it is us who do not
            # read on, because an earlier message is being answered.
            begun = bool(self.frames) or bool(self.conn.reader.buffer)
            self._patience.wait(begun and not self.read_paused)

        def send_receive_event_to_app(self):
            """uvicorn's own logs a traceback for each text that is no UTF-8."""
            if self.curr_msg_data_type == 'text':
                try:
                    b''.join(self.frames).decode()
                except UnicodeDecodeError:
                    self.frames = []
                    self._fail(1007, 'this text is no UTF-8')
                    return
            super().send_receive_event_to_app()

        def connection_lost(self, exc):
            self._patience.end()
            super().connection_lost(exc)

        def _too_slow(self):
            self._fail(1008, f'a message took more than {seconds:g} s')

        def _fail(self, code, reason):
            if not (self.close_sent or self.transport.is_closing()):
                self.conn.fail(code, reason)
                self.handle_parser_exception()

    return PatientWebSocket
