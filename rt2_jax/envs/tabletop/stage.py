"""The tabletop's physics: measures, the MuJoCo model, and its state.

One model serves every scene; `Stage.load` writes a `Scene` into it (poses, pictures, colours,
camera, lights), which is far cheaper than compiling a model an episode.

Frame: x to the right, y away from the camera, z up, origin on the middle of the table's surface;
metres and radians, yaw counter-clockwise seen from above.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import math

import mujoco
import numpy as np

from rt2_jax.envs.tabletop import looks
from rt2_jax.envs.tabletop.scene import MAX_CLUTTER, MAX_TILES, Scene
from rt2_jax.envs.tabletop.table_state import Pose, State

TILE_SIDE = 0.09
TILE_HEIGHT = 0.04
GRIPPER_LOW = 0.004  # finger tips just off the table
GRIPPER_HIGH = 0.08  # clears tiles, and a held tile clears them too
OPENING = 0.164  # between the open fingers
SQUEEZE = 0.06  # between the closed fingers when nothing is held
HOLDING = (SQUEEZE + TILE_SIDE) / 2  # closed fingers wider apart than this have something between
WORKSPACE = (0.17, 0.17)  # the gripper's |x| and |y|; the picture shows it wherever it goes
GRIPPER_TOP = 0.10
YAW_LIMIT = 2.4
TILT_LIMIT = 0.3
CONTROL_HZ = 3.0
TIMESTEP = 0.005
FRAME_BUFFER = 960

_FINGER = 0.004  # half thickness
# The fingers' colour, as a gripper's own sensors would have it.
_EMPTY, _BETWEEN = (
    (0.1, 1.0, 0.2, 1.0),
    (1.0, 1.0, 0.1, 1.0),
)  # open, the beam between the tips broken or not
_MISSED, _HELD = (1.0, 0.1, 0.1, 1.0), (1.0, 0.1, 1.0, 1.0)  # closed, by how far
_BACK = 0.055  # a bar behind the fingers shows which way the hand is turned, and hides no tile
_BEAM = 0.02  # the beam's height above the tips
_FELT = 2.0  # damping of the tiles' slide, N s/m
_STEEP = 0.025  # a change of height that counts as a way up or down
_FAR = 2.0  # where unused tiles wait, out of view


class Stage:
    """A model, its data, and the moves between two control steps.

    `load(scene)` sets an episode up, `move(...)` is one control step, `state()` reads it.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(_mjcf())
        self.data = mujoco.MjData(self.model)
        self._closed = False
        self._film: tuple[Callable[[], None], int] | None = None
        self._count = 0
        name = lambda kind, text: mujoco.mj_name2id(self.model, kind, text)
        body = mujoco.mjtObj.mjOBJ_BODY
        self._hand = name(body, 'hand')
        self._tile = [name(body, f'tile{i}') for i in range(MAX_TILES)]
        address = lambda joint: int(self.model.joint(joint).qposadr[0])
        self._hand_joint = address('hand')
        self._tile_joints = [address(f'tile{i}') for i in range(MAX_TILES)]
        self._finger_joints = [address(finger) for finger in ('left', 'right')]
        self._lamps = [name(mujoco.mjtObj.mjOBJ_GEOM, lamp) for lamp in ('lamp_left', 'lamp_right')]
        self._touching = np.isin(self.model.geom_bodyid, [name(body, 'left'), name(body, 'right')])
        for joint in range(MAX_TILES):
            # As on felt: a tile that was hit at speed does not slide far.
            dof = int(self.model.joint(f'tile{joint}').dofadr[0])
            self.model.dof_damping[dof : dof + 2] = _FELT

    def load(self, scene: Scene) -> list[int]:
        """Sets the scene up at rest; returns the ids of the textures that changed."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        self._count = len(scene.tiles)
        for i in range(MAX_TILES):
            if i < self._count:
                tile = scene.tiles[i]
                position, yaw = (tile.x, tile.y, TILE_HEIGHT / 2), tile.yaw
            else:
                position, yaw = (_FAR + i, _FAR, TILE_HEIGHT / 2), 0.0
            start = self._tile_joints[i]
            data.qpos[start : start + 3] = position
            data.qpos[start + 3 : start + 7] = _yaw_quaternion(yaw)
        x, y, yaw = scene.gripper
        start = self._hand_joint
        data.qpos[start : start + 3] = x, y, GRIPPER_HIGH
        data.qpos[start + 3 : start + 7] = _yaw_quaternion(yaw)
        data.qpos[self._finger_joints] = OPENING / 2
        self._closed = False
        data.ctrl[:] = OPENING / 2
        self._set_target((x, y, GRIPPER_HIGH), yaw)
        changed = looks.apply(model, scene)
        mujoco.mj_forward(model, data)
        self._light_lamps()
        return changed

    def move(
        self, x: float, y: float, z: float, yaw: float, tilt: tuple[float, float], closed: bool
    ) -> None:
        """Carries the gripper to a pose in one control step; the wrist levels itself after it.

        The target follows a smooth-step over two thirds of the period and rests for the last. On
        the way down the gripper first moves across, then down, and on the way up the reverse, so
        that it reaches a tile from above. A finger that lands on a tile stops there. Fingers open
        or close before the gripper moves.
        """
        data = self.data
        start = np.array(data.xpos[self._hand])
        start_yaw = self._hand_yaw()
        goal = np.array([x, y, z])
        wait = 0.45 if closed != self._closed else 0.0
        self._closed = closed
        data.ctrl[:] = (SQUEEZE if closed else OPENING) / 2
        steps = round(1 / CONTROL_HZ / TIMESTEP)
        moving = round(steps * 0.7)
        floor = -1.0
        down, up, sinking = (z < start[2] - _STEEP, z > start[2] + _STEEP, z < start[2] - 0.003)
        for i in range(1, steps + 1):
            t = (i / moving - wait) / (1 - wait)
            across = _smooth(t / 0.6 if down else (t - 0.4) / 0.6 if up else t)
            height = _smooth((t - 0.4) / 0.6 if down else t / 0.6 if up else t)
            falling = sinking and (t > 0.4 or not down)
            if falling and floor < 0 and self._landed():
                floor = data.xpos[self._hand][2]
            target = start + np.array([across, across, height]) * (goal - start)
            target[2] = max(target[2], floor)
            self._set_target(
                target, start_yaw + across * (yaw - start_yaw), (across * tilt[0], across * tilt[1])
            )
            mujoco.mj_step(self.model, data)
            if self._film and i < steps and i % self._film[1] == 0:
                self._film[0]()
        # Positions are integrated after the kinematics that the renderer reads.
        mujoco.mj_forward(self.model, data)
        self._light_lamps()

    @contextlib.contextmanager
    def filmed(self, draw: Callable[[], None], frames: int) -> Iterator[None]:
        """Within it, `draw` is called this many times on the way of each move."""
        self._film = draw, math.ceil(round(1 / CONTROL_HZ / TIMESTEP) / (frames + 1))
        try:
            yield
        finally:
            self._film = None

    def state(self) -> State:
        """Returns the present state."""
        data = self.data
        x, y, z = data.xpos[self._hand]
        tiles = []
        for body in self._tile[: self._count]:
            matrix = data.xmat[body]
            px, py, pz = data.xpos[body]
            tiles.append(
                Pose(
                    float(px),
                    float(py),
                    float(pz - TILE_HEIGHT / 2),
                    math.atan2(matrix[3], matrix[0]),
                    float(matrix[8]),
                )
            )
        return State(
            float(x),
            float(y),
            float(z),
            self._hand_yaw(),
            self._opening(),
            self._closed,
            tuple(tiles),
        )

    def project(self, point: Sequence[float]) -> tuple[float, float]:
        """Projects a point [3] in metres to (u, v), fractions of the frame from its top left corner.

        Outside [0, 1] where it is out of view.
        """
        data = self.data
        local = data.cam_xmat[0].reshape(3, 3).T @ (np.asarray(point) - data.cam_xpos[0])
        scale = -0.5 / (math.tan(math.radians(self.model.cam_fovy[0]) / 2) * local[2])
        return float(0.5 + local[0] * scale), float(0.5 - local[1] * scale)

    def _landed(self) -> bool:
        """Whether a finger stands on something."""
        contact = self.data.contact
        if not len(contact.geom):
            return False
        finger = self._touching[contact.geom].any(axis=1)
        return bool((finger & (np.abs(contact.frame[:, 2]) > 0.7)).any())

    def _hand_yaw(self) -> float:
        # Read from the joint's quaternion; +-2.4 rad stays clear of the jump at pi.
        matrix = self.data.xmat[self._hand]
        return math.atan2(matrix[3], matrix[0])

    def _set_target(
        self,
        position: Sequence[float] | np.ndarray,
        yaw: float,
        tilt: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.data.mocap_pos[0] = position
        quaternion = np.array(_yaw_quaternion(yaw))
        if tilt[0] or tilt[1]:
            vector = np.array([tilt[0], tilt[1], 0.0])
            rotation = np.zeros(4)
            angle = float(np.linalg.norm(vector))
            mujoco.mju_axisAngle2Quat(rotation, vector / angle, angle)
            upright = quaternion.copy()
            mujoco.mju_mulQuat(quaternion, rotation, upright)
        self.data.mocap_quat[0] = quaternion

    def _light_lamps(self) -> None:
        # A frame shows what a memory would hold: whether the fingers are commanded to close, and on what.
        if self._closed:
            colour = _HELD if self._opening() > HOLDING else _MISSED
        else:
            colour = _BETWEEN if self._beam_broken() else _EMPTY
        self.model.geom_rgba[self._lamps] = colour

    def _opening(self) -> float:
        return float(self.data.qpos[self._finger_joints].sum())

    def _beam_broken(self) -> bool:
        """Whether anything is between the finger tips."""
        data, hit = self.data, np.zeros(1, np.int32)
        along = np.array(data.xmat[self._hand].reshape(3, 3)[:, 0])
        start = data.xpos[self._hand] + (0, 0, _BEAM) - along * OPENING / 2
        only_tiles = np.array([0, 1, 0, 0, 0, 0], np.uint8)
        distance = mujoco.mj_ray(self.model, data, start, along, only_tiles, 0, -1, hit)
        return 0 <= distance < OPENING


def _smooth(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def _mjcf() -> str:
    half, height = TILE_SIDE / 2, TILE_HEIGHT / 2
    tiles = ''.join(
        f'''
    <body name="tile{i}" pos="{_FAR + i} {_FAR} {height}">
      <freejoint name="tile{i}"/>
      <geom name="tile{i}" type="box" size="{half} {half} {height}" mass="0.08" group="1"
            friction="0.5 0.005 0.0001" rgba="1 1 1 1"/>
      <geom name="picture{i}" type="box" size="{half} {half} 0.0002" pos="0 0 {height}"
            material="picture{i}" class="visual"/>
    </body>'''
        for i in range(MAX_TILES)
    )
    clutter = ''.join(
        f'<geom name="clutter{i}" type="ellipsoid" size="0.01 0.01 0.01" '
        f'pos="{_FAR} {-_FAR} 0" class="visual"/>\n'
        for i in range(MAX_CLUTTER)
    )
    assets = ''.join(
        f'''
    <texture name="picture{i}" type="2d" builtin="flat" width="{looks.PICTURE_SIZE}"
             height="{looks.PICTURE_SIZE}" rgb1="1 1 1"/>
    <material name="picture{i}" texture="picture{i}" specular="0" shininess="0"/>'''
        for i in range(MAX_TILES)
    )
    return f'''
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"/>
  <visual>
    <global offwidth="{FRAME_BUFFER}" offheight="{FRAME_BUFFER}"/>
    <quality shadowsize="512" offsamples="0"/>
    <map znear="0.02" zfar="4" shadowclip="0.6"/>
    <headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <default>
    <default class="visual"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="finger">
      <geom friction="2 0.02 0.001" priority="1" material="gripper" mass="0.02"/>
      <joint type="slide" axis="1 0 0" range="0 {OPENING / 2 + 0.002}" damping="40"/>
    </default>
  </default>
  <asset>{assets}
    <texture name="table" type="2d" builtin="flat" width="{looks.TABLE_SIZE}"
             height="{looks.TABLE_SIZE}" rgb1="1 1 1"/>
    <material name="table" texture="table" specular="0" shininess="0"/>
    <material name="gripper" rgba="0.1 0.25 1 1" emission="0.5" specular="0"/>
    <material name="lamp" emission="0.6" specular="0"/>
  </asset>
  <worldbody>
    <camera name="front" pos="0 -0.28 0.66" fovy="44"/>
    <light name="key" pos="0 0 1.5" dir="0 0 -1" type="directional" castshadow="true"/>
    <light name="fill" pos="0 -1 1.5" dir="0 0.8 -0.6" type="directional" castshadow="false"/>
    <geom name="table" type="box" size="0.6 0.6 0.05" pos="0 0.1 -0.05" material="table"
          friction="0.5 0.005 0.0001"/>
    {clutter}
    <body name="target" mocap="true" pos="0 0 {GRIPPER_HIGH}"/>
    <body name="hand" pos="0 0 {GRIPPER_HIGH}" gravcomp="1">
      <freejoint name="hand"/>
      <inertial pos="0 0 0.05" mass="0.6" diaginertia="0.002 0.002 0.002"/>
      <geom name="back" type="box" size="{OPENING / 2 + 0.012} 0.006 0.006" class="visual"
            pos="0 {_BACK} 0.05" material="gripper"/>
      {_finger('left', -1)}{_finger('right', 1)}
    </body>{tiles}
  </worldbody>
  <equality>
    <weld body1="target" body2="hand" solref="0.02 1" solimp="0.95 0.99 0.001"/>
    <joint joint1="left" joint2="right" polycoef="0 1 0 0 0" solref="0.02 1"/>
  </equality>
  <actuator>
    <position joint="left" kp="1500" forcerange="-20 20"/>
    <position joint="right" kp="1500" forcerange="-20 20"/>
  </actuator>
</mujoco>'''


def _finger(name: str, side: int) -> str:
    # A round lower edge slides off a tile's rim instead of landing on it.
    x = side * _FINGER
    return f'''
      <body name="{name}" gravcomp="1">
        <joint name="{name}" class="finger" axis="{side} 0 0"/>
        <geom class="finger" type="box" size="{_FINGER} 0.025 0.015" pos="{x} 0 0.02"/>
        <geom class="finger" type="capsule" size="{_FINGER}"
              fromto="{x} -0.024 {_FINGER} {x} 0.024 {_FINGER}"/>
        <geom name="lamp_{name}" class="visual" type="box" size="0.008 0.03 0.008"
              pos="{side * 0.008} 0 0.043" material="lamp"/>
        <geom class="finger" type="capsule" size="0.004" contype="0" conaffinity="0"
              fromto="{x} 0.01 0.03 {x} {_BACK} 0.05"/>
      </body>'''
