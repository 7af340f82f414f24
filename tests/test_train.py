"""The train binary: resuming to the bit after kill -9, SIGTERM, NaN, configs that do not fit, all
for real.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import drawn_episodes
from etils import epath
import in_process
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rt2_jax import exit_codes, train
from rt2_jax.checkpoints import checkpoint, loading, packing
from rt2_jax.data import images
from rt2_jax.data.robot import rlds
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.training import hooks, metrics

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = 'tests/training/tiny_config.py'


def command(workdir, cache, episodes, *flags):
    return [
        sys.executable,
        '-m',
        'rt2_jax.train',
        f'--config={CONFIG}:robot',
        f'--workdir={workdir}',
        f'--config.compile_cache={cache}',
        f'--config.data.robot.tabletop.directory={episodes}',
        *flags,
    ]


def run(*arguments, environment=None):
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', **(environment or {})},
    )


def start(*arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )


def curve(workdir):
    """What was logged, without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if not name.startswith('speed/')}
        for row in metrics.read(workdir)
    ]


def assert_same_curve(rows, expected, stops=0):
    """Compares rows of `curve` to the bit.

    A stop by a signal is a log point of its own: its row and the next one together are one of
    `expected`. There may be as many as `stops`.
    """
    rows, steps = list(rows), {row['step'] for row in expected}
    extra = [k for k, row in enumerate(rows) if row['step'] not in steps]
    assert len(extra) <= stops
    for k in reversed(extra):
        before = rows[k - 1]['step'] if k else 0
        parts = rows[k : k + 2]
        whole = next(row for row in expected if row['step'] == parts[1]['step'])
        lengths = parts[0]['step'] - before, parts[1]['step'] - parts[0]['step']
        loss = sum(n * part['loss'] for n, part in zip(lengths, parts))
        assert loss / sum(lengths) == pytest.approx(whole['loss'], rel=1e-12)
        for name in ('source/tabletop/examples', 'source/web/examples'):
            assert sum(part.get(name, 0) for part in parts) == whole.get(name, 0)
        rows[k : k + 2] = [whole]
    assert rows == expected


def assert_same_parameters(workdir, expected):
    ours, theirs = (named_leaves(loading.load_for_inference(w).params) for w in (workdir, expected))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def wait_for_step(process, workdir, step):
    """Returns once the running process has logged `step` or a later one."""
    file = pathlib.Path(workdir) / metrics.FILE
    while process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if any(f'"step": {n},' in line for line in lines for n in range(step, step + 60)):
            return
        time.sleep(0.005)
    pytest.fail(f'the process ended by itself: {process.communicate()[0]}')


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_config(episodes=None, **changes):
    config = module_of(ROOT / CONFIG).get_config('robot' if episodes else 'web')
    with config.unlocked():
        if episodes:
            config.data.robot.tabletop.directory = str(episodes)
        config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope='module')
def episodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('episodes') / 'tabletop'
    return drawn_episodes.write_dataset(folder, episodes=6)


@pytest.fixture(scope='module')
def cache():
    """The compilation cache of all tests, instead of one of the run's own."""
    return 'none'


def wait_for_line(process, words):
    """Returns once the running process has printed these words."""
    printed = []
    for line in process.stdout:
        printed.append(line)
        if words in line:
            return
    pytest.fail(f'the process ended by itself: {"".join(printed)}')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, episodes, cache):
    """A finished run, never interrupted."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    result = run(workdir, cache, episodes)
    assert result.returncode == 0, result.stderr
    assert 'steps/s' in result.stdout and 'data wait' in result.stdout and 'left' in result.stdout
    return workdir


def test_killed_and_terminated_runs_resume_to_the_bit(trained, episodes, cache, tmp_path):
    workdir = tmp_path / 'run'
    moment = random.randrange(4, 14)
    process = start(workdir, cache, episodes)
    wait_for_step(process, workdir, moment)
    time.sleep(random.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()

    # What the killed run logged lies in the same file, so it is no sign of the new one.
    process = start(workdir, cache, episodes)
    wait_for_line(process, 'steps/s')
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == exit_codes.STOPPED, output

    assert train.train(tiny_config(episodes, compile_cache=str(cache)), epath.Path(workdir))
    assert_same_curve(curve(workdir), curve(trained), stops=1)
    assert_same_parameters(workdir, trained)


@pytest.mark.slow
def test_killed_while_it_saves_the_checkpoint_before_loads(
    trained, episodes, cache, tmp_path, capsys
):
    workdir = tmp_path / 'run'
    process = start(workdir, cache, episodes)
    checkpoints = workdir / 'checkpoints'
    saving = []
    while process.poll() is None and not saving:
        names = [path.name for path in checkpoints.iterdir()] if checkpoints.exists() else []
        saving = [name for name in names if 'tmp' in name] if '4' in names else []
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path.name for path in checkpoints.iterdir() if path.name == saving[0]]
    before = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    assert loading.load_for_inference(workdir).step == before >= 4

    assert train.train(tiny_config(episodes, compile_cache=str(cache)), epath.Path(workdir))
    assert f'resumed at step {before} of' in capsys.readouterr().out
    assert curve(workdir) == curve(trained)


def test_a_run_of_an_older_version_goes_on_to_the_bit(trained, episodes, cache, tmp_path):
    """Its state held a key and the sums since the last log point as well."""
    workdir = shutil.copytree(trained, tmp_path / 'run')
    shutil.rmtree(workdir / 'checkpoints' / '24')
    step = workdir / 'checkpoints' / '20'
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(step / 'state')
        assert set(state) == {'step', 'opt_state'}
        sums = {'source': {'loss': np.ones(2, np.float32)}, 'steps': np.float32(2)}
        state |= {'rng': np.arange(2, dtype=np.uint32), 'accumulated': sums}
        checkpointer.save(step / 'state', state, force=True)
    (step / checkpoint.FILES).unlink()
    train.train(tiny_config(episodes, compile_cache=str(cache)), epath.Path(workdir))
    assert curve(workdir) == curve(trained)
    assert_same_parameters(workdir, trained)


def test_loss_falls_and_every_metric_is_there(trained):
    rows = metrics.read(trained)
    assert [row['step'] for row in rows] == sorted({*range(3, 25, 3), *range(4, 25, 4)})
    assert rows[-1]['loss'] < rows[0]['loss'] - 0.5
    for name in (
        'source/web/loss',
        'source/web/accuracy',
        'action/tabletop/dx_m',
        'speed/steps_per_second',
        'speed/data_wait',
        'speed/mfu',
        'lr',
    ):
        assert name in rows[-1]
    assert any(name.startswith('kind/') for name in rows[0])
    assert list((trained / 'tensorboard').iterdir())


def test_realised_shares_and_epochs_are_logged(trained):
    rows = metrics.read(trained)
    for row in rows:
        shares = [row[f'mixture/{name}/share'] for name in ('tabletop', 'web')]
        assert sum(shares) == pytest.approx(1)
        assert abs(shares[0] - row['mixture/tabletop/wanted']) <= 1 / 4  # of 4 examples a step
    assert rows[-1]['mixture/tabletop/wanted'] == pytest.approx(0.65)
    steps = rlds.open_source(
        loading.load_for_inference(trained).config.data.robot.tabletop.directory, 'tabletop'
    )
    seen = sum(row['source/tabletop/examples'] for row in rows)
    assert rows[-1]['mixture/tabletop/epochs'] > 0 and seen == pytest.approx(0.65 * 24 * 4, abs=2)
    assert rows[-1]['mixture/tabletop/epochs'] <= seen / (len(steps) / 2)


def write_pairs(folder):
    """Pictures of one colour each, and what is said of them."""
    folder.mkdir()
    for number in range(12):
        picture = images.encode_jpeg(np.full([16, 16, 3], 20 * number, np.uint8))
        (folder / f'{number}.jpg').write_bytes(picture)
    lines = [json.dumps({'image': f'{n}.jpg', 'caption': f'shade {n}'}) for n in range(12)]
    (folder / 'all.jsonl').write_text('\n'.join(lines))
    return dict(kind='jsonl', directory=str(folder), tasks=dict(caption=1.0), weight=1.0)


def test_the_loss_on_what_is_held_out_changes_nothing_else(episodes, cache, tmp_path):
    changes = {
        'total_steps': 7,
        'data.robot.tabletop.holdout': 2,
        'data.web': {'pairs': write_pairs(tmp_path / 'pairs') | dict(holdout=4)},
        'data.augment.scale': (0.9, 0.9),
        'validation.batches': 3,
        'optimizer.lr': 0.02,  # so that answers are soon actions
        'validation.web': {'other': dict(weight=1.0, seed=9, kinds=dict())},
        'compile_cache': str(cache),
    }
    curves = []
    for every in (0, 2):
        workdir = epath.Path(tmp_path / f'every_{every}')
        config = tiny_config(episodes, **changes, **{'validation.every': every})
        train.train(config, workdir)
        curves.append(curve(workdir))
    held_out = [{k: v for k, v in row.items() if 'validation' in k} for row in curves[1]]
    assert [row['step'] for row in curves[1] if any(held_out)] == [2, 3, 4, 6, 7]
    assert [bool(row) for row in held_out] == [True, False, True, True, True]
    names = ('tabletop/loss', 'other/accuracy', 'pairs/loss')
    for name in ('loss', 'action/tabletop/dx_m', *(f'source/{name}' for name in names)):
        assert f'validation/{name}' in held_out[-1]
    assert 3 <= held_out[-1]['validation/source/tabletop/examples'] <= 5  # a third of 12
    trained = [{k: v for k, v in row.items() if 'validation' not in k} for row in curves[1]]
    assert [row for row in trained if 'loss' in row] == curves[0]


def test_finished_run_started_again_changes_nothing(trained, episodes, cache):
    before = (trained / metrics.FILE).read_bytes()
    train.train(tiny_config(episodes, compile_cache=str(cache)), epath.Path(trained))
    assert (trained / metrics.FILE).read_bytes() == before


def test_directory_is_all_that_inference_needs(trained):
    loaded = loading.load_for_inference(trained)
    assert loaded.step == 24
    assert loaded.config.batch_size == 4
    assert loaded.tokenizer.encode('12') == [loaded.tokenizer.integer_ids[12]]
    assert loaded.embodiment['name'] == 'tabletop'
    assert dataclasses.asdict(loaded.action_space)['units'][0] == 'm'
    assert json.loads((trained / 'versions.json').read_text())['jax'] == jax.__version__


def test_resuming_with_another_config_lists_what_differs(trained, episodes):
    config = tiny_config(episodes, **{'optimizer.lr': 0.5, 'log_every': 7})
    with pytest.raises(
        checkpoint.CheckpointError, match=r'optimizer\.lr: was 0\.003, is 0\.5'
    ) as error:
        train.train(config, epath.Path(trained))
    assert 'log_every:' not in str(error.value)


def test_changed_data_end_a_run_without_a_stack_trace(trained, episodes, cache, tmp_path):
    changed = shutil.copytree(episodes, tmp_path / 'episodes')
    shard = sorted(changed.glob('*.tfrecord*'))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    result = run(tmp_path / 'run', cache, changed)
    assert result.returncode == 1 and shard.name in result.stderr, result.stderr
    assert 'Delete' in result.stderr and 'Traceback' not in result.stderr


def test_checkpoint_of_another_model_lists_names_and_shapes(trained, tmp_path):
    config = tiny_config(
        **{'init_from': str(trained), 'model.decoder.width': 48, 'model.encoder.width': 48}
    )
    with pytest.raises(
        ValueError, match=r'head/kernel: the model has \(48, \d+\), the checkpoint \(32, \d+\)'
    ):
        train.train(config, epath.Path(tmp_path / 'run'))


def test_packed_checkpoint_starts_a_run(trained, tmp_path):
    size = packing.pack(trained, tmp_path / 'packed')
    assert not loading.load_for_inference(tmp_path / 'packed').config.compile_cache
    numbers = sum(x.size for x in named_leaves(loading.load_for_inference(trained).params).values())
    assert size < 2.2 * numbers
    train.train(tiny_config(init_from=str(tmp_path / 'packed')), epath.Path(tmp_path / 'run'))
    fresh, warm = metrics.read(trained)[0], metrics.read(tmp_path / 'run')[0]
    assert warm['source/web/loss'] < fresh['source/web/loss'] - 0.3


def test_loss_that_is_not_finite_names_the_last_good_step(tmp_path):
    config = tiny_config(
        **{'optimizer.lr': 3e37, 'optimizer.warmup': 1000, 'log_every': 1, 'checkpoint_every': 1}
    )
    with pytest.raises(hooks.LossNotFinite, match='last good checkpoint is of step 1'):
        train.train(config, epath.Path(tmp_path / 'run'))
    assert loading.load_for_inference(tmp_path / 'run').step == 1


@pytest.mark.slow
def test_eight_devices_give_the_same_curve_and_one_goes_on_from_them(
    trained, episodes, cache, tmp_path
):
    axes = [f'--config.mesh.{axis}=2' for axis in ('data', 'fsdp', 'tensor')]
    fake = '--xla_force_host_platform_device_count=8'
    eight = {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {fake}'}
    arguments = tmp_path / 'run', cache, episodes
    result = run(*arguments, '--config.total_steps=6', *axes, environment=eight)
    assert result.returncode == 0, result.stderr
    assert "mesh {'data': 2, 'fsdp': 2, 'tensor': 2}" in result.stdout
    result = run(*arguments, '--config.total_steps=12')
    assert result.returncode == 0 and 'resumed at step 6 of 12' in result.stdout, result.stderr
    losses = [
        [row['loss'] for row in metrics.read(path)[:4]] for path in (tmp_path / 'run', trained)
    ]
    np.testing.assert_allclose(*losses, rtol=2e-3)


@pytest.mark.parametrize(
    'flag, message',
    [
        ('--config.bacth_size=3', "no such field; did you mean 'batch_size'"),
        ('--config.optimizer.Lr=3', "did you mean 'optimizer.lr'"),
        ('--config=configs/tabletop.py:pretran', "did you mean 'pretrain'"),
        ('--config=configs/tabletp.py', "did you mean 'configs/tabletop.py'"),
    ],
)
def test_mistyped_flags_name_the_nearest(monkeypatch, flag, message, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments = (
        ['--config=configs/tabletop.py:pretrain', flag]
        if 'config.' in flag.partition('=')[0]
        else [flag]
    )
    line = in_process.run(monkeypatch, 'train', f'--workdir={tmp_path}', *arguments)
    assert message in line
