"""The package's simulator with a goal that is said: its scene, its oracle, its judge, its camera."""

from __future__ import annotations

from typing import Any

import numpy as np

from rt2_jax.envs import mujoco_camera
from rt2_jax.envs.ogbench.ogbench_tasks import CUBE_SIDE, PLACES, SUITES, Goal

REPEATS = 2  # of an action, each 1/20 s
CAMERA = 'front_pixels'  # of the package's pictures
# The oracles move towards a goal at least as if it were so far away, metres.
LEAST_DISTANCE = 0.1
# How near to its place a cube is there: across, and in height, metres. The package has 0.04 for both.
AT_PLACE, ON_CUBE, HEIGHT = 0.07, 0.03, 0.02
# What the package's scene calls open, metres along the slide; closed is 0.
OPEN = {'drawer': -0.16, 'window': 0.2}
# Where the oracles go when all is done: above the middle, out of the way.
HOME = np.array([0.42, 0.0, 0.3])


class Arm:
    """The package's environment of a suite.

    Args:
        suite: a name of `ogbench_tasks.SUITES`.
        buffer: height and width of the largest picture, pixels.
    """

    def __init__(self, suite: str, buffer: int) -> None:
        mujoco_camera.choose_driver()
        import mujoco
        from ogbench.manipspace.envs import cube_env, scene_env
        from ogbench.manipspace.oracles.markov import (
            button_markov,
            cube_markov,
            drawer_markov,
            window_markov,
        )

        self._mujoco, self._kind = mujoco, SUITES[suite]
        make = scene_env.SceneEnv if suite == 'scene' else cube_env.CubeEnv
        # The mode lets a target be set, and `pixels` makes the arm transparent; no target is shown.
        env = make(
            suite.partition('-')[2], ob_type='pixels', mode='data_collection', visualize_info=False
        )
        env.compute_observation = lambda: None  # it would draw in each step
        env.reset(seed=0)  # compiles the model
        self._env: Any = env
        self._oracles = {
            name: oracle(env=env, min_norm=LEAST_DISTANCE)
            for name, oracle in {
                'cube': cube_markov.CubeMarkovOracle,
                'drawer': drawer_markov.DrawerMarkovOracle,
                'window': window_markov.WindowMarkovOracle,
                'button': button_markov.ButtonMarkovOracle,
            }.items()
        }
        self._camera = mujoco_camera.MujocoCamera(env.model, CAMERA, buffer)
        self._goal: Goal
        self._oracle: Any

    def reset(self, seed: int, goal: Goal, cubes: np.ndarray) -> None:
        """Begins an episode.

        Args:
            seed: of the arm's place, and of what else the goal leaves open.
            goal: what it is about.
            cubes: float [n, 2], where the cubes lie.
        """
        env, self._goal = self._env, goal
        env.reset(seed=seed)
        for number, place in enumerate(cubes):
            env.data.joint(f'object_joint_{number}').qpos[:2] = place
        thing = goal.task.partition('-')[0]
        env._target_task = thing if thing in ('drawer', 'window', 'button') else 'cube'
        if env._target_task == 'cube':
            env._target_block = goal.x
        if hasattr(env, '_cur_button_states'):
            self._set_scene(goal)
        self._mujoco.mj_forward(env.model, env.data)
        self._aim()
        env.pre_step()
        env.post_step()
        self._oracle = self._oracles[env._target_task]
        self._oracle.reset(None, None)
        # In place of what it draws from NumPy's global numbers.
        self._oracle._final_pos, self._oracle._final_yaw = HOME, 0.0

    def step(self, command: np.ndarray) -> bool:
        """REPEATS steps of the same command, float [5]; whether the goal was reached in one of them."""
        success = False
        for _ in range(REPEATS):
            self._env.step(command)
            self._aim()
            success |= self._reached()
        return success

    def scripted(self) -> np.ndarray:
        """What the package's oracle does now, float [5]."""
        return np.clip(self._oracle.select_action(None, self._env.compute_ob_info()), -1, 1)

    def state(self) -> np.ndarray:
        """The finger tips' x, y, z in metres, the yaw, how far they are closed (0 to 1): float32 [5]."""
        env = self._env
        info = env.compute_ob_info()
        names = 'effector_pos', 'effector_yaw', 'gripper_opening'
        return np.concatenate([info[f'proprio/{name}'] for name in names]).astype(np.float32)

    def places(self) -> np.ndarray:
        """Where the suite's things are, their handles and buttons' tops: float32 [n, 3], metres."""
        data = self._env.data
        sites = {
            'drawer': 'drawer_handle_center',
            'window': 'window_handle_center',
            'left button': 'btntop_0',
            'right button': 'btntop_1',
        }
        cubes = [self._cube(number) for number in range(self._kind.cubes)]
        others = [data.site(sites[name]).xpos for name in self._kind.things if name in sites]
        return np.array([*cubes, *others], np.float32)

    def draw(self, size: int) -> np.ndarray:
        """What the camera sees: uint8 [size, size, 3]."""
        return self._camera.draw(self._env.data, size)

    def free(self) -> None:
        """Frees what it holds of OpenGL."""
        self._camera.free()

    def _cube(self, number: int) -> np.ndarray:
        return self._env.data.joint(f'object_joint_{number}').qpos[:3].copy()

    def _set_scene(self, goal: Goal) -> None:
        """Opens or closes what the goal is to close or open, unlocked, and sets the target."""
        env, target = self._env, goal.task.rpartition('-')[2]
        for number, name in enumerate(OPEN):
            if goal.task.startswith(name):
                env._cur_button_states[number] = 1  # unlocked
                now, then = (0.0, OPEN[name]) if target == 'open' else (OPEN[name], 0.0)
                env.data.joint(f'{name}_slide').qpos[0] = now
                setattr(env, f'_target_{name}_pos', then)
                along = {'drawer': 1, 'window': 0}[name]
                env.model.site(f'{name}_handle_center_target').pos[along] = then
        if goal.task == 'cube-in-drawer':
            env.data.joint('drawer_slide').qpos[0] = OPEN['drawer']
        if goal.task == 'button-press':
            env._target_button = int(self._kind.things[goal.x].startswith('right'))
            states = env._cur_button_states
            env._target_button_states[env._target_button] = 1 - states[env._target_button]
        env._apply_button_states()

    def _aim(self) -> None:
        """Tells the oracle where the cube is to go."""
        env, goal = self._env, self._goal
        if env._target_task == 'cube':
            mocap = env._cube_target_mocap_ids[goal.x]
            env.data.mocap_pos[mocap] = self._target()
            env.data.mocap_quat[mocap] = 1.0, 0.0, 0.0, 0.0

    def _target(self) -> np.ndarray:
        """Where the cube is to go, float [3]."""
        if self._goal.task == 'stack':
            return self._cube(self._goal.y) + (0, 0, CUBE_SIDE)
        if self._goal.task == 'cube-in-drawer':
            return self._env._drawer_center
        return np.array([*PLACES[self._goal.place], CUBE_SIDE / 2])

    def _reached(self) -> bool:
        """Whether the goal is reached; of drawer, window and buttons in the package's own sense."""
        if self._env._target_task != 'cube':
            return bool(self._env._success)
        off = self._cube(self._goal.x) - self._target()
        if self._goal.task == 'cube-in-drawer':
            across = self._env._is_in_drawer(self._cube(self._goal.x))
        else:
            across = np.hypot(*off[:2]) <= (ON_CUBE if self._goal.task == 'stack' else AT_PLACE)
        return bool(across and abs(off[2]) <= HEIGHT)
