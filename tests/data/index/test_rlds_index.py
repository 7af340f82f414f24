"""The index of many shards: resumed, out of room, damaged everywhere; its statistics and texts."""

import dataclasses
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import drawn_episodes
import numpy as np
import open_x
import pytest

from rt2_jax.data import cards, data_errors
from rt2_jax.data.index import episode_index, index_build, index_places
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.robot import action_statistics, rlds
from rt2_jax.text.actions import MINIMUM_RANGE, ActionSpace

CARD = cards.TABLETOP
KILLED = """
import os, sys
from rt2_jax.data import cards
from rt2_jax.data.index import index_build
from rt2_jax.data.readers.rlds_episodes import Rlds
index_build.build(Rlds(sys.argv[1], cards.TABLETOP), progress=lambda n, _: n == 2 and os._exit(9))
"""


def arrays_of(location):
    return {path.name: path.read_bytes() for path in location.glob('*.npy')}


@pytest.fixture(scope='module')
def reference(whole_dataset, tmp_path_factory):
    """The arrays of the whole data set's index."""
    location = tmp_path_factory.mktemp('index') / 'train'
    return arrays_of(index_build.build(Rlds(whole_dataset, CARD), location=location))


def test_a_killed_build_goes_on(dataset, reference):
    command = [sys.executable, '-c', KILLED, str(dataset)]
    assert subprocess.run(command, env=os.environ).returncode == 9
    building = pathlib.Path(index_places.building(index_build.place(Rlds(dataset, CARD))))
    kept = {path: path.stat().st_mtime_ns for path in building.iterdir()}
    assert len(kept) == 2 and not index_build.place(Rlds(dataset, CARD)).exists()
    calls = []

    def progress(done, total):
        calls.append((done, total))
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    location = index_build.build(Rlds(dataset, CARD), progress=progress)
    assert calls == [(2, 3), (3, 3)]
    assert arrays_of(location) == reference
    assert not building.exists()


def test_what_a_stopped_build_left_is_not_taken_for_other_data(dataset):
    def stop(done, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_build.build(Rlds(dataset, CARD), progress=stop)
    calls = []
    other = dataclasses.replace(CARD, columns=())
    index_build.build(Rlds(dataset, other), progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_room(dataset, reference):
    """A file that can't grow, as on a full disk: what is done stays, and the build goes on later."""

    def fill(done, _):
        if done == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match='2 of 3 parts are done and kept in .*train-.*building'):
            index_build.build(Rlds(dataset, CARD), progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    names = sorted(path.name for path in (dataset / 'rt2_index').rglob('*'))
    assert len(names) == 3 and not any('incomplete' in name for name in names)
    assert arrays_of(index_build.build(Rlds(dataset, CARD))) == reference


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A data set of 6 episodes, and all its examples."""
    directory = drawn_episodes.write_dataset(tmp_path_factory.mktemp('small') / 'tabletop', 6)
    source = rlds.open_source(directory, CARD, location=directory.parent / 'index')
    return directory, [source[i] for i in range(len(source))]


def flipped_places(directory):
    """100 (file, byte) of a data set, each byte as likely."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    ends = np.cumsum([path.stat().st_size for path in files])
    for place in np.random.default_rng(0).integers(0, ends[-1], 100).tolist():
        file = int(np.searchsorted(ends, place, 'right'))
        yield files[file].name, place - (int(ends[file - 1]) if file else 0)


def picture_bytes(directory):
    """All (file, byte) that belong to a picture."""
    opened = episode_index.EpisodeIndex(Rlds(directory, CARD), location=directory.parent / 'index')
    found = set()
    for step in range(opened.steps):
        name = opened.files[int(opened.arrays['episode_file'][opened.episode_of(step)])].name
        start = int(opened.arrays['image_offset'][step, 0])
        length = int(opened.arrays['image_length'][step, 0])
        found |= {(name, place) for place in range(start, start + length)}
    return found


def same(source, examples):
    return len(source) == len(examples) and all(
        a.prompt == b.prompt
        and np.array_equal(a.action, b.action)
        and np.array_equal(a.frames, b.frames)
        for a, b in zip((source[i] for i in range(len(source))), examples, strict=True)
    )


@pytest.mark.parametrize('when', ['before indexing', 'after indexing'])
def test_100_flipped_bytes_are_named_or_harmless(small, when, tmp_path):
    directory, examples = small
    damaged = shutil.copytree(directory, tmp_path / 'tabletop')
    pictures = picture_bytes(directory)
    detected = 0
    for number, (name, place) in enumerate(flipped_places(directory)):
        data = bytearray((directory / name).read_bytes())
        data[place] ^= 1 << number % 8
        (damaged / name).write_bytes(data)
        location = tmp_path / f'{number}'
        if when == 'after indexing':
            location = shutil.copytree(directory.parent / 'index', location)
        try:
            assert same(rlds.open_source(damaged, CARD, location=location), examples)
            # Once indexed, only pictures are read again.
            before = when == 'before indexing'
            assert name.endswith('.json') or not (before or (name, place) in pictures)
        except (
            data_errors.DataSetError,
            data_errors.IndexMismatch,
            tfrecord.CorruptRecord,
        ) as error:
            assert str(damaged) in str(error), error
            detected += 1
        shutil.copyfile(directory / name, damaged / name)
    assert detected > 50


def test_a_shard_that_ends_between_records(dataset):
    shard = dataset / 'tabletop-train.tfrecord-00001-of-00003'
    last = list(tfrecord.scan(shard, payloads=False))[-1]
    os.truncate(shard, last.offset)
    with pytest.raises(tfrecord.CorruptRecord, match='ends after 9 records; .* declares 10'):
        rlds.open_source(dataset, CARD)
    assert len(rlds.open_source(dataset, CARD, on_corrupt='skip').table.episodes) == 29


def test_a_shard_vanishes_while_in_use(dataset, caplog):
    source = rlds.open_source(dataset, CARD)
    lenient = rlds.open_source(dataset, CARD, on_corrupt='skip')
    last = len(source) - 1
    (dataset / 'tabletop-train.tfrecord-00002-of-00003').unlink()
    with pytest.raises(tfrecord.CorruptRecord, match='00002-of-00003.* has vanished since'):
        source[last]
    np.testing.assert_array_equal(lenient[last].frames, source[0].frames)
    assert lenient.skipped == 1 and 'has vanished' in caplog.text
    with pytest.raises(data_errors.DataSetError, match='lacks 1 of 3 shards'):
        rlds.open_source(dataset, CARD)


def test_a_damaged_index_is_found_by_verify(dataset):
    opened = rlds.open_source(dataset, CARD).index
    opened.verify()
    path = opened.location / 'action.npy'
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(data_errors.IndexMismatch, match='action.npy is damaged'):
        episode_index.EpisodeIndex(Rlds(dataset, CARD)).verify()


def test_statistics(whole_dataset):
    opened = rlds.open_source(whole_dataset, CARD).index
    actions = opened.arrays['action'][:, 1:].astype(np.float64)
    for place, name in enumerate(CARD.action_space.names):
        column = actions[:, place]
        expected = {
            'min': column.min(),
            'max': column.max(),
            'mean': column.mean(),
            'std': column.std(),
            'q01': np.quantile(column, 0.01),
            'q99': np.quantile(column, 0.99),
        }
        assert opened.statistics[name] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert action_statistics.degenerate(opened.statistics) == ['drx', 'dry']


def test_bounds(whole_dataset, caplog):
    def space(bounds):
        return rlds.open_source(whole_dataset, CARD, bounds=bounds).action_space

    assert space('card') == space('rt1') == ActionSpace.rt1_bounds()
    narrow = space('q01-q99')
    assert -0.4 < narrow.low[0] < -0.35 and 0.35 < narrow.high[0] < 0.4
    assert (narrow.low[6], narrow.high[6]) == (-1, 1)
    # Nothing turns about x and y: a range of its own width would be noise.
    assert narrow.high[3] - narrow.low[3] == pytest.approx(MINIMUM_RANGE)
    assert "all but coincide in ['drx', 'dry']" in caplog.text
    with pytest.raises(ValueError, match="did you mean 'q01-q99'"):
        space('q1-q99')


def test_missing_instructions(tmp_path, caplog):
    name = 'fractal20220817_data'
    texts = ['pick apple', ' ', 'pick can']
    episodes = [open_x.make_episode(name, n, text) for n, text in enumerate(texts)]
    directory = open_x.write_dataset(tmp_path / name, name, episodes)
    source = rlds.open_source(directory, name)
    assert source.table.episodes.tolist() == [0, 2] and source.unlabelled == 1
    assert {source.table.instruction(i) for i in range(len(source))} == {'pick apple', 'pick can'}
    assert source.index.about['unlabelled_steps'] == len(episodes[1]['steps'])
    assert '1 of 3 episodes have steps without an instruction' in caplog.text
    with pytest.raises(data_errors.DataSetError, match='first episode 1'):
        rlds.open_source(directory, name, missing_instructions='raise')


def test_an_instruction_of_the_episode(tmp_path):
    name = 'language_table'
    episodes = [open_x.make_episode(name, n) | {'episode_id': f'épisode {n}'} for n in range(3)]
    directory = open_x.write_dataset(tmp_path / name, name, episodes)
    card = dataclasses.replace(cards.LANGUAGE_TABLE, instruction='/episode_id')
    source = rlds.open_source(directory, card)
    assert (
        source.table.instruction(0) == 'épisode 0'
        and source.table.instruction(len(source) - 1)[-1] == '2'
    )


def test_an_instruction_that_is_no_text(tmp_path):
    name = 'language_table'
    episodes = [open_x.make_episode(name, n) for n in range(2)]
    episodes[0]['steps'][1]['observation']['instruction'][0] = 0xFF
    directory = open_x.write_dataset(tmp_path / name, name, episodes)
    with pytest.raises(tfrecord.CorruptRecord, match="byte 0: .*instruction' isn't UTF-8"):
        rlds.open_source(directory, name)
    card = dataclasses.replace(cards.LANGUAGE_TABLE, instruction='observation/rgb')
    with pytest.raises(data_errors.DataSetError, match="rgb' is picture .*neither text nor"):
        rlds.open_source(directory, card)
    card = dataclasses.replace(card, instruction='observation/effector_translation')
    with pytest.raises(data_errors.DataSetError, match='float32 .*neither text nor'):
        rlds.open_source(directory, card)
