"""The whole run in figures: each by hand, checkpoints against one that was saved, data against an index."""

import drawn_episodes
import jax
from jax.sharding import AbstractMesh, AxisType
import numpy as np
import pytest

from rt2_jax import configuration
from rt2_jax.data.robot import rlds
from rt2_jax.estimation import advice, job as job_lib, run
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.training.train_state import TrainState

GIB = 1 << 30
STEP_SECONDS = 0.5


@pytest.fixture
def config(tiny):
    """A run of the tiny model on robot and web data that are not here."""
    made = configuration.defaults()
    made.update(total_steps=10_000, batch_size=64, checkpoint_every=1_000, keep=2)
    made.data.update(image_size=16, frames=2, read_ahead=3)
    made.data.robot.kitchen = dict(directory='nowhere', card='fractal20220817_data', weight=1.0)
    made.data.web.pairs = dict(kind='webdataset', directory='nowhere', weight=1.0)
    made.data.robot_share.update(kind='linear', start=0.4, end=0.6, finish=10_000)
    made.mesh.update(data=1, fsdp=-1)
    made.model = tiny.config().model
    return made.lock()


@pytest.fixture
def job(config):
    sizes = mesh_lib.axis_sizes(config.mesh, 8)
    automatic = (AxisType.Auto,) * len(sizes)
    mesh = AbstractMesh(tuple(sizes.values()), mesh_lib.AXES, axis_types=automatic)
    return job_lib.build(config, mesh, 'train', 1, 'stored')


@pytest.fixture
def whole(config, job):
    fields = dict(
        step_seconds=STEP_SECONDS, step_seconds_without_overlap=2 * STEP_SECONDS, compile_seconds=60
    )
    hosts = run.Hosts(count=2, devices=4, chips=8, ram=192 * 10**9)
    given = run.Assumptions(
        price_per_chip_hour=3.0, storage_gb_per_second=0.001, example_bytes=1000
    )
    return run.whole_run(config, job, fields, hosts, given)


def test_time_and_money(whole):
    hours = 10_000 * STEP_SECONDS / 3600
    assert whole['at_best'] == pytest.approx(
        {'days': hours / 24, 'chip_hours': 8 * hours, 'cost': 24 * hours}
    )
    assert whole['without_overlap']['cost'] == pytest.approx(48 * hours)


def test_a_crash_costs_half_of_what_lies_between_checkpoints_and_a_restart(whole):
    crash, saved = whole['crash'], whole['checkpoint']
    assert crash['steps'] == 500 and crash['steps_seconds'] == 250
    assert crash['restart_seconds'] == 60 + saved['read_seconds']
    seconds = crash['steps_seconds'] + crash['restart_seconds']
    assert crash['chip_hours'] == pytest.approx(8 * seconds / 3600)


def test_checkpoints(whole, job):
    saved = whole['checkpoint']
    assert saved['bytes'] == job_lib.total_bytes(job.saved) > 3 * 4 * job.parameters  # AdamW
    assert saved['kept_bytes'] == 2 * saved['bytes'] and saved['every_seconds'] == 500
    # Each of two hosts writes one half, at 1 MB/s.
    assert saved['write_seconds'] == pytest.approx(saved['bytes'] / 2 / 1e6)
    assert whole['host']['state_bytes'] == 4 * job_lib.bytes_per_device(job.saved)


def test_a_saved_checkpoint_has_the_bytes_that_are_estimated(tiny, tiny_checkpoint):
    state = TrainState(step=jax.numpy.int32(7), params=tiny.params(0), opt_state={})
    folder = tiny_checkpoint / 'checkpoints' / '7'
    on_disk = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    # Random float32 numbers shrink by 7 to 8 %, and every array has some bytes about itself.
    estimated = job_lib.total_bytes(state)
    assert 0.85 * estimated < on_disk < 1.15 * estimated


def test_what_a_host_reads(whole):
    # Half of the examples are the robot's, of two frames of 1,000 bytes, half are pairs of 1,000.
    rate = whole['input']
    assert rate['bytes_per_example'] == pytest.approx(0.5 * 2000 + 0.5 * 1000)
    assert rate['examples_per_second_per_host'] == 64 / STEP_SECONDS / 2
    assert rate['bytes_per_second_per_host'] == pytest.approx(64 * 1500)
    assert {entry['known_from'] for entry in rate['sets'].values()} == {'assumed'}


def test_what_a_host_needs(whole):
    host = whole['host']
    # Three batches ahead, one that waits, one in use; 32 rows of two frames of 16 x 16.
    row = 2 * 16 * 16 * 3 + 4 * (24 + 16 + 3)
    assert host['batches_bytes'] == 5 * 32 * row
    assert host['memory_bytes'] == (
        host['state_peak_bytes'] + host['batches_bytes'] + host['process_bytes']
    )
    assert host['ram_bytes'] == 192 * 10**9


def test_an_indexed_set_says_how_many_bytes_a_picture_has(config, tmp_path):
    directory = drawn_episodes.write_dataset(tmp_path / 'tabletop')
    steps = rlds.open_source(directory, 'tabletop', name='kitchen')
    with config.unlocked():
        config.data.robot.kitchen.update(directory=str(directory), card='tabletop')
    entry = run.data_sets(config, example_bytes=1)['kitchen']
    assert entry['known_from'] == 'index'
    mean = np.mean(steps.index.arrays['image_length'])
    assert entry['bytes_per_example'] == pytest.approx(2 * mean) and mean > 100


def too_large(config, **changes):
    """Fields of a job of 1e9 parameters on four chips that does not fit."""
    memory = {'arguments': 3 * GIB, 'total': 24 * GIB, 'temporaries': 21 * GIB}
    fields = {
        'fits': False, 'compiles': True, 'mode': 'train', 'parameters': 10**9,
        'largest_parameter': 0, 'chips': 4, 'weights': 'stored',
        'mesh': {'data': 2, 'fsdp': 2, 'tensor': 1}, 'slice': {'name': 'v5e:2x2'},
        'hbm_bytes_per_chip': memory, 'hbm_limit_bytes': 16 * GIB,
    }  # fmt: skip
    return fields | changes


def test_advice_computes_a_batch_in_parts_before_it_takes_more_chips(config):
    fields = too_large(config, mesh={'data': 1, 'fsdp': 4, 'tensor': 1})
    lines = advice.advice(fields, config)
    # 3 GiB, 2 x 0.93 GiB of gradients, and 20.1 GiB of activations of which a half is left, but for
    # 10 % of the chip: a quarter.
    assert lines[0].startswith('--config.accumulate=4: ') and 'about 9.8' in lines[0]
    assert 'remat=full' in lines[1]


def test_a_refused_program_needs_more_than_the_compiler_says(config):
    # As 5B on v5e:4x4: 4 parts gave 20 GiB where the compiler had named 24.3 for one.
    memory = {'arguments': 3.46 * GIB, 'total': 24.33 * GIB, 'temporaries': 20.87 * GIB}
    fields = too_large(
        config, compiles=False, parameters=5_612_917_000, largest_parameter=256_000 * 2048, chips=16,
        mesh={'data': 2, 'fsdp': 8, 'tensor': 1}, slice={'name': 'v5e:4x4'},
        hbm_bytes_per_chip=memory, hbm_limit_bytes=15.75 * GIB,
    )  # fmt: skip
    four = advice.Change('--config.accumulate=4', activations=4)
    assert 19 * GIB < advice.memory_after(four, fields, config) < 22 * GIB
    with config.unlocked():
        config.batch_size = 2048
    line = advice.advice(fields, config)[0]
    assert line.startswith('--config.mesh.data=1 --config.mesh.fsdp=-1 --config.accumulate=8: ')


def test_advice_splits_the_state_where_it_alone_is_too_large(config):
    memory = {'arguments': 14 * GIB, 'total': 20 * GIB, 'temporaries': 6 * GIB}
    line = advice.advice(too_large(config, hbm_bytes_per_chip=memory), config)[0]
    assert line.startswith('--config.mesh.data=1 --config.mesh.fsdp=-1: ')
    fields = too_large(config, hbm_bytes_per_chip=memory, mesh={'data': 1, 'fsdp': 4, 'tensor': 1})
    assert advice.advice(fields, config)[0].startswith('--topology=v5e:2x4 ')


def test_advice_without_figures_still_says_what_to_try(config):
    fields = too_large(config, compiles=False, hbm_bytes_per_chip={'arguments': GIB})
    assert advice.advice(fields, config)[0].startswith('--config.mesh.data=1 ')


def test_no_advice_where_it_fits_or_where_that_is_not_known(config):
    assert advice.advice(too_large(config, fits=True), config) == []
    assert advice.advice(too_large(config, fits=None), config) == []
