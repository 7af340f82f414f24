"""configs/baselines.py: each argument, made small, learns by the same command as everything else."""

import pathlib
import runpy

import drawn_episodes
from etils import epath
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from rt2_jax import train
from rt2_jax.checkpoints import loading
from rt2_jax.models import backbone
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import metrics, train_state

ROOT = pathlib.Path(__file__).parents[1]
MODULE = runpy.run_path(str(ROOT / 'configs' / 'baselines.py'))
SMALL = dict(
    vit=dict(width=16, depth=1, heads=2, mlp=32, patch=8, positions='sincos'),
    resnet=dict(stages=(1, 1), width=8, bottleneck=False, strides=(1, 1), momentum=0.5),
    efficientnet=dict(width_factor=0.1, depth_factor=0.1, strides=(1, 2, 1), momentum=0.5),
    text=dict(width=16, depth=1, heads=2, head_dim=8, mlp=32),
)


@pytest.fixture(scope='module')
def episodes(tmp_path_factory):
    return drawn_episodes.write_dataset(
        tmp_path_factory.mktemp('episodes') / 'tabletop', episodes=6
    )


def small(argument, episodes):
    """A config with a model that trains in seconds, and all else as it is."""
    config = MODULE['get_config'](argument)
    with config.unlocked():
        model = config.model
        model.vision = SMALL[model.get('tower', 'vit')]
        if model.name == 'masked_autoencoder':
            model.decoder = dict(width=12, depth=1, heads=2, mlp=16)
        for part in {'contrastive': ['text'], 'rt1': ['decoder']}.get(model.name, []):
            model[part] = SMALL['text']
        config.init_from, config.init_parts = '', ()
        config.update(total_steps=24, batch_size=4, log_every=4, checkpoint_every=24)
        config.compile_cache, config.cpu_products = 'none', 'float32'
        config.optimizer.update(dict(lr=3e-3, warmup=3, schedule='constant'))
        config.data.update(dict(image_size=16, threads=1))
        if model.name == 'rt1':
            model.frames, config.data.frames = 2, 2
            config.data.target_length = 2 * MODULE['NUMBERS'] + 1
        for robot in config.data.robot.values():
            robot.directory = str(episodes)
    return config.lock()


def test_policies_differ_in_what_they_compare_alone():
    """Configs repeat values, so that each reads by itself; a table needs them equal."""
    configs = ROOT / 'configs'
    rt1 = runpy.run_path(str(configs / 'rt1.py'))['get_config']('tabletop').to_dict()
    moo, vc1, r3m = (MODULE['get_config'](name).to_dict() for name in ('moo', 'vc1', 'r3m'))
    assert moo['model'] == rt1['model'] | dict(tower='efficientnet', points=True)
    assert vc1['model']['decoder'] == r3m['model']['decoder'] == rt1['model']['decoder']
    assert vc1['data']['robot'] == r3m['data']['robot'] == rt1['data']['robot']
    for name in ('total_steps', 'optimizer'):
        assert moo[name] == vc1[name] == r3m[name] == rt1[name]
    pali = runpy.run_path(str(configs / 'tabletop.py'))['get_config']('cofinetune').to_dict()
    for name in ('siglip_pretrain', 'clip_pretrain'):
        assert MODULE['get_config'](name).to_dict()['model']['vision'] == pali['model']['vision']


def losses(workdir):
    return [row['loss'] for row in metrics.read(workdir)]


@pytest.mark.parametrize('argument', MODULE['ARGUMENTS'])
def test_it_learns(argument, episodes, tmp_path):
    workdir = epath.Path(tmp_path / 'run')
    config = small(argument, episodes)
    assert train.train(config, workdir)
    curve = losses(workdir)
    assert np.isfinite(curve).all() and min(curve[-2:]) < curve[0], curve
    params = named_leaves(loading.load_for_inference(workdir).params)
    running = [name for name in params if 'running_mean' in name]
    assert bool(running) == (config.model.get('tower', 'vit') != 'vit')
    assert all(np.abs(params[name]).max() > 0 for name in running)


def test_rt1_starts_from_a_tower_that_names_the_webs_pictures():
    """As RT-1's did in ImageNet's; its parameters are those that configs/rt1.py:tabletop takes."""
    rt1 = runpy.run_path(str(ROOT / 'configs' / 'rt1.py'))['get_config']
    named, policy = rt1('vision'), rt1('tabletop')
    assert policy.init_from == 'package:tabletop_pretrained#embedding,runs/rt1_vision#tower'
    found = []
    for config in (named, policy):
        data = config.data
        images = np.zeros((1, data.frames, data.image_size, data.image_size, 3), np.uint8)
        prompt, target = (
            np.zeros((1, length), np.int32)
            for length in (data.prompt_length, data.target_length - (config is policy))
        )
        model = backbone.build(config.model, Tokenizer.load_default().vocab_size, range(256))
        params = jax.eval_shape(model.init, jax.random.key(0), images, prompt, target)['params']
        found.append(jax.tree.map(lambda x: x.shape, nn.meta.unbox(params)['tower']))
    assert found[0] == found[1]


def test_moos_tower_starts_from_one_that_saw_no_points():
    rng = np.random.default_rng(0)
    batch = dict(
        images=rng.integers(0, 256, (1, 2, 16, 16, 3), np.uint8),
        prompt=np.ones((1, 4), np.int32),
        target=np.ones((1, 2 * MODULE['NUMBERS'] + 1), np.int32),
    )
    states = []
    for points in (False, True):
        config = small('moo', '').copy_and_resolve_references().unlock()
        config.model.points = points
        model = backbone.build(config.model, 300, range(256))
        mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
        params = {'tower': states[0].params['tower']} if points else None
        states.append(train_state.init_state(model, optax.sgd(1.0), batch, mesh, 0, params))
    without, with_points = (named_leaves(state.params['tower']) for state in states)
    assert with_points['stem'].shape[2] == 4 and np.abs(with_points['stem'][:, :, 3]).max() > 0
    np.testing.assert_array_equal(with_points.pop('stem')[:, :, :3], without.pop('stem'))
    for name, value in with_points.items():
        np.testing.assert_array_equal(value, without[name])
