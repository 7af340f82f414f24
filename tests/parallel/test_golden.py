"""Where every parameter and every named activation of the flagships lies on the mesh.

The golden files are read in reviews: a change of the sharding table or of a model shows as a change of
them. To write them anew: python tests/parallel/test_golden.py
"""

import json
import pathlib
import runpy

import jax
from jax.sharding import AbstractMesh, AxisType
import pytest

from rt2_jax.parallel import jaxprs, mesh as mesh_lib, sharding
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program as program_lib

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / 'golden'
CHIPS = {
    'rt2_pali_x_55b': 512,
    'rt2_pali_x_5b': 256,
    'rt2_pali_3b_language_table': 16,
    'rt2_palm_e_12b': 256,
    'rt2_paligemma': 16,
    'rt2_t5gemma2': 16,
    'rt2_pali_mt5_siglip': 16,
}


def specs(name):
    """Shape and mesh axes by name, for the parameters, their optimizer state and the activations."""
    config = runpy.run_path(ROOT / 'configs' / f'{name}.py')['get_config']()
    sizes = mesh_lib.axis_sizes(config.mesh, CHIPS[name])
    automatic = (AxisType.Auto,) * len(sizes)
    mesh = AbstractMesh(tuple(sizes.values()), mesh_lib.AXES, axis_types=automatic)
    program = program_lib.build(config, mesh, Tokenizer.load_default(), ['a'], ['a'], (), {})
    inputs = (program.batch[name] for name in ('images', 'prompt', 'target'))
    with sharding.rules(mesh):
        forward = jax.make_jaxpr(program.model.apply)({'params': program.state.params}, *inputs)

    def of(tree):
        return {
            name: [list(x.shape), axes(x.sharding.spec)]
            for name, x in sharding.named_leaves(tree).items()
        }

    return {
        'mesh': sizes,
        'parameters': of(program.state.params),
        'optimizer': of(program.state.opt_state),
        'activations': {
            name: [list(shape), axes(spec)]
            for name, (shape, spec) in jaxprs.constraints(forward).items()
        },
    }


def axes(spec):
    return [list(entry) if isinstance(entry, tuple) else entry for entry in spec]


def text_of(found):
    """One line an array."""
    parts = [f'"mesh": {json.dumps(found["mesh"])}']
    for part in ('parameters', 'optimizer', 'activations'):
        lines = ',\n'.join(
            f'    {json.dumps(name)}: {json.dumps(value)}' for name, value in found[part].items()
        )
        parts.append(f'"{part}": {{\n{lines}\n  }}')
    return '{\n  ' + ',\n  '.join(parts) + '\n}\n'


@pytest.mark.parametrize('name', CHIPS)
def test_specs_are_the_golden_ones(name):
    assert text_of(specs(name)) == (GOLDEN / f'{name}.json').read_text(), (
        'shardings changed; if they should: python tests/parallel/test_golden.py'
    )


@pytest.mark.parametrize('name', CHIPS)
def test_nothing_large_is_whole_on_every_device(name):
    found = json.loads((GOLDEN / f'{name}.json').read_text())
    for parameter, (shape, spec) in found['parameters'].items():
        numbers = 1
        for size in shape:
            numbers *= size
        assert numbers < 2e6 or any(spec), f'{parameter} of shape {shape} is on every device'


if __name__ == '__main__':
    for golden in CHIPS:
        (GOLDEN / f'{golden}.json').write_text(text_of(specs(golden)))
