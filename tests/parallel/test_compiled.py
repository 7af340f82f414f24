"""Reading compiled programs: collectives with their counts, bytes and groups, and memory traffic."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from rt2_jax.parallel import chips, compiled, roofline

pytestmark = pytest.mark.usefixtures('full_compile')

# Three layers in a scan over a mesh of 2 x 2 x 2: what each of the devices gathers and reduces is
# known. B = 16, D = 32, F = 64.
SHARDED = """
import jax, jax.numpy as jnp
from rt2_jax.parallel import mesh as mesh_lib
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
def shape(size, *spec):
    return jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
def layers(x, up, down):
    def layer(x, w):
        x = jnp.tanh(x @ w[0]) @ w[1]
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(('data', 'fsdp')))), None
    return jax.lax.scan(layer, x, (up, down))[0]
x = shape((16, 32), ('data', 'fsdp'))
up, down = shape((3, 32, 64), None, 'fsdp', 'tensor'), shape((3, 64, 32), None, 'tensor', 'fsdp')
print(jax.jit(layers).lower(x, up, down).compile().as_text())
"""


@pytest.fixture(scope='module')
def program():
    flags = {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
        'JAX_PLATFORMS': 'cpu',
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '0',
    }
    result = subprocess.run(
        [sys.executable, '-c', SHARDED], capture_output=True, text=True, env=os.environ | flags
    )
    assert result.returncode == 0, result.stderr
    return compiled.Program(result.stdout)


def test_collectives_of_a_loop_count_for_every_turn(program):
    found = program.collectives()
    reduced = [c for c in found if c.kind == 'all-reduce']
    assert [(c.times, c.bytes, c.group) for c in reduced] == [(3, 16 // 4 * 32 * 4, (0, 1))]
    gathered = [c for c in found if c.kind == 'all-gather']
    assert sum(c.times * c.bytes for c in gathered) == 3 * 2 * 32 * (64 // 2) * 4
    assert {c.group for c in gathered} == {(0, 2)}


def test_traffic_is_what_is_read_and_written():
    x = jnp.ones((1 << 20,), jnp.float32)
    text = jax.jit(lambda x: x * 2 + 1).lower(x).compile().as_text()
    assert compiled.Program(text).memory_traffic() == 2 * x.nbytes


def test_what_is_fetched_ahead_in_slices_costs_the_slices():
    # As the TPU's compiler writes it; S(1) is on-chip memory.
    text = """
ENTRY %main (p: s8[4096]) -> s8[1024] {
  %p = s8[4096]{0} parameter(0)
  %start = ((s8[4096]{0}), s8[1024]{0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:1024]}
  ROOT %done = s8[1024]{0:S(1)} slice-done(%start)
}"""
    assert compiled.Program(text).memory_traffic() == 1024


def test_a_slice_of_what_a_fusion_renames_costs_the_slice():
    # As the TPU's compiler takes one layer of int8 from its stack.
    text = """
%renamed (a: s8[4,256]) -> s8[4,256] {
  %a = s8[4,256]{1,0} parameter(0)
  ROOT %copy = s8[4,256]{1,0} copy(%a)
}

%layer (b: s8[4,256], i: s32[]) -> f32[1,256] {
  %b = s8[4,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %same = s8[4,256]{1,0} fusion(%b), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%renamed
  %own = s8[1,256]{1,0} dynamic-slice(%same, %i, %zero), dynamic_slice_sizes={1,256}
  ROOT %wide = f32[1,256]{1,0} convert(%own)
}

ENTRY %main (p: s8[4,256], n: s32[]) -> f32[1,256] {
  %p = s8[4,256]{1,0} parameter(0)
  %n = s32[] parameter(1)
  ROOT %out = f32[1,256]{1,0} fusion(%p, %n), kind=kLoop, calls=%layer
}"""
    assert compiled.Program(text).memory_traffic() == 256 + 4 + 4 * 256


def test_slices_and_updates_in_place_cost_what_they_touch():
    table = jax.ShapeDtypeStruct((1000, 1024), jnp.float32)

    def turn(i, table):
        row = jax.lax.dynamic_slice_in_dim(table, i, 1)
        return jax.lax.dynamic_update_slice_in_dim(table, 2 * row, i, 0)

    def loop(table):
        return jax.lax.fori_loop(0, 10, turn, table)

    text = jax.jit(loop, donate_argnums=0).lower(table).compile().as_text()
    traffic = compiled.Program(text).memory_traffic()
    assert traffic < 0.05 * 10 * 1000 * 1024 * 4
    assert traffic >= 10 * 2 * 1024 * 4


@pytest.mark.parametrize(
    'text, group',
    [
        ('replica_groups={{0,2},{1,3}}, use', (0, 2)),
        ('replica_groups=[4,2]<=[8], use', (0, 1)),
        ('replica_groups=[4,2]<=[2,4]T(1,0), use', (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, use", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, use", (0, 4)),
        ('source_target_pairs={{0,1},{1,0}}', (0, 1)),
    ],
)
def test_groups_in_every_notation(text, group):
    assert compiled._group(text) == group


@dataclasses.dataclass(frozen=True)
class Place:
    """A device of a slice: all that a roofline asks of it."""

    coords: tuple[int, ...]
    slice_index: int = 0
    id: int = 0


def test_a_ring_sends_by_both_ports_of_its_axis():
    slice_ = [Place((x, y, z)) for x in range(8) for y in range(8) for z in range(8)]
    along_z = compiled.Collective('all-gather', 8e9, tuple(range(8)), 2, '')
    seconds = 2 * 8e9 * 7 / 8 / (2 * 100e9)
    v5p = chips.find('v5p')
    assert roofline.collective_seconds(along_z, slice_, v5p) == pytest.approx(seconds)
    reduced = dataclasses.replace(along_z, kind='all-reduce')
    assert roofline.collective_seconds(reduced, slice_, v5p) == pytest.approx(2 * seconds)
    half = dataclasses.replace(along_z, group=tuple(range(4)))  # a line: one port of its ends
    assert roofline.collective_seconds(half, slice_, v5p) == pytest.approx(2 * 8e9 * 3 / 4 / 100e9)


def test_slices_talk_over_the_data_centres_network():
    both = [Place((x, 0, 0), slice_index=s) for s in range(2) for x in range(4)]
    crossing = compiled.Collective('all-reduce', 1e9, (0, 4), 1, '')
    v5p = chips.find('v5p')
    assert roofline.collective_seconds(crossing, both, v5p) == pytest.approx(
        1e9 / v5p.dcn_bandwidth
    )
    assert roofline.chips_in(both) == 8


def test_chips_are_found_by_what_jax_calls_them():
    assert chips.find('TPU v5').name == 'v5p' and chips.find('v6e').ports == 4
    with pytest.raises(ValueError, match="did you mean 'v5p'"):
        chips.find('v5pp')
