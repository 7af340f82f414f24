"""The tabletop as a gymnasium environment."""

import math
from typing import Any

from absl import logging
import cv2
import gymnasium
import numpy as np

from rt2_jax.data.web import pictures
from rt2_jax.envs.tabletop import stage as stages, suites, tasks
from rt2_jax.envs.tabletop.rendering import FrameRenderer
from rt2_jax.envs.tabletop.scene import Scene
from rt2_jax.text.actions import ActionSpace

# A usual step per dimension; `execution_noise` is a fraction of it and of the command. About half the
# workspace's width for translations; roll, pitch and the gripper have no noise.
NOISE_SCALE = np.array([0.2, 0.2, 0.2, 0.0, 0.0, 0.5, 0.0])


class TabletopEnv(gymnasium.Env):
    """Tiles with pictures on a table, a two-finger gripper, an instruction.

        env = TabletopEnv(suite='seen')
        observation, info = env.reset(seed=3, options={'task': 'pick'})
        observation, reward, terminated, truncated, info = env.step(action)

    Observation: `image` uint8 [S, S, 3] and `instruction`, a string.

    Action: float32 [8]: a flag (>= 0.5 ends the episode, and nothing moves), then the change of the
    gripper's pose in the frame of the table, dx, dy, dz in metres and drx, dry, drz in radians,
    then the gripper: above 0 closed, else open. 3 Hz; a step may cross the whole workspace. The wrist
    levels itself: a roll or pitch tilts the hand (by at most 0.3 rad) for the length of its step.
    Values outside the action space are clipped to it; a goal outside the gripper's reach is moved
    to the nearest one inside. Both are counted in `info` and logged.

    Reward: 1 when the episode ends with the goal reached, else 0. An episode is truncated after
    `max_steps`.

    `info` holds the truth that the frame shows: `gripper_xyz` [3], `gripper_yaw`, `gripper_closed`,
    `gripper_pixel` [2], `object_names`, `object_xyz` [n, 3], `object_yaw` [n], `object_pixels`
    [n, 2] (u, v in [0, 1] from the top left, of the middle of the tile's top), and `success`,
    `task`, `plan`, `group`, `suite`, `seed`, `steps`, `clipped`, `out_of_reach`.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 3}

    def __init__(
        self,
        suite: str = 'seen',
        image_size: int = 128,
        max_steps: int = 20,
        execution_noise: float = 0.0,
        render_size: int = 480,
        render_mode: str | None = 'rgb_array',
    ) -> None:
        """Builds the environment.

        Args:
            suite: a name of `suites.SUITES`.
            image_size: height and width of the frames observed, pixels.
            max_steps: an episode's longest length.
            execution_noise: what is executed is the command plus Gaussian noise whose sigma, a
                dimension, is this fraction of (|command| + NOISE_SCALE).
            render_size: height and width of `render()`, pixels.
            render_mode: 'rgb_array' or None.

        Raises:
            ValueError: an unknown suite, a size the frame buffer can't hold, negative noise.
            RenderingUnavailable: no OpenGL on this machine.
        """
        self._suite = suites.suite(suite)
        for size in (image_size, render_size):
            if not 8 <= size <= stages.FRAME_BUFFER:
                raise ValueError(f'Frames must be 8 to {stages.FRAME_BUFFER} pixels, not {size}.')
        if not execution_noise >= 0:
            raise ValueError(f'execution_noise must be at least 0, not {execution_noise}.')
        if render_mode not in (None, 'rgb_array'):
            raise ValueError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}.")
        self.render_mode = render_mode
        self._image_size, self._render_size = image_size, render_size
        self._max_steps, self._noise = max_steps, execution_noise
        self._ranges = ActionSpace.rt1_bounds()
        low, high = (0.0, *self._ranges.low), (1.0, *self._ranges.high)
        self.action_space: gymnasium.spaces.Box = gymnasium.spaces.Box(
            np.array(low, np.float32), np.array(high, np.float32)
        )
        self.observation_space = gymnasium.spaces.Dict(
            {
                'image': gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                'instruction': gymnasium.spaces.Text(128, charset=_letters()),
            }
        )
        self.stage = stages.Stage()
        self._renderer = FrameRenderer(self.stage.model)
        self.scene: Scene
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts episode `seed` of the suite, or one drawn by this environment's own generator.

        Args:
            seed: the episode's number in the suite.
            options: `task`, one of tasks.KINDS (None: drawn), or `scene`, a Scene to play.

        Raises:
            ValueError: an unknown option or task, or a seed out of range.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        kind, scene = options.pop('task', None), options.pop('scene', None)
        if options:
            raise ValueError(f'Unknown reset options {sorted(options)}. Valid: scene, task')
        if seed is None:
            seed = int(self.np_random.integers(suites.SEEDS_PER_SUITE))
        self.scene = scene or suites.draw(self._suite.name, seed, kind)
        self._seed = seed
        self._noise_rng = np.random.default_rng([suites.global_seed(self._suite.name, seed), 99])
        self._renderer.upload_textures(self.stage.load(self.scene))
        self.start = self.state = self.stage.state()
        self._steps = self._clipped = self._out_of_reach = 0
        self._over = False
        return self._observe(), self._info()

    @property
    def task(self) -> tasks.Task:
        """The present episode's task."""
        return self.scene.task

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carries out one action, float [8].

        Raises:
            ValueError: a wrong shape, or a NaN or infinite number.
            RuntimeError: the episode is over, or none was begun.
        """
        if self._over:
            raise RuntimeError('The episode is over (or none was begun): call reset() first.')
        action = self._checked(action)
        self._steps += 1
        terminated = bool(action[0] >= 0.5)
        if not terminated:
            self._move(action[1:])
        truncated = not terminated and self._steps >= self._max_steps
        self._over = terminated or truncated
        info = self._info()
        reward = float(self._over and info['success'])
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Returns the present frame, uint8 [R, R, 3] with R the `render_size`."""
        if self.render_mode is None:
            return None
        size = self._render_size
        # Twice the size, averaged down, for smooth edges; the policy's frames do without.
        large = min(2 * size, stages.FRAME_BUFFER)
        frame = self._renderer.draw(self.stage.data, large, large)
        return cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)

    def frame(self, size: int) -> np.ndarray:
        """The present frame as the camera sees it, also in the middle of a move: uint8 [S, S, 3]."""
        return self._renderer.draw(self.stage.data, size, size)

    def clear_hand(self) -> dict[str, Any]:
        """Another episode on the table as it lies: the hand lets go and goes back to its start.

        Returns:
            The observation. Nothing moves where the hand is open at its start already.
        """
        now, (x, y, yaw) = self.state, self.scene.gripper
        here = now.x, now.y
        if now.closed:
            self.stage.move(*here, stages.GRIPPER_LOW, now.yaw, (0, 0), closed=True)
            self.stage.move(*here, stages.GRIPPER_LOW, now.yaw, (0, 0), closed=False)
        away = math.dist((*here, now.z, now.yaw), (x, y, stages.GRIPPER_HIGH, yaw))
        if away > 0.005 or now.closed:
            self.stage.move(*here, stages.GRIPPER_HIGH, now.yaw, (0, 0), closed=False)
            self.stage.move(x, y, stages.GRIPPER_HIGH, yaw, (0, 0), closed=False)
        self.start = self.state = self.stage.state()
        self._steps = self._clipped = self._out_of_reach = 0
        self._over = False
        return self._observe()

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()

    def _checked(self, action: np.ndarray) -> np.ndarray:
        action, numbers = np.asarray(action, np.float64), self._ranges.number_names
        if action.shape != (len(numbers),):
            raise ValueError(
                f'An action has {len(numbers)} numbers ({", ".join(numbers)}); '
                f'got shape {action.shape}.'
            )
        if not np.isfinite(action).all():
            bad = [f'{n}={v}' for n, v in zip(numbers, action) if not np.isfinite(v)]
            raise ValueError(f'An action must be finite; got {", ".join(bad)}.')
        low, high = self.action_space.low, self.action_space.high
        outside = (action < low - 1e-6) | (action > high + 1e-6)
        if outside.any():
            self._clipped += int(outside.sum())
            names = [f'{n}={v:.3g}' for n, v, o in zip(numbers, action, outside) if o]
            logging.warning('Action clipped to its range: %s.', ', '.join(names))
        return np.clip(action, low, high)

    def _move(self, command: np.ndarray) -> None:
        if self._noise:
            sigma = self._noise * (np.abs(command) + NOISE_SCALE) * (NOISE_SCALE > 0)
            command = command + self._noise_rng.normal(size=command.shape) * sigma
        now = self.state
        goal = np.array([now.x, now.y, now.z, now.yaw]) + command[[0, 1, 2, 5]]
        reach_x, reach_y = stages.WORKSPACE
        low = np.array([-reach_x, -reach_y, stages.GRIPPER_LOW, -stages.YAW_LIMIT])
        high = np.array([reach_x, reach_y, stages.GRIPPER_TOP, stages.YAW_LIMIT])
        tilt = command[3:5]
        # A bin of the action grid is 8 mm wide: less beyond the reach is rounding.
        beyond = ((goal < low - 0.008) | (goal > high + 0.008)).sum()
        beyond += (np.abs(tilt) > stages.TILT_LIMIT).sum()
        if beyond:
            self._out_of_reach += int(beyond)
            logging.log_every_n_seconds(
                logging.INFO,
                'Goal %s is out of reach; moved to the nearest one inside.',
                60,
                np.round(goal, 3),
            )
        x, y, z, yaw = np.clip(goal, low, high)
        rx, ry = np.clip(tilt, -stages.TILT_LIMIT, stages.TILT_LIMIT)
        self.stage.move(x, y, z, yaw, (rx, ry), closed=bool(command[6] > 0))
        self.state = self.stage.state()

    def _observe(self) -> dict[str, Any]:
        image = self._renderer.draw(self.stage.data, self._image_size, self._image_size)
        return {'image': image, 'instruction': self.task.instruction}

    def _info(self) -> dict[str, Any]:
        state, project = self.state, self.stage.project
        tops = [(t.x, t.y, t.z + stages.TILE_HEIGHT) for t in state.tiles]
        return {
            'gripper_xyz': np.array([state.x, state.y, state.z], np.float32),
            'gripper_yaw': np.float32(state.yaw),
            'gripper_closed': state.closed,
            'gripper_pixel': np.array(project((state.x, state.y, state.z)), np.float32),
            'gripper_opening': np.float32(min(state.opening / stages.OPENING, 1.0)),
            'object_names': self.scene.names(),
            'object_xyz': np.array([(t.x, t.y, t.z) for t in state.tiles], np.float32),
            'object_yaw': np.array([t.yaw for t in state.tiles], np.float32),
            'object_pixels': np.array([project(top) for top in tops], np.float32),
            'success': bool(tasks.succeeded(self.task, self.start, state)),
            'task': self.task.kind,
            'plan': self.task.plan,
            'group': self.task.group,
            'suite': self._suite.name,
            'seed': self._seed,
            'steps': self._steps,
            'clipped': self._clipped,
            'out_of_reach': self._out_of_reach,
        }


def _letters() -> frozenset[str]:
    """All characters that an instruction may hold."""
    letters = set(map(chr, range(32, 127)))
    for picture in pictures.catalogue():
        letters.update(*picture.names.values())
    return frozenset(letters)
