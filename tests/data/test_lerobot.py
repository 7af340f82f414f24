"""LeRobot data sets read through the same index as RLDS: frames, numbers, tasks, damage, resume."""

import dataclasses
import json
import os
import pickle
import shutil
import sys

import jax
import numpy as np
import pytest

pytest.importorskip('av', reason="needs PyAV: pip install -e '.[lerobot]'")
pytest.importorskip('pyarrow', reason="needs pyarrow: pip install -e '.[lerobot]'")
import lerobot_files
from lerobot_files import CAMERAS, CARD, FPS, LENGTHS, TASKS

from rt2_jax import errors
from rt2_jax.data import data_errors, inspect
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Sources
from rt2_jax.data.pipeline import make_iterator
from rt2_jax.data.readers import lerobot_directory, video_packets
from rt2_jax.data.robot import episode_splits, rlds
from rt2_jax.data.web.small_web import SmallWeb
from rt2_jax.text import prompts
from rt2_jax.text.tokenizer import Tokenizer

STEPS = [(e, t) for e, steps in enumerate(LENGTHS) for t in range(steps)]
# Group sizes, B-frames and open groups as they come; the second is what LeRobot writes.
CODECS = {
    'h264': dict(codec='libx264'),
    'av1': dict(codec='libsvtav1', options={'g': '2', 'crf': '30', 'svtav1-params': 'lp=1'}),
    'hevc with open groups': dict(
        codec='libx265', options={'x265-params': 'open-gop=1:keyint=4:log-level=none'}
    ),
    'h264 with open groups': dict(
        codec='libx264', options={'x264-params': 'open-gop=1:keyint=6:bframes=3'}
    ),
    'vp9': dict(codec='libvpx-vp9'),
    'mpeg4': dict(codec='mpeg4'),
}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Whole data sets by version, for tests that only read."""
    folder = tmp_path_factory.mktemp('lerobot')
    return {v: lerobot_files.write(folder / v, v) for v in lerobot_directory.VERSIONS}


@pytest.fixture
def copy(written, tmp_path):
    """A v3.0 set that the test may damage, without an index."""
    return shutil.copytree(
        written['v3.0'], tmp_path / 'arm', ignore=shutil.ignore_patterns('rt2_index')
    )


def videos_of(directory, camera):
    return sorted((directory / 'videos').rglob(f'*{CAMERAS[camera]}*/**/*.mp4'))


def first_video(directory):
    return directory / f'videos/{CAMERAS[0]}/chunk-000/file-000.mp4'


@pytest.mark.parametrize('camera', [0, 1])
@pytest.mark.parametrize('version', lerobot_directory.VERSIONS)
def test_every_step_is_read_back(written, version, camera):
    source = rlds.open_source(written[version], CARD, camera=camera)
    expected = [
        f for path in videos_of(written[version], camera) for f in lerobot_files.decoded(path)
    ]
    assert len(source) == len(expected) == len(STEPS)
    for i, (episode, step) in enumerate(STEPS):
        numbers = lerobot_files.numbers(episode, LENGTHS[episode])
        example, raw = source[i], source.table.raw(i)
        np.testing.assert_array_equal(example.frames[0], expected[i])
        assert example.prompt == prompts.robot(TASKS[episode % 2])
        terminate, *motion, gripper = example.action
        assert terminate == (step == LENGTHS[episode] - 1)
        np.testing.assert_array_equal(motion, numbers['action'][step, :3])
        assert gripper == pytest.approx(1 - 2 * numbers['action'][step, 3])
        assert (raw['episode'], raw['step']) == (episode, step)
        for name in ('observation.state', 'timestamp'):
            np.testing.assert_array_equal(raw[name].squeeze(), numbers[name][step])


def test_both_versions_give_the_same_examples(written):
    ours, theirs = (rlds.open_source(directory, CARD) for directory in written.values())
    for i in range(len(STEPS)):
        np.testing.assert_array_equal(ours[i].action, theirs[i].action)
        assert ours[i].prompt == theirs[i].prompt
    assert ours.index.statistics == theirs.index.statistics


@pytest.mark.parametrize('video', CODECS.values(), ids=CODECS)
def test_whatever_ffmpeg_decodes(tmp_path, video):
    """Each frame, in no order, is what decoding the whole video from its start gives."""
    frames = [lerobot_files.frame(0, t % 10, t % 2) for t in range(30)]
    path = lerobot_files.write_video(tmp_path / 'video.mp4', frames, **video)
    expected, content = lerobot_files.decoded(path), path.read_bytes()
    packets = video_packets.read(str(path), 0.0)
    order = np.argsort(packets.times)
    np.testing.assert_allclose(packets.times[order], np.arange(30) / FPS)
    for number in np.random.default_rng(0).permutation(30).tolist():
        own = int(order[number])
        first = own - int(packets.backs[own])
        spans = zip(packets.offsets[first : own + 1], packets.lengths[first : own + 1])
        coded = [content[offset : offset + length] for offset, length in spans]
        shown = video_packets.decode(packets.codec, coded, [own - first])
        np.testing.assert_array_equal(shown[own - first], expected[number])


def test_several_frames_of_an_episode(written):
    source = rlds.open_source(written['v3.0'], CARD, frames=3)
    one = rlds.open_source(written['v3.0'], CARD)
    start, later = LENGTHS[0], LENGTHS[0] + 4
    np.testing.assert_array_equal(source[start].frames, np.stack([one[start].frames[0]] * 3))
    expected = np.concatenate([one[i].frames for i in range(later - 2, later + 1)])
    np.testing.assert_array_equal(source[later].frames, expected)
    np.testing.assert_array_equal(source.frames_of([later, later - 2]), expected[[2, 0]])
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other[later].frames, expected)


def test_holdouts_and_splits(written, copy):
    parts = [
        rlds.open_source(written['v3.0'], CARD, holdout=1, part=p) for p in ('train', 'validation')
    ]
    assert [len(part.table.episodes) for part in parts] == [3, 1]
    again = rlds.open_source(copy, CARD)
    with pytest.raises(data_errors.UserError, match='1 episodes are held out .* and trained on'):
        episode_splits.check_apart({'again': again}, {'held': parts[1]})
    change_info(copy, splits={'train': '0:3', 'test': '3:4'})
    assert len(rlds.open_source(copy, CARD, split='test')) == LENGTHS[3]
    with pytest.raises(data_errors.DataSetError, match="no split 'tset'; did you mean 'test'"):
        rlds.open_source(copy, CARD, split='tset')


def change_info(directory, **changes):
    path = directory / 'meta/info.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


WRONG = {
    'version': (dict(codebase_version='v4.0'), {}, "version 'v4.0'.* v2.1 and v3.0 are read"),
    'no version': (dict(codebase_version=None), {}, 'v2.1 and v3.0 are read'),
    'episodes': (dict(total_episodes=9), {}, 'declares 9 episodes, .* have 4'),
    'camera': (
        {},
        dict(images=('observation.images.frnt',)),
        "no feature 'steps/observation.*mean",
    ),
    'action': ({}, dict(instruction='taks'), "no feature 'steps/taks'.*did you mean 'steps/task'"),
    'column': ({}, dict(columns=(CAMERAS[0],)), 'is picture .*no numbers'),
}


@pytest.mark.parametrize('info, card, message', WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_said(copy, info, card, message):
    change_info(copy, **info)
    with pytest.raises(data_errors.DataSetError, match=message):
        rlds.open_source(copy, dataclasses.replace(CARD, **card))


def test_metadata_that_are_damaged_or_missing(copy):
    tasks = copy / 'meta/tasks.parquet'
    os.truncate(tasks, 20)
    with pytest.raises(
        data_errors.DataSetError, match='tasks.parquet is damaged: .*no whole parquet'
    ):
        rlds.open_source(copy, CARD)
    tasks.unlink()
    with pytest.raises(data_errors.DataSetError, match='tasks.parquet is missing'):
        rlds.open_source(copy, CARD)


def truncate_video(directory):
    """The index of an MP4 is at its end: without it nothing is found."""
    os.truncate(first_video(directory), first_video(directory).stat().st_size // 2)


def shorten_video(directory):
    frames = lerobot_files.decoded(first_video(directory))
    lerobot_files.write_video(first_video(directory), frames[:9])


def remove_rows(directory):
    from pyarrow import parquet

    path = directory / 'data/chunk-000/file-000.parquet'
    parquet.write_table(parquet.read_table(path).slice(1), path)


def lfs_pointer(directory):
    first_video(directory).write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')


DAMAGES = {
    'no video': (
        lambda d: first_video(d).unlink(),
        [0, 1],
        'front/chunk-000/file-000.mp4, frame at 0.000 s: there is no such file',
    ),
    'half a video': (truncate_video, [0, 1], "file-000.mp4, frame at 0.000 s: .*can't be read as"),
    'too few frames': (
        shorten_video,
        [1],
        'file-000.mp4, frame at 0.900 s: there is no frame .* has 9 from 0.000 to 0.800 s',
    ),
    'a pointer': (lfs_pointer, [0, 1], 'frame at 0.000 s: .*git lfs pull'),
    'no table': (
        lambda d: (d / 'data/chunk-000/file-001.parquet').unlink(),
        [2, 3],
        'file-001.parquet, episode 2: there is no such file',
    ),
    'no rows': (remove_rows, [0], 'file-000.parquet, episode 0: the table has 4 steps .* say 5'),
}


@pytest.mark.parametrize('damage, lost, message', DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_or_left_out(copy, caplog, damage, lost, message):
    damage(copy)
    with pytest.raises(data_errors.CorruptRecord, match=message):
        rlds.open_source(copy, CARD)
    kept = [e for e in range(len(LENGTHS)) if e not in lost]
    for _ in range(2):  # indexed, and the index opened again
        source = rlds.open_source(copy, CARD, on_corrupt='skip')
        assert len(source) == sum(LENGTHS[e] for e in kept)
        assert source.index.skipped_count == len(lost)
    with pytest.raises(data_errors.CorruptRecord, match=f'{message}.*the first of {len(lost)} '):
        rlds.open_source(copy, CARD)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x08
    path.write_bytes(content)


def test_damage_after_indexing_is_found_when_read(copy, caplog):
    source = rlds.open_source(copy, CARD)
    times = os.stat(first_video(copy))
    flip(first_video(copy), int(source.index.arrays['image_offset'][12, 0]) + 5)
    os.utime(first_video(copy), ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(
        data_errors.CorruptFrame,
        match=r'file-000.mp4, frame at 1.200 s: .*changed since .*\(step 7 of episode 1\)',
    ):
        source[12]
    lenient = rlds.open_source(copy, CARD, on_corrupt='skip')
    np.testing.assert_array_equal(lenient[12].frames, source[13].frames)
    assert lenient.skipped == 1 and "example 12 can't be read; 13 stands in" in caplog.text


def test_a_video_that_vanishes(copy):
    source = rlds.open_source(copy, CARD)
    first_video(copy).unlink()
    with pytest.raises(
        data_errors.CorruptFrame, match='mp4, frame at 0.300 s: the file has vanished'
    ):
        source[3]
    with pytest.raises(data_errors.IndexMismatch, match='file-000.mp4 is missing'):
        rlds.open_source(copy, CARD)


def test_a_video_that_was_written_again(copy):
    rlds.open_source(copy, CARD)
    frames = lerobot_files.decoded(first_video(copy))
    lerobot_files.write_video(first_video(copy), frames[::-1])
    with pytest.raises(data_errors.IndexMismatch, match='bytes; the index|same sizes, other'):
        rlds.open_source(copy, CARD)


@pytest.mark.parametrize('package', ['av', 'pyarrow'])
def test_a_missing_package_is_named(copy, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.MissingPackage, match=rf"needs {package}: .*'rt2_jax\[lerobot\]'"):
        rlds.open_source(copy, CARD)


def test_a_container_that_changes_frames_is_refused(copy):
    frames = lerobot_files.decoded(first_video(copy))
    matroska = lerobot_files.write_video(copy / 'video.mkv', frames, codec='mpeg4')
    shutil.move(matroska, first_video(copy))
    with pytest.raises(
        data_errors.CorruptFrame, match='its container changes .*ffmpeg -i FILE -c copy'
    ):
        rlds.open_source(copy, CARD)


def test_a_set_in_a_bucket(written, store, tmp_path):
    shutil.copytree(
        written['v3.0'], tmp_path / 'served/bucket/arm', ignore=shutil.ignore_patterns('rt2_index')
    )
    remote = rlds.open_source('gs://bucket/arm', CARD, frames=2)
    local = rlds.open_source(written['v3.0'], CARD, frames=2)
    assert len(remote) == len(STEPS)
    for i in range(0, len(STEPS), 4):
        np.testing.assert_array_equal(remote[i].frames, local[i].frames)
        np.testing.assert_array_equal(remote[i].action, local[i].action)


def test_inspect_says_that_a_card_is_needed(written, tmp_path):
    with pytest.raises(data_errors.DataSetError, match='--card=FILE.json is needed'):
        inspect.inspect(written['v3.0'], tmp_path / 'report')
    report = inspect.inspect(written['v3.0'], tmp_path / 'report', card=saved_card(tmp_path))
    assert report['counts']['steps'] == len(STEPS) and (tmp_path / 'report/frames.png').exists()
    assert not any('unreadable' in warning for warning in report['warnings'])


def saved_card(folder):
    path = folder / 'arm.json'
    path.write_text(json.dumps(dataclasses.asdict(CARD)))
    return str(path)


def test_the_card_is_a_file_in_a_config(copy, tmp_path):
    fields = dict(directory=str(copy), card=saved_card(tmp_path), weight=1.0, camera=1)
    robot = {'mine': fields}
    config = dict(image_size=32, prompt_length=24, target_length=16, robot=robot)
    source = rlds.open_set(DataConfig.from_config(config).robot['mine'])
    assert (source.name, len(source)) == ('mine', len(STEPS))


def test_one_batch_of_lerobot_rlds_and_web_resumes_exactly(written, whole_dataset):
    def make(threads):
        robot = {
            'arm': (rlds.open_source(written['v3.0'], CARD), 1.0),
            'arm_v21': (rlds.open_source(written['v2.1'], CARD, camera=1, name='arm_v21'), 1.0),
            'tabletop': (rlds.open_source(whole_dataset, 'tabletop'), 1.0),
        }
        web = {'web': (SmallWeb(name='web', size=32), 1.0)}
        data = DataConfig(image_size=32, prompt_length=32, target_length=24, threads=threads)
        tokenizer = Tokenizer.load_default()
        return make_iterator(
            Sources.of(robot, web), tokenizer, data, batches=8, batch_size=12, seed=1
        )

    whole = make(threads=3)
    batches = [jax.tree.map(np.asarray, batch) for batch in whole]
    names = np.array(whole.sources)[batches[0]['source']].tolist()
    assert set(names) == {'arm', 'arm_v21', 'tabletop', 'web'}  # within the first batch
    stopped = make(threads=1)
    for _ in range(3):
        next(stopped)
    resumed = make(threads=2)
    resumed.set_state(json.dumps(stopped.get_state()))
    stopped.close()
    rest = [jax.tree.map(np.asarray, batch) for batch in resumed]
    assert len(rest) == 5
    for ours, theirs in zip(rest, batches[3:]):
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
