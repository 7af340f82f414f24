"""The tabletops that people play on; all are simulated in one thread, which owns their OpenGL contexts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
import concurrent.futures
import dataclasses
from typing import Any, TypeVar

import numpy as np
import simplejpeg

from rt2_jax.envs.tabletop import suites, tasks, wordings
from rt2_jax.envs.tabletop.env import TabletopEnv

_SIDE = 640  # of a frame shown, pixels
_JPEG_QUALITY = 85

T = TypeVar('T')
Show = Callable[[str], None]  # takes a frame as a data: URL


class Table:
    """One person's tabletop, used in the simulator's thread alone.

    The policy sees what it sees in an evaluation: the environment's own frames.
    """

    def __init__(self) -> None:
        self._env = TabletopEnv(max_steps=10**9, render_mode=None)
        self._task: tasks.Task | None = None
        self._order: tuple[int, ...] = ()

    def load(self, suite: str, seed: int) -> dict[str, Any]:
        """Draws a scene: its frame, what lies on the table, and what to say to the robot.

        Raises:
            ValueError: no such suite, or the number is out of range.
        """
        scene = suites.draw(suite, seed)
        self._observation, _ = self._env.reset(seed=0, options={'scene': scene})
        return {
            'frame': self._shown(),
            'objects': scene.names(),
            'offered': wordings.offered(scene),
        }

    def begin(self, instruction: str, show: Show, frames: int) -> np.ndarray:
        """An instruction begins, by which success is judged from now on.

        Args:
            instruction: as a person typed it.
            show: as for `step`; the hand goes back to its start if it is not there.
            frames: as for `step`.

        Returns:
            What the policy sees.
        """
        scene = self._env.scene
        meant = wordings.understood(instruction, scene)
        self._task, self._order = meant or (None, ())
        with self._env.stage.filmed(lambda: show(self._shown()), frames - 1):
            self._observation = self._env.clear_hand()
        self._start = self._env.state
        return self.observe()

    def observe(self) -> np.ndarray:
        """What the policy sees, uint8 [S, S, 3]."""
        return self._observation['image']

    def step(self, action: np.ndarray, show: Show, frames: int) -> np.ndarray:
        """Carries out an action float [8], and returns what the policy sees then.

        Args:
            action: that doesn't terminate.
            show: is given frames of the movement, the last one when it rests.
            frames: how many.
        """
        with self._env.stage.filmed(lambda: show(self._shown()), frames - 1):
            self._observation, *_ = self._env.step(action)
        show(self._shown())
        return self.observe()

    def judge(self) -> tuple[bool | None, str]:
        """Whether the instruction is carried out, None where it isn't understood; and what came of it."""
        if self._task is None:
            return None, 'this wording is not judged'
        names = self._env.scene.names()
        start, now = (
            dataclasses.replace(state, tiles=tuple(state.tiles[i] for i in self._order))
            for state in (self._start, self._env.state)
        )
        text = wordings.outcome(self._task, tuple(names[i] for i in self._order), start, now)
        return tasks.succeeded(self._task, start, now), text

    def close(self) -> None:
        """Frees the renderer."""
        self._env.close()

    def _shown(self) -> str:
        jpeg = simplejpeg.encode_jpeg(self._env.frame(_SIDE), _JPEG_QUALITY)
        return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


class Simulator:
    """The thread of all tables. A table that is given back waits for the next person.

    Attributes:
        moving: how many robots carry out an instruction.

    Raises:
        RenderingUnavailable: no OpenGL on this machine.
        MissingPackage: a package of the extra `sim` is not installed.
    """

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, 'simulator')
        self._free = [self._thread.submit(_drawn_table).result()]
        self.moving = 0

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Calls something of a table's in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def take(self) -> Table:
        """A table for one person."""
        return self._free.pop() if self._free else await self.run(Table)

    def give_back(self, table: Table) -> None:
        """For the next person, who begins with a scene of their own."""
        self._free.append(table)

    def close(self) -> None:
        """Ends the thread."""
        for table in self._free:
            self._thread.submit(table.close)
        self._thread.shutdown()


def _drawn_table() -> Table:
    """A table that has drawn a scene, which needs all that the simulator needs."""
    table = Table()
    table.load('seen', 0)
    return table
