"""Configs from files, and fields that do not exist."""

import pathlib

import pytest

from rt2_jax import configuration
from rt2_jax.models import backbone

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def test_a_config_is_loaded_as_the_flag_loads_it():
    config = configuration.load(CONFIGS / 'rt2_paligemma.py', '2-3b')
    assert config.model.text.block == 'gemma2' and config.is_locked
    assert configuration.load(CONFIGS / 'rt2_paligemma.py').model.text.block == 'gemma'
    with pytest.raises(ValueError, match="did you mean '2-10b'"):
        configuration.load(CONFIGS / 'rt2_paligemma.py', '2-10')


@pytest.mark.parametrize(
    'field, nearest',
    [
        ('bacth_size', 'batch_size'),
        ('data.image_sise', 'data.image_size'),
        ('data.robot_share.boundries', 'data.robot_share.boundaries'),
        ('data.augment.hue_', 'data.augment.hue'),
        ('optimizer.warm_up', 'optimizer.warmup'),
    ],
)
def test_an_unknown_field_names_the_nearest(field, nearest):
    config = configuration.load(CONFIGS / 'tabletop.py').unlock()
    section, _, name = field.rpartition('.')
    part = config
    for step in filter(None, section.split('.')):
        part = part[step]
    part[name] = 1
    with pytest.raises(
        configuration.ConfigError, match=f'config.{field}: .*did you mean {nearest!r}'
    ):
        configuration.check(config)


@pytest.mark.parametrize(
    'file, argument, section, nearest',
    [
        ('tabletop', 'cofinetune', 'vision', 'width'),
        ('tabletop', 'vision', 'vision', 'width'),
        ('rt2_pali_x_5b', '', 'decoder', 'width'),
        ('rt2_paligemma', '2-3b', 'text', 'width'),
        ('rt2_paligemma', '2-3b', 'text.attention', 'head_dim'),
        ('rt2_t5gemma2', '270m', 'encoder.attention', 'head_dim'),
    ],
)
def test_an_unknown_field_of_a_model_names_the_nearest(file, argument, section, nearest):
    model = configuration.load(CONFIGS / f'{file}.py', argument).model.to_dict()
    backbone.build(model, 1000, [1, 2, 3])
    part = model
    for step in section.split('.'):
        part[step] = dict(part[step])
        part = part[step]
    misspelt = nearest.replace('d', 'dd')
    part[misspelt] = 1
    message = f"config.model.{section}: '{misspelt}'; did you mean '{nearest}'"
    with pytest.raises(ValueError, match=message):
        backbone.build(model, 1000, [1, 2, 3])


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('optimiser', {}, "config.optimiser: .*did you mean 'optimizer.lr'"),
        ('data.robot', None, r'config.data.robot is None; it has fields of its own'),
        ('optimizer.lr', None, 'config.optimizer.lr is None; a number is needed'),
        ('batch_size', 'many', "config.batch_size is 'many'; a number is needed"),
        ('data.augment.scale', 0.8, 'config.data.augment.scale is 0.8; 2 numbers are needed'),
        ('data.augment.scale', (0.8,), r'scale is \[0.8\]; 2 numbers are needed'),
    ],
)
def test_a_part_or_value_of_another_kind(field, value, message):
    config = configuration.load(CONFIGS / 'tabletop.py').unlock()
    section, _, name = field.rpartition('.')
    part = config
    for step in filter(None, section.split('.')):
        part = part[step]
    with config.ignore_type():
        part[name] = value
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.check(config)


def test_a_model_part_that_has_no_fields():
    model = configuration.load(CONFIGS / 'tabletop.py').model.to_dict() | {'vision': None}
    with pytest.raises(
        ValueError, match='config.model.vision is None; a part of a model has fields'
    ):
        backbone.build(model, 1000, [1, 2, 3])
