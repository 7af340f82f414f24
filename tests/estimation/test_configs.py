"""Every config and every argument of it can be estimated: shapes, shardings, formula, data.

The first argument of each is; `bash launch/test.sh -m slow tests/estimation` takes the others.
"""

import inspect
import json
import math
import pathlib
import runpy

import jax
from jax.sharding import AbstractMesh, AxisType
import pytest

from rt2_jax.estimation import job as job_lib, run
from rt2_jax.models import backbone
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.text.tokenizer import Tokenizer

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
FROM_WEIGHTS = 'from_weights'  # its argument is a directory that a test has to write
CHIPS = 16


def arguments(path):
    """All arguments of a config; [None] for one that takes none."""
    module = runpy.run_path(str(path))
    if not inspect.signature(module['get_config']).parameters:
        return [None]
    names = list(module.get('ARGUMENTS') or module.get('SIZES') or ())
    assert names or path.stem == FROM_WEIGHTS, f'{path} does not list its ARGUMENTS'
    return names or ['DIRECTORY']


ALL = [
    pytest.param(
        path, argument, marks=pytest.mark.slow if place else (), id=f'{path.stem}:{argument or ""}'
    )
    for path in sorted(CONFIGS.glob('*.py'))
    for place, argument in enumerate(arguments(path))
]


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """A directory as rt2_jax.convert writes it."""
    folder = tmp_path_factory.mktemp('converted')
    text = dict(width=64, depth=1, heads=2, head_dim=32, mlp=128)
    vision = dict(width=64, depth=1, heads=2, mlp=128, patch=16)
    model = dict(vocab=2048, vision=vision, encoder=text, decoder=text)
    (folder / 'model.json').write_text(json.dumps({'model': model}))
    (folder / 'tokenizer.model').write_bytes(Tokenizer.load_default().model_bytes)
    return str(folder)


@pytest.mark.parametrize('path, argument', ALL)
def test_it_can_be_estimated(path, argument, converted):
    argument = converted if path.stem == FROM_WEIGHTS else argument
    config = runpy.run_path(str(path))['get_config'](*filter(None, [argument]))
    sizes = mesh_lib.axis_sizes(config.mesh, CHIPS)
    automatic = (AxisType.Auto,) * len(sizes)
    mesh = AbstractMesh(tuple(sizes.values()), mesh_lib.AXES, axis_types=automatic)
    job = job_lib.build(config, mesh, 'train', 1, 'stored')
    whole = job_lib.total_bytes(job.saved)
    assert whole >= 4 * job.parameters and job.flops > 0 and job.tokens > config.batch_size
    assert whole / CHIPS < job_lib.bytes_per_device(job.saved) <= whole
    sets = run.data_sets(config, example_bytes=1000)
    assert math.isclose(sum(entry['share'] for entry in sets.values()), 1.0)
    rows = sizes['data'] * sizes['fsdp']
    if not backbone.decodes(config.model):
        with pytest.raises(job_lib.EstimateError, match='does not decode'):
            job_lib.build(config, mesh, 'decode', rows, 'stored')
    elif argument in (arguments(path)[0], converted):
        assert job_lib.build(config, mesh, 'decode', rows, 'stored').parameters == job.parameters


PAPERS = {'rt2_pali_x_55b': 54.1, 'rt2_pali_x_5b': 5.61, 'rt2_pali_3b_language_table': 3.07}
# PaLM-8B (arXiv 2204.02311, table 1) and ViT-4B.
PAPERS['rt2_palm_e_12b'] = 8.63 + 3.8


@pytest.mark.parametrize('name', PAPERS)
def test_flagships_have_the_papers_sizes(name):
    config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
    size, frames = config.data.image_size, config.data.frames
    images = jax.ShapeDtypeStruct((1, frames, size, size, 3), 'uint8')
    ids = jax.ShapeDtypeStruct((1, 4), 'int32')
    params = jax.eval_shape(
        backbone.build(config.model, 1000).init, jax.random.key(0), images, ids, ids
    )
    billions = sum(x.size for x in jax.tree.leaves(params)) / 1e9
    assert billions == pytest.approx(PAPERS[name], rel=0.002)
