"""What reads and writes checkpoints and data sets does so in a bucket as in a folder."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rt2_jax import export, paths
from rt2_jax.checkpoints import loading, packing
from rt2_jax.checkpoints.inspection import opened
from rt2_jax.data.robot import rlds
from rt2_jax.envs.tabletop import collect
from rt2_jax.exported import exported_policy
from rt2_jax.policy import Policy


@pytest.fixture
def run(bucket, tiny_checkpoint):
    """A run's directory on disk, and a copy of it in a bucket."""
    remote = paths.of(f'{bucket.url}/run')
    paths.upload(tiny_checkpoint, remote)
    return tiny_checkpoint, remote


def test_packed_checkpoint(run, bucket, tmp_path):
    local, remote = run
    assert packing.pack(remote, f'{bucket.url}/packed') == packing.pack(local, tmp_path / 'packed')
    ours, theirs = (
        opened.open_checkpoint(where) for where in (f'{bucket.url}/packed', tmp_path / 'packed')
    )
    assert ours.step == theirs.step == 7 and list(ours.arrays) == list(theirs.arrays)
    assert ours.disk.keys() == theirs.disk.keys()
    first = loading.load_for_inference(f'{bucket.url}/packed').params['head']
    second = loading.load_for_inference(tmp_path / 'packed').params['head']
    np.testing.assert_array_equal(first['kernel'], second['kernel'])


@pytest.mark.slow
def test_exported_policy_runs_where_it_is_copied_to(run, bucket):
    output = f'{bucket.url}/exported'
    export.export(Policy.from_checkpoint(run[1]), output, platforms=['cpu'], batch_sizes=[1])
    puts = [request.key for request in bucket.requests if request.method == 'PUT']
    assert puts[-1] == 'exported/policy.json'
    with paths.local_copy(output) as folder:
        assert not exported_policy.ExportedPolicy(folder).difference()
    with pytest.raises(ValueError, match='runs from a folder; copy'):
        exported_policy.ExportedPolicy(output)
    assert opened.open_checkpoint(output).kind == 'exported policy'


def test_inspect_writes_its_report_into_a_bucket(run, bucket):
    arguments = [f'--checkpoint={run[1]}', f'--output={bucket.url}/reports/a.json', '--novalues']
    subprocess.run([sys.executable, '-m', 'rt2_jax.checkpoints.inspect', *arguments], check=True)
    assert json.loads(paths.read(f'{bucket.url}/reports/a.json'))['step'] == 7


def test_collected_episodes_are_those_of_a_folder(bucket, tmp_path):
    settings = collect.Settings(episodes=2, image_size=64, max_steps=3)
    output = f'{bucket.url}/data/tabletop'
    assert collect.collect(output, settings, 1) == collect.collect(tmp_path / 'data', settings, 1)
    there, here = paths.files(output), paths.files(tmp_path / 'data')
    assert {n: s for n, s in there.items() if 'rt2_index' not in n} == here
    remote = rlds.open_source(output, 'tabletop', location=tmp_path / 'index')
    local = rlds.open_source(tmp_path / 'data', 'tabletop')
    assert len(remote) == len(local)
    np.testing.assert_array_equal(remote[0].frames, local[0].frames)
