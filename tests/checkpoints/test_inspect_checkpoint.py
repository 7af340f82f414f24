"""Looking into checkpoints of every kind, from disk and within a bound of memory."""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from rt2_jax.checkpoints import checkpoint, loading, packing
from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.checkpoints.inspection import inspection_text, opened, survey
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.training.train_state import TrainState
from rt2_jax.weights import tensors
from rt2_jax.weights.tensors import SourceError

KERNEL, BIAS = 'text_encoder/layers/mlp/wi_0/kernel', 'tower/blocks/mlp/wi/bias'
# Lists a checkpoint, then runs the command on it: how much more memory that took, in MB. VmHWM, the
# most that a program had, starts anew with a program.
WITH_PEAK = """
import atexit, runpy, sys
from rt2_jax.checkpoints.inspection import opened, survey
peak = lambda: int(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')))
survey.survey(opened.open_checkpoint(sys.argv[1].partition('=')[2]), values=False)
listed = peak()
atexit.register(lambda: print((peak() - listed) / 1024, file=sys.stderr))
runpy.run_module('rt2_jax.checkpoints.inspect', run_name='__main__', alter_sys=True)
"""


def surveyed(directory, against=None, **settings):
    against = opened.open_checkpoint(against) if against else None
    return survey.survey(opened.open_checkpoint(directory), against, **settings)


def save(directory, params, step=7):
    state = TrainState(jax.numpy.int32(step), params, {})
    checkpoints = checkpoint.Checkpoints(directory)
    checkpoints.save(state, {'batches': step}, step)
    checkpoints.close()


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """A copy of the run of `tiny_checkpoint`, with its parameters by name."""
    shutil.copytree(tiny_checkpoint, tmp_path / 'run')
    params = loading.load_for_inference(tmp_path / 'run').params
    return tmp_path / 'run', jax.tree.map(np.array, params)


def converted(directory, params, tiny):
    """The parameters as `rt2_jax.convert` leaves them."""
    arrays = {name: tensors.of_array(name, x) for name, x in named_leaves(params).items()}
    tensors.write_safetensors(directory, arrays, stem=loading.PARAMS, shard_bytes=200_000)
    model = tiny.config().model.to_dict() | {'vocab': tiny.tokenizer.vocab_size}
    told = {'format': 't5', 'model': model | {'image_size': tiny.image_size}}
    (directory / loading.MODEL).write_text(json.dumps(told))
    return directory


def test_what_is_told_of_parameters_is_what_numpy_says(run):
    directory, params = run
    report = surveyed(directory, depth=1)
    named = named_leaves(params)
    assert list(report['parameters']) == list(named) and not report['warnings']
    for name, array in named.items():
        told = report['parameters'][name]
        assert told['shape'] == list(array.shape) and told['dtype'] == 'float32'
        assert told['norm'] == pytest.approx(np.linalg.norm(array.astype(np.float64)), rel=1e-12)
        assert (told['min'], told['max']) == (array.min(), array.max())
        assert told['zeros'] == (array == 0).mean() and told['nan'] == told['inf'] == 0
    encoder = {n: x for n, x in named.items() if n.startswith('text_encoder/')}
    module = report['modules']['text_encoder']
    assert module['parameters'] == sum(x.size for x in encoder.values())
    squares = sum(np.square(x, dtype=np.float64).sum() for x in encoder.values())
    assert module['norm'] == pytest.approx(math.sqrt(squares))
    assert report['parameters'][KERNEL]['by_table'] == (None, 'fsdp', 'tensor')
    assert report['step'] == 7 and report['steps'] == [7]
    assert report['data_position'] == {'batches': 7} and report['disk']['params'] > 100_000


def test_every_kind_of_directory_holds_the_same(run, tiny, tmp_path):
    directory, params = run
    packing.pack(directory, tmp_path / 'float32', dtype=np.float32)
    packing.pack(directory, tmp_path / 'bfloat16')
    converted(tmp_path / 'converted', params, tiny)
    for kind in ('float32', 'converted'):
        report = surveyed(tmp_path / kind, directory)
        assert not report['warnings'], kind
        assert all(x['equal'] for x in report['against']['parameters'].values()), kind
        assert report['parameters'][KERNEL]['by_table'] == (None, 'fsdp', 'tensor')
        assert not report['against']['config'] and not report['against']['only_there']
    report = surveyed(tmp_path / 'bfloat16', directory)
    assert len(report['against']['other_dtype']) == len(named_leaves(params))
    change = report['against']['parameters'][KERNEL]
    assert not change['equal'] and 0 < change['relative'] < 2**-8
    assert 'other type, float32 there and bfloat16 here (all' in inspection_text.as_text(report, 2)


def test_what_changed_between_two_steps(run):
    directory, params = run
    before = named_leaves(params)[KERNEL].copy()
    params['text_encoder']['layers']['mlp']['wi_0']['kernel'][0, 1, 2] += 0.5
    params['head']['kernel'] = params['head']['kernel'][:, :-8]
    params['tail'] = {'bias': np.ones(3, np.float32)}
    del params['text_encoder']['norm']
    save(directory, params, step=9)
    this, that = (opened.open_checkpoint(directory, step) for step in (None, 7))
    report = survey.survey(this, that)
    found = report['against']
    assert (report['step'], found['step'], report['steps']) == (9, 7, [7, 9])
    change = found['parameters'][KERNEL]
    assert change['largest'] == pytest.approx(0.5) and not change['equal']
    assert change['relative'] == pytest.approx(0.5 / np.linalg.norm(before))
    equal = [name for name, x in found['parameters'].items() if x['equal']]
    assert len(equal) == len(found['parameters']) - 1
    assert found['only_here'] == ['tail/bias'] and found['only_there'] == [
        'text_encoder/norm/scale'
    ]
    assert found['other_shape']['head/kernel'] == [[32, 4096], [32, 4088]]
    assert 'checkpoint lacks, text_encoder/norm/scale' in (
        words := inspection_text.as_text(report, 2)
    )
    assert 'the same in both: tokenizer, action space, sources, config, versions' in words
    assert "head/kernel is [32, 4088]; the config's model has [32, 4096]" in words


def test_damaged_parameters_are_named(run):
    directory, params = run
    params['text_encoder']['layers']['mlp']['wi_0']['kernel'][0, 0, :5] = np.nan
    params['tower']['blocks']['mlp']['wi']['bias'][0, 0] = -np.inf
    params['projection']['kernel'][:] = 0
    save(directory, params, step=8)
    report = surveyed(directory)
    size = named_leaves(params)[KERNEL].size
    assert f'{KERNEL}: 5 NaN among {size:,} numbers' in report['warnings']
    assert f'{BIAS}: 1 Inf among 32 numbers' in report['warnings']
    assert 'projection/kernel is all zeros' in report['warnings']
    assert report['modules']['text_encoder/layers']['nan'] == 5
    assert math.isfinite(report['total']['norm'])
    assert 'warnings (3)\n' in inspection_text.as_text(report, 2)


def test_files_that_are_missing_or_truncated_are_named(run, tiny, tmp_path):
    directory, params = run
    lost = next((directory / 'checkpoints/7/state').rglob('manifest.ocdbt'))
    lost.unlink()
    warning = surveyed(directory, values=False)['warnings'][0]
    assert f'{lost.relative_to(directory / "checkpoints/7")} is missing' in warning
    data = max((directory / 'checkpoints/7/params').rglob('*'), key=lambda p: p.stat().st_size)
    os.truncate(data, 1000)
    with pytest.raises(CheckpointError, match=f'{data.name} has 1,000 of'):
        surveyed(directory)
    (directory / 'checkpoints/7/files.json').unlink()  # as runs had it once
    with pytest.raises((SourceError, CheckpointError), match='checkpoints/7/params'):
        surveyed(directory)

    folder = converted(tmp_path / 'converted', params, tiny)
    shards = sorted(folder.glob('*.safetensors'))
    os.truncate(shards[1], shards[1].stat().st_size - 1)
    with pytest.raises(SourceError, match=f'{shards[1].name} is truncated: .* ends at byte'):
        surveyed(folder)
    shards[0].unlink()
    with pytest.raises(SourceError, match=f'{shards[0].name} is missing: .* it holds'):
        surveyed(folder)
    with pytest.raises(CheckpointError, match="no directory .*; did you mean 'converted'"):
        surveyed(tmp_path / 'convertd')


def test_a_damaged_archive_is_named(tiny_checkpoint, tmp_path):
    packing.pack(tiny_checkpoint, tmp_path)
    path = tmp_path / loading.PACKED
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(SourceError, match='params.npz is truncated'):
        surveyed(tmp_path)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(SourceError, match='params.npz: params/.* cannot be read'):
        surveyed(tmp_path)


@pytest.mark.parametrize(
    'shape, chunk',
    [((7, 10), None), ((7, 10), (2, 5)), ((5, 3, 4), (5, 2, 4)), ((), None), ((0, 3), None)],
)
def test_boxes_are_of_whole_chunks_and_hold_each_number_once(shape, chunk):
    seen = np.zeros(shape, int)
    for box in tensors.boxes(shape, 4, chunk, limit=60):
        seen[box] += 1
        assert seen[box].size * 4 <= max(60, 4 * math.prod(chunk or ()))
        starts = [part.start % size for part, size in zip(box, chunk or ())]
        assert not any(starts)
    assert (seen == 1).all()


def test_memory_is_bounded_by_a_block(tiny_checkpoint, tmp_path):
    """A run's parameter of 330 MB is read within 256 MB more than what it takes to list it."""
    shutil.copytree(tiny_checkpoint, tmp_path / 'run', ignore=lambda *_: ['checkpoints'])
    large = np.tile(np.arange(1024, dtype=np.float32), (80_000, 1))
    save(tmp_path / 'run', {'large': {'kernel': large}})
    done = subprocess.run(
        [sys.executable, '-c', WITH_PEAK, f'--checkpoint={tmp_path / "run"}',
         f'--output={tmp_path / "report.json"}'],
        env=os.environ | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 10 < float(done.stderr.split()[-1]) < 256, done.stderr
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['parameters']['large/kernel']['bytes'] == large.nbytes
    assert report['total']['norm'] == pytest.approx(
        math.sqrt(8e4 * sum(k * k for k in range(1024)))
    )
    assert 'command' in report['manifest'] and 'large/kernel' in done.stdout


def test_pythons_own_inspect_is_found_from_within_the_package():
    code = 'import inspect, dataclasses; print(inspect.signature(inspect.signature))'
    folder = pathlib.Path(opened.__file__).parents[2]
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, check=True)
    assert done.stdout.startswith(b'(obj, ')


def test_without_values_nothing_is_read(run):
    directory, params = run
    report = surveyed(directory, directory, values=False)
    told = report['parameters'][KERNEL]
    assert told['shape'] == list(named_leaves(params)[KERNEL].shape) and 'norm' not in told
    assert not report['against']['parameters']
    assert '2x32x64  float32' in inspection_text.as_text(report, 2)
