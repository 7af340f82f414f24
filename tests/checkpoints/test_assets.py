"""Directories of other versions: what an older one did not write is at its default, what a newer one
wrote is refused by name, with the version.
"""

import dataclasses
import json
import pathlib
import shutil

from etils import epath
import pytest

import rt2_jax
from rt2_jax import records
from rt2_jax.checkpoints import assets, checkpoint, loading
from rt2_jax.checkpoints.inspection import inspection_text, opened, survey
from rt2_jax.data.cards import TABLETOP

PACKAGED = pathlib.Path(rt2_jax.__file__).parent / 'weights' / 'tabletop_pretrained'


@pytest.fixture
def directory(tmp_path):
    """A copy of the packaged checkpoint, which an older version wrote."""
    return epath.Path(shutil.copytree(PACKAGED, tmp_path / 'packaged'))


def change(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_the_packaged_checkpoint_can_be_looked_into():
    shown = opened.open_checkpoint('package:tabletop_pretrained')
    lines = inspection_text.as_text(survey.survey(shown, None, values=False, depth=2), 2)
    assert 'card tabletop: delta actions at 3 Hz' in lines
    assert shown.embodiment['embodiment']['motion'] == 'delta' and shown.embodiment['cards'] == {}
    assert shown.config.data.frame_stride == 1  # a field that it does not have


def test_what_an_older_version_lacked_is_at_its_default(directory):
    def strip_config(config):
        for name in ('keep', 'seed', 'mesh', 'optimizer', 'init_parts'):
            config.pop(name)
        del config['data']['on_corrupt']

    change(directory / 'config.json', strip_config)
    change(directory / 'embodiment.json', lambda record: record.pop('action_tokens', None))
    (directory / 'versions.json').unlink()
    loaded = loading.load_for_inference(directory)
    assert loaded.config.keep == 2 and loaded.config.data.on_corrupt == 'raise'
    assert loaded.config.data.image_size == 96 and loaded.config.model.name == 'pali'
    card = assets.recorded_card(loaded.embodiment)
    # The data of its day had fewer columns.
    assert (
        card == loaded.select_source().card == dataclasses.replace(TABLETOP, columns=card.columns)
    )


@pytest.mark.parametrize(
    'file, change_record, message',
    [
        ('config.json', lambda x: x.update(dreams=1), 'config.json has dreams, which rt2_jax .* '),
        ('config.json', lambda x: x['data'].update(smell=1), 'config.json has data.smell'),
        ('embodiment.json', lambda x: x.update(moods=[]), 'embodiment.json has moods'),
        (
            'embodiment.json',
            lambda x: x['embodiment'].update(gripper=None, legs=4),
            "embodiment.json, embodiment: card 'tabletop': unknown field 'legs'",
        ),
        (
            'embodiment.json',
            lambda x: x['action_space'].update(curve='log'),
            r"action_space: .* unknown fields \['curve'\]",
        ),
        ('embodiment.json', lambda x: x['action_space'].pop('low'), r"lacks \['low'\]"),
        ('embodiment.json', lambda x: x.pop('sources'), 'embodiment.json lacks sources'),
        ('config.json', lambda x: x.pop('model'), 'config.json lacks model'),
    ],
)
def test_what_a_newer_version_wrote_is_refused_by_name(directory, file, change_record, message):
    change(directory / 'versions.json', lambda versions: versions.update(rt2_jax='9.1'))
    change(directory / file, change_record)
    for read in (loading.load_for_inference, opened.open_checkpoint):
        with pytest.raises(checkpoint.CheckpointError, match=message) as caught:
            read(directory)
        assert 'lacks' in message or '9.1' in str(caught.value)


def test_a_converted_directory_of_a_newer_version(tmp_path):
    (tmp_path / 'model.json').write_text('{"model": {}, "quantised": 4}')
    with pytest.raises(checkpoint.CheckpointError, match='model.json has quantised'):
        opened.open_checkpoint(tmp_path)
    (tmp_path / 'model.json').write_text('{"format": "t5"}')
    with pytest.raises(checkpoint.CheckpointError, match='model.json lacks model'):
        loading.open_params(tmp_path)


def test_a_run_says_which_version_wrote_it(tiny_checkpoint):
    assert records.written_by(epath.Path(tiny_checkpoint)) == rt2_jax.__version__
