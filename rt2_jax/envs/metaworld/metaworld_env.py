"""Meta-World's arm at work, see rt2_jax/envs/world.py.

Of the package metaworld (Farama-Foundation/Metaworld, MIT), which lives in a Python environment of its own
(launch/worlds.sh). An action is carried out REPEATS times: 16 decisions a second in place of 80. An episode
ends at the first success, as in the package's own evaluation (metaworld/evaluation.py).
"""

from __future__ import annotations

import collections
from typing import Any
import warnings

import numpy as np

from rt2_jax.envs import mujoco_camera, world
from rt2_jax.envs.arm_environment import ArmEnvironment
from rt2_jax.envs.metaworld.metaworld_tasks import SUITES, TASKS
from rt2_jax.nearest import check
from rt2_jax.text import places

REPEATS = 5
MAX_STEPS = 100  # decisions: the package's 500 steps
# By the names of the collected episodes. From one corner nobody can tell how far away a goal in the air is.
CAMERAS = {'image': 'corner2', 'top': 'topview'}
# Where others put the corner's camera for learning from pictures (arXiv 2206.14244; LeRobot's Meta-World).
# They turn its pictures round, too, as it hangs upside down.
CORNER_PLACE = (0.75, 0.075, 0.7)
UPSIDE_DOWN = ('corner2',)
# Tasks whose scripted policies do better where their first decision is repeated: 20 of 20 episodes, where the
# mean of several (`_Arm.scripted`) has 19 and 12.
FIRST_DECISION = ('door-open', 'shelf-place')
# Arms of a process that wait for an episode of their task: each holds some 90 MB and takes a second to make.
IDLE = 12
# What the scripted policies observe, and where: metres.
PLACES = {'thing': slice(4, 7), 'goal': slice(36, 39), 'hand': slice(0, 3)}


class MetaworldEnvironment(ArmEnvironment['_Arm']):
    """A `world.Environment` of a suite of Meta-World.

    Episode `seed` of a suite is of its task number `seed` modulo their number.

    Args:
        suite: a name of `metaworld_tasks.SUITES`, with or without `world.OTHER_WORDS` behind it.
        sizes: of frames, and the noise, see `ArmEnvironment`.
    """

    camera, numbers = 'image', ('dx', 'dy', 'dz', 'gripper')
    usual_step = np.array([0.3, 0.3, 0.3, 0.0])

    def __init__(self, suite: str, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._suite, self._tasks = suite, SUITES[suite.removesuffix(world.OTHER_WORDS)]
        self._other_words = suite.endswith(world.OTHER_WORDS)

    def reset(self, seed: int, task: str | None = None) -> world.Episode:
        """See `world.Environment`.

        Raises:
            ValueError: the suite has no such task.
        """
        name = task or self._tasks[seed % len(self._tasks)]
        check(f'task of metaworld/{self._suite}', name, self._tasks)
        self.close()
        self._arm = _arm(name, self._buffer)
        self._arm.reset(seed)
        rng, chosen = np.random.default_rng([seed, 1]), TASKS[name]
        instruction = (
            chosen.other_words if self._other_words else str(rng.choice(chosen.instructions))
        )
        self._task = name
        return world.Episode(self._begin(rng, instruction), name, chosen.difficulty)

    def pixels(self) -> dict[str, np.ndarray]:
        """Where `PLACES` are in each camera's frame: u and v, [0, 1], float32 [3, 2]."""
        arm = self._playing()
        return {name: np.clip(arm.pixels(camera), 0, 1) for name, camera in CAMERAS.items()}

    def plan(self) -> str:
        """What is to be done: where the thing is, the goal and the hand; the same as seen from the top."""
        words = [self._task.replace('-', ' ')]
        for camera, points in self.pixels().items():
            words += [camera] * (camera != self.camera)
            words += map(' '.join, zip(PLACES, map(places.write_point, points)))
        return ' '.join(words)

    def recognition(self) -> None:
        """None: there is one object that the instruction could be about."""

    def close(self) -> None:
        """Leaves the arm to the next environment that plays its task."""
        if self._arm:
            _leave(self._arm)
            self._arm = None

    def _observe(self) -> world.Observation:
        arm, size = self._playing(), 2 * self._image_size
        images = {
            name: mujoco_camera.smoothed(arm.draw(size, camera)) for name, camera in CAMERAS.items()
        }
        return world.Observation(images, self._instruction, arm.state())


class _Arm:
    """One of the package's environments, with its scripted policy and what draws it."""

    def __init__(self, task: str, buffer: int) -> None:
        mujoco_camera.choose_driver()
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
        import mujoco

        self.key = task, buffer
        self._tried = 1 if task in FIRST_DECISION else REPEATS
        self._mujoco = mujoco
        self._env: Any = ALL_V3_ENVIRONMENTS[f'{task}-v3']()
        self._policy = ENV_POLICY_MAP[f'{task}-v3']()
        env = self._env
        # What MT10 and MT50 set: the goal is observed, by the scripted policies. The space is kept once it
        # was asked for, and would clip the goal to zero.
        env._partially_observable = False
        del env.sawyer_observation_space
        # Layouts are drawn from the seed, not from a list of fifty.
        env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
        env.max_path_length = 10**9  # who plays counts the steps
        self._observed: np.ndarray
        env.model.cam(CAMERAS['image']).pos[:] = CORNER_PLACE
        self._camera = mujoco_camera.MujocoCamera(env.model, CAMERAS['image'], buffer)

    def reset(self, seed: int) -> None:
        env = self._env
        env.seed(seed)
        env.reset()
        # The package moved things and left MuJoCo's places as they were.
        self._mujoco.mj_forward(env.model, env.data)
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        self._observed = env._get_obs()

    def step(self, command: np.ndarray) -> bool:
        """REPEATS steps of the same command; whether the goal was reached in one of them."""
        success = False
        for _ in range(REPEATS):
            self._observed, _, _, _, info = self._env.step(command.astype(np.float32))
            success |= bool(info['success'])
        return success

    def state(self) -> np.ndarray:
        """The hand's x, y, z in metres, and how far it is open, 0 to 1: float32 [4]."""
        return self._observed[:4].astype(np.float32)

    def scripted(self) -> np.ndarray:
        """The scripted policy's action, float [4]: the mean of what it does in the steps of an action.

        It decides in every step of the package's. Its first decision repeated mostly overshoots, and tasks
        that it solves are lost; so the steps are tried out, and taken back.
        """
        mujoco, env = self._mujoco, self._env
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        before = np.empty(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, before, kind)
        last, observed, actions = env._prev_obs.copy(), self._observed, []
        for _ in range(self._tried):
            actions.append(self._decide(observed))
            observed, *_ = env.step(actions[-1])
        mujoco.mj_setState(env.model, env.data, before, kind)
        mujoco.mj_forward(env.model, env.data)
        env._prev_obs = last
        return np.mean(actions, axis=0)

    def draw(self, size: int, camera: str = CAMERAS['image']) -> np.ndarray:
        """What a camera sees: uint8 [size, size, 3]."""
        picture = self._camera.draw(self._env.data, size, camera)
        # The corner's camera hangs upside down.
        return np.ascontiguousarray(picture[::-1, ::-1]) if camera in UPSIDE_DOWN else picture

    def pixels(self, camera: str) -> np.ndarray:
        """Where `PLACES` lie in a camera's picture: float32 [3, 2], see `MujocoCamera.pixels`."""
        where = np.stack([self._observed[place] for place in PLACES.values()])
        pixels = self._camera.pixels(self._env.data, where, camera).astype(np.float32)
        return 1 - pixels if camera in UPSIDE_DOWN else pixels

    def free(self) -> None:
        self._camera.free()
        self._env.close()

    def _decide(self, observed: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that it commands more than the range
            return np.clip(self._policy.get_action(observed), -1, 1).astype(np.float32)


_idle: collections.deque[_Arm] = collections.deque()


def _arm(task: str, buffer: int) -> _Arm:
    """An arm for a task, one that waits if there is one."""
    for arm in _idle:
        if arm.key == (task, buffer):
            _idle.remove(arm)
            return arm
    return _Arm(task, buffer)


def _leave(arm: _Arm) -> None:
    _idle.append(arm)
    if len(_idle) > IDLE:
        _idle.popleft().free()
