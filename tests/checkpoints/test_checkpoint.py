"""Saving while training goes on, damaged and half-written directories, drops of logged lines."""

import json

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from sentencepiece import sentencepiece_model_pb2 as proto

from rt2_jax import configuration
from rt2_jax.checkpoints import assets, checkpoint, loading, packing
from rt2_jax.training import metrics, train_state as state_lib

CONFIG = ml_collections.ConfigDict(
    {
        'embodiment': 'tabletop',
        'batch_size': 4,
        'total_steps': 10,
        'data': {'threads': 1},
        'model': {'name': 'pali'},
    }
)


def make_state():
    params = {
        'encoder': {'kernel': jnp.arange(4096.0).reshape(64, 64)},
        'head': {'bias': jnp.ones(3)},
    }
    return state_lib.TrainState(jnp.int32(0), params, optax.adamw(0.1).init(params))


def like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def workdir(tmp_path, tokenizer):
    """A directory with checkpoints of the steps 3 and 5."""
    assets.write_assets(tmp_path / 'run', CONFIG, tokenizer, {})
    checkpoints = checkpoint.Checkpoints(tmp_path / 'run', keep=2)
    for step in (1, 3, 5):
        state = make_state()
        checkpoints.save(state.replace(step=jnp.int32(step)), {'batches': step}, step)
    checkpoints.close()
    return tmp_path / 'run'


def test_saved_state_is_that_of_the_call_though_training_goes_on(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=9)
    state = make_state()
    expected = jax.tree.map(np.array, state)
    for step in range(1, 4):
        checkpoints.save(state, {'batches': step}, step)
        for _ in range(20):
            state = advance(state)
    checkpoints.wait()
    for step in range(1, 4):
        restored, position = checkpoints.restore(step, like(state))
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(x, y + np.asarray(20 * (step - 1), y.dtype)),
            restored,
            expected,
        )
        assert position == {'batches': step}
    checkpoints.close()


def test_a_step_of_an_older_version_is_restored_to_the_bit(tmp_path):
    """It held the run's key and the sums since the last log point as well."""
    state = make_state().replace(step=jnp.int32(4))
    state = state.replace(opt_state=jax.tree.map(lambda x: x + 1, state.opt_state))
    older = ocp.CheckpointManager(
        tmp_path / 'checkpoints',
        item_handlers={
            'params': ocp.StandardCheckpointHandler(),
            'state': ocp.StandardCheckpointHandler(),
            'data': ocp.JsonCheckpointHandler(),
        },
    )
    sums = {'source': {'loss': jnp.ones(2)}, 'steps': jnp.float32(1), 'actions': {}}
    saved = {
        'opt_state': flax.serialization.to_state_dict(state.opt_state),
        'step': state.step,
        'rng': jax.random.PRNGKey(1),
        'accumulated': sums,
    }
    items = dict(params=ocp.args.StandardSave(state.params), state=ocp.args.StandardSave(saved))
    older.save(4, args=ocp.args.Composite(data=ocp.args.JsonSave({'batches': 4}), **items))
    older.wait_until_finished()
    checkpoints = checkpoint.Checkpoints(tmp_path, read_only=True)
    restored, position = checkpoints.restore(4, like(state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert position == {'batches': 4}


def test_only_the_latest_are_kept_and_any_of_them_loads(workdir):
    loaded = loading.load_for_inference(workdir)
    assert loaded.step == 5
    np.testing.assert_array_equal(
        loaded.params['encoder']['kernel'], make_state().params['encoder']['kernel']
    )
    assert loading.load_for_inference(workdir, step=3).step == 3
    with pytest.raises(checkpoint.CheckpointError, match='no checkpoint of step 1'):
        loading.load_for_inference(workdir, step=1)


def test_parameters_that_do_not_fit_are_listed(workdir):
    state = make_state()
    params = {'encoder': {'kernel': jnp.zeros((64, 32))}, 'tail': {'bias': jnp.ones(3)}}
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoints.restore(5, like(state.replace(params=params)))
    for line in (
        'tail/bias: the model has (3,), the checkpoint has none',
        'head/bias: the checkpoint has (3,)',
        'encoder/kernel: the model has (64, 32), the checkpoint (64, 64)',
    ):
        assert line in str(error.value)


def test_missing_directories_are_told_apart(tmp_path, workdir):
    with pytest.raises(checkpoint.CheckpointError, match="no directory .*; did you mean 'run'"):
        loading.load_for_inference(tmp_path / 'rnu')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(checkpoint.CheckpointError, match='is empty'):
        loading.load_for_inference(tmp_path / 'empty')
    (workdir / 'tokenizer.model').unlink()
    with pytest.raises(
        checkpoint.CheckpointError, match='half-written one: it lacks tokenizer.model'
    ):
        loading.load_for_inference(workdir)
    with pytest.raises(checkpoint.CheckpointError, match='the package has no checkpoint'):
        loading.load_for_inference('package:tabeltop')


def test_run_killed_before_its_first_checkpoint(tmp_path, tokenizer):
    assets.write_assets(tmp_path, CONFIG, tokenizer, {})
    with pytest.raises(
        checkpoint.CheckpointError, match='no complete checkpoint yet: training was stopped'
    ):
        loading.load_for_inference(tmp_path)
    (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir(parents=True)
    with pytest.raises(checkpoint.CheckpointError, match='unfinished: 4.orbax'):
        loading.load_for_inference(tmp_path)


@pytest.mark.parametrize('damage', ['truncated', 'missing'])
def test_every_damaged_file_is_named(workdir, damage):
    step = workdir / 'checkpoints' / '5'
    files = [path for path in step.glob('*/**/*') if path.is_file()]
    assert len(files) > 10
    for path in files:
        whole, name = path.read_bytes(), str(path.relative_to(step))
        path.write_bytes(whole[: len(whole) // 2]) if damage == 'truncated' else path.unlink()
        checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
        with pytest.raises(checkpoint.CheckpointError) as error:
            checkpoints.restore(5, like(make_state()))
        wrong = (
            f'{name} is missing' if damage == 'missing' else f'{name} has {len(whole) // 2:,} of '
        )
        assert f'{step} is damaged' in str(error.value) and wrong in str(error.value)
        assert 'there are the steps 3: move 5 away' in str(error.value)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole)
    assert loading.load_for_inference(workdir).step == 5


def test_damage_where_there_is_no_list_of_files_is_an_error_too(workdir):
    step = workdir / 'checkpoints' / '5'
    (step / checkpoint.FILES).unlink()
    assert loading.load_for_inference(workdir).step == 5
    for path in [path for path in (step / 'params').rglob('d/*') if path.is_file()]:
        path.unlink()
    with pytest.raises(
        checkpoint.CheckpointError, match='checkpoints/5 (is damaged|cannot be restored)'
    ):
        loading.load_for_inference(workdir)


def test_damaged_config_is_named(workdir):
    (workdir / 'config.json').write_text('{"seed": 0,')
    with pytest.raises(checkpoint.CheckpointError, match='config.json is damaged'):
        loading.load_for_inference(workdir)


def test_another_tokenizer_than_the_run_was_trained_with_is_refused(workdir):
    recorded = json.loads((workdir / 'embodiment.json').read_text())
    assert len(recorded['action_tokens']) == 256
    loaded = loading.load_for_inference(workdir)
    assert recorded['action_tokens'] == loaded.tokenizer.integer_ids[:256].tolist()
    model = proto.ModelProto.FromString((workdir / 'tokenizer.model').read_bytes())
    one, two = (recorded['action_tokens'][k] for k in (7, 9))
    model.pieces[one].piece, model.pieces[two].piece = '\u25819', '\u25817'
    (workdir / 'tokenizer.model').write_bytes(model.SerializeToString())
    with pytest.raises(
        checkpoint.CheckpointError, match=f'7 is token {one} by .* {two} by .* 2 of'
    ):
        loading.load_for_inference(workdir)
    # What was written before the ids were recorded loads still.
    del recorded['action_tokens']
    (workdir / 'embodiment.json').write_text(json.dumps(recorded))
    assert loading.load_for_inference(workdir).step == 5


@pytest.mark.parametrize('inside', ['checkpoints', 'checkpoints/5/packed'])
def test_nothing_is_written_among_the_checkpoints(workdir, inside):
    with pytest.raises(checkpoint.CheckpointError, match='among the checkpoints of a run'):
        packing.pack(workdir, workdir / inside)


def test_a_pack_keeps_what_bfloat16_keeps(workdir, tmp_path):
    packing.pack(workdir, tmp_path / 'packed', step=3)
    loaded = loading.load_for_inference(tmp_path / 'packed')
    assert loaded.step == 3
    np.testing.assert_array_equal(
        loaded.params['encoder']['kernel'],
        make_state().params['encoder']['kernel'].astype(jnp.bfloat16).astype(jnp.float32),
    )


def test_fields_that_may_change_on_resume():
    changed = configuration.from_json(configuration.to_json(CONFIG))
    with changed.unlocked():
        changed.total_steps, changed.data.threads = 20, 2
    assert not configuration.differing(CONFIG, changed)
    changed.batch_size = 8
    assert configuration.differing(CONFIG, changed) == ['batch_size: was 4, is 8']


def test_a_field_younger_than_the_run_was_at_its_default():
    new = configuration.from_json(configuration.to_json(CONFIG))
    with new.unlocked():
        new.data.augment = dict(scale=(1.0, 1.0), hue=0.0)
    assert not configuration.differing(CONFIG, new)
    new.data.augment.hue = 0.1
    assert configuration.differing(CONFIG, new) == ['data.augment.hue: was 0.0, is 0.1']


def test_lines_past_the_restored_step_are_set_aside(tmp_path):
    lines = [json.dumps({'step': step, 'loss': 1.0 / step}) for step in (2, 4, 6)]
    (tmp_path / metrics.FILE).write_text('\n'.join(lines) + '\n{"step": 8, "lo')
    writer = metrics.Writer(tmp_path, resume_step=4)
    writer.write(6, {'loss': 0.5})
    writer.close()
    assert metrics.read(tmp_path) == [
        {'step': 2, 'loss': 0.5},
        {'step': 4, 'loss': 0.25},
        {'step': 6, 'loss': 0.5},
    ]
    assert (tmp_path / f'metrics{metrics.DROPPED}').read_text().splitlines() == [
        lines[2],
        '{"step": 8, "lo',
    ]


def test_time_for_people():
    assert [metrics.span(s) for s in (12.4, 200, 7500)] == ['12 s', '3 min 20 s', '2 h 05 min']
