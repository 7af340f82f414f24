"""A page to play with: a person types, the policy acts on a simulated tabletop, and the page shows why.

GET /demo is the page (demo.html), ws /demo/play one person's table (demo_page.py). The simulator runs in
a thread of this process; the policy is the one that robots are served by, through the same batches.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from importlib import resources
import re
import socket
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.serving.demo_page import Page
from rt2_jax.serving.demo_table import Simulator
from rt2_jax.serving.limits import NotReady
from rt2_jax.serving.service import Service
from rt2_jax.text.actions import ActionSpace

TABLES = 24  # most pages that play at once
_FORBIDDEN, _TRY_AGAIN = 1008, 1013


class Demo:
    """The page and the tables of all who play.

    Args:
        service: whose policy acts; its settings' `alternatives` are shown.

    Raises:
        ValueError: the policy does not act in the tabletop's action space.
        UserError: the simulator does not run here.
    """

    def __init__(self, service: Service) -> None:
        names = service.policy.action_tokenizer.space.number_names
        if names != ActionSpace.rt1_bounds().number_names:
            raise ValueError(
                f'--demo plays on the tabletop, whose arm needs '
                f'{", ".join(ActionSpace.rt1_bounds().number_names)}; this policy decides '
                f'{", ".join(names)}.'
            )
        needs = service.needs
        if len(needs.cameras) > 1 or needs.state:
            raise ValueError(
                '--demo plays on the tabletop, which shows one picture; this policy acts by '
                f'{", ".join((*needs.cameras, *(["a state"] if needs.state else [])))}.'
            )
        self.service, self.simulator = service, Simulator()
        self.open_tables = 0
        self._page = resources.files('rt2_jax.serving').joinpath('demo.html').read_text('utf-8')
        # The browser runs this script and this style, and talks to this server: nothing else.
        self._rules = (
            "default-src 'none'; img-src data:; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'; "
            f'script-src {_hash(self._page, "script")}; style-src {_hash(self._page, "style")}'
        )

    def routes(self) -> list[BaseRoute]:
        """What the server answers besides."""
        return [Route('/demo', self._answer_page), WebSocketRoute('/demo/play', self._play)]

    def addresses(self, host: str, port: int) -> str:
        """What to tell whoever started the server."""
        everywhere = host in ('0.0.0.0', '::', '')
        name = 'localhost' if everywhere else f'[{host}]' if ':' in host else host
        line = f'A page to play with: http://{name}:{port}/demo'
        if everywhere:
            line += (
                f'\nFrom other machines: http://{socket.gethostname()}:{port}/demo. It asks for no key: '
                'whoever reaches this address can play.'
            )
        return line

    async def warm_up(self) -> None:
        """Compiles what the page shows beside answers, as soon as the service is warm."""
        # A backbone without attention to show says so when it is asked.
        with contextlib.suppress(NotReady, ValueError):
            await self.service.wait_until_warm()
            await asyncio.to_thread(self.service.policy.warm_up_attention)

    def close(self) -> None:
        """Ends the simulator."""
        self.simulator.close()

    async def _answer_page(self, _: Request) -> Response:
        headers = {
            'Content-Security-Policy': self._rules,
            'Referrer-Policy': 'no-referrer',
            'X-Content-Type-Options': 'nosniff',
            'Cache-Control': 'no-cache',
        }
        return HTMLResponse(self._page, headers=headers)

    async def _play(self, connection: WebSocket) -> None:
        await connection.accept()
        origin = urlsplit(connection.headers.get('origin', '')).netloc
        if origin != connection.headers.get('host'):
            await connection.close(_FORBIDDEN, 'This page is from another place than the server.')
            return
        if self.open_tables >= TABLES:
            await connection.close(
                _TRY_AGAIN, f'All {TABLES} tables are taken. Waiting for one ...'
            )
            return
        self.open_tables += 1
        table = None
        try:
            table = await self.simulator.take()
            await Page(self.service, self.simulator, connection, table).run()
        except (WebSocketDisconnect, OSError):
            pass  # the page was closed
        finally:
            self.open_tables -= 1
            if table:
                self.simulator.give_back(table)


def _hash(page: str, tag: str) -> str:
    """The source of an inline element as a Content-Security-Policy names it."""
    (text,) = re.findall(rf'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
