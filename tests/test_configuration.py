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
