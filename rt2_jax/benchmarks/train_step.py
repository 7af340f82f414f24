"""How near the training step comes to what the machine can do.

    python -m rt2_jax.benchmarks.train_step --config=FILE[:ARG] --output=FILE.json

`ours` is the step's FLOP/s, `limit` what a plain square matmul of the same dtype reaches on the
same cores in the same run, `peer` what the step's own matrix products reach when each runs alone
(the shapes' own limit: small products are slower). The three are measured in turns, so that a
neighbour on the machine slows all of them. Also: the share of wall time in which no step ran for
want of data, over steps fed by the real pipeline.
"""

from collections import Counter
import json
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax import command, configuration
from rt2_jax.benchmarks import harness
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import flops as flops_lib, program as program_lib

FLAGS = flags.FLAGS


def products_alone(jaxpr: Any, seconds: float) -> float:
    """FLOP/s of a jaxpr's matrix products, each run by itself, weighted by how often it occurs.

    Args:
        jaxpr: of the step.
        seconds: about how long to measure.
    """
    products: Counter[Any] = Counter()
    for equation, times in flops_lib.products(jaxpr):
        left, right = (operand.aval for operand in equation.invars)
        key = (
            left.shape,
            right.shape,
            left.dtype,
            equation.params['dimension_numbers'],
            equation.outvars[0].aval.dtype,
        )
        products[key] += times
    total_flops = total_seconds = 0.0
    for (left, right, dtype, numbers, out), times in products.items():
        run = jax.jit(
            lambda a, b, numbers=numbers, out=out: jax.lax.dot_general(
                a, b, numbers, preferred_element_type=out
            )
        )
        a, b = jnp.ones(left, dtype), jnp.ones(right, dtype)
        run(a, b).block_until_ready()
        best, end = float('inf'), time.perf_counter() + seconds / len(products)
        while time.perf_counter() < end or best == float('inf'):
            start = time.perf_counter()
            run(a, b).block_until_ready()
            best = min(best, time.perf_counter() - start)
        inner = np.prod([left[axis] for axis in numbers[0][0]], initial=1.0)
        total_flops += times * 2 * inner * np.prod(jax.eval_shape(run, a, b).shape, initial=1.0)
        total_seconds += times * best
    return total_flops / total_seconds


def measure(config: Any) -> dict[str, Any]:
    """Runs the measurements for a config; see the module's text for the figures."""
    mesh = mesh_lib.make_mesh(config.mesh)
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else Tokenizer.load_default()
    batches, spaces = program_lib.open_batches(config, tokenizer, mesh)
    names = batches.sources, batches.kinds, batches.acting_kinds
    program = program_lib.build(config, mesh, tokenizer, *names, spaces)
    traced = program.trace()
    flops, compiled = flops_lib.count_flops(traced.jaxpr), traced.lower().compile()
    state, batch = program.init(), next(batches)
    batches.close()
    state, sums = compiled(state, batch)
    sums.loss.block_until_ready()

    ours = peer = limit = 0.0
    for _ in range(FLAGS.rounds):
        for _ in range(FLAGS.steps):
            start = time.perf_counter()
            state, sums = compiled(state, batch)
            sums.loss.block_until_ready()
            ours = max(ours, flops / (time.perf_counter() - start))
        limit = max(
            limit,
            jax.device_count() * flops_lib.matmul_peak(jnp.dtype(config.model.dtype), seconds=2.0),
        )
        peer = max(peer, jax.device_count() * products_alone(traced.jaxpr, seconds=4.0))

    # Fed by the pipeline, as in training: the host may be two steps ahead.
    waited, pending, start = 0.0, [sums.loss], 0.0
    next(batches)
    start = time.perf_counter()
    for _ in range(FLAGS.steps * FLAGS.rounds):
        before = time.perf_counter()
        batch = next(batches)
        if pending[-1].is_ready():
            waited += time.perf_counter() - before
        state, sums = compiled(state, batch)
        pending.append(sums.loss)
        if len(pending) > 2:
            pending.pop(0).block_until_ready()
    sums.loss.block_until_ready()
    seconds = time.perf_counter() - start
    batches.close()
    return {
        'ours': ours,
        'peer': peer,
        'limit': limit,
        'ratio_peer': ours / peer,
        'ratio_limit': ours / limit,
        'unit': 'FLOP/s',
        'flops_per_step': flops,
        'data_wait': waited / seconds,
        'examples_per_second': FLAGS.steps * FLAGS.rounds * config.batch_size / seconds,
    }


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.DEFINE_integer('steps', 20, 'Steps of each measurement.')
    flags.DEFINE_integer(
        'rounds', 3, 'How often the measurements take turns; the best of each counts.'
    )
    flags.mark_flags_as_required(['config', 'output'])


def main(_: list[str]) -> None:
    """Measures the step of a config."""
    config = FLAGS.config
    settings = dict(config=json.loads(configuration.to_json(config)), seed=config.seed)
    harness.publish(measure(config), FLAGS.output, **settings)


if __name__ == '__main__':
    define_flags()
    command.run('train_step', main, flags_parser=configuration.parse_flags)
