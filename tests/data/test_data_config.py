"""A config's `data` part as types: every field that there isn't is named, with the nearest that there is."""

import dataclasses

import ml_collections
import pytest

from rt2_jax import configuration
from rt2_jax.data.data_config import DataConfig, RobotSet, SmallWebSet, WebSet
from rt2_jax.data.robot import rlds
from rt2_jax.data.schedules import Schedule


@pytest.fixture
def data():
    data = configuration.defaults().data
    data.robot.arm = dict(directory='d', card='tabletop', weight=1.0, tasks=dict(seed=3))
    data.robot.arm.questions = dict(kind='linear', start=0.0, end=1.0, begin=0, finish=5)
    data.web.web = dict(weight=2.0, seed=5, kinds=dict())
    data.web.pairs = dict(kind='jsonl', directory='p', tasks=dict(caption=1.0), weight=1.0)
    return data


def test_sets_are_what_the_config_says(data):
    data.update(frames=2, on_corrupt='skip', image_size=48)
    made = DataConfig.from_config(data)
    arm, small, pairs = made.robot['arm'], made.web['web'], made.web['pairs']
    assert isinstance(arm, RobotSet) and arm.name == 'arm' and arm.weight == Schedule(start=1.0)
    assert (arm.frames, arm.frame_stride, arm.on_corrupt) == (2, 1, 'skip')
    assert arm.tasks.seed == 3 and arm.tasks.weights is None and arm.questions.finish == 5
    assert isinstance(small, SmallWebSet) and small.name == 'web'
    assert (small.source.seed, small.source.size, small.weight.start) == (5, 48, 2.0)
    assert isinstance(pairs, WebSet) and pairs.tasks == {'caption': 1.0}
    assert (pairs.name, pairs.on_corrupt) == ('pairs', 'skip')
    assert made.augment.to_json() == '' and made.robot_share.start == 0.65


@pytest.mark.parametrize(
    'path, nearest',
    [
        ('imagesize', 'image_size'),
        ('robot_share.stat', 'start'),
        ('augment.brightnes', 'brightness'),
        ('robot.arm.epsiodes', 'episodes'),
        ('robot.arm.tasks.weigths', 'weights'),
        ('robot.arm.questions.finsh', 'finish'),
        ('web.web.varried', 'varied'),
        ('web.pairs.kep_top', 'keep_top'),
    ],
)
def test_an_unknown_field_is_named_with_its_path_and_the_nearest(data, path, nearest):
    part = data = ml_collections.ConfigDict(data.to_dict())
    *parents, field = path.split('.')
    for parent in parents:
        part = part[parent]
    part[field] = 1
    message = f"config.data.{path}: there is no such field; did you mean '{nearest}'"
    with pytest.raises(ValueError, match=message):
        DataConfig.from_config(data)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda data: data.robot.arm.__delitem__('card'), 'config.data.robot.arm lacks card'),
        (lambda data: data.web.web.__delitem__('weight'), 'config.data.web.web lacks weight'),
        (lambda data: data.update(weights_per='stpe'), "did you mean 'step'"),
        (lambda data: data.update(on_corrupt='skp'), "did you mean 'skip'"),
        (lambda data: data.robot.arm.update(name='leg'), 'robot.arm.name: there is no such field'),
        (lambda data: data.robot.arm.update(on_corrupt='skip'), 'arm.on_corrupt: there is no'),
    ],
)
def test_what_a_config_cannot_say_is_refused(data, change, message):
    data = ml_collections.ConfigDict(data.to_dict())
    change(data)
    with pytest.raises(ValueError, match=message):
        DataConfig.from_config(data)


def test_an_unknown_field_in_python_is_named_too(whole_dataset):
    with pytest.raises(
        ValueError, match="epsiodes: there is no such field; did you mean 'episodes'"
    ):
        rlds.open_source(whole_dataset, 'tabletop', epsiodes=3)


def test_every_field_is_documented():
    for cls in (DataConfig, RobotSet, WebSet):
        for field in dataclasses.fields(cls):
            assert f'\n        {field.name}: ' in cls.__doc__, field.name
