"""Adapters: nothing changes at first, only they learn, they resume, and merge into plain weights."""

import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from rt2_jax.checkpoints import checkpoint, loading
from rt2_jax.models import backbone
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.training import adapters, metrics

ROOT = pathlib.Path(__file__).parents[2]
PATTERNS = ('(query|value|out)/kernel$', 'mlp.*/kernel$')


def inputs(tiny):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 1, tiny.image_size, tiny.image_size, 3), np.uint8)
    return images, rng.integers(1, 90, (2, 6), np.int32), rng.integers(1, 90, (2, 5), np.int32)


def logits(model, params, tiny):
    return jax.jit(model.apply)({'params': params}, *inputs(tiny))


@pytest.fixture(scope='module')
def adapted(tiny):
    config = ml_collections.ConfigDict({'adapters': dict(rank=3, alpha=6.0, patterns=PATTERNS)})
    model = adapters.add_adapters(tiny.model, config)
    made = jax.jit(model.init)(jax.random.key(0), *inputs(tiny))['params']
    return model, backbone.nn.meta.unbox(made), config


def test_at_first_the_model_is_what_it_was(tiny, adapted):
    model, params, _ = adapted
    plain = {part: x for part, x in params.items() if part != adapters.PART}
    np.testing.assert_array_equal(logits(model, params, tiny), logits(tiny.model, plain, tiny))


def test_merged_weights_compute_the_same(tiny, adapted):
    model, params, config = adapted
    rng = np.random.default_rng(1)
    pairs = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype) / 9, params['adapters'])
    params = params | {adapters.PART: pairs}
    merged = adapters.merge(jax.device_put(params), config)
    assert adapters.PART not in merged
    np.testing.assert_allclose(
        logits(model, params, tiny), logits(tiny.model, merged, tiny), atol=1e-4
    )
    before, after = named_leaves(params), named_leaves(merged)
    name = 'text_encoder/layers/attention/query/kernel'
    pair = pairs[name.replace('/', '.')]
    change = (after[name] - before[name]).reshape(*pair['low'].shape[:2], -1)
    np.testing.assert_allclose(change, 2.0 * pair['low'] @ pair['high'], atol=1e-5)
    assert np.linalg.matrix_rank(change[0], tol=1e-4) == 3


def test_patterns_that_match_no_kernel_are_errors(tiny):
    for pattern, message in (('queryy', 'matches no parameter'), ('norm', 'is no kernel')):
        model = adapters.Adapted(tiny.model, (pattern,), 2, 1.0)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), *inputs(tiny))


def train(workdir, *flags):
    result = subprocess.run(
        [
            sys.executable, '-m', 'rt2_jax.train', '--config=tests/training/tiny_config.py:web',
            f'--workdir={workdir}', '--config.adapters.rank=2', '--config.log_every=1',
            '--config.checkpoint_every=3', *flags,
        ],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_they_alone_learn_and_resume_with_their_state(tmp_path):
    train(tmp_path / 'whole', '--config.total_steps=6')
    train(tmp_path / 'part', '--config.total_steps=3')
    first = loading.load_for_inference(tmp_path / 'part').params
    train(tmp_path / 'part', '--config.total_steps=6')
    curves = [[r['loss'] for r in metrics.read(tmp_path / name)] for name in ('whole', 'part')]
    assert curves[0] == curves[1]
    last = loading.load_for_inference(tmp_path / 'part').params
    for name, value in named_leaves(last).items():
        learnt = name.endswith(('query/kernel', 'value/kernel'))
        assert np.array_equal(value, named_leaves(first)[name]) == (not learnt), name
    files = checkpoint.Checkpoints(tmp_path / 'part', read_only=True)
    moments = [n for n in named_leaves(files._orbax.item_metadata(6)['state'].tree) if '/mu/' in n]
    assert moments and all('adapters' in name for name in moments)
