"""Planning a job on a slice that isn't here: what is counted, what is said, where it doesn't fit."""

import importlib.util
import json
import os
import pathlib
import runpy
import subprocess
import sys

import jax
import pytest

from rt2_jax import plan
from rt2_jax.models import cost, vla
from rt2_jax.parallel import topology
from rt2_jax.training import metrics

ROOT = pathlib.Path(__file__).parents[1]
FLAGSHIPS = ('rt2_pali_x_55b', 'rt2_pali_x_5b', 'rt2_pali_3b_language_table')
needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="the TPU compiler is not installed: pip install -e '.[sim,test,tpu]' && pytest tests/test_plan.py",
)


def config_of(name, folder='configs'):
    return runpy.run_path(ROOT / folder / f'{name}.py')['get_config']()


def inputs_of(rows, frames, size, prompt, target):
    return (
        jax.ShapeDtypeStruct((rows, frames, size, size, 3), 'uint8'),
        jax.ShapeDtypeStruct((rows, prompt), 'int32'),
        jax.ShapeDtypeStruct((rows, target), 'int32'),
    )


def assert_the_formula_is_what_a_program_counts(config, vocab=150):
    data = dict(image_size=32, frames=2, prompt_length=7, target_length=5)
    model, inputs = vla.build(config, vocab), inputs_of(3, 2, 32, 7, 5)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    counted = metrics.count_flops(jax.make_jaxpr(model.apply)(params, *inputs))
    assert cost.forward_flops(config, vocab, data, 3) == counted


@pytest.mark.parametrize(
    'kind',
    [
        dict(block='sequential'),
        dict(block='parallel'),
        dict(stem='pyramid', stem_widths=(8, 12), positions='sincos'),
    ],
)
def test_the_formula_of_pali(kind):
    text = dict(width=24, depth=3, heads=2, head_dim=16, mlp=40)
    vision = dict(width=16, depth=2, heads=2, mlp=32, patch=16 if 'stem' in kind else 8) | kind
    config = dict(name='pali', dtype='float32', vision=vision, encoder=text, decoder=text)
    assert_the_formula_is_what_a_program_counts(config)


GROUPED = dict(heads=4, kv_heads=2, head_dim=6, scale=0.4)


@pytest.mark.parametrize(
    'config',
    [
        dict(
            name='t5gemma2',
            image_tokens=4,
            before_image=(2, 3),
            after_image=(4,),
            encoder=dict(width=24, depth=3, mlp=40, attention=GROUPED),
            decoder=dict(width=24, depth=2, mlp=36, attention=GROUPED),
        ),
        dict(name='decoder_only', text=dict(width=24, depth=3, mlp=40, attention=GROUPED)),
        dict(
            name='decoder_only',
            bos=-1,
            text=dict(width=24, depth=2, mlp=40, attention=GROUPED, block='parallel'),
        ),
    ],
    ids=lambda config: config['name'],
)
def test_the_formula_of_other_backbones(config):
    config = config | dict(
        dtype='float32', vision=dict(width=16, depth=2, heads=2, mlp=32, patch=8)
    )
    assert_the_formula_is_what_a_program_counts(config)


@pytest.mark.parametrize('name', [*FLAGSHIPS, 'rt2_palm_e_12b'])
def test_flagships_have_the_papers_sizes(name):
    config = config_of(name)
    billions = {'rt2_pali_x_55b': 54.1, 'rt2_pali_x_5b': 5.61, 'rt2_pali_3b_language_table': 3.07}
    billions['rt2_palm_e_12b'] = 8.63 + 3.8  # PaLM-8B (arXiv 2204.02311, table 1) and ViT-4B
    model = vla.build(config.model, 1000)
    inputs = inputs_of(1, config.data.frames, config.data.image_size, 4, 4)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    found = sum(x.size for x in jax.tree.leaves(params)) / 1e9
    assert found == pytest.approx(billions[name], rel=0.002)


def run(*flags, devices=8):
    return subprocess.run(
        [sys.executable, '-m', 'rt2_jax.plan', *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
            'JAX_PLATFORMS': 'cpu',
        },
    )


def test_a_plan_for_devices_that_are_here(tmp_path):
    output = tmp_path / 'plan.json'
    result = run(
        '--config=configs/tabletop.py:quickstart',
        '--config.mesh.tensor=2',
        '--topology=cpu:8',
        f'--output={output}',
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(output.read_text())
    assert found['compiles'] and found['fits'] is None
    assert found['mesh'] == {'data': 4, 'fsdp': 1, 'tensor': 2}
    assert found['collectives']['all-reduce']['count'] > 0
    assert found['manifest']['config']['batch_size'] == 64
    assert 'memory a chip' in result.stdout


@pytest.mark.parametrize(
    'name, message',
    [
        ('v5p', "not of the form 'v5p:4x4x8'"),
        ('v5q:4x4', "did you mean 'v5p'"),
        ('cpu:64', 'cpu devices are here'),
    ],
)
def test_names_of_no_slice(name, message):
    with pytest.raises(topology.TopologyError, match=message):
        topology.devices(name)


@needs_tpu_compiler
@pytest.mark.parametrize('mode', ['train', 'decode'])
def test_a_plan_for_tpus(mode, tmp_path):
    output = tmp_path / 'plan.json'
    result = run(
        '--config=configs/tabletop.py:quickstart',
        '--topology=v5e:2x2',
        '--config.mesh.data=1' if mode == 'decode' else '--config.mesh.fsdp=2',
        '--config.mesh.tensor=4' if mode == 'decode' else '--config.mesh.tensor=1',
        f'--mode={mode}',
        f'--output={output}',
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(output.read_text())
    assert found['fits'] and found['chips'] == 4
    assert 0 < found['mfu'] < 1
    assert found['roofline']['bound'] in ('compute', 'memory', 'interconnect')
    assert not [line for line in result.stderr.splitlines() if 'libtpu' in line.lower()]


def test_advice_names_flags_and_savings():
    config = config_of('rt2_pali_x_55b')
    with config.unlocked():
        config.model.vision.remat = 'none'
    memory = {'arguments': 8 << 30, 'temporaries': 40 << 30, 'total': 48 << 30}
    found = {'fits': False, 'mode': 'train', 'hbm_bytes_per_chip': memory, 'mesh': {'fsdp': 64}}
    lines = plan.advice(found, config)
    assert any('--config.model.vision.remat=full' in line for line in lines)
    assert any('--config.accumulate=2' in line and '20.00 GiB' in line for line in lines)
    assert any('--config.mesh.fsdp=128' in line and '4.00 GiB' in line for line in lines)
    assert not plan.advice({'fits': True}, config)
