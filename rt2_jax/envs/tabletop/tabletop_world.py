"""The tabletop as a world, see rt2_jax/envs/world.py."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from rt2_jax.data.cards import TABLETOP
from rt2_jax.envs import world
from rt2_jax.envs.tabletop import approach, expert, suites, tasks
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.errors import MissingPackage


class TabletopEnvironment:
    """A `world.Environment` over a TabletopEnv, with what tells recognition from execution.

    Args:
        suite: a name of `suites.SUITES`.
        image_size: as for TabletopEnv; so are the others.
        render_size: of what a video shows.
        execution_noise: share of the command and of a usual step.

    Raises:
        MissingPackage: the MuJoCo that is here is an older one, of another world.
    """

    over = False

    def __init__(
        self, suite: str, *, image_size: int, render_size: int, execution_noise: float
    ) -> None:
        if mujoco.__version__.startswith(('2.', '3.')):
            raise MissingPackage(
                f'The tabletop (here is mujoco {mujoco.__version__} of another world: is --suite missing?)',
                'mujoco-core 4 in an environment of its own',
                'sim',
            )
        self.env = TabletopEnv(
            suite,
            image_size=image_size,
            max_steps=10**9,
            execution_noise=execution_noise,
            render_size=render_size,
        )
        self._info: dict[str, Any] = {}
        self._approach: approach.Approach

    @property
    def success(self) -> bool:
        """Whether the goal holds now."""
        return self._info['success']

    @property
    def clipped(self) -> int:
        """See `world.Environment`."""
        return self._info['clipped']

    @property
    def out_of_reach(self) -> int:
        """See `world.Environment`."""
        return self._info['out_of_reach']

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`."""
        observation, self._info = self.env.reset(seed=seed, options={'task': task})
        self._approach = approach.Approach(self.env.state)
        return world.Episode(_seen(observation), self._info['task'], self._info['group'])

    def step(self, command: np.ndarray) -> world.Observation:
        """See `world.Environment`."""
        observation, _, _, _, self._info = self.env.step(np.concatenate([[0.0], command]))
        self._approach.step(self.env.state)
        return _seen(observation)

    def expert(self) -> np.ndarray:
        """See `world.Environment`."""
        return expert.act(self.env.state, self.env.start, self.env.task)

    def recognition(self) -> world.Recognition:
        """Which tile the first approach went to, and the one that X was pushed to (`approach`)."""
        names = self._info['object_names']
        tile, end = self._approach.tile, None
        if self.env.task.kind == 'push':
            end = approach.brought_to(self.env.start, self.env.state)
        return world.Recognition(
            objects=len(names),
            first='' if tile is None else names[tile],
            first_is_x=tile == 0,
            brought_to='' if end is None else names[end],
            brought_to_y=end == 1,
        )

    def render(self) -> np.ndarray:
        """See `world.Environment`."""
        frame = self.env.render()
        assert frame is not None  # in the default mode
        return frame

    def close(self) -> None:
        """See `world.Environment`."""
        self.env.close()


def _seen(observation: dict[str, Any]) -> world.Observation:
    return world.Observation({'image': observation['image']}, observation['instruction'])


WORLD = world.World(
    name='tabletop',
    card=TABLETOP,
    suites={name: suite.summary for name, suite in suites.SUITES.items()},
    tasks=tasks.KINDS,
    max_steps=20,
    make=TabletopEnvironment,
)
