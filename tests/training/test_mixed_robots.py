"""One model of two robots: an arm's eight numbers and a table's two, from examples to policy."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rt2_jax.checkpoints import acting_robot, assets, checkpoint, loading
from rt2_jax.data import pipeline
from rt2_jax.data.cards import FRACTAL, LANGUAGE_TABLE, TABLETOP
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.example import Example
from rt2_jax.data.mixture import Schedule, Sources
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.policy import Policy
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace
from rt2_jax.training import program as program_lib, step as step_lib

STEPS = 2


@dataclasses.dataclass(frozen=True)
class Robot:
    """Twenty steps of a robot at random, the last of them with the terminate flag if there is one."""

    name: str
    action_space: ActionSpace

    kinds = acting_kinds = ('robot',)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Example:
        rng, space = np.random.default_rng(i), self.action_space
        flag = [i == 19] * space.terminate
        return Example(
            frames=rng.integers(0, 256, (1, 16, 16, 3), np.uint8),
            prompt=prompts.robot('push the red star to the left'),
            action=np.array([*flag, *rng.uniform(space.low, space.high)], np.float32),
            source=self.name,
            kind='robot',
        )


ARM = Robot('arm', ActionSpace.rt1_bounds())
TABLE = Robot('table', ActionSpace.language_table())


def batches_of(*robots, tokenizer, config, batches=STEPS):
    return pipeline.make_iterator(
        Sources.of({robot.name: (robot, 1.0) for robot in robots}, {}),
        tokenizer,
        DataConfig(
            image_size=config.data.image_size,
            prompt_length=config.data.prompt_length,
            target_length=config.data.target_length,
            robot_share=Schedule(start=1.0),
        ),
        batches=batches,
        batch_size=config.batch_size,
    )


@pytest.fixture(scope='module')
def config(tiny):
    config = tiny.config().unlock()
    config.update(batch_size=8, accumulate=1, total_steps=STEPS, seed=0)
    config.data.robot = {'arm': {'card': 'tabletop'}, 'table': {'card': 'language_table'}}
    config.adapters = dict(rank=0)
    config.optimizer = dict(
        name='adamw', lr=1e-3, schedule='constant', warmup=1, end_fraction=1.0, clip=1.0
    )
    config.optimizer.update(weight_decay=0.0, b1=0.9, b2=0.95, eps=1e-8, frozen=(), part_lr=dict())
    config.mesh = dict(data=1, fsdp=1, tensor=1)
    return config.lock()


@pytest.fixture(scope='module')
def trained(config, tokenizer, tmp_path_factory):
    """A run's directory after two steps on both robots, and what was summed over them."""
    batches = batches_of(ARM, TABLE, tokenizer=tokenizer, config=config)
    spaces = {robot.name: robot.action_space for robot in (ARM, TABLE)}
    names = batches.sources, batches.kinds
    mesh = mesh_lib.make_mesh(config.mesh)
    program = program_lib.build(config, mesh, tokenizer, *names, batches.acting_kinds, spaces)
    state, sums = program.init(), None
    for batch in batches:
        state, measured = program.step(state, batch)
        sums = step_lib.add(sums, measured)
    workdir = tmp_path_factory.mktemp('run')
    assets.write_assets(workdir, config, tokenizer, spaces)
    checkpoints = checkpoint.Checkpoints(workdir)
    checkpoints.save(state, batches.get_state(), STEPS)
    checkpoints.close()
    return workdir, step_lib.summary(sums, *names, spaces)


def test_errors_are_in_the_units_of_each_robot(trained):
    _, values = trained
    assert values['source/arm/examples'] == values['source/table/examples'] == 8
    assert np.isfinite(list(values.values())).all()
    measured = {name.split('/')[1] for name in values if name.startswith('action/')}
    assert measured == {'arm', 'table'}
    assert 'action/arm/terminate' in values and 'action/table/terminate' not in values
    assert 0 <= values['action/table/decodable'] <= 1


def test_a_policy_acts_for_either_robot(trained, config):
    workdir, _ = trained
    frame = np.zeros((16, 20, 3), np.uint8)
    settings = dict(batch_sizes=(1,))
    arm = Policy.from_checkpoint(workdir, **settings)
    assert (arm.source, arm.sources, arm.embodiment) == ('arm', ('arm', 'table'), TABLETOP)
    decision = arm.act(frame, 'pick banana')
    assert config.embodiment == 'tabletop' and decision.action.shape == (8,)
    policy = Policy.from_checkpoint(workdir, source='table', **settings)
    assert (policy.source, policy.embodiment) == ('table', LANGUAGE_TABLE)
    decision = policy.act(frame, 'push the red star to the left')
    assert decision.action.shape == decision.entropies.shape == (2,)
    np.testing.assert_array_equal(policy.command(decision.action)['action'], decision.action)
    centimetres = decision.action * 100
    np.testing.assert_allclose(centimetres, centimetres.round(), atol=1e-5)
    assert policy.act(frame, 'push it', plan='red star').action.shape == (2,)
    with pytest.raises(ValueError, match="of a source 'tabel'; did you mean 'table'"):
        Policy.from_checkpoint(workdir, source='tabel', **settings)


def test_a_source_is_chosen_or_asked_for():
    arm, table = ARM.action_space, TABLE.action_space
    spaces = {'arm': arm, 'arm_plans': arm, 'table': table}
    cards = {'arm': TABLETOP, 'arm_plans': TABLETOP, 'table': LANGUAGE_TABLE}

    def chosen(wanted='', card=FRACTAL, only=spaces):
        own = acting_robot.Source(card.name, card.action_space, card)
        return acting_robot.select_source(wanted, own, {name: spaces[name] for name in only}, cards)

    assert chosen(only=['table']) == acting_robot.Source('table', table, LANGUAGE_TABLE)
    assert chosen(only=['arm', 'arm_plans']).name == 'arm'  # the same robot twice
    assert chosen(card=LANGUAGE_TABLE).name == 'table'
    assert chosen('arm_plans', card=LANGUAGE_TABLE).card == TABLETOP
    assert chosen(only=[]) == acting_robot.Source('', FRACTAL.action_space, FRACTAL)
    with pytest.raises(ValueError, match='several robots.*Valid: arm, arm_plans, table'):
        chosen()
    with pytest.raises(
        ValueError, match="'arms'; did you mean 'arm'.*Valid: arm, arm_plans, table"
    ):
        chosen('arms')
    with pytest.raises(ValueError, match="'arm', for the run learnt from no robot"):
        chosen('arm', only=[])


def test_older_checkpoints_have_the_cards_that_their_config_names(trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / 'run') / 'embodiment.json'
    record = json.loads(path.read_text())
    assert set(record.pop('cards')) == {'arm', 'table'}
    record['embodiment']['gripper'] = 'absolute: +1 closed, -1 open'  # older still
    path.write_text(json.dumps(record))
    loaded = loading.load_for_inference(path.parent)
    assert loaded.cards == {'arm': TABLETOP, 'table': LANGUAGE_TABLE}
    assert loaded.select_source().card == assets.recorded_card(loaded.embodiment) == TABLETOP


def test_the_action_space_is_that_of_the_robot_acted_for(config):
    arm, table = ARM.action_space, TABLE.action_space
    spaces = {'arm': arm, 'arm_plans': arm, 'table': table, 'table_plans': table}
    card = dataclasses.replace(TABLETOP, name='language_table')
    assert acting_robot.run_action_space(config, TABLETOP, spaces) == arm
    assert acting_robot.run_action_space(config, card, spaces) == table
    assert acting_robot.run_action_space(config, card, {'arm': arm, 'table_plans': table}) == table
    assert acting_robot.run_action_space(config, card, {}) == card.action_space
    other = dataclasses.replace(TABLETOP, name='other')
    assert acting_robot.run_action_space(config, other, {'arm': arm, 'arm_plans': arm}) == arm
    with pytest.raises(ValueError, match="embodiment='other' is the card of no robot set"):
        acting_robot.run_action_space(config, other, spaces)


def test_an_action_of_another_length_names_its_source(tokenizer, config):
    @dataclasses.dataclass(frozen=True)
    class Mislabelled(Robot):
        def __getitem__(self, i: int) -> Example:
            return ARM[i]

    wrong = Mislabelled('wrong', TABLE.action_space)
    batches = batches_of(wrong, tokenizer=tokenizer, config=config, batches=1)
    with pytest.raises(ValueError, match="source 'wrong': an action of 8 numbers.*has 2: dx, dy"):
        next(batches)
