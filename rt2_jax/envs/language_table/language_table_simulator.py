"""Language-Table's own code, from a clone of google-research/language-table (tried: 5b7bf0e), and its oracle.

The clone wants gym, TensorFlow and TF-Agents, and needs of them no more than base classes. While it is
imported, stand-ins take their places; afterwards they are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import functools
import importlib
import sys
import types
from typing import Any
import warnings

import numpy as np

BOUNDS = (0.15, -0.3048), (0.6, 0.3048)  # x and y of the table, metres; environments/constants.py
CAMERA_HEIGHT, CAMERA_WIDTH = 180, 320  # pixels
BLOCKS = (
    'red moon',
    'red pentagon',
    'blue moon',
    'blue cube',
    'green cube',
    'green star',
    'yellow star',
    'yellow pentagon',
)
_REWARDS = {
    'blocktoblock': ('block2block', 'BlockToBlockReward'),
    'blocktoabsolutelocation': ('block2absolutelocation', 'BlockToAbsoluteLocationReward'),
    'blocktoblockrelativelocation': (
        'block2block_relative_location',
        'BlockToBlockRelativeLocationReward',
    ),
    'blocktorelativelocation': ('block2relativelocation', 'BlockToRelativeLocationReward'),
    'separate': ('separate_blocks', 'SeparateBlocksReward'),
}
FAMILIES = tuple(_REWARDS)  # as its eval/main.py names them
_ENVIRONMENTS = 'language_table.environments'
# The oracle plans with as many samples; 1024 and 2048 there, which takes seconds.
PLAN_SAMPLES = 300
# How near the arm must come to where it begins to push, metres. The original's 1 mm is less than what
# noise and rounded actions leave, and it waits there for ever.
NEAR = 0.006


def frame_width(height: int) -> int:
    """Pixels across of a frame so high: the camera's is 16/9 as wide."""
    return round(height * CAMERA_WIDTH / CAMERA_HEIGHT)


class Table:
    """The simulator with its eight blocks, and an oracle that has a plan.

    Attributes:
        simulator: the clone's `LanguageTable`.
        out_of_reach: how many of the episode's set-points would have been off the table.
    """

    def __init__(self) -> None:
        self._package = _package()
        self.simulator: Any = None
        self._oracle: Any = None
        self.out_of_reach = 0

    def begin(self, family: str, seed: int) -> None:
        """Begins an episode: the first start from this seed for which the oracle finds a plan.

        As the clone's eval/main.py does it; there all episodes' starts come from one generator.
        """
        self.close()  # Bullet remembers more of an episode than its saved states hold
        blocks = self._package.blocks.LanguageTableBlockVariants.BLOCK_8
        self._plans = self.out_of_reach = 0
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # gymnasium's, of bounds in double precision
            self.simulator = self._package.table(blocks, self._package.rewards[family], seed=seed)
        while True:
            try:
                with self._seeded(seed):
                    self.simulator.reset()
                self._oracle = self._new_oracle()
                with self._seeded(seed):
                    if self._oracle.get_plan(self._look()):
                        return
            except ValueError as error:  # the blocks did not fit onto the table
                if 'max attempts' not in str(error):
                    raise

    def step(self, command: np.ndarray) -> bool:
        """Moves the arm's set-point by float [2], metres; whether the goal is reached."""
        goal = self.set_point + command
        self.out_of_reach += bool((goal < BOUNDS[0]).any() or (goal > BOUNDS[1]).any())
        _, _, done, _ = self.simulator.step(command)
        self._look()
        return done

    def state(self) -> np.ndarray:
        """Where the arm's tip is: float32 [2], metres."""
        return self._seen['effector_translation']

    def scripted(self) -> np.ndarray:
        """What the oracle does now: float [2], metres."""
        with self._seeded(self._plans):
            return self._oracle._get_action_for_block_target(self._seen)

    def forget_plan(self) -> None:
        """Has the oracle plan anew from where things are now."""
        self._plans += 1
        self._oracle.reset()

    @property
    def instruction(self) -> str:
        """What is to be done."""
        return self.simulator._instruction_str

    @property
    def moved(self) -> int:
        """Number among BLOCKS of the one that is to be moved."""
        return BLOCKS.index(self.simulator._start_block.replace('_', ' '))

    @property
    def goal_block(self) -> int | None:
        """Number of the block that it is to be brought to; None for another kind of goal."""
        name = self.simulator._oracle_target_block
        return None if name is None else BLOCKS.index(name.replace('_', ' '))

    @property
    def goal(self) -> np.ndarray:
        """Where it is to be brought: float [2], metres."""
        if self.simulator._oracle_target_translation is not None:
            return np.asarray(self.simulator._oracle_target_translation)
        assert self.goal_block is not None
        return self.places[self.goal_block]

    @property
    def places(self) -> np.ndarray:
        """Where the blocks are: float [8, 2], metres."""
        names = (f'block_{block.replace(" ", "_")}_translation' for block in BLOCKS)
        return np.stack([self._seen[name] for name in names])

    @property
    def touched(self) -> int | None:
        """Number of the block that the arm's tip presses most; None if it touches none."""
        simulator = self.simulator
        bodies = {
            simulator._block_to_pybullet_id[b.replace(' ', '_')]: i for i, b in enumerate(BLOCKS)
        }
        contacts = simulator.pybullet_client.getContactPoints(simulator._robot.end_effector)
        # Of a contact: the other body, and by which force.
        forces = [(contact[9], bodies[contact[2]]) for contact in contacts if contact[2] in bodies]
        force, block = max(forces, default=(0.0, 0))
        return block if force > 0 else None

    @property
    def set_point(self) -> np.ndarray:
        """Where the arm's tip is to be: float32 [2], metres."""
        return self._seen['effector_target_translation']

    def draw(self, size: int) -> np.ndarray:
        """What the camera sees: uint8 [size, frame_width(size), 3]."""
        client, width = self.simulator.pybullet_client, frame_width(size)
        view, projection, *_ = self.simulator.calc_camera_params((CAMERA_HEIGHT, CAMERA_WIDTH))
        renderer = client.ER_TINY_RENDERER
        picture = client.getCameraImage(width, size, view, projection, renderer=renderer)[2]
        return np.ascontiguousarray(np.reshape(picture, (size, width, 4))[..., :3], np.uint8)

    def pixels(self, places: np.ndarray, height: float = 0.0) -> np.ndarray:
        """Where the camera sees places [..., 2] of this height above the table: u, v in [0, 1] if inside."""
        view, projection, *_ = self.simulator.calc_camera_params((CAMERA_HEIGHT, CAMERA_WIDTH))
        to_camera, to_clip = (np.reshape(matrix, (4, 4)).T for matrix in (view, projection))
        places = np.asarray(places, np.float64)
        ends = np.stack([np.full(places.shape[:-1], height), np.ones(places.shape[:-1])], -1)
        clip = np.concatenate([places, ends], -1) @ (to_clip @ to_camera).T
        across = clip[..., :2] / clip[..., 3:]
        return np.stack([0.5 + across[..., 0] / 2, 0.5 - across[..., 1] / 2], -1)

    def close(self) -> None:
        """Frees the simulator."""
        if self.simulator:
            self.simulator.pybullet_client.disconnect()
            self.simulator = None

    def _look(self) -> dict[str, Any]:
        """Where everything is now, as the clone's oracle reads it; remembered until the next step."""
        self._seen: dict[str, Any] = self.simulator.compute_state()
        return self._seen

    def _new_oracle(self) -> Any:
        """The clone's oracle, brisk: it doesn't slow down near the goal, nor wait for the last millimetre."""
        oracle = self._package.oracle(_OracleView(self.simulator), use_ee_planner=True)
        oracle._maybe_slowdown = lambda distance, step: step
        for name in ('_get_move_to_preblock', '_get_move_to_preblock_avoid_rrt'):
            setattr(oracle, name, _soon(oracle, getattr(oracle, name)))
        return oracle

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """The clone draws plans and some wordings from numpy's global generator."""
        before = np.random.get_state()
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


class _OracleView:
    """What the oracle asks of an environment of TF-Agents."""

    def __init__(self, simulator: Any) -> None:
        self.pybullet_client = simulator.pybullet_client
        self.compute_state = simulator.compute_state

    def get_control_frequency(self) -> float:
        """Hz."""
        return 10.0

    def time_step_spec(self) -> None:
        """Nobody reads it."""

    def action_spec(self) -> None:
        """Nobody reads it."""


def _soon(oracle: Any, move: Any) -> Any:
    def moved(*arguments: Any) -> Any:
        change, speed = move(*arguments)
        if np.linalg.norm(change) < NEAR and not oracle._ee_plan:
            oracle.phase = 'move_to_block'
        return change, speed

    return moved


@functools.cache
def _package() -> types.SimpleNamespace:
    """The parts of the clone that are used."""
    with _stand_ins():
        load: Callable[[str], Any] = lambda name: importlib.import_module(f'{_ENVIRONMENTS}.{name}')
        planner = load('oracles.push_oracle_rrt_slowdown')
        planner.RRT_MAX_ITERS = planner.EE_RRT_ITER_MAX = PLAN_SAMPLES
        return types.SimpleNamespace(
            blocks=load('blocks'),
            table=_without_pictures(load('language_table').LanguageTable),
            oracle=planner.ObstacleOrientedPushOracleBoard2dRRT,
            rewards={
                family: getattr(load(f'rewards.{module}'), name)
                for family, (module, name) in _REWARDS.items()
            },
        )


def _without_pictures(table: Any) -> Callable[..., Any]:
    """Makes tables whose states have no picture; the oracle, the reward and each step ask for a state."""
    blank = np.zeros((CAMERA_HEIGHT, CAMERA_WIDTH, 3), np.uint8)
    blind = type('Table', (table,), {'_render_camera': lambda self, image_size: blank})
    return lambda blocks, reward, seed: blind(blocks, reward_factory=reward, seed=seed)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Puts base classes in the places of packages that are not needed, unless they are imported already."""
    import gymnasium  # pylint: disable=g-import-not-at-top

    module = types.ModuleType
    policies, trajectories = module('tf_agents.policies'), module('tf_agents.trajectories')
    py_policy, step, time = (module(name) for name in ('py_policy', 'policy_step', 'time_step'))
    py_policy.PyPolicy = type('PyPolicy', (), {'__init__': lambda self, *specs: None})  # type: ignore[attr-defined]
    policies.py_policy = py_policy  # type: ignore[attr-defined]
    trajectories.policy_step, trajectories.time_step = step, time  # type: ignore[attr-defined]
    standing_in = {
        'gym': gymnasium,
        'tensorflow': module('tensorflow'),
        'tf_agents': module('tf_agents'),
        'tf_agents.policies': policies,
        'tf_agents.trajectories': trajectories,
        f'{_ENVIRONMENTS}.oracles.plot': module('plot'),  # needs matplotlib, for pictures of plans
    }
    added = {name: sys.modules.setdefault(name, stand_in) for name, stand_in in standing_in.items()}
    try:
        yield
    finally:
        for name, stand_in in standing_in.items():
            if added[name] is stand_in:
                del sys.modules[name]
