"""The package's simulator of one task: its arm, its objects, its judge, its cameras."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np

from rt2_jax.envs import mujoco_camera
from rt2_jax.envs.libero import libero_tasks
from rt2_jax.envs.libero.libero_expert import Seen, decide

AGENTVIEW, WRIST = 'agentview', 'robot0_eye_in_hand'
# While the objects settle, as in OpenVLA's run_libero_eval.py: ten steps, the gripper open.
SETTLING, STILL = 10, np.array([0.0, 0, 0, 0, 0, 0, -1])


class Arm:
    """The package's environment of a task.

    Args:
        task: a name of `libero_tasks.BENCHMARKS`.

    Attributes:
        task: the same.
        objects: names of the objects that can be moved.
        goals: those of them that the goal is to move, as the problem's file has it.
    """

    def __init__(self, task: str) -> None:
        mujoco_camera.choose_driver()
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its order of tasks
            from libero.libero import benchmark
            from libero.libero.envs import OffScreenRenderEnv

            name = libero_tasks.benchmark(task)
            suite = benchmark.get_benchmark(f'libero_{name}')()
        number = libero_tasks.BENCHMARKS[name].index(task)
        self.task = task
        self._published = suite.get_task_init_states(number)
        self._env: Any = OffScreenRenderEnv(
            bddl_file_name=suite.get_task_bddl_file_path(number),
            use_camera_obs=False,  # it would draw in each step
            hard_reset=False,  # it would compile the model for each episode
            ignore_done=True,  # who plays counts the steps
        )
        self._inner = self._env.env
        self.objects = tuple(self._inner.objects_dict)
        moved = {goal[1] for goal in self._inner.parsed_problem['goal_state'] if len(goal) == 3}
        self.goals = tuple(name for name in self.objects if name in moved)
        self._observed: dict[str, np.ndarray]

    def reset(self, seed: int, published: int | None) -> None:
        """Begins an episode.

        Args:
            seed: of what is drawn.
            published: number of the published initial state, modulo their number; None draws a layout from
                the problem's regions.
        """
        self._env.seed(seed)
        self._env.reset()
        if published is not None:
            self._env.set_init_state(self._published[published % len(self._published)])
        for _ in range(SETTLING):
            self.step(STILL)

    def step(self, command: np.ndarray) -> bool:
        """One step, 1/20 s, of float [7]; whether the goal is reached."""
        self._observed, _, success, _ = self._env.step(command)
        return bool(success)

    def state(self) -> np.ndarray:
        """The gripper's x, y, z in metres, rotation as axis and angle, two fingers: float32 [8]."""
        seen = self._observed
        rotation = axis_angle(seen['robot0_eef_quat'])
        fingers = seen['robot0_gripper_qpos']
        return np.concatenate([seen['robot0_eef_pos'], rotation, fingers]).astype(np.float32)

    def scripted(self) -> np.ndarray:
        """What the scripted expert does now, float [7].

        Raises:
            ValueError: the task is not of LIBERO-Object.
        """
        if libero_tasks.benchmark(self.task) != 'object':
            raise ValueError(
                f'the scripted expert plays the tasks of libero/object alone, not {self.task}'
            )
        data = self._inner.sim.data
        site = self._inner.robots[0].eef_site_id
        one, two = (data.get_geom_xpos(f'gripper0_finger{i}_pad_collision') for i in (1, 2))
        name = self.goals[0]
        low, high = self._extent(name)
        target = self._inner.objects_dict[name]
        # With their sides, too: the package's own _check_grasp wants the pads, and misses narrow necks.
        parts = self._inner.robots[0].gripper.important_geoms
        fingers = parts['left_finger'], parts['right_finger']
        seen = Seen(
            hand=data.site_xpos[site].copy(),
            yaw=math.atan2(two[0] - one[0], one[1] - two[1]),
            low=low,
            high=high,
            basket=data.get_site_xpos('basket_1_contain_region').copy(),
            held=all(self._inner.check_contact(finger, target) for finger in fingers),
        )
        return decide(seen)

    def touched(self) -> str:
        """Name of the object that the gripper touches; '' for none."""
        gripper = self._inner.robots[0].gripper
        for name in self.objects:
            if self._inner.check_contact(gripper, self._inner.objects_dict[name]):
                return name
        return ''

    def draw(self, size: int, camera: str = AGENTVIEW) -> np.ndarray:
        """What a camera sees, turned by 180 degrees as the released data are: uint8 [size, size, 3]."""
        picture = self._inner.sim.render(width=size, height=size, camera_name=camera)
        return np.ascontiguousarray(picture[::-1, ::-1])

    def _extent(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest x, y, z of an object, by its boxes that touch things."""
        model, data = self._inner.sim.model, self._inner.sim.data
        geoms = [model.geom_name2id(g) for g in self._inner.objects_dict[name].contact_geoms]
        turned = np.abs(data.geom_xmat[geoms].reshape(-1, 3, 3))
        half = np.einsum('gij,gj->gi', turned, model.geom_size[geoms])
        middle = data.geom_xpos[geoms]
        return (middle - half).min(0), (middle + half).max(0)

    def free(self) -> None:
        """Frees what it holds of the simulator and of OpenGL."""
        self._env.close()


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """A rotation x, y, z, w as axis times angle, float [3], as robosuite and the released data have it.

    The angle may exceed pi: of a rotation's two quaternions, the one given is taken.
    """
    w = float(np.clip(quaternion[3], -1, 1))
    sine = math.sqrt(1 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * 2 * math.acos(w) / sine
