"""A page to play with: a person types, the policy acts on a simulated tabletop, and the page shows why.

GET /demo is the page (demo.html), ws /demo/play one person's table. The simulator runs in a thread of
this process; the policy is the one that robots are served by, through the same batches. Messages are
JSON texts: a person's have `do`, the server's `kind`; see `_Page`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
import concurrent.futures
import contextlib
import dataclasses
import hashlib
from importlib import resources
import json
import re
import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import simplejpeg
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.envs.tabletop import suites, tasks, wordings
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.policy.answers import Answer
from rt2_jax.serving.limits import Malformed, NotReady, Refusal
from rt2_jax.serving.messages import Request
from rt2_jax.serving.service import Service, Session
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace

SUITES = ('seen', 'unseen_objects', 'unseen_backgrounds', 'unseen_environments', 'emergent')
_TABLES = 24  # most pages that play at once
_MAX_STEPS = 20  # of an instruction, as in the suites
_FRAMES_A_STEP = 4  # shown of a movement
_SIDE = 480  # of a frame shown, pixels
_MESSAGE_CHARACTERS = 20_000
_RESTART, _TRY_AGAIN = 1012, 1013
_PLACE = re.compile(r'\b(\d{1,3}) (\d{1,3})\b')  # thousandths of the picture's side

T = TypeVar('T')


class Table:
    """One person's tabletop. Every call comes from the one thread that owns its OpenGL context."""

    def __init__(self, image_size: int) -> None:
        self._env = TabletopEnv(image_size=image_size, max_steps=10**9, render_size=_SIDE)
        self._judged: tuple[tasks.Task, tuple[int, ...]] | None = None

    def load(self, suite: str, seed: int) -> dict[str, Any]:
        """Draws a scene: its frame, what lies on the table, and what to say to the robot.

        Raises:
            ValueError: no such suite, or the number is out of range.
        """
        scene = suites.draw(suite, seed)
        self._observation, _ = self._env.reset(seed=0, options={'scene': scene})
        return {
            'frame': self._shown(self._env.render()),
            'objects': scene.names(),
            'offered': wordings.offered(scene),
        }

    def begin(self, instruction: str) -> np.ndarray:
        """Judges success by this instruction from now on; returns what the policy sees."""
        self._judged = wordings.understood(instruction, self._env.scene)
        self._start = self._env.state
        return self.observe()

    def observe(self) -> np.ndarray:
        """What the policy sees, uint8 [S, S, 3]."""
        return self._observation['image']

    def step(self, action: np.ndarray, show: Callable[[str], None]) -> np.ndarray:
        """Carries out an action float [8], and returns what the policy sees then.

        Args:
            action: that doesn't terminate.
            show: is given frames of the movement, and the last one when it rests.
        """
        film = lambda: show(self._shown(self._env.frame(_SIDE)))
        with self._env.stage.filmed(film, _FRAMES_A_STEP):
            self._observation, *_ = self._env.step(action)
        show(self._shown(self._env.render()))
        return self.observe()

    def succeeded(self) -> bool | None:
        """Whether the instruction is carried out; None where its words say nothing that is judged."""
        if self._judged is None:
            return None
        task, order = self._judged
        start, now = (
            dataclasses.replace(state, tiles=tuple(state.tiles[i] for i in order))
            for state in (self._start, self._env.state)
        )
        return tasks.succeeded(task, start, now)

    def close(self) -> None:
        """Frees the renderer."""
        self._env.close()

    def _shown(self, frame: np.ndarray | None) -> str:
        assert frame is not None
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), 85)
        return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


class Demo:
    """The page and the tables of all who play.

    Args:
        service: whose policy acts; its settings' `alternatives` are shown.

    Raises:
        ValueError: the policy does not act in the tabletop's action space.
    """

    def __init__(self, service: Service) -> None:
        names = service.policy.action_tokenizer.space.number_names
        if names != ActionSpace.rt1_bounds().number_names:
            raise ValueError(
                f'--demo plays on the tabletop; this policy decides {", ".join(names)}.'
            )
        self.service, self.open_tables = service, 0
        self._simulator = concurrent.futures.ThreadPoolExecutor(1, 'simulator')
        page = resources.files('rt2_jax.serving').joinpath('demo.html').read_text('utf-8')
        self._page = page
        # The browser runs this script and this style, and talks to this server: nothing else.
        self._policy = (
            "default-src 'none'; img-src data:; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'; "
            f'script-src {_hash(page, "script")}; style-src {_hash(page, "style")}'
        )

    def routes(self) -> list[BaseRoute]:
        """What the server answers besides."""
        return [Route('/demo', self._answer_page), WebSocketRoute('/demo/play', self._play)]

    def close(self) -> None:
        """Ends the simulator's thread."""
        self._simulator.shutdown()

    async def simulate(self, call: Callable[..., T], *arguments: Any) -> T:
        """Calls something of the simulator's in its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._simulator, call, *arguments)

    async def _answer_page(self, _: HttpRequest) -> Response:
        headers = {
            'Content-Security-Policy': self._policy,
            'Referrer-Policy': 'no-referrer',
            'X-Content-Type-Options': 'nosniff',
            'Cache-Control': 'no-cache',
        }
        return HTMLResponse(self._page, headers=headers)

    async def _play(self, socket: WebSocket) -> None:
        await socket.accept()
        origin = urlsplit(socket.headers.get('origin', '')).netloc
        if origin != socket.headers.get('host'):
            await socket.close(1008, 'This page is from another place than the server.')
            return
        if self.open_tables >= _TABLES:
            await socket.close(_TRY_AGAIN, f'All {_TABLES} tables are taken; the page tries again.')
            return
        self.open_tables += 1
        table = None
        try:
            await self.service.wait_until_warm()
            table = await self.simulate(Table, self.service.policy.image_size)
            await _Page(self, socket, table).run()
        except NotReady as refusal:
            await socket.close(_RESTART, str(refusal))
        except (WebSocketDisconnect, OSError):
            pass  # the page was closed
        finally:
            self.open_tables -= 1
            if table:
                await asyncio.shield(self.simulate(table.close))


class _Page:
    """One page in a browser.

    A person sends
    {do: 'scene', suite, seed}, {do: 'act', text, attention}, {do: 'ask', text} or {do: 'stop'},

    and is sent, by `kind`: 'welcome', then 'scene'; to an instruction 'begin', of every step a
    'decision' and 'frame's, and 'end'; to a question 'answer'; and 'error' where something can't be.
    """

    def __init__(self, demo: Demo, socket: WebSocket, table: Table) -> None:
        self._demo, self._socket, self._table = demo, socket, table
        self._service = demo.service
        self._policy = demo.service.policy
        self._session = self._new_session()
        self._acting: asyncio.Task | None = None

    async def run(self) -> None:
        """Serves the page until it is closed."""
        policy = self._policy
        trained = f', trained for {policy.step:,} steps' if policy.step else ''
        await self._send(
            'welcome',
            about=f'{_millions(policy.params)} M parameters{trained}.',
            suites=[{'name': name, 'summary': suites.SUITES[name].summary} for name in SUITES],
            suite=SUITES[0],
            seed=3,
            numbers=policy.action_tokenizer.space.number_names,
        )
        try:
            while True:
                try:
                    await self._handle(await self._socket.receive_text())
                except (Refusal, ValueError) as error:
                    await self._send('error', text=str(error))
        finally:
            await self._stop()

    async def _handle(self, message: str) -> None:
        if len(message) > _MESSAGE_CHARACTERS:
            raise Malformed(f'A message has at most {_MESSAGE_CHARACTERS} characters.')
        try:
            fields = json.loads(message)
            calls: dict[str, Callable[..., Awaitable[None]]] = {
                'scene': self._scene,
                'act': self._act,
                'ask': self._ask,
                'stop': self._stop,
            }
            call = calls[fields.pop('do')]
            awaitable = call(**fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Malformed(
                "A message is JSON with `do`: 'scene', 'act', 'ask' or 'stop'."
            ) from error
        await awaitable

    async def _scene(self, suite: str, seed: int) -> None:
        if suite not in SUITES or type(seed) is not int:
            raise Malformed(f'A scene has one of the suites {", ".join(SUITES)} and a number.')
        await self._stop()
        await self._send('scene', **await self._demo.simulate(self._table.load, suite, seed))

    async def _act(self, text: str, attention: bool = False) -> None:
        text = self._service.limits.check_text('The instruction', text).strip()
        await self._stop()
        self._acting = asyncio.create_task(self._episode(text, attention is True))

    async def _ask(self, text: str) -> None:
        question = self._service.limits.check_text('The question', text).strip().rstrip('?').strip()
        image = await self._demo.simulate(self._table.observe)
        request = Request(image[None], prompts.web(question.lower()), wants_text=True)
        answer = str(await self._answer(request, self._new_session()))
        points = [[int(u) / 1000, int(v) / 1000] for u, v in _PLACE.findall(answer)]
        await self._send(
            'answer', question=f'{question}?', text=answer or '(nothing)', points=points
        )

    async def _stop(self) -> None:
        """Ends the present instruction, if there is one, before its next step."""
        acting, self._acting = self._acting, None
        if acting and not acting.done():
            acting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acting

    async def _episode(self, instruction: str, attention: bool) -> None:
        reason, success, step = 'stopped', None, 0
        try:
            await self._send('begin', instruction=instruction)
            self._session = self._new_session()
            image = await self._demo.simulate(self._table.begin, instruction)
            for step in range(1, _MAX_STEPS + 1):
                answer = await self._decide(step, image, instruction, attention)
                if answer.action[0] >= 0.5:
                    reason = f'the robot says so after {step - 1} steps'
                    break
                image = await self._move(answer.action)
            else:
                reason = f'out of steps after {_MAX_STEPS}'
            success = await self._demo.simulate(self._table.succeeded)
            if success is None:
                reason += '; to judge it, name a picture on the table and pick, push or turn it'
        except Refusal as refusal:
            reason = str(refusal)
            await self._send('error', text=reason)
        except (WebSocketDisconnect, OSError):
            return  # the page was closed
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._send('end', instruction=instruction, success=None, reason=reason)
            raise
        except Exception:
            logging.exception('an episode of the page failed')
            reason = 'the server failed, and has logged why'
        await self._send('end', instruction=instruction, success=success, reason=reason)

    async def _decide(
        self, step: int, image: np.ndarray, instruction: str, attention: bool
    ) -> Answer:
        begin = time.monotonic()
        answer = await self._answer(Request(image[None], instruction), self._session)
        assert isinstance(answer, Answer)
        milliseconds = round(1000 * (time.monotonic() - begin))
        looks = None
        if attention:
            attend = lambda: self._policy.attention(image, instruction, answer)[:, -1]
            looks = _whole(await asyncio.to_thread(attend))
        await self._send(
            'decision',
            step=step,
            plan=answer.plan,
            numbers=_numbers(self._policy.action_tokenizer.space, answer),
            attention=looks,
            milliseconds=milliseconds,
        )
        return answer

    async def _move(self, action: np.ndarray) -> np.ndarray:
        """One action on the table, its frames sent as they are drawn."""
        loop = asyncio.get_running_loop()
        frames: asyncio.Queue[str | None] = asyncio.Queue()
        put = lambda frame: loop.call_soon_threadsafe(frames.put_nowait, frame)
        moving = asyncio.ensure_future(self._demo.simulate(self._table.step, action, put))
        moving.add_done_callback(lambda _: frames.put_nowait(None))
        while frame := await frames.get():
            await self._send('frame', frame=frame)
        return await moving

    async def _answer(self, request: Request, session: Session) -> Answer | str | None:
        """The policy's answer, in one batch with whoever asks meanwhile."""
        with self._service.count_request('demo') as labels, self._service.slot():
            _, answer, _ = await self._service.answer(labels, lambda: request, session)
        return answer

    def _new_session(self) -> Session:
        return self._service.new_session(self._service.convention('internal'))

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send_text(json.dumps({'kind': kind, **fields}))


def _numbers(space: ActionSpace, answer: Answer) -> list[dict[str, Any]]:
    """Each number of an action: its value in its unit, its entropy in nats, what else it could be."""
    units = ('',) * space.terminate + tuple(space.units)
    alternatives = answer.alternatives or ((),) * len(units)
    return [
        {
            'name': name,
            'unit': unit,
            'value': f'{value:.3g}',
            'entropy': round(float(entropy), 4),
            'alternatives': [[f'{value:.3g}', round(p, 3)] for value, p in likeliest],
        }
        for name, unit, value, entropy, likeliest in zip(
            space.number_names, units, answer.action, answer.entropies, alternatives, strict=True
        )
    ]


def _whole(looks: np.ndarray) -> dict[str, Any]:
    """Attention float [L, rows, columns] as whole numbers up to 255: of each number, and their mean."""
    scaled = lambda x: np.round(255 * x / max(x.max(), 1e-9)).astype(int).tolist()
    return {'mean': scaled(looks.mean(0)), 'numbers': [scaled(look) for look in looks]}


def _millions(params: Any) -> str:
    import jax

    return f'{sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f}'


def _hash(page: str, tag: str) -> str:
    """The source of an inline element as a Content-Security-Policy names it."""
    (text,) = re.findall(rf'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
