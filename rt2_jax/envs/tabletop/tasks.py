"""The tasks: their instructions and goals.

Instruction    Goal
  pick X         X is at least 5 cm above the table.
  push X to Y    X's centre is within 0.14 m of Y's; X lies flat on the table, and Y was not shoved
                 away: it moved by less than 8 cm.
  turn X left    X was turned by 90 degrees, give or take 20, to the left (counter-clockwise seen
  turn X right   from above) or to the right.
"""

import dataclasses
import math

from rt2_jax.envs.tabletop.table_state import State
from rt2_jax.nearest import check

KINDS = ('pick', 'push', 'turn')
DIRECTIONS = ('left', 'right')

LIFT = 0.05
TOGETHER = 0.14
SHOVED = 0.08
QUARTER = math.pi / 2
TURN_TOLERANCE = math.radians(20)
FLAT = math.cos(math.radians(20))


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to do. X is the scene's tile 0; Y, of a push, its tile 1.

    Attributes:
        kind: one of KINDS.
        instruction: for the robot.
        plan: the same in plain English names, e.g. 'pick banana'.
        direction: 'left' or 'right' for a turn, else ''.
        group: how the instruction names X or Y, one of the suite's wordings; 'name' in most.
    """

    kind: str
    instruction: str
    plan: str
    direction: str = ''
    group: str = 'name'

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if self.kind == 'turn' and self.direction not in DIRECTIONS:
            raise ValueError(f'A turn goes left or right, not {self.direction!r}.')

    @property
    def angle(self) -> float:
        """How far X is to be turned, radians; 0 for the other kinds."""
        return {'left': QUARTER, 'right': -QUARTER, '': 0.0}[self.direction]


def check_kind(kind: str) -> str:
    """Returns `kind`, or raises ValueError with the nearest valid one."""
    return check('task', kind, KINDS)


def succeeded(task: Task, start: State, now: State) -> bool:
    """Returns whether the task's goal holds.

    Args:
        task: the task.
        start: the state at the episode's start.
        now: the state to judge.
    """
    x = now.tiles[0]
    if task.kind == 'pick':
        return x.z >= LIFT
    if task.kind == 'push':
        y, y_start = now.tiles[1], start.tiles[1]
        return (
            math.hypot(x.x - y.x, x.y - y.y) <= TOGETHER
            and x.z < 0.02
            and x.upright > FLAT
            and math.hypot(y.x - y_start.x, y.y - y_start.y) < SHOVED
        )
    turned = wrap(x.yaw - start.tiles[0].yaw)
    return abs(turned - task.angle) <= TURN_TOLERANCE and x.upright > FLAT


def wrap(angle: float) -> float:
    """Returns the angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
