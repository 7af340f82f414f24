"""One row of benchmarks/gpu.py, in a process of its own that gpu.py starts.

All weights are random and made on the device. The last line printed is the row as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax import command, configuration
from rt2_jax.benchmarks import decode_model, harness, machine
from rt2_jax.benchmarks.gpu import ROWS, Row
from rt2_jax.decoding import compact, rows
from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.errors import UserError
from rt2_jax.estimation import model_flops
from rt2_jax.manifest import make_manifest
from rt2_jax.models import backbone
from rt2_jax.nearest import check
from rt2_jax.parallel import mesh as mesh_lib, sharding
from rt2_jax.training import (
    flops as flops_lib,
    optimizer as optimizer_lib,
    step as step_lib,
    train_state as state_lib,
)

_TINY_STACK = dict(width=128, depth=2, heads=4, head_dim=32, mlp=384, unroll=2)
# Models to train, with what their config's `data` says. `tiny` has the parts of configs/tabletop.py.
TRAIN = {
    'toy': (decode_model.SIZES['tiny'], dict(image_size=32, prompt_length=8, target_length=8)),
    'tiny': (
        dict(
            name='pali', vocab=4_096, positions='sincos', tied=True,
            encoder=_TINY_STACK, decoder=_TINY_STACK,
            vision=dict(
                width=128, depth=4, heads=4, mlp=384, patch=16, stem='pyramid',
                stem_widths=(48, 128), positions='sincos', unroll=4,
            ),
        ),
        dict(image_size=96, prompt_length=24, target_length=25),
    ),
    '300m': (decode_model.SIZES['base'], dict(image_size=224, prompt_length=64, target_length=64)),
    '1b': (decode_model.SIZES['1b'], dict(image_size=224, prompt_length=64, target_length=64)),
}  # fmt: skip


class Skipped(UserError):
    """A row that cannot be measured here; the text says why."""


def peak_memory() -> dict[str, Any]:
    """Most bytes that the first device held so far; None where it doesn't count them (a CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {'peak_bytes': stats.get('peak_bytes_in_use')}


def card(row: Row, batch: int, repeats: int, toy: bool) -> dict[str, Any]:
    """What the card can do: FLOP/s of large products, bytes/s of reading its memory."""
    del row, batch, toy
    reading = machine.read()
    count = len(next(reading)) << 24
    return {
        'unit': 'FLOP/s',
        'ours': flops_lib.matmul_peak(jnp.bfloat16, seconds=repeats * 0.1),
        'flops_bfloat16': flops_lib.matmul_peak(jnp.bfloat16, seconds=repeats * 0.1),
        'flops_float32': flops_lib.matmul_peak(jnp.float32, seconds=repeats * 0.1),
        'bytes_per_second': count / harness.timed(lambda: next(reading), repeats)['seconds'],
    }


def train(row: Row, batch: int, repeats: int, toy: bool) -> dict[str, Any]:
    """The training step's model FLOP/s, on random examples that lie on the device."""
    model_config, data = TRAIN['toy' if toy else row.size]
    data = data | {'frames': 1}
    vocab, queued = model_config['vocab'], 1 if toy else 5
    model = backbone.build(model_config | {'dtype': 'bfloat16'}, vocab)
    mesh = mesh_lib.make_mesh({'data': 1}, jax.devices()[:1])
    examples = jax.device_put(_examples(batch, vocab, data), sharding.batch_sharding(mesh))
    boxed = state_lib.parameter_shapes(model, examples)
    learning = configuration.paper(1_000, batch, 1e-3).optimizer
    optimizer = optimizer_lib.make_optimizer(learning, 1_000, boxed)
    update = step_lib.make_train_step(model, optimizer, (1, 1))

    def placed(*arguments: Any) -> Any:
        with sharding.rules(mesh):
            return update(*arguments)

    state = state_lib.init_state(model, optimizer, examples, mesh, seed=0)
    parameters = state_lib.count_parameters(state.params)
    begin = time.perf_counter()
    compiled = jax.jit(placed, donate_argnums=0).lower(state, examples).compile()
    compile_seconds = time.perf_counter() - begin

    def steps() -> None:
        nonlocal state
        # Several under way, as in training, where the host runs ahead.
        for _ in range(queued):
            state, sums = compiled(state, examples)
        sums.loss.block_until_ready()

    times = harness.timed(steps, repeats)
    seconds = times['seconds'] / queued
    flops = model_flops.train_flops(model_config | {'dtype': 'bfloat16'}, vocab, data, batch)
    return {
        'unit': 'FLOP/s',
        'ours': flops / seconds,
        'step_ms': 1e3 * seconds,
        'examples_per_second': batch / seconds,
        'flops_per_step': flops,
        'parameters': parameters,
        'compile_seconds': compile_seconds,
        'peer_missing': 'no trainer of another project is measured here',
        'config': {'model': model_config, 'data': data, 'batch_size': batch},
    } | peak_memory()


def _examples(batch: int, vocab: int, data: Mapping[str, int]) -> dict[str, np.ndarray]:
    rng, side = np.random.default_rng(0), data['image_size']
    ids = lambda length: rng.integers(2, vocab, (batch, length), np.int32)
    return {
        'images': rng.integers(0, 256, (batch, data['frames'], side, side, 3), np.uint8),
        'prompt': ids(data['prompt_length']),
        'target': ids(data['target_length']),
        'source': np.zeros(batch, np.int32),
        'kind': np.zeros(batch, np.int32),
        'index': np.arange(batch, dtype=np.int32),
    }


def policy(row: Row, batch: int, repeats: int, toy: bool) -> dict[str, Any]:
    """Calls a second of the sampler, from pixels on the host to eight tokens on the host."""
    size = 'tiny' if toy else row.size
    config = decode_model.SIZES[size]
    vocab = config['vocab']
    model = compact.compact_model(
        backbone.build(config | {'dtype': 'bfloat16'}, vocab), jax.default_backend()
    )
    images, prompt, _ = decode_model.inputs(batch, vocab)
    shapes = compact.shapes(model, row.weights, decode_model.inputs(1, vocab))
    params = random_weights(shapes)
    sampler = Sampler(model, decode_model.grammar(vocab))
    call = lambda: np.asarray(sampler(params, images, prompt, Kind.ACTION).tokens)
    begin = time.perf_counter()
    tokens = call()
    first = time.perf_counter() - begin
    assert tokens.shape == (batch, 1, decode_model.LENGTH), tokens.shape
    times = harness.timed(call, repeats)
    needed = decode_model.bytes_read(size, row.weights, batch)
    return {
        'unit': 'Hz',
        'ours': 1 / times['seconds'],
        'actions_per_second': batch / times['seconds'],
        'bytes_to_read': sum(needed.values()),
        'weight_bytes': sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)),
        'compile_seconds': first - times['seconds'],
        'config': {'model': config, 'weights': row.weights, 'batch_size': batch},
        **times,
        **peak_memory(),
    }


def random_weights(shapes: Any) -> Any:
    """Compact parameters of these shapes, made one by one on the device: kernels about 0.03, norms 1."""
    named = sharding.named_leaves(shapes)

    def make(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = sharding.parameter_name(path)
        key = jax.random.key(sum(map(ord, name)))
        if shape.dtype == jnp.int8:
            return _integers(key, shape.shape)
        if name.endswith(rows.SCALE):
            quantized = f'{name.removesuffix(rows.SCALE)}{rows.VALUES}' in named
            return jnp.full(shape.shape, 0.0005 if quantized else 1.0, shape.dtype)
        return _normal(key, shape.shape, shape.dtype)

    return jax.tree_util.tree_map_with_path(make, shapes)


_integers = jax.jit(
    lambda key, shape: jax.random.randint(key, shape, -127, 128, jnp.int8), static_argnums=1
)
_normal = jax.jit(
    lambda key, shape, dtype: (0.03 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype),
    static_argnums=(1, 2),
)


def peer(row: Row, batch: int, repeats: int, toy: bool) -> dict[str, Any]:
    """Calls a second of `generate` in transformers, with as many parameters, in bfloat16."""
    try:
        import torch

        from rt2_jax.benchmarks import decode_transformers
    except ImportError as error:
        raise Skipped(f'{error}: pip install torch transformers') from error
    if not torch.cuda.is_available() and not toy:
        raise Skipped('torch sees no GPU')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    config = decode_model.SIZES['tiny' if toy else row.size]
    images, prompt, _ = decode_model.inputs(batch, config['vocab'])
    model = decode_transformers.PaLI.random(config, torch.bfloat16, device)
    times = harness.timed(lambda: model.generate(images, prompt, decode_model.LENGTH), repeats)
    cuda = device == 'cuda'
    return {
        'unit': 'Hz',
        'ours': 1 / times['seconds'],
        'peak_bytes': torch.cuda.max_memory_allocated() if cuda else None,
        'device': f'gpu: {torch.cuda.get_device_name()}' if cuda else 'cpu: cpu',
        'versions_of_peer': {'torch': torch.__version__},
        'config': {'model': config, 'weights': 'bfloat16', 'batch_size': batch},
        **times,
    }


MEASURES = {'card': card, 'train': train, 'policy': policy, 'peer': peer}


def measure(name: str, batch: int, repeats: int, toy: bool) -> dict[str, Any]:
    """Measures a row.

    Raises:
        ValueError: no such row.
        Skipped: it cannot be measured here.
    """
    row = ROWS[check('row', name, ROWS)]
    if jax.default_backend() == 'cpu' and row.kind != 'peer' and not toy:
        raise Skipped("JAX sees no accelerator: pip install 'rt2_jax[gpu]', or try it with --toy")
    result = MEASURES[row.kind](row, batch, repeats, toy)
    about = {key: result.pop(key) for key in ('config', 'device') if key in result}
    result['manifest'] = make_manifest(seed=0, toy=toy, **about)
    return result


def main(argv: list[str]) -> None:
    """Measures a row; its one argument is a JSON of the arguments of `measure`."""
    arguments = json.loads(argv[1])
    try:
        result = measure(**arguments)
    except Skipped as reason:
        result = {'skipped': str(reason)}
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
    command.run('gpu_row', main)
