"""LeRobot data sets that aren't right: nothing of them is read as something else; each is named."""

import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
import lerobot_files
from lerobot_files import CAMERAS, CARD, LENGTHS
from pyarrow import parquet

from rt2_jax.data import data_errors
from rt2_jax.data.robot import rlds

TABLE, EPISODES = 'data/chunk-000/file-000.parquet', 'meta/episodes/chunk-000/file-000.parquet'
TASKS_TABLE, START = 'meta/tasks.parquet', f'videos/{CAMERAS[0]}/from_timestamp'
VIDEO = f'videos/{CAMERAS[0]}/chunk-000/file-000.mp4'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    return lerobot_files.write(tmp_path_factory.mktemp('lerobot') / 'whole')


@pytest.fixture
def copy(written, tmp_path):
    """A v3.0 set that the test may damage."""
    return shutil.copytree(written, tmp_path / 'arm')


def change_info(directory, **changes):
    path = directory / 'meta/info.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_table(name, change):
    """A damage: `change` alters the rows of a table."""

    def damage(directory):
        table = parquet.read_table(directory / name)
        rows = table.to_pylist()
        change(rows)
        parquet.write_table(type(table).from_pylist(rows), directory / name)

    return damage


def set_times(time):
    return change_table(TABLE, lambda rows: [r.update(timestamp=time(r)) for r in rows])


def declare_whole_numbers(directory):
    features = json.loads((directory / 'meta/info.json').read_text())['features']
    change_info(directory, features=features | {'action': dict(dtype='int64', shape=[4])})


INFO = {
    'fps': (dict(fps=0), 'info.json is damaged: fps is 0; a number above 0'),
    'number': (dict(total_episodes='4'), "total_episodes is '4'; a whole number"),
    'features': (dict(features=None), "'features' is None"),
    'feature': (dict(features={'action': dict(dtype='int64', shape=4)}), "'action' .* shape 4;"),
    'path': (dict(data_path='{what}'), "info.json is damaged: data_path is '{what}'; "),
    'beyond': (dict(splits={'train': '0:9'}), "'train' is '0:9'; .* from 0 to 4"),
    'no episodes': (dict(splits={'train': '4:4'}), "split 'train' has no episodes"),
    'shared': (dict(splits={'train': '0:3', 'val': '2:4'}), "2 is in the splits 'train' and 'val'"),
}


@pytest.mark.parametrize('change, message', INFO.values(), ids=INFO)
def test_info_that_is_wrong(copy, change, message):
    change_info(copy, **change)
    with pytest.raises(data_errors.DataSetError, match=message):
        rlds.open_source(copy, CARD)


ROWS = {
    'twice': (EPISODES, 2, dict(episode_index=1), 'episodes have episode 1 twice'),
    'gap': (EPISODES, 3, dict(episode_index=9), 'episodes lack episode 3'),
    'length': (EPISODES, 1, dict(length=None), 'length of episode 1 is None; a whole number'),
    'start': (EPISODES, 1, {START: np.nan}, 'from_timestamp of episode 1 is nan'),
    'no text': (TASKS_TABLE, 1, dict(__index_level_0__=None), 'task_index 1 is None, no text'),
    'two texts': (TASKS_TABLE, 1, dict(task_index=0), "task_index 0 is both 'pick the cube' and"),
}


@pytest.mark.parametrize('table, row, change, message', ROWS.values(), ids=ROWS)
def test_rows_of_metadata_that_are_wrong(copy, table, row, change, message):
    change_table(table, lambda rows: rows[row].update(change))(copy)
    with pytest.raises(data_errors.DataSetError, match=message):
        rlds.open_source(copy, CARD)


def test_episodes_in_no_split_are_named(copy, caplog):
    change_info(copy, splits={'train': '0:3'})
    assert len(rlds.open_source(copy, CARD).table.episodes) == 3
    assert '1 of 4 episodes are in no split, the first is 3' in caplog.text


DAMAGES = {
    'no times': (set_times(lambda row: np.nan), [0, 1], 'step 0 has the timestamp nan s; at 10 '),
    'still': (set_times(lambda row: 0.0), [0, 1], 'step 1 has the timestamp 0 s; .* 0.1 s is due'),
    'fast': (set_times(lambda r: r['timestamp'] / 2), [0, 1], 'step 1 has the timestamp 0.05 s'),
    'overlapping': (
        change_table(EPISODES, lambda rows: rows[1].update({START: 0.2})),
        [0, 1],
        'episode 1 at 0.2 s: their frames overlap',
    ),
    'other type': (declare_whole_numbers, [0, 1, 2, 3], "'action' holds float32; .* says int64"),
    'gap in a row': (
        change_table(TABLE, lambda rows: rows[0].update(action=[None, 0, 0, 0])),
        [0, 1],
        "'action' has 1 empty places",
    ),
    'ragged': (
        change_table(TABLE, lambda r: [r[0]['action'].append(0), r[1]['action'].pop()]),
        [0, 1],
        'in rows of different lengths',
    ),
    'empty video': (
        lambda d: os.truncate(d / VIDEO, 0),
        [0, 1],
        'front.*mp4, .* the file is empty',
    ),
}


@pytest.mark.parametrize('damage, lost, message', DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_or_left_out(copy, damage, lost, message):
    damage(copy)
    with pytest.raises(data_errors.CorruptRecord, match=message):
        rlds.open_source(copy, CARD)
    if len(lost) < len(LENGTHS):
        source = rlds.open_source(copy, CARD, on_corrupt='skip')
        assert len(source) == sum(n for e, n in enumerate(LENGTHS) if e not in lost)
