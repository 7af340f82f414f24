"""Collects scripted episodes of the tabletop as an RLDS or a LeRobot data set.

    python -m rt2_jax.envs.tabletop.collect --episodes=1000 --output=runs/data/tabletop [--format=lerobot]

Episode i depends on (seed, i) alone, so the number of processes changes nothing. SIGTERM and Ctrl-C
end it with exit code 75 (rt2_jax/exit_codes.py); the same command goes on with the first unfinished
shard. All episodes are kept, failures too: `success` is in their metadata, and readers can choose.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Iterator, Sequence
import concurrent.futures.process
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import signal
import sys
import time
from typing import Any

from absl import app, flags, logging
from etils import epath
import numpy as np

from rt2_jax import command, exit_codes, nearest, paths, records
from rt2_jax.data import worker_pool
from rt2_jax.envs.tabletop import (
    collected_files,
    detours,
    expert,
    schema,
    suites,
    tasks as tabletop_tasks,
)
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.errors import UserError

FLAGS = flags.FLAGS

COLLECTION_JSON = 'collection.json'

# Episode i of a collection is episode seed * SEED_STRIDE + i of its suite.
SEED_STRIDE = 1_000_000

# Shards by number of episodes alone: enough for many processes, small enough to lose little.
LEAST_SHARDS = 16
EPISODES_A_SHARD = 100
CRASHES = 3  # after so many deaths of workers a collection gives up


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the episodes of a collection depend on.

    Attributes:
        episodes: how many.
        seed: 0 to 9; collections with different seeds share no scene.
        noise: execution noise, see TabletopEnv.
        detours: share of the expert's far actions in whose place a detour is carried out (see
            detours.py); the expert's is stored. 0 for none.
        image_size: side of the frames, pixels.
        suite: the suite that scenes are drawn from.
        tasks: kinds of task, taken in turn; if empty, the episode's seed decides.
        max_steps: an episode's longest length.
        quality: JPEG quality; videos have their own, see video_writer.
        format: 'rlds' or 'lerobot'.
    """

    episodes: int
    seed: int = 0
    noise: float = 0.1
    detours: float = 0.75
    image_size: int = 128
    suite: str = 'train'
    tasks: tuple[str, ...] = ()
    max_steps: int = 20
    quality: int = 95
    format: str = 'rlds'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'tasks', tuple(self.tasks))
        suites.suite(self.suite)
        nearest.check('format', self.format, collected_files.FORMATS)
        for kind in self.tasks:
            tabletop_tasks.check_kind(kind)
        if not 0 <= self.detours <= 1:
            raise ValueError(f'detours is a probability, 0 to 1; got {self.detours}')
        if not 0 < self.episodes <= SEED_STRIDE:
            raise ValueError(f'episodes must be 1 to {SEED_STRIDE}; got {self.episodes}')
        if not 0 <= self.seed < suites.SEEDS_PER_SUITE // SEED_STRIDE:
            raise ValueError(
                f'seed must be 0 to {suites.SEEDS_PER_SUITE // SEED_STRIDE - 1}; got {self.seed}'
            )

    def shard_lengths(self) -> list[int]:
        """Episodes of each shard."""
        shards = max(min(LEAST_SHARDS, self.episodes), -(-self.episodes // EPISODES_A_SHARD))
        return [len(part) for part in np.array_split(np.arange(self.episodes), shards)]


class OutputError(UserError, ValueError):
    """The output directory holds something else."""


def collect(
    output: epath.PathLike, settings: Settings, processes: int | None = None
) -> dict[str, Any]:
    """Collects episodes into `output`, or goes on where an interrupted collection stopped.

    Args:
        output: the data set's directory.
        settings: what to collect.
        processes: how many at once; one per core by default.

    Returns:
        A summary: episodes, steps, and success by task.

    Raises:
        OutputError: `output` holds something other than this collection.
        BrokenProcessPool: workers died `CRASHES` times.
    """
    output = paths.of(output)
    lengths = settings.shard_lengths()
    files = _files(output, settings)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for crashes in itertools.count(1):
        if _prepare(files, settings):
            logging.info('%s is complete already; nothing to do', output)
            return summary(files)
        left = [shard for shard in range(len(lengths)) if not files.is_part(shard)]
        if len(left) < len(lengths):
            done = len(lengths) - len(left)
            logging.info('going on with %s: %d of %d shards are there', output, done, len(lengths))
        jobs = [(output, s, settings, int(starts[s]), int(starts[s + 1])) for s in left]
        try:
            worker_pool.run(_collect_shard, jobs, processes or os.cpu_count() or 1, 'collected')
            break
        except concurrent.futures.process.BrokenProcessPool:
            # Drivers of OpenGL crash now and then, and take the process with them.
            if crashes == CRASHES:
                raise
            logging.warning('a worker died; its shard is collected again')
    files.finish()
    return summary(files)


def play(env: TabletopEnv, settings: Settings, number: int) -> dict[str, Any]:
    """Episode `number` of a collection, as the schema lays it out, frames as uint8 [S, S, 3]."""
    kind = settings.tasks[number % len(settings.tasks)] if settings.tasks else None
    seed = settings.seed * SEED_STRIDE + number
    observation, info = env.reset(seed=seed, options={'task': kind})
    rng = np.random.default_rng([seed, 77])
    steps: list[dict[str, Any]] = []
    over, detoured = False, 0
    while not over:
        # A turn after a disturbance may exceed a step's range; the next step does the rest.
        action = expert.act(env.state, env.start, env.task)
        action = np.clip(action, env.action_space.low, env.action_space.high)
        stored, detour = _observation(observation, info), None
        if detoured < detours.MOST and rng.random() < settings.detours:
            detour = detours.replace(rng, action, env.state)
        detoured += detour is not None
        observation, reward, terminated, truncated, info = env.step(
            action if detour is None else detour
        )
        over = terminated or truncated
        steps.append(
            {
                'observation': stored,
                'action': {
                    'world_vector': action[1:4],
                    'rotation_delta': action[4:7],
                    'gripper_closedness_action': action[7:8],
                    'terminate_episode': np.array([action[0] >= 0.5], np.int32),
                },
                'reward': np.float32(reward),
                'discount': np.float32(not terminated),
                'is_first': not steps,
                'is_last': over,
                'is_terminal': terminated,
            }
        )
    return {
        'steps': steps,
        'episode_metadata': {
            'success': info['success'],
            'task': info['task'],
            'suite': info['suite'],
            'seed': info['seed'],
            'objects': list(info['object_names']),
        },
    }


def summary(files: collected_files.RldsFiles) -> dict[str, Any]:
    """Counts of what the files hold; raises as their `outcomes`."""
    tried: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    total = 0
    for task, success, steps in files.outcomes():
        tried[task] += 1
        succeeded[task] += success
        total += steps
    return {
        'episodes': sum(tried.values()),
        'steps': total,
        'success': {task: succeeded[task] / tried[task] for task in sorted(tried)},
    }


def _observation(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A step's observation; tiles out of the frame are in neither names nor pixels."""
    pixels = np.full([schema.TILES, 2], np.nan, np.float32)
    inside = [i for i, p in enumerate(info['object_pixels']) if ((p >= 0) & (p <= 1)).all()]
    pixels[: len(inside)] = info['object_pixels'][inside]
    return {
        'image': observation['image'],
        'natural_language_instruction': observation['instruction'],
        'gripper_xyz': info['gripper_xyz'],
        'gripper_yaw': info['gripper_yaw'],
        'gripper_pixel': info['gripper_pixel'],
        'gripper_opening': info['gripper_opening'],
        'object_names': '\n'.join(info['object_names'][i] for i in inside),
        'object_pixels': pixels,
    }


def _files(output: epath.Path, settings: Settings) -> collected_files.RldsFiles:
    return collected_files.FORMATS[settings.format](
        output, settings.shard_lengths(), settings.image_size, settings.quality
    )


def _prepare(files: collected_files.RldsFiles, settings: Settings) -> bool:
    """Makes the output ready; True if the collection is complete in it already."""
    output, complete = files.directory, files.is_complete
    about = json.loads(json.dumps({'version': schema.VERSION, **dataclasses.asdict(settings)}))
    about['environment'] = _environment_fingerprint()
    path = output / COLLECTION_JSON
    if path.exists():
        before = {'format': 'rlds'} | records.read(path, OutputError)  # the only one, once
        differing = [k for k in sorted({*before, *about}) if before.get(k) != about.get(k)]
        if complete and differing == ['environment']:
            logging.warning('%s was collected by another version of the environment', output)
        elif differing:
            fields = ', '.join(f'{k}={before.get(k)!r} (now {about.get(k)!r})' for k in differing)
            raise OutputError(
                f'{output} holds a collection with other settings: {fields}. Choose another '
                '--output, or delete it to start afresh.'
            )
    elif output.exists() and any(output.iterdir()):
        raise OutputError(
            f"{output} isn't empty and holds no collection of this program; choose another --output"
        )
    else:
        output.mkdir(parents=True, exist_ok=True)
        paths.write(path, json.dumps(about, indent=2).encode())
    for name in paths.files(output):
        if os.path.basename(name).startswith(paths.NEW):  # left over
            paths.delete(output / name)
    return complete


def _environment_fingerprint() -> str:
    """Of the environment's code, as a collection must come from one version of it."""
    digest = hashlib.sha256()
    for path in sorted(epath.Path(__file__).parent.glob('*.py')):
        if path.name not in (epath.Path(__file__).name, epath.Path(collected_files.__file__).name):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def environment(settings: Settings) -> TabletopEnv:
    """The environment of a collection, made once per process."""
    env = TabletopEnv(
        suite=settings.suite,
        image_size=settings.image_size,
        max_steps=settings.max_steps,
        execution_noise=settings.noise,
        render_mode=None,
    )
    atexit.register(env.close)
    return env


def _collect_shard(
    output: epath.Path, shard: int, settings: Settings, start: int, stop: int
) -> None:
    env = environment(settings)

    def episodes() -> Iterator[dict[str, Any]]:
        for number in range(start, stop):
            yield play(env, settings, number)
            worker_pool.tick()

    _files(output, settings).write(shard, episodes())


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_integer('episodes', None, 'Episodes to collect.', lower_bound=1)
    flags.DEFINE_string('output', None, 'Directory of the data set.')
    flags.DEFINE_float('noise', Settings.noise, 'Execution noise, see TabletopEnv.')
    flags.DEFINE_float('detours', Settings.detours, 'How often the gripper is carried off, 0 to 1.')
    flags.DEFINE_integer('seed', Settings.seed, '0 to 9; different seeds share no scene.')
    flags.DEFINE_integer('processes', None, 'Processes; one per core by default.', lower_bound=1)
    flags.DEFINE_integer('image_size', Settings.image_size, 'Side of the frames, pixels.')
    flags.DEFINE_string('suite', Settings.suite, 'Suite that scenes are drawn from.')
    flags.DEFINE_list('tasks', [], 'Kinds of task, taken in turn; all by default, drawn.')
    flags.DEFINE_enum(
        'format', Settings.format, list(collected_files.FORMATS), "The files' format."
    )
    flags.mark_flags_as_required(['episodes', 'output'])


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {argv[1:]}')
    started = time.monotonic()
    # As Ctrl-C does: a preempted collection ends its workers and says how to go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings(
        episodes=FLAGS.episodes,
        seed=FLAGS.seed,
        noise=FLAGS.noise,
        detours=FLAGS.detours,
        image_size=FLAGS.image_size,
        suite=FLAGS.suite,
        tasks=tuple(FLAGS.tasks),
        format=FLAGS.format,
    )
    try:
        result = collect(FLAGS.output, settings, FLAGS.processes)
    except KeyboardInterrupt:
        sys.exit(exit_codes.STOPPED)
    success = ', '.join(f'{task} {rate:.1%}' for task, rate in result['success'].items())
    print(
        f'{FLAGS.output}: {result["episodes"]} episodes, {result["steps"]} steps in '
        f'{time.monotonic() - started:.0f} s; success: {success}'
    )


if __name__ == '__main__':
    define_flags()
    command.run('collect', main)
