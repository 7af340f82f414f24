"""One page in a browser: what a person asks of the robot, and what the page is told of it.

Messages are JSON texts: a person's have `do`, the server's `kind`; see `Page`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
import contextlib
import json
import math
import re
import time
from typing import Any

from absl import logging
import jax
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from rt2_jax.decoding.grammar import Kind
from rt2_jax.envs.tabletop import stage, suites
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.serving.demo_table import Simulator, Table
from rt2_jax.serving.limits import Malformed, NotReady, Refusal, TooLarge
from rt2_jax.serving.messages import Request
from rt2_jax.serving.service import Service
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace

SUITES = (
    *('seen', 'unseen_objects', 'unseen_backgrounds', 'unseen_environments', 'emergent'),
    *('thought', 'redrawn'),
)
MAX_STEPS = 20  # of an instruction, as in an evaluation
_FIRST_SCENE = 9
_FRAMES = 6  # shown of a step, where nobody else's robot moves
_STEP_SECONDS = 1 / stage.CONTROL_HZ
_MESSAGE_CHARACTERS = 20_000
_PLACE = re.compile(r'(?:([^\d,]+) )?\b(\d{1,3}) (\d{1,3})\b')  # thousandths of the picture's side
_MEANINGS = {
    'terminate': 'done?',
    'dx': 'to the right',
    'dy': 'away',
    'dz': 'up',
    'drx': 'tilt about x',
    'dry': 'tilt about y',
    'drz': 'turn left',
    'gripper': 'fingers',
}


class Page:
    """One page in a browser.

    A person sends {do: 'scene', suite, seed}, {do: 'act', text}, {do: 'stop'}, {do: 'ask', text} and
    {do: 'look', on}, which switches attention on or off.

    The server sends, by `kind`: 'welcome', then 'state' (whether the model is ready); to a scene
    'scene'; to an instruction 'begin', of every step a 'decision' and 'frame's, and 'end'; to a
    question 'answer'; 'attention'; and 'error' where something can't be.
    """

    def __init__(
        self, service: Service, simulator: Simulator, connection: WebSocket, table: Table
    ) -> None:
        self._service, self._simulator = service, simulator
        self._connection, self._table = connection, table
        self._policy = service.policy
        self._acting: asyncio.Task | None = None
        self._stopping = self._gone = self._attentive = False
        self._last: tuple[np.ndarray, str, Answer] | None = None

    async def run(self) -> None:
        """Serves the page until it is closed."""
        await self._send(
            'welcome',
            about=_about(self._policy),
            suites=[{'name': name, 'summary': suites.SUITES[name].summary} for name in SUITES],
            suite=SUITES[0],
            seed=_FIRST_SCENE,
        )
        announcing = asyncio.create_task(self._announce())
        try:
            while True:
                try:
                    await self._handle(await self._receive())
                except (Refusal, ValueError) as error:
                    await self._send('error', text=str(error))
        finally:
            announcing.cancel()
            await self._stop()

    async def _announce(self) -> None:
        await self._send('state', ready=self._service.ready)
        with contextlib.suppress(NotReady):
            await self._service.wait_until_warm()
            await self._send('state', ready=True)

    async def _receive(self) -> str:
        message = await self._connection.receive()
        if message['type'] == 'websocket.disconnect':
            raise WebSocketDisconnect(message['code'])
        text = message.get('text')
        if text is None or len(text) > _MESSAGE_CHARACTERS:
            raise Malformed(f'A message is a text of at most {_MESSAGE_CHARACTERS} characters.')
        return text

    async def _handle(self, message: str) -> None:
        calls: dict[str, Callable[..., Awaitable[None]]] = {
            'scene': self._scene,
            'act': self._act,
            'stop': self._stop,
            'ask': self._ask,
            'look': self._look,
        }
        try:
            fields = json.loads(message)
            awaitable = calls[fields.pop('do')](**fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Malformed(
                f'A message is JSON with `do`, one of {", ".join(calls)}, and what that needs.'
            ) from error
        await awaitable

    async def _scene(self, suite: str, seed: int) -> None:
        if suite not in SUITES or type(seed) is not int:
            raise Malformed(f'A scene has one of the suites {", ".join(SUITES)} and a number.')
        await self._stop()
        self._last = None
        await self._send('scene', **await self._simulator.run(self._table.load, suite, seed))

    async def _act(self, text: str) -> None:
        word = prompts.robot_plan if self._policy.plan else prompts.robot
        text = self._checked('The instruction', text, word)
        await self._stop()
        self._stopping = False
        self._acting = asyncio.create_task(self._episode(text))

    async def _stop(self) -> None:
        """Ends the present instruction, if there is one, before its next step."""
        self._stopping = True
        if self._acting:
            await self._acting
            self._acting = None

    async def _ask(self, text: str) -> None:
        text = self._checked('The question', text, prompts.web)
        question = text.rstrip('? ').lower()
        image = await self._simulator.run(self._table.observe)
        request = Request(image[None], prompts.web(question), wants_text=True)
        answer = str(await self._answer(request))
        places = _places(answer) if not question.startswith('which way') else []
        await self._send('answer', question=text, text=answer, places=places)

    async def _look(self, on: bool) -> None:
        self._attentive = on is True
        if self._attentive and self._last:
            await self._send('attention', **await self._attention(*self._last))

    def _checked(self, what: str, text: Any, word: Callable[[str], str]) -> str:
        """A text that the model can read, in the prompt that `word` makes of it."""
        text = self._service.limits.check_text(what, text).strip()
        count, most = len(self._policy.tokenizer.encode(word(text))), self._policy.prompt_length
        if count > most:
            raise TooLarge(
                f'{what} is too long: its prompt has {count} tokens, and this model reads {most}. '
                'Use fewer words.'
            )
        return text

    async def _episode(self, instruction: str) -> None:
        """Carries an instruction out, and says how it ended. Raises nothing."""
        success = None
        self._simulator.moving += 1
        try:
            await self._send('begin', instruction=instruction)
            while not self._stopping and not self._service.ready:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._service.wait_until_warm(), 0.1)
            ended = await self._steps(instruction)
            success, text = await self._simulator.run(self._table.judge)
            text = f'{text}; {ended}'
        except Refusal as refusal:
            text = str(refusal)
        except Exception:
            logging.exception('an episode of the page failed')
            text = 'the server failed, and has logged why'
        finally:
            self._simulator.moving -= 1
        if self._stopping:
            success, text = None, 'stopped'
        await self._send('end', instruction=instruction, success=success, text=text)

    async def _steps(self, instruction: str) -> str:
        """As an evaluation plays an episode; returns why it ended."""
        robot = self._policy.robot()
        image = await self._move(self._table.begin, instruction)
        for step in range(1, MAX_STEPS + 1):
            if self._stopping:
                return 'stopped'
            begin = time.monotonic()
            answer = await self._decide(step, robot.see(image), instruction)
            if robot.ends(answer.action):
                return f'the robot said that it is done, after {_count(step - 1, "step")}'
            image = await self._move(self._table.step, robot.to_absolute_gripper(answer.action))
            # At most as fast as the robot itself, so that the page can show it evenly.
            await asyncio.sleep(begin + _STEP_SECONDS - time.monotonic())
        return f'{MAX_STEPS} steps are the most'

    async def _decide(self, step: int, frames: np.ndarray, instruction: str) -> Answer:
        begin = time.monotonic()
        answer = await self._answer(Request(frames, instruction))
        assert isinstance(answer, Answer)
        milliseconds = round(1000 * (time.monotonic() - begin))
        self._last = frames, instruction, answer
        await self._send(
            'decision',
            step=step,
            plan=answer.plan,
            places=_places(answer.plan),
            written=' '.join(map(str, self._policy.action_tokenizer.to_integers(answer.action))),
            numbers=_numbers(self._policy.action_tokenizer.space, answer),
            milliseconds=milliseconds,
        )
        if self._attentive:
            await self._send('attention', **await self._attention(*self._last))
        return answer

    async def _move(self, call: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        """A movement of the table's, its frames sent as they are drawn."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        show = lambda frame: loop.call_soon_threadsafe(queue.put_nowait, frame)
        # The one thread draws for all: the more move, the fewer frames each has.
        frames = max(1, _FRAMES // max(1, self._simulator.moving))
        moving = asyncio.ensure_future(self._simulator.run(call, *arguments, show, frames))
        moving.add_done_callback(lambda _: queue.put_nowait(None))
        while frame := await queue.get():
            await self._send('frame', frame=frame, seconds=_STEP_SECONDS / frames)
        return await moving

    async def _answer(self, request: Request) -> Answer | str | None:
        """The policy's answer, in one batch with whoever asks meanwhile."""
        session = self._service.new_session(self._service.convention('internal'))
        with self._service.count_request('demo') as labels, self._service.slot():
            _, answer, _ = await self._service.answer(labels, lambda: request, session)
        return answer

    async def _attention(
        self, frames: np.ndarray, instruction: str, answer: Answer
    ) -> dict[str, Any]:
        """Where the model looked: whole numbers up to 255 [rows, columns], for each number and their mean."""
        attend = lambda: self._policy.attention(frames, instruction, answer)[:, -1]
        looks = await asyncio.to_thread(attend)
        scaled = lambda x: np.round(255 * x / max(x.max(), 1e-9)).astype(int).tolist()
        settings = self._policy.settings
        kind = Kind.PLAN if len(answer.plan_tokens) else Kind.ACTION
        return {
            'mean': scaled(looks.mean(0)),
            'numbers': [scaled(look) for look in looks],
            'side': settings.augment.side(settings.crops(kind)),
        }

    async def _send(self, kind: str, **fields: Any) -> None:
        """Sends a message, or nothing to a page that was closed; then what it does ends."""
        if self._gone:
            return
        try:
            await self._connection.send_text(json.dumps({'kind': kind, **fields}))
        except (WebSocketDisconnect, OSError, RuntimeError):
            self._gone = self._stopping = True


def _about(policy: Policy) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(policy.params))
    trained = f', trained for {policy.step:,} steps' if policy.step else ''
    return f'This one has {parameters / 1e6:.1f} million parameters{trained}.'


def _numbers(space: ActionSpace, answer: Answer) -> list[dict[str, Any]]:
    """Each number of an action: its value, its entropy in nats, what else it could have been."""
    names = space.number_names
    return [
        {
            'name': name,
            'meaning': _MEANINGS[name],
            'value': _in_words(name, value),
            'entropy': round(float(entropy), 4),
            'alternatives': _merged([(_in_words(name, v), p) for v, p in likeliest]),
        }
        for name, value, entropy, likeliest in zip(
            names, answer.action, answer.entropies, answer.alternatives or [()] * len(names)
        )
    ]


def _in_words(name: str, value: float) -> str:
    if name == 'terminate':
        return 'yes' if value >= 0.5 else 'no'
    if name == 'gripper':
        return 'close' if value > 0 else 'open'
    if name.startswith('dr'):
        return f'{_signed(math.degrees(value), 0)}°'
    return f'{_signed(100 * value, 1)} cm'


def _signed(value: float, digits: int) -> str:
    """A number with its sign; 0 has none."""
    text = f'{value:+.{digits}f}'
    return text if float(text) else text[1:]


def _merged(alternatives: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Values that read the same, as one; likeliest first."""
    sums: dict[str, float] = {}
    for words, probability in alternatives:
        sums[words] = sums.get(words, 0) + probability
    return [(words, round(p, 3)) for words, p in sorted(sums.items(), key=lambda item: -item[1])]


def _places(text: str) -> list[dict[str, Any]]:
    """The places that a text names: u and v in [0, 1] from the top left, and what is there."""
    return [
        {'name': (name or '').strip(), 'u': int(u) / 1000, 'v': int(v) / 1000}
        for name, u, v in _PLACE.findall(text)
    ]


def _count(number: int, thing: str) -> str:
    return f'{number} {thing}{"" if number == 1 else "s"}'
