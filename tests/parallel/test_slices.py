"""Slices of TPUs: both names of one, machines, and what does not exist."""

import importlib.util
import math

import pytest

from rt2_jax.parallel import roofline, slices, topology


@pytest.mark.parametrize(
    'name, topology_name, accelerator_type, chips, hosts',
    [
        # docs.cloud.google.com/tpu/docs/v5p: topology, cores, chips, hosts.
        ('v5p-8', 'v5p:2x2x1', 'v5p-8', 4, 1),
        ('v5p:2x4x4', 'v5p:2x4x4', 'v5p-64', 32, 8),
        ('v5p-1024', 'v5p:8x8x8', 'v5p-1024', 512, 128),
        ('v5p:8x16x16', 'v5p:8x16x16', 'v5p-4096', 2048, 512),
        ('v5p-12288', 'v5p:16x16x24', 'v5p-12288', 6144, 1536),
        ('2xv5p-1024', '2xv5p:8x8x8', '2xv5p-1024', 1024, 256),
        ('v4-128', 'v4:4x4x4', 'v4-128', 64, 16),
        ('v5litepod-16', 'v5e:4x4', 'v5litepod-16', 16, 4),
        ('v5e-256', 'v5e:16x16', 'v5litepod-256', 256, 64),
        ('v6e:1x1', 'v6e:1x1', 'v6e-1', 1, 1),
        ('tpu7x:4x4x4', 'tpu7x:4x4x4', 'tpu7x-128', 64, 16),
    ],
)
def test_a_slice_has_two_names(name, topology_name, accelerator_type, chips, hosts):
    found = slices.parse(name)
    assert (found.name, found.accelerator_type) == (topology_name, accelerator_type)
    assert (found.chips, found.hosts) == (chips, hosts)
    assert slices.parse(found.name) == slices.parse(found.accelerator_type) == found


@pytest.mark.parametrize(
    'name, message',
    [
        ('v5p:8x8x4', r'nearest: v5p:4x8x8 \(v5p-512\)'),
        ('v5p-1000', r'nearest: v5p:4x4x28 \(v5p-896\), v5p:8x8x8 \(v5p-1024\)'),
        ('v5p:3x3x3', r'nearest: v5p:2x2x4 \(v5p-32\), v5p:2x4x4 \(v5p-64\)'),
        ('v5e:32x32', r'nearest: v5e:16x16 \(v5litepod-256\)'),
        ('v5q:4x4', "did you mean 'v5p'"),
        ('v5litpod-16', "did you mean 'v5litepod'"),
        ('v5p', "not of the form 'v5p:4x4x8'"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(name, message):
    with pytest.raises(slices.TopologyError, match=message):
        slices.parse(name)


def test_shapes_of_cubes_are_sorted_multiples_of_four():
    v5p = slices.FAMILIES['v5p']
    cubes = [shape for shape in v5p.shapes if math.prod(shape) >= 64]
    assert all(length % 4 == 0 for shape in cubes for length in shape)
    assert all(shape == tuple(sorted(shape)) for shape in cubes)
    assert cubes[0] == (4, 4, 4) and max(map(math.prod, cubes)) == 6144


@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="the TPU compiler is not installed: pip install -c launch/constraints.txt -e '.[test,tpu]'",
)
@pytest.mark.parametrize('name', ['v5e:1x1', 'v4-16', '2xv5p:2x2x2', 'v6e-8', 'tpu7x:1x1x1'])
def test_the_compiler_knows_them(name):
    devices = topology.devices(name)
    wanted = slices.parse(name)
    assert roofline.chips_in(devices) == wanted.chips
    assert topology.chip_of(devices[0]).name == wanted.family.chip
    assert len({device.process_index for device in devices}) == wanted.hosts
