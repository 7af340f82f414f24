"""Sizes of a mesh, logical axes to mesh axes, shardings of optimizer states. No devices are needed
but one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
import numpy as np
import optax
import pytest

from rt2_jax.parallel import distributed, mesh as mesh_lib, sharding


@pytest.fixture
def mesh():
    return AbstractMesh((2, 4, 2), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 3)


def boxed(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.mark.parametrize(
    'sizes, expected',
    [
        (dict(data=-1), (8, 1, 1)),
        (dict(data=-1, fsdp=2, tensor=2), (2, 2, 2)),
        (dict(data=1, fsdp=8), (1, 8, 1)),
    ],
)
def test_minus_one_takes_the_rest(sizes, expected):
    assert tuple(mesh_lib.axis_sizes(sizes, 8).values()) == expected


@pytest.mark.parametrize(
    'sizes, message',
    [
        (dict(fsdq=2), "did you mean 'fsdp'"),
        (dict(data=3), 'must multiply to 8'),
        (dict(data=-1, tensor=3), 'does not fit 8 devices'),
        (dict(data=-1, fsdp=-1), 'at most one -1'),
        (dict(data=0), 'sizes >= 1'),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        mesh_lib.axis_sizes(sizes, 8)


def test_mesh_of_this_machine():
    assert mesh_lib.make_mesh({'data': -1}).size == jax.device_count()


def test_logical_axes_become_mesh_axes(mesh):
    tree = {
        'kernel': boxed((8, 6), 'embed', 'mlp'),
        'scale': jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    found = sharding.parameter_shardings(tree, mesh)
    assert found['kernel'].spec == PartitionSpec('fsdp', 'tensor')
    assert found['scale'].spec == PartitionSpec()


def test_axes_that_do_not_split_are_named_with_what_to_set():
    mesh = AbstractMesh((1, 4, 4), mesh_lib.AXES)
    with pytest.raises(ValueError) as error:
        sharding.parameter_shardings({'layers': {'kernel': boxed((6, 8), 'embed', 'mlp')}}, mesh)
    assert (
        "parameter layers/kernel of shape (6, 8): its axis 'embed' of size 6 does not split over "
        'config.mesh.fsdp=4; take a divisor of 6 (config.mesh.fsdp=3)'
    ) in str(error.value)
    with pytest.raises(ValueError, match=r'set config\.model\.vocab=252:'):
        sharding.parameter_shardings({'embedding': boxed((250, 8), 'vocab', 'embed')}, mesh)


def test_unknown_logical_axis_names_the_nearest(mesh):
    with pytest.raises(
        ValueError, match="'embedd' is not in the sharding table; did you mean 'embed'"
    ):
        sharding.parameter_shardings({'kernel': boxed((8, 8), 'embedd', None)}, mesh)


@pytest.mark.parametrize(
    'make', [optax.scale_by_adam, lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=1)]
)
def test_optimizer_state_lies_as_its_parameter(mesh, make):
    tree = {'kernel': boxed((3, 8, 16), 'layers', 'embed', 'mlp'), 'bias': boxed((16,), 'mlp')}
    params = nn.meta.unbox(tree)
    state = jax.eval_shape(make().init, params)
    found = sharding.optimizer_shardings(
        state, params, sharding.parameter_shardings(tree, mesh), mesh
    )
    by_name = {name: value.spec for name, value in sharding.named_leaves(found).items()}
    shapes = {name: value.shape for name, value in sharding.named_leaves(state).items()}
    for name, spec in by_name.items():
        for size, axis in zip(shapes[name], spec):
            assert axis == {16: 'tensor', 8: 'fsdp', 3: None, 1: None}[size], name
    assert any(
        spec == PartitionSpec(None, 'fsdp') or spec == PartitionSpec(None, 'fsdp', 'tensor')
        for spec in by_name.values()
    )
    assert np.prod(mesh.axis_sizes) == 16


def test_half_given_environment_is_refused(monkeypatch):
    monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'localhost:1234')
    with pytest.raises(ValueError, match='but not JAX_NUM_PROCESSES, JAX_PROCESS_ID'):
        distributed.initialize()
