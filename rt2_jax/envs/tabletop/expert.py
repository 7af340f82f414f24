"""The scripted expert: a pure function of the state, with recovery.

Every decision rests on what a single frame shows: whether the gripper is open, high or low, around X
or not, whether X is lifted, turned or beside Y. No counter, no memory. So a policy that sees one
frame can learn it, and the expert recovers from any disturbance: it lets a missed or lost tile go,
rises, and approaches again.

    move above X -> descend -> close -> lift | slide to Y | turn -> terminate

`python -m rt2_jax.envs.tabletop.expert --episodes=200 --task=pick --rounded --noise=0.1`
measures it.
"""

from collections.abc import Iterable
import dataclasses
import functools
import math
import multiprocessing
import time

from absl import app, flags
import numpy as np

from rt2_jax import command
from rt2_jax.envs.tabletop import stage, suites, tasks
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.envs.tabletop.table_state import Pose, State
from rt2_jax.envs.tabletop.tasks import QUARTER, Task, wrap
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import BINS

FLAGS = flags.FLAGS

CLOSED, OPEN = 1.0, -1.0
BESIDE = 0.12  # from X's centre to Y's where a slide ends
CLEAR_OF_Y = 0.145  # between the centres, so that X comes down beside Y
ARRIVED = 0.132  # closer than this is beside; success allows 0.14 m
ABOVE = 0.045  # within this in x and y, a descent corrects the rest on its way
CLEAR = 0.06  # the tips are above the tiles
AROUND_X, AROUND_Y = 0.027, 0.040  # within these, closing succeeds
YAW_NEAR = 0.2
LOW = 0.022  # tips this low reach well down a tile's sides
TURNED = math.radians(12)


def act(state: State, start: State, task: Task) -> np.ndarray:
    """Decides the next action.

    Args:
        state: the present one.
        start: the one at the episode's start; only X's yaw is read, for a turn.
        task: of the episode.

    Returns:
        float32 [8]: terminate flag, dx, dy, dz (m), drx, dry, drz (rad), gripper (+1 closed,
        -1 open).
    """
    x = state.tiles[0]
    left = wrap(task.angle + start.tiles[0].yaw - x.yaw) if task.kind == 'turn' else 0.0
    if holds(state):
        return _use(state, task, left)
    if _done_unheld(state, task, left):
        return _action(terminate=True, gripper=CLOSED if state.closed else OPEN)
    yaw = grasp_yaw(state, x)
    dx, dy = x.x - state.x, x.y - state.y
    if not state.closed and abs(yaw) < YAW_NEAR:
        if _around(state) and state.z < LOW:
            return _action(gripper=CLOSED)
        if _around(state) or state.z > CLEAR and math.hypot(dx, dy) < ABOVE:
            return _action(dx, dy, stage.GRIPPER_LOW - state.z, yaw)
    # Far off, missed or lost: up with open fingers, and above X.
    return _action(dx, dy, stage.GRIPPER_HIGH - state.z, yaw)


def holds(state: State) -> bool:
    """Whether X is between the closed fingers."""
    x = state.tiles[0]
    along, across = _in_hand(state)
    return (
        state.closed
        and abs(along) < 0.015
        and abs(across) < 0.055
        and abs(x.z - (state.z - stage.GRIPPER_LOW)) < 0.03
        and state.opening > stage.HOLDING
    )


def _use(state: State, task: Task, left: float) -> np.ndarray:
    """What to do with X in the hand."""
    x = state.tiles[0]
    down = stage.GRIPPER_LOW - state.z
    if task.kind == 'pick':
        if x.z > 0.06:
            return _action(terminate=True, gripper=CLOSED)
        return _action(dz=stage.GRIPPER_HIGH - state.z, gripper=CLOSED)
    lowered = abs(down) < 0.012
    if task.kind == 'turn':
        if abs(left) < TURNED and lowered:
            return _action(terminate=True, gripper=CLOSED)
        return _action(dz=down, drz=np.clip(left, -QUARTER, QUARTER), gripper=CLOSED)
    dx, dy = _slide(state)
    if lowered and math.hypot(dx, dy) <= ARRIVED - BESIDE:
        return _action(terminate=True, gripper=CLOSED)
    return _action(dx, dy, down, gripper=CLOSED)


def _slide(state: State) -> tuple[float, float]:
    """The way from X to the nearest place beside Y; zero where X is near enough.

    A lifted X backs away, as it or the fingers would come down on Y.
    """
    x, y = state.tiles[:2]
    gap = max(math.hypot(y.x - x.x, y.y - x.y), 1e-6)
    scale = (gap - CLEAR_OF_Y if x.z > 0.02 else max(0.0, gap - BESIDE)) / gap
    return (y.x - x.x) * scale, (y.y - x.y) * scale


def _done_unheld(state: State, task: Task, left: float) -> bool:
    """Whether the goal holds though X slipped out of the hand."""
    x = state.tiles[0]
    if task.kind == 'push':
        return math.hypot(*_slide(state)) <= ARRIVED - BESIDE and x.z < 0.01
    return task.kind == 'turn' and abs(left) < TURNED and x.z < 0.01


def _in_hand(state: State) -> tuple[float, float]:
    """X's centre seen from the gripper: along its opening, and across it."""
    x = state.tiles[0]
    c, s = math.cos(state.yaw), math.sin(state.yaw)
    dx, dy = x.x - state.x, x.y - state.y
    return c * dx + s * dy, c * dy - s * dx


def _around(state: State) -> bool:
    along, across = _in_hand(state)
    return state.z < CLEAR and abs(along) < AROUND_X and abs(across) < AROUND_Y


def grasp_yaw(state: State, tile: Pose) -> float:
    """How far to turn so that the fingers face two sides of a tile, radians.

    A square tile offers four yaws; the one nearest to the hand's rest is chosen, which leaves a
    quarter turn of room to either side.
    """
    yaw = tile.yaw % (math.pi / 2)
    if yaw > math.pi / 4:
        yaw -= math.pi / 2
    return yaw - state.yaw


def _action(
    dx: float = 0.0,
    dy: float = 0.0,
    dz: float = 0.0,
    drz: float = 0.0,
    gripper: float = OPEN,
    terminate: bool = False,
) -> np.ndarray:
    return np.array([terminate, dx, dy, dz, 0.0, 0.0, drz, gripper], np.float32)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one episode of the expert went."""

    kind: str
    seed: int
    success: bool
    steps: int


def rounded(action: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Returns the action, float32 [8], moved to the centres of its bins."""
    nearest = np.abs(space.centres - action[1:, None]).argmin(axis=1)
    values = space.centres[np.arange(len(nearest)), nearest]
    return np.concatenate([action[:1], values]).astype(np.float32)


def play(env: TabletopEnv, seed: int, kind: str | None, round_actions: bool = False) -> Outcome:
    """Lets the expert play one episode."""
    space = ActionSpace.rt1_bounds()
    env.reset(seed=seed, options={'task': kind})
    while True:
        action = act(env.state, env.start, env.task)
        if round_actions:
            action = rounded(action, space)
        _, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return Outcome(env.task.kind, seed, reward > 0, info['steps'])


def measure(
    kind: str,
    seeds: Iterable[int],
    suite: str = 'seen',
    round_actions: bool = False,
    noise: float = 0.0,
) -> list[Outcome]:
    """Plays the episodes `seeds` of one task in this process."""
    env = TabletopEnv(suite=suite, image_size=8, execution_noise=noise)
    outcomes = [play(env, seed, kind, round_actions) for seed in seeds]
    env.close()
    return outcomes


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_integer('episodes', 200, 'Episodes a task.', lower_bound=1)
    flags.DEFINE_string('task', '', "'pick', 'push' or 'turn'; empty for all.")
    flags.DEFINE_string('suite', 'seen', 'The suite.')
    flags.DEFINE_bool('rounded', False, f'Round actions to the {BINS} bins.')
    flags.DEFINE_float('noise', 0.0, 'Execution noise, a fraction of the range.')
    flags.DEFINE_integer('first_seed', 0, 'The first episode of the suite.')
    flags.DEFINE_integer('processes', 2, 'Worker processes.', lower_bound=1)


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    suites.suite(FLAGS.suite)
    kinds = (tasks.check_kind(FLAGS.task),) if FLAGS.task else tasks.KINDS
    run = functools.partial(
        measure, suite=FLAGS.suite, round_actions=FLAGS.rounded, noise=FLAGS.noise
    )
    seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.episodes)
    started, steps = time.time(), 0
    with multiprocessing.get_context('spawn').Pool(FLAGS.processes) as pool:
        for kind in kinds:
            shares = [seeds[i :: FLAGS.processes] for i in range(FLAGS.processes)]
            parts = pool.starmap(run, [(kind, share) for share in shares])
            outcomes = sorted((o for part in parts for o in part), key=lambda o: o.seed)
            wins = sum(o.success for o in outcomes)
            steps += sum(o.steps for o in outcomes)
            print(
                f'{FLAGS.suite} {kind}: {wins}/{len(outcomes)} = '
                f'{wins / len(outcomes):.1%}, {np.mean([o.steps for o in outcomes]):.1f} steps; '
                f'failed seeds {[o.seed for o in outcomes if not o.success]}',
                flush=True,
            )
    print(f'{steps} steps in {time.time() - started:.1f} s')


if __name__ == '__main__':
    define_flags()
    command.run('expert', main)
