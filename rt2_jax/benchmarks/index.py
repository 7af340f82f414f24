"""What the byte index costs from ten thousand to ten million steps.

    python -m rt2_jax.benchmarks.index --output=FILE.json --directory=DIR [--real=DATASET]

Makes data sets of made-up steps in DIR: one shard of 100 episodes of 100 steps with thumbnails for
pictures, which appears under as many names as a set has shards (hard links), so that indexing
reads every step and the disk holds few. For each size: the index's bytes a step, the rate of
building it and the memory that this takes, and, in a process of its own, what opening takes and
what an example costs, without its picture and with it. `ours` is the latter in microseconds at the
largest size, `limit` at the smallest, so `ratio_limit` is 1 where the cost doesn't grow. --real
indexes a data set with pictures of real size, to see what those cost.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import re
import resource
import tempfile
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from rt2_jax.benchmarks import kitchen
from rt2_jax.data import images
from rt2_jax.data.robot import rlds, rlds_index, rlds_writer
from rt2_jax.evaluation import report

FLAGS = flags.FLAGS
EPISODES, STEPS = 100, 100  # of a shard


def features() -> tfds.features.FeaturesDict:
    """What the kitchen's card names, and little else."""
    f = tfds.features
    numbers = {'world_vector': 3, 'rotation_delta': 3, 'gripper_closedness_action': 1}
    action = {name: f.Tensor(shape=(n,), dtype=np.float32) for name, n in numbers.items()}
    action['terminate_episode'] = f.Tensor(shape=(3,), dtype=np.int32)
    observation = {
        'image': f.Image(shape=(16, 16, 3), encoding_format='jpeg'),
        'natural_language_instruction': f.Text(),
    }
    flags_ = {name: f.Scalar(dtype=np.bool_) for name in ('is_first', 'is_last', 'is_terminal')}
    return rlds_writer.features_dict(
        {
            'steps': {'observation': observation, 'action': action, **flags_},
            'aspects': {'success': f.Scalar(dtype=np.bool_)},
        }
    )


def write(directory: epath.PathLike, steps: int) -> None:
    """A data set of `steps` steps, unless it is there; see the module's text."""
    directory = epath.Path(directory)
    if (directory / rlds_writer.DATASET_INFO_JSON).exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    shards = steps // (EPISODES * STEPS)
    names = [rlds_writer.shard_name(kitchen.NAME, 'train', i, shards) for i in range(shards)]
    encode = rlds_writer.EpisodeEncoder(features())
    rlds_writer.write_shard(directory / names[0], (encode(_episode(n)) for n in range(EPISODES)))
    for name in names[1:]:
        if not (directory / name).exists():
            os.link(directory / names[0], directory / name)
    rlds_writer.finish(
        directory,
        features(),
        name=kitchen.NAME,
        version=kitchen.VERSION,
        description='Made up: for measuring.',
        shard_lengths=[EPISODES] * shards,
    )


def _episode(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    picture = images.encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8), quality=30)

    def step(t):
        last = t == STEPS - 1
        values = rng.uniform(-0.2, 0.2, 7).astype(np.float32)
        return {
            'observation': {
                'image': picture,
                'natural_language_instruction': f'pick thing {number}',
            },
            'action': {
                'world_vector': values[:3],
                'rotation_delta': values[3:6],
                'gripper_closedness_action': values[6:],
                'terminate_episode': np.array([last, not last, 0], np.int32),
            },
            'is_first': t == 0,
            'is_last': last,
            'is_terminal': last,
        }

    return {'steps': [step(t) for t in range(STEPS)], 'aspects': {'success': number % 5 > 0}}


def build(directory: str, location: str) -> dict[str, Any]:
    """Builds an index and says how fast, in what memory and of what size."""
    shards = rlds_index.split_files(directory)
    start = time.perf_counter()
    rlds_index.build(directory, kitchen.CARD, location=location)
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    source = rlds.open_source(directory, kitchen.CARD, location=location)
    size = sum(path.stat().st_size for path in pathlib.Path(location).rglob('*') if path.is_file())
    return {
        'steps': len(source),
        'shards': len(shards),
        'data_bytes': sum(os.path.getsize(shard) for shard in shards),
        'index_bytes_a_step': round(size / len(source), 1),
        'build_seconds': round(seconds, 2),
        'build_steps_per_second': round(len(source) / seconds),
        # Of the process that joins the shards' parts, and of the largest that reads shards.
        'build_peak_bytes': [1024 * one.ru_maxrss for one in used],
    }


def use(directory: str, location: str, number: int) -> dict[str, Any]:
    """Opens an index and looks up `number` random examples, several times; best times count."""
    before = _memory()
    start = time.perf_counter()
    source = rlds.open_source(directory, kitchen.CARD, location=location)
    opened = time.perf_counter() - start
    own = _memory()['RssAnon'] - before['RssAnon']
    rng = np.random.default_rng(0)

    def row(i):
        return source.instruction(i), source.action(i)

    microseconds = {}
    for name, look_up in (('row', row), ('example', source.__getitem__)):
        best = float('inf')
        for _ in range(5):
            chosen = rng.integers(len(source), size=number).tolist()
            start = time.perf_counter()
            for i in chosen:
                look_up(i)
            best = min(best, time.perf_counter() - start)
        microseconds[name] = round(1e6 * best / number, 2)
    return {
        'open_seconds': round(opened, 4),
        'open_bytes': own,
        # Pages of the index's files, which processes share and the system may take back.
        'mapped_bytes': _memory()['RssFile'] - before['RssFile'],
        'row_microseconds': microseconds['row'],
        'example_microseconds': microseconds['example'],
    }


def _memory() -> dict[str, int]:
    """Resident bytes of this process by kind."""
    status = pathlib.Path('/proc/self/status').read_text()
    return {name: 1024 * int(kb) for name, kb in re.findall(r'(Rss\w+):\s+(\d+) kB', status)}


def _apart(function, *arguments) -> Any:
    """The function's result from a fresh process, whose memory is its own."""
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure(folder: epath.Path, sizes: list[int], real: str) -> dict[str, Any]:
    """See the module's text."""
    by_steps = {}
    for size in sizes:
        directory = folder / str(size)
        write(directory, size)
        location = os.fspath(directory / 'index')
        built = _apart(build, os.fspath(directory), location)
        by_steps[str(size)] = built | _apart(use, os.fspath(directory), location, 5000)
        print(size, by_steps[str(size)], flush=True)
    costs = [found['example_microseconds'] for found in by_steps.values()]
    result = {
        'ours': costs[-1],
        'limit': costs[0],
        'ratio_limit': round(costs[0] / costs[-1], 3),
        'unit': 'microseconds an example',
        'by_steps': by_steps,
    }
    if real:
        with tempfile.TemporaryDirectory() as location:
            result['real'] = _apart(build, real, os.path.join(location, 'index'))
    return result


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_string('directory', 'runs/data/index', 'Where the data sets are made.')
    flags.DEFINE_list('steps', ['10000', '100000', '1000000', '10000000'], 'Sizes, in steps.')
    flags.DEFINE_string('real', '', 'A data set made by benchmarks/data.py, to be indexed too.')
    flags.mark_flags_as_required(['output'])


def main(_: list[str]) -> None:
    sizes = sorted(int(size) for size in FLAGS.steps)
    if wrong := [size for size in sizes if size % (EPISODES * STEPS)]:
        raise app.UsageError(f'--steps: {wrong} are no multiples of {EPISODES * STEPS}')
    result = measure(epath.Path(FLAGS.directory), sizes, FLAGS.real)
    result['manifest'] = report.manifest()
    epath.Path(FLAGS.output).write_text(json.dumps(result, indent=2))


if __name__ == '__main__':
    define_flags()
    app.run(main)
