"""What an index costs from ten thousand to ten million examples.

    python -m rt2_jax.benchmarks.index --output=FILE.json --directory=DIR [--real=DATASET]
    python -m rt2_jax.benchmarks.index --kind=jsonl --output=FILE.json --directory=DIR

Makes data sets in DIR, of robot steps or of a web set's records (--kind): one shard with thumbnails
for pictures, which appears under as many names as a set has shards (hard links), so that indexing
reads every example and the disk holds few. For each size: the index's bytes an example, the rate of
building it and the memory that this takes; in processes of their own what the first opening takes,
which computes what is used of a web set, and a later one, and what an example costs, without its
picture and with it, and the first few, which bring pages of the index into the process. `ours` is
what one costs with its picture in microseconds at the largest size, `limit` at the smallest, so
`ratio_limit` is 1 where the cost doesn't grow. --real indexes a data set with pictures of real size,
to see what those cost.
"""

from __future__ import annotations

from collections.abc import Callable
import concurrent.futures
import mmap
import multiprocessing
import os
import pathlib
import resource
import shutil
import tempfile
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np

from rt2_jax import command, paths
from rt2_jax.benchmarks import harness
from rt2_jax.benchmarks.index_sets import Robots, Web

FLAGS = flags.FLAGS
KINDS = ('robot', 'jsonl', 'webdataset')
LOOKED_UP, TURNS = 5000, 5  # examples a turn


def made(kind: str, directory: epath.PathLike) -> Robots | Web:
    """The data set of a kind in a directory."""
    return (Robots if kind == 'robot' else Web)(os.fspath(directory), kind)


def build(dataset: Robots | Web, location: str) -> dict[str, Any]:
    """Builds an index: how fast, in what memory and of what size."""
    before = harness.fresh_memory()
    start = time.perf_counter()
    dataset.build(location)
    seconds = time.perf_counter() - start
    of_children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peaks = [harness.memory()['VmHWM'] - before['VmRSS'], of_children]
    # Without what the first opening adds.
    size = sum(path.stat().st_size for path in pathlib.Path(location).rglob('*') if path.is_file())
    examples, files = dataset.size(dataset.open(location)), dataset.files()
    return {
        'examples': examples,
        'files': len(files),
        'data_bytes': sum(map(os.path.getsize, files)),
        'index_bytes_an_example': round(size / examples, 1),
        'build_seconds': round(seconds, 2),
        'build_examples_per_second': round(examples / seconds),
        # Of the process that joins the files' parts, beyond what it began with, and of the largest
        # that reads files, with all that it imports.
        'build_peak_bytes': peaks,
    }


def open_first(dataset: Robots | Web, location: str) -> dict[str, Any]:
    """What opening takes where nothing is cached from an earlier time."""
    for cached in pathlib.Path(location).glob('selection-*'):
        shutil.rmtree(cached)
    before = harness.fresh_memory()
    start = time.perf_counter()
    dataset.open(location)
    seconds = time.perf_counter() - start
    after = harness.memory()
    mapped = after['RssFile'] - before['RssFile']
    return {
        'first_open_seconds': round(seconds, 4),
        # Without pages of the index's files.
        'first_open_peak_bytes': after['VmHWM'] - before['VmRSS'] - mapped,
    }


def use(dataset: Robots | Web, location: str, number: int) -> dict[str, Any]:
    """Opens an index and looks up `number` random examples: first, and once all pages are mapped.

    Times are the processor's, and of the latter the best of several turns.
    """
    before = harness.memory()
    start = time.perf_counter()
    source = dataset.open(location)
    opened = time.perf_counter() - start
    anonymous = harness.memory()['RssAnon'] - before['RssAnon']
    rng = np.random.default_rng(0)

    def microseconds(look_up: Callable[[int], Any]) -> float:
        chosen = rng.integers(len(source), size=number).tolist()
        start = time.process_time()
        for i in chosen:
            look_up(i)
        return round(1e6 * (time.process_time() - start) / number, 2)

    first = microseconds(source.__getitem__)
    for array in dataset.arrays(source):
        array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max(initial=0)
    row = min(microseconds(lambda i: dataset.row(source, i)) for _ in range(TURNS))
    example = min(microseconds(source.__getitem__) for _ in range(TURNS))
    return {
        'open_seconds': round(opened, 4),
        'open_bytes': anonymous,
        # Pages of the index's files, which processes share and the system may take back.
        'mapped_bytes': harness.memory()['RssFile'] - before['RssFile'],
        'first_example_microseconds': first,
        'row_microseconds': row,
        'example_microseconds': example,
    }


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a fresh process, whose memory is its own."""
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure(kind: str, folder: epath.Path, sizes: list[int], real: str) -> dict[str, Any]:
    """Measures each size; see the module's text."""
    by_size: dict[str, dict[str, Any]] = {}
    for size in sizes:
        dataset = made(kind, folder / f'{kind}-{size}')
        dataset.write(size)
        location = os.path.join(dataset.directory, 'index')
        figures = _apart(build, dataset, location) | _apart(open_first, dataset, location)
        by_size[str(size)] = figures | _apart(use, dataset, location, LOOKED_UP)
        print(size, by_size[str(size)], flush=True)
    costs = [figures['example_microseconds'] for figures in by_size.values()]
    result: dict[str, Any] = {
        'ours': costs[-1],
        'limit': costs[0],
        'ratio_limit': round(costs[0] / costs[-1], 3),
        'unit': 'microseconds an example',
        'by_size': by_size,
    }
    if real:
        with tempfile.TemporaryDirectory() as location:
            result['real'] = _apart(build, made(kind, real), os.path.join(location, 'index'))
    return result


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_string('directory', 'runs/data/index', 'Where the data sets are made.')
    flags.DEFINE_enum('kind', 'robot', KINDS, 'What is indexed.')
    sizes = ['10000', '100000', '1000000', '10000000']
    flags.DEFINE_list('sizes', sizes, 'In robot steps, or in records of a web set.')
    flags.DEFINE_string('real', '', 'A data set made by benchmarks/data.py, to be indexed too.')
    flags.mark_flags_as_required(['output'])


def main(_: list[str]) -> None:
    """Measures the sizes asked for."""
    sizes = sorted(int(size) for size in FLAGS.sizes)
    if wrong := [size for size in sizes if size % Robots.shard]:
        raise app.UsageError(f'--sizes: {wrong} are no multiples of {Robots.shard}')
    result = measure(FLAGS.kind, paths.of(FLAGS.directory), sizes, FLAGS.real)
    harness.publish(result, FLAGS.output)


if __name__ == '__main__':
    define_flags()
    command.run('index', main)
