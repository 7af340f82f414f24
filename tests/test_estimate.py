"""The estimate of a job on a slice that isn't here: what it says, where it doesn't fit, how it ends.

Those that follow the advice take minutes: bash launch/test.sh -m slow tests/test_estimate.py
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import in_process
import pytest

from rt2_jax import command as command_line, estimate
from rt2_jax.parallel import topology

ROOT = pathlib.Path(__file__).parents[1]
needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='the TPU compiler is not installed: '
    "pip install -c launch/constraints.txt -e '.[sim,test,tpu]' && pytest tests/test_estimate.py",
)
TOY = """
from rt2_jax import configuration

def get_config(arg=''):
    config = configuration.defaults()
    config.batch_size = {batch_size}
    config.data.image_size = 32
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    config.data.robot_share.start = 0.0
    text = dict(width=64, depth=1, heads=2, head_dim=32, mlp=128)
    config.model = dict(
        name='pali', dtype='float32', vocab={vocab},
        vision=dict(width=64, depth=1, heads=2, mlp=128, patch=16), encoder=text, decoder=text,
    )
    return config.lock()
"""


def command(*flags):
    return [sys.executable, '-m', 'rt2_jax.estimate', *flags]


def environment(devices=4):
    fake = f'--xla_force_host_platform_device_count={devices}'
    return os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {fake}', 'JAX_PLATFORMS': 'cpu'}


def run(*flags, devices=4):
    return subprocess.run(
        command(*flags), cwd=ROOT, capture_output=True, text=True, env=environment(devices)
    )


@pytest.fixture
def toy(tmp_path):
    """A function: a config file of a toy model, and what it is loaded as."""

    def make(batch_size=8, vocab=4096):
        path = tmp_path / 'toy.py'
        path.write_text(TOY.format(batch_size=batch_size, vocab=vocab))
        return path

    return make


def load(path):
    return runpy.run_path(str(path))['get_config']()


def test_devices_that_are_here(tmp_path, toy):
    output = tmp_path / 'estimate.json'
    result = run(
        f'--config={toy()}', '--config.mesh.tensor=2', '--topology=cpu:4', f'--output={output}'
    )
    assert result.returncode == 0, result.stderr
    fields = json.loads(output.read_text())
    assert fields['compiles'] and fields['fits'] is None and fields['slice'] is None
    assert fields['mesh'] == {'data': 2, 'fsdp': 1, 'tensor': 2}
    assert fields['collectives']['all-reduce']['count'] > 0
    assert fields['manifest']['config']['batch_size'] == 8
    assert 'memory a chip' in result.stdout


@needs_tpu_compiler
def test_a_training_job_on_tpus(tmp_path, toy):
    output = tmp_path / 'estimate.json'
    flags = '--config.mesh.fsdp=2', '--price_per_chip_hour=2.5', '--config.total_steps=7200'
    result = run(f'--config={toy()}', '--topology=v5litepod-4', *flags, f'--output={output}')
    assert result.returncode == 0, result.stderr
    fields = json.loads(output.read_text())
    assert fields['fits'] and fields['chips'] == 4 and fields['advice'] == []
    assert (
        fields['slice']['name'] == 'v5e:2x2'
        and fields['slice']['accelerator_type'] == 'v5litepod-4'
    )
    assert fields['slice']['gke_accelerator'] == 'tpu-v5-lite-podslice'
    assert 0 < fields['mfu'] < 1
    whole = fields['run']['at_best']
    assert whole['chip_hours'] == pytest.approx(2 * 4 * fields['step_seconds'])
    assert whole['cost'] == pytest.approx(2.5 * whole['chip_hours'])
    assert 'v5e:2x2 = v5litepod-4 (gcloud)' in result.stdout
    assert not [line for line in result.stderr.splitlines() if 'libtpu' in line.lower()]


@needs_tpu_compiler
def test_an_action_on_tpus(toy):
    options = estimate.Options('v5e:2x2', mode='decode')
    config = load(toy())
    with config.unlocked():
        config.mesh.update(data=1, tensor=2, fsdp=-1)
    with pytest.raises(ValueError, match='does not split over data x fsdp = 2'):
        estimate.estimate(config, options)
    options = dataclasses.replace(options, batch_size=2)
    fields, hlo = estimate.estimate(config, options)
    assert fields['fits'] and fields['per_second'] > 0 and 'run' not in fields and hlo


@needs_tpu_compiler
def test_a_job_that_does_not_fit_gets_advice(toy):
    # Logits of 65,536 x 16 x 64,000 float32 numbers on one chip of 16 GiB.
    result = run(f'--config={toy(batch_size=65_536, vocab=64_000)}', '--topology=v5e:1x1')
    assert result.returncode == 0, result.stderr
    assert 'DOES NOT FIT' in result.stdout and 'Traceback' not in result.stderr
    assert 'does not fit or does not compile: RESOURCE_EXHAUSTED' in result.stdout
    assert result.stdout.partition('to fit  ')[2].startswith('--config.accumulate=')


@needs_tpu_compiler
@pytest.mark.slow
def test_a_job_that_does_not_fit_fits_as_advised(toy):
    path = toy(batch_size=16_384, vocab=64_000)
    result = run(f'--config={path}', '--topology=v5e:1x1')
    setting = result.stdout.partition('to fit  ')[2].split(':')[0]
    result = run(f'--config={path}', '--topology=v5e:1x1', setting)
    assert result.returncode == 0 and ': fits' in result.stdout, result.stdout


@needs_tpu_compiler
@pytest.mark.slow
def test_5b_on_16_chips_fits_as_advised():
    config = load(ROOT / 'configs/rt2_pali_x_5b.py')
    options = estimate.Options('v5e:4x4')
    fields, _ = estimate.estimate(config, options)
    advised = '--config.mesh.data=1 --config.mesh.fsdp=-1 --config.accumulate=8: '
    assert fields['fits'] is False and fields['advice'][0].startswith(advised)
    with config.unlocked():
        config.accumulate = 8
        config.mesh.update(data=1, fsdp=-1)
    fields, _ = estimate.estimate(config, options)
    assert fields['fits']


def test_no_tokenizer_file_is_needed_where_the_config_has_the_vocabulary(toy):
    config = load(toy())
    options = estimate.Options('cpu:1')
    with config.unlocked():
        config.tokenizer = 'runs/nowhere/tokenizer.model'
    fields, _ = estimate.estimate(config, options)
    assert fields['tokenizer_stand_in'] == 'runs/nowhere/tokenizer.model'
    with config.unlocked():
        config.model.vocab = 0
    with pytest.raises(ValueError, match='there is no tokenizer file runs/nowhere/tokenizer.model'):
        estimate.estimate(config, options)


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--topology=v5p:8x8x4'], 'nearest: v5p:4x8x8 (v5p-512)'),
        (['--topology=v5q:4x4'], "did you mean 'v5p'"),
        (['--topology=cpu:1', '--mode=trane'], "did you mean 'train'"),
        (['--topology=cpu:1', '--config.cpu_products=bfloat'], "did you mean 'bfloat16'"),
        (['--topology=cpu:64'], '1 cpu devices are here'),
        (['--topology=cpu:1', '--output=README.md/report.json'], 'README.md'),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, flags, message, toy):
    monkeypatch.chdir(ROOT)
    line = in_process.run(monkeypatch, 'estimate', f'--config={toy()}', *flags)
    assert line.startswith('estimate: ') and message in line


def test_a_batch_that_does_not_split_is_one_line_of_the_command(toy):
    result = run(f'--config={toy()}', '--topology=cpu:4', '--config.batch_size=6')
    assert result.returncode == 1
    assert result.stderr.startswith('estimate: ') and 'not divisible' in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_ends_it_at_once(toy):
    quick = ('JAX_COMPILATION_CACHE_DIR', 'JAX_DISABLE_MOST_OPTIMIZATIONS')
    compiles_in_full = {key: value for key, value in environment().items() if key not in quick}
    process = subprocess.Popen(
        command('--config=configs/tabletop.py:quickstart', '--topology=cpu:4'),
        cwd=ROOT, env=compiles_in_full, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if 'parameters' in line:  # tracing begins
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == command_line.INTERRUPTED
    assert stderr.strip() == 'estimate: interrupted'


def test_the_old_name_names_the_new_one():
    old = subprocess.run(
        [sys.executable, '-m', 'rt2_jax.plan', '--topology=cpu:1'],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert old.returncode == 2 and 'python -m rt2_jax.estimate' in old.stderr


def test_names_of_no_devices():
    with pytest.raises(topology.TopologyError, match="not of the form 'v5p:4x4x8'"):
        topology.devices('v5p')
