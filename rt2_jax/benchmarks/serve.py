"""A server under load, on this machine: many robots, batches, and malformed messages.

    python -m rt2_jax.benchmarks.serve --output=FILE.json [--workdir=DIR] [--robots=1,8,32,128]

`load`: robots that ask at --hz each (fleet.py has the figures). `saturated`: robots that ask all the time,
with batches and without, and `batching`, the ratio of the two. `compute`: requests a second of the policy
alone in a batch of each size, which bounds what batching can gain. `ours` is the saturated server's
answers a second, `limit` the best of `compute`. The server is a process of its own; the robots are this
one, on the same cores.

--parameters=100e6 serves random weights of this number in place of --workdir: most of them in the
decoder, which reads them for each token, so that a batch costs little more than a robot alone.

--malformed=10000 --minutes=10 sends that many malformed messages (malformed.py), spread over the minutes,
beside --robots that must not notice, and samples the memory of the server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
import os
import tempfile
import time
from typing import Any

from absl import flags, logging
from etils import epath
import numpy as np
import psutil

from rt2_jax import command
from rt2_jax.benchmarks import fleet, harness, malformed
from rt2_jax.checkpoints import assets, loading, param_shapes
from rt2_jax.data import images
from rt2_jax.decoding.grammar import Kind
from rt2_jax.parallel import sharding
from rt2_jax.policy import Policy
from rt2_jax.serve import batch_sizes

FLAGS = flags.FLAGS

_MESSAGE_MIB = 1
_PATIENCE = 2.0


def random_checkpoint(directory: epath.Path, number: float) -> None:
    """Writes a policy with about `number` random parameters, nearly all in its decoder."""
    from_package = loading.load_for_inference('package:tabletop_pretrained')
    config = from_package.config.copy_and_resolve_references().unlock()
    depth = 12
    width = max(128, int((number / depth / 16) ** 0.5) // 64 * 64)
    sizes = dict(width=width, heads=width // 64, head_dim=64, mlp=8 * width // 3, unroll=1)
    config.model.encoder.update(sizes | dict(depth=1, scale=1 / 8))
    config.model.decoder.update(sizes | dict(depth=depth, scale=1 / 8))
    source = {'tabletop': from_package.action_space}
    assets.write_assets(directory, config.lock(), from_package.tokenizer, source)
    params = param_shapes.random(config, from_package.tokenizer)
    named = sharding.named_leaves(params)
    arrays: dict[str, Any] = {f'params/{name}': np.asarray(x) for name, x in named.items()}
    np.savez(directory / 'params.npz', step=np.int64(0), dtype=np.array('float32'), **arrays)


def compute(policy: Policy) -> dict[int, float]:
    """Requests/s of the policy alone, by batch size: the best of a few calls."""
    kind = Kind.PLAN if policy.plan else Kind.ACTION
    frame = np.zeros([policy.frames, 128, 128, 3], np.uint8)
    request = policy.prepare(frame, 'pick banana', kind)
    rates = {}
    for size in policy.batch_sizes:
        seconds = []
        for _ in range(6):
            begin = time.perf_counter()
            policy.run([request] * size)
            seconds.append(time.perf_counter() - begin)
        rates[size] = round(size / min(seconds), 1)
    return rates


def noise_pictures(number: int, frames: int) -> list[np.ndarray]:
    """Pictures of big random squares: uint8 [128, 128, 3], or with a leading axis of frames."""
    squares = np.random.default_rng(0).integers(0, 256, (number, 6, 6, 3), np.uint8)
    pictures = [images.resize(picture, 128) for picture in squares]
    return pictures if frames == 1 else [np.stack([picture] * frames) for picture in pictures]


def under_load(workdir: str, requests: list[fleet.Exchange]) -> dict[str, Any]:
    """`load` and `saturated`; see the module's text."""
    largest, seconds = FLAGS.largest_batch, FLAGS.seconds
    run = lambda port, robots, hz: asyncio.run(
        fleet.run(port, requests, robots=robots, hz=hz, seconds=seconds)
    )
    load: list[dict[str, Any]] = []
    with harness.served(workdir, f'--largest_batch={largest}') as (port, _):
        for robots in map(int, FLAGS.robots):
            load.append(run(port, robots, FLAGS.hz))
            logging.info('%s', load[-1])
        with_batches = run(port, 2 * largest, 0)
    with harness.served(workdir, '--largest_batch=1') as (port, _):
        without = run(port, 2 * largest, 0)
    ours = with_batches['answers_per_second']
    return {
        'load': load,
        'saturated': {'with': with_batches, 'without': without},
        'batching': round(ours / without['answers_per_second'], 2),
        'ours': ours,
        'unit': 'answers/s',
    }


async def under_fire(
    port: int, process: psutil.Process, requests: list[fleet.Exchange]
) -> dict[str, Any]:
    """Malformed messages over the minutes beside robots; see the module's text."""
    number, seconds = FLAGS.malformed, 60 * FLAGS.minutes
    robots = int(FLAGS.robots[-1])
    samples: list[int] = []
    ends: Counter[str] = Counter()
    begin = time.monotonic()

    async def sample() -> None:
        while True:
            samples.append(process.memory_info().rss)
            await asyncio.sleep(max(0.05, seconds / 600))

    async def storm() -> None:
        # In small bursts, so that the last minute is as the first.
        for start in range(0, number, 50):
            cases = range(start, min(start + 50, number))
            ends.update(
                await malformed.storm(
                    port, cases, seed=0, message_bytes=_MESSAGE_MIB * 2**20, patience=_PATIENCE
                )
            )
            await asyncio.sleep(begin + seconds * cases.stop / number - time.monotonic())

    sampling = asyncio.create_task(sample())
    fleet_run = fleet.run(port, requests, robots=robots, hz=FLAGS.hz, seconds=seconds)
    others, _ = await asyncio.gather(fleet_run, storm())
    sampling.cancel()
    return {'cases': dict(ends), 'memory': harness.growth(samples), 'others': others}


def measure(workdir: str) -> dict[str, Any]:
    """Runs all that the flags ask for."""
    policy = Policy.from_checkpoint(workdir, batch_sizes=batch_sizes(FLAGS.largest_batch))
    requests = fleet.exchanges(policy, noise_pictures(FLAGS.pictures, policy.frames))
    rates = compute(policy)
    result: dict[str, Any] = {'answers': len(requests), 'compute': rates}
    result['limit'] = max(rates.values())
    logging.info('%s', result)
    if not FLAGS.malformed:
        return result | under_load(workdir, requests)
    limits = [f'--message_mib={_MESSAGE_MIB}', f'--seconds_to_send={_PATIENCE}']
    with harness.served(workdir, f'--largest_batch={FLAGS.largest_batch}', *limits) as (
        port,
        process,
    ):
        result['malformed'] = asyncio.run(under_fire(port, psutil.Process(process.pid), requests))
        result['malformed']['alive'] = process.poll() is None
    return result


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'Where the figures go (JSON).')
    flags.DEFINE_string('workdir', 'package:tabletop_pretrained', 'Checkpoint directory.')
    flags.DEFINE_float('parameters', 0, 'Random weights in place of --workdir.', lower_bound=0)
    flags.DEFINE_list('robots', ['1', '8', '32', '128'], 'Numbers of robots.')
    flags.DEFINE_float('hz', 5.0, 'How often each asks.', lower_bound=0.01)
    flags.DEFINE_float('seconds', 10.0, 'For how long, a measurement.', lower_bound=0.1)
    flags.DEFINE_integer('largest_batch', 16, 'See rt2_jax.serve.', lower_bound=1)
    flags.DEFINE_integer('pictures', 128, 'That requests are drawn from.', lower_bound=1)
    flags.DEFINE_integer('malformed', 0, 'Malformed messages.', lower_bound=0)
    flags.DEFINE_float('minutes', 10.0, 'That they are spread over.', lower_bound=0.01)
    flags.mark_flag_as_required('output')


def main(_: list[str]) -> None:
    """Measures a checkpoint, or random weights."""
    logging.set_verbosity(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        workdir = FLAGS.workdir
        if FLAGS.parameters:
            random_checkpoint(epath.Path(directory), FLAGS.parameters)
            workdir = directory
        result = measure(workdir)
    harness.publish(
        result,
        FLAGS.output,
        workdir=FLAGS.workdir,
        parameters=FLAGS.parameters,
        largest_batch=FLAGS.largest_batch,
        load_average=os.getloadavg()[0],
    )


if __name__ == '__main__':
    define_flags()
    command.run('serve', main)
