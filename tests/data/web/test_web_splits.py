"""Held-out records of web sets: which they are, that they stay it, and that none is trained on."""

import json
import shutil

import ml_collections
import numpy as np
import pytest
import web_files

from rt2_jax import configuration
from rt2_jax.data import data_errors, holdouts, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.web import open_web, record_splits

TASKS = {'caption': 1.0}


def open_part(folder, part, holdout=0.3, kind='jsonl', **settings):
    fields = {'jsonl': web_files.JSONL_FIELDS, 'webdataset': web_files.TAR_FIELDS}[kind]
    settings = {'tasks': TASKS, 'fields': fields} | settings
    return open_web.open_source(kind, folder, holdout=holdout, part=part, **settings)


def split(folder, holdout=0.3, **settings):
    return {part: open_part(folder, part, holdout, **settings) for part in holdouts.PARTS}


def pictures(source):
    """What the pictures of a source are known by."""
    return {source.encoded(source.row(i)) for i in range(len(source))}


@pytest.fixture(scope='module')
def web(tmp_path_factory):
    return web_files.write_jsonl(tmp_path_factory.mktemp('web') / 'web')


def test_every_record_is_on_one_side(web):
    for holdout in (0.3, 7):
        parts = split(web, holdout)
        sides = [{source.row(i) for i in range(len(source))} for source in parts.values()]
        assert not sides[0] & sides[1] and sides[0] | sides[1] == set(range(60))
        assert len(sides[1]) == 7 or 10 <= len(sides[1]) <= 26
    assert parts['validation'].selection.left_out == {'is trained on': 53}
    prints = {source.fingerprint for source in (*parts.values(), open_part(web, 'train', 0))}
    assert len(prints) == 3


def test_a_picture_is_on_one_side_in_any_format_and_however_often(web, tmp_path):
    tar = web_files.write_tar(tmp_path / 'tar', records=90, shards=4)
    ours, theirs = split(web), split(tar, kind='webdataset')
    for part in holdouts.PARTS:
        assert pictures(ours[part]) <= pictures(theirs[part])
    with open(web / 'all.jsonl') as file:
        twice = [json.loads(line) | {'captions': ['again']} for line in file]
    folder = shutil.copytree(web, tmp_path / 'twice', ignore=shutil.ignore_patterns('rt2_index'))
    (folder / 'b.jsonl').write_text('\n'.join(map(json.dumps, twice)))
    parts = split(folder)
    assert not pictures(parts['train']) & pictures(parts['validation'])
    assert len(parts['validation']) == 2 * len(pictures(parts['validation']))


def test_the_best_are_those_of_the_whole_set(web):
    """Holding some out takes none in that would not be trained on otherwise."""
    whole = open_part(web, 'train', 0, keep_top=0.5)
    parts = split(web, keep_top=0.5)
    rows = [{source.row(i) for i in range(len(source))} for source in (whole, *parts.values())]
    assert rows[0] == rows[1] | rows[2] and len(rows[0]) == 30


def test_a_record_that_is_trained_on_elsewhere_is_found_and_named(web, tmp_path, caplog):
    parts = split(web)
    record_splits.check_apart({'a': parts['train']}, {'b': parts['validation']})
    assert not caplog.text
    copy = web_files.write_jsonl(tmp_path / 'copy')
    whole = open_part(copy, 'train', 0)
    row = parts['validation'].row(0)
    with pytest.raises(
        holdouts.Leakage, match=f'5 records or more.*\n  record {row} of b = record {row} of c'
    ):
        record_splits.check_apart({'a': parts['train'], 'c': whole}, {'b': parts['validation']})
    # The same pictures with other texts: the tar has the first caption alone.
    other = open_part(web_files.write_tar(tmp_path / 'tar'), 'train', 0, kind='webdataset')
    lines = [row for row in (parts['validation'].row(i) for i in range(8)) if row % 3]
    record_splits.check_apart({'d': _without(other, row_modulo=0)}, {'b': parts['validation']})
    assert f'record {lines[0]} of b = record {lines[0]} of d' in caplog.text


def _without(source, row_modulo):
    """A source less its records with one caption, whose texts are those of the JSONL's."""
    rows = np.array([row for row in range(60) if row % 3 != row_modulo], np.uint32)
    selection = type(source.selection)(rows, ('',), (len(rows),), {})
    source.selection = selection
    return source


def test_bad_holdouts(web):
    for holdout in (-1, 1.5, 60):
        with pytest.raises(data_errors.DataSetError, match='a number of its 60 records from 1 up'):
            split(web, holdout)
    with pytest.raises(data_errors.DataSetError, match='holds out none of the 60 records'):
        split(web, 1e-9)
    with pytest.raises(ValueError, match="part 'trian'; did you mean 'train'"):
        open_part(web, 'trian')


def config(folder, **settings):
    made = configuration.defaults()
    made.data.web.web = dict(
        kind='jsonl',
        directory=str(folder),
        fields=web_files.JSONL_FIELDS,
        tasks=TASKS,
        weight=1.0,
        **settings,
    )
    return made


def test_sources_of_a_config(web):
    made = config(web, holdout=0.3)
    trained = sources.open_sources(DataConfig.from_config(made.data)).by_name()
    robot, held = sources.open_validation(made, trained)
    assert not robot and list(held) == ['web']
    assert not pictures(held['web'][0]) & pictures(trained['web'])
    made.validation.web.web = made.data.web.web
    with pytest.raises(ValueError, match='held out and in config.validation.web; rename'):
        sources.open_validation(made, trained)
    with pytest.raises(ValueError, match='nothing is held out: .*config.data.web.NAME.holdout'):
        sources.open_validation(config(web), trained)
    small = ml_collections.ConfigDict(configuration.defaults().to_dict())
    small.data.web.web = dict(weight=1.0, seed=0, kinds=dict(), holdout=0.1)
    with pytest.raises(ValueError, match='small web is made up .*of another seed'):
        DataConfig.from_config(small.data)
