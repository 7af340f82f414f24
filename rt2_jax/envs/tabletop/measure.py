"""Plays the scripted expert and counts successes; the command line of `expert`."""

from collections.abc import Iterable
import dataclasses
import functools
import multiprocessing
import time

from absl import app, flags
import numpy as np

from rt2_jax.envs.tabletop import expert, suites, tasks
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.text.actions import BINS, ActionSpace

FLAGS = flags.FLAGS


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
        action = expert.act(env.state, env.start, env.task)
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


def main(argv):
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
