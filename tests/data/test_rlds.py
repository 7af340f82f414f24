"""The byte index and the step source, on real TFRecords, whole and damaged."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import drawn_episodes
import episode_records
from etils import epath
import numpy as np
import pytest

from rt2_jax.data import cards, data_errors, history, images, robot_card
from rt2_jax.data.index import index_build
from rt2_jax.data.readers import tfds_directory, tfrecord
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.envs.tabletop import schema
from rt2_jax.text import prompts

OPEN = """
import sys
from rt2_jax.data.robot import rlds
print(rlds.open_source(*sys.argv[1:]).index.location)
"""
EPISODES = [drawn_episodes.make_episode(n) for n in range(30)]
STEPS = [(e, t) for e, episode in enumerate(EPISODES) for t in range(len(episode['steps']))]


def flip(path, position):
    with open(path, 'r+b') as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x08]))


def first_shard(dataset):
    return dataset / rlds_writer.shard_name('tabletop', 'train', 0, drawn_episodes.SHARDS)


def test_every_step_is_read_back(whole_dataset):
    source = rlds.open_source(whole_dataset, 'tabletop')
    assert len(source) == len(STEPS)
    for i, (e, t) in enumerate(STEPS):
        step = EPISODES[e]['steps'][t]
        observation, action = step['observation'], step['action']
        example, raw = source[i], source.table.raw(i)
        assert example.prompt == prompts.robot(observation['natural_language_instruction'])
        assert (example.kind, example.source, example.answer) == ('robot', 'tabletop', '')
        expected = np.concatenate(
            [
                action['terminate_episode'],
                action['world_vector'],
                action['rotation_delta'],
                action['gripper_closedness_action'],
            ]
        ).astype(np.float32)
        np.testing.assert_array_equal(example.action, expected)
        stored = images.decode(images.encode_jpeg(observation['image']))
        np.testing.assert_array_equal(example.frames[0], stored)
        assert (raw['episode'], raw['step']) == (e, t)
        assert source.table.episode_index(i) == e
        assert raw['success'] == EPISODES[e]['episode_metadata']['success']
        assert raw['observation/object_names'] == observation['object_names']
        for name in ('gripper_pixel', 'object_pixels', 'gripper_xyz', 'gripper_yaw'):
            np.testing.assert_array_equal(raw[f'observation/{name}'], observation[name])


def test_terminating_step_is_an_example(whole_dataset):
    source = rlds.open_source(whole_dataset, 'tabletop')
    flags = [source.table.action(i)[0] for i in range(len(source))]
    assert sum(flags) == len(EPISODES)
    assert [source.table.action(source.table.episode_steps(e)[-1])[0] for e in range(30)] == [
        1.0
    ] * 30


def test_selection(whole_dataset):
    first = rlds.open_source(whole_dataset, 'tabletop', episodes=7)
    assert {first.table.episode_index(i) for i in range(len(first))} == set(range(7))
    good = rlds.open_source(whole_dataset, 'tabletop', success_only=True, episodes=10)
    kept = [e for e in range(30) if e % 5][:10]
    assert sorted({good.table.episode_index(i) for i in range(len(good))}) == kept
    assert (
        len({s.fingerprint for s in (first, good, rlds.open_source(whole_dataset, 'tabletop'))})
        == 3
    )
    with pytest.raises(ValueError, match='30 episodes to choose from; 31 are asked'):
        rlds.open_source(whole_dataset, 'tabletop', episodes=31)
    with pytest.raises(IndexError):
        first[len(first)]


def test_history(whole_dataset):
    source = rlds.open_source(whole_dataset, 'tabletop', frames=3)
    one = rlds.open_source(whole_dataset, 'tabletop')
    steps = source.table.episode_steps(2)
    start, later = steps[0], steps[3]
    np.testing.assert_array_equal(source[start].frames, np.stack([one[start].frames[0]] * 3))
    np.testing.assert_array_equal(
        source[later].frames, np.concatenate([one[i].frames for i in range(later - 2, later + 1)])
    )
    wide = rlds.open_source(whole_dataset, 'tabletop', frames=3, frame_stride=2)
    acting = history.History(frames=3, stride=2)
    for i in steps:  # what is seen while acting is what was seen in training
        np.testing.assert_array_equal(wide[i].frames, acting.add(one[i].frames[0]))
    np.testing.assert_array_equal(
        wide[steps[4]].frames, np.concatenate([one[steps[t]].frames for t in (0, 2, 4)])
    )
    with pytest.raises(ValueError, match='frame_stride is 0'):
        rlds.open_source(whole_dataset, 'tabletop', frame_stride=0)


def test_whole_record_and_pickling(whole_dataset):
    source = rlds.open_source(whole_dataset, 'tabletop')
    source[0]
    features = episode_records.features(pickle.loads(pickle.dumps(source)), 11)
    assert features['episode_metadata/seed'].tolist() == [2**40 + 11]
    assert features['episode_metadata/objects'] == [b'thing 0', b'thing 1']
    assert len(features['steps/observation/image']) == len(EPISODES[11]['steps'])


def test_parallel_indexing_gives_the_same_index(whole_dataset, tmp_path):
    one = index_build.build(
        Rlds(whole_dataset, cards.TABLETOP), location=tmp_path / '1', processes=1
    )
    two = index_build.build(
        Rlds(whole_dataset, cards.TABLETOP), location=tmp_path / '2', processes=2
    )
    names = sorted(p.name for p in one.glob('*'))
    assert names == sorted(p.name for p in two.glob('*'))
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)


def test_flipped_byte_is_found_and_named(dataset):
    shard = first_shard(dataset)
    second = list(tfrecord.scan(shard, payloads=False))[1]
    flip(shard, second.offset + second.length // 2)
    with pytest.raises(
        tfrecord.CorruptRecord, match=f'00000-of-00003, record at byte {second.offset}'
    ):
        rlds.open_source(dataset, 'tabletop')
    assert not index_build.place(Rlds(dataset, cards.TABLETOP)).exists()


def test_skipping_is_counted_and_remembered(dataset, caplog):
    shard = first_shard(dataset)
    second = list(tfrecord.scan(shard, payloads=False))[1]
    flip(shard, second.offset + second.length // 2)
    source = rlds.open_source(dataset, 'tabletop', on_corrupt='skip')
    assert len(source) == len(STEPS) - len(EPISODES[1]['steps'])
    assert source.index.about['skipped'][0][:2] == [shard.name, second.offset]
    assert f'record at byte {second.offset}' in caplog.text
    with pytest.raises(tfrecord.CorruptRecord, match=f"byte {second.offset}.*on_corrupt='skip'"):
        rlds.open_source(dataset, 'tabletop', on_corrupt='raise')


def test_truncated_shard(dataset):
    shard = first_shard(dataset)
    last = list(tfrecord.scan(shard, payloads=False))[-1]
    os.truncate(shard, last.offset + 100)
    with pytest.raises(tfrecord.CorruptRecord, match=f'byte {last.offset}: truncated: 100 of'):
        rlds.open_source(dataset, 'tabletop')
    source = rlds.open_source(dataset, 'tabletop', on_corrupt='skip')
    assert len(source.table.episodes) == 29


def test_damage_after_indexing_is_found_when_read(dataset, caplog):
    source = rlds.open_source(dataset, 'tabletop')
    arrays = source.index.arrays
    place = int(arrays['image_offset'][4, 0])
    times = os.stat(first_shard(dataset))
    flip(first_shard(dataset), place + 50)
    os.utime(first_shard(dataset), ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(tfrecord.CorruptRecord, match=f'byte {place}: .* changed since'):
        source[4]
    lenient = rlds.open_source(dataset, 'tabletop', on_corrupt='skip')
    np.testing.assert_array_equal(lenient[4].frames, source[5].frames)
    assert lenient.skipped == 1 and "example 4 can't be read; 5 stands in" in caplog.text


def test_index_of_other_data(dataset):
    rlds.open_source(dataset, 'tabletop')
    shard = first_shard(dataset)
    with open(shard, 'ab') as file:
        tfrecord.write_record(file, b'more')
    with pytest.raises(
        data_errors.IndexMismatch, match='bytes; the index .* Delete .* index again'
    ):
        rlds.open_source(dataset, 'tabletop')


def test_index_of_changed_data_of_the_same_size(dataset):
    rlds.open_source(dataset, 'tabletop')
    data = bytearray(first_shard(dataset).read_bytes())
    record = next(tfrecord.scan(first_shard(dataset)))
    changed = bytearray(record.payload)
    changed[-1] ^= 1
    stored = tfrecord.masked(tfrecord.checksum(bytes(changed)))
    end = tfrecord.HEADER_BYTES + record.length
    data[tfrecord.HEADER_BYTES : end] = changed
    data[end : end + 4] = stored.to_bytes(4, 'little')
    first_shard(dataset).write_bytes(bytes(data))
    with pytest.raises(data_errors.IndexMismatch, match='same sizes, other records'):
        rlds.open_source(dataset, 'tabletop')


def test_a_copy_of_the_data_keeps_its_index(dataset, tmp_path):
    source = rlds.open_source(dataset, 'tabletop')
    copied = shutil.copytree(dataset, tmp_path / 'copy', copy_function=shutil.copyfile)
    assert rlds.open_source(copied, 'tabletop').fingerprint == source.fingerprint


def test_each_card_has_an_index_of_its_own(dataset):
    rlds.open_source(dataset, 'tabletop')
    other = dataclasses.replace(cards.TABLETOP, columns=())
    assert len(rlds.open_source(dataset, other)) == len(STEPS)
    with pytest.raises(data_errors.IndexMismatch, match='card_fingerprint'):
        location = index_build.place(Rlds(dataset, cards.TABLETOP))
        rlds.open_source(dataset, other, location=location)


def test_bad_directories(dataset, tmp_path):
    with pytest.raises(data_errors.DataSetError, match="no such.*did you mean 'tabletop'"):
        rlds.open_source(tmp_path / 'table_top', 'tabletop')
    with pytest.raises(data_errors.DataSetError, match="no split 'trian'; did you mean 'train'"):
        rlds.open_source(dataset, 'tabletop', split='trian')
    with pytest.raises(data_errors.CardError, match="did you mean 'tabletop'"):
        rlds.open_source(dataset, 'tabeltop')
    wrong = dataclasses.replace(cards.TABLETOP, instruction='observation/instruction')
    with pytest.raises(
        data_errors.DataSetError, match="no feature 'steps/observation/instruction'"
    ):
        rlds.open_source(dataset, wrong)
    first_shard(dataset).unlink()
    with pytest.raises(data_errors.DataSetError, match='lacks 1 of 3 shards'):
        rlds.open_source(dataset, 'tabletop')
    (dataset / 'dataset_info.json').unlink()
    with pytest.raises(data_errors.DataSetError, match='half-written'):
        rlds.open_source(dataset, 'tabletop')


def test_png_and_argmax_terminate(tmp_path):
    """Another schema: PNG frames, an action in one vector, a one-hot terminate, flat names."""
    import cv2
    import tensorflow_datasets as tfds

    f = tfds.features
    features = rlds_writer.features_dict(
        {
            'steps': {
                'observation': {'image_0': f.Image(shape=(8, 10, 3), encoding_format='png')},
                'language_instruction': f.Text(),
                'action': f.Tensor(shape=(7,), dtype=np.float64),
                'terminate': f.Tensor(shape=(3,), dtype=np.int32),
                'is_last': f.Scalar(dtype=np.bool_),
            }
        }
    )
    card = robot_card.RobotCard(
        name='other',
        images=('observation/image_0',),
        instruction='language_instruction',
        action=(robot_card.ActionPart('action', 0, 7),),
        terminate='terminate',
        terminate_rule='argmax',
        action_space=cards.TABLETOP.action_space,
        frequency=5.0,
        frame='base',
        gripper=cards.TABLETOP.gripper,
    )
    frame = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    png = cv2.imencode('.png', frame[..., ::-1])[1].tobytes()
    steps = [
        {
            'observation': {'image_0': png},
            'language_instruction': 'go',
            'action': np.full([7], 0.1 * t),
            'terminate': np.array([t == 2, t != 2, 0], np.int32),
            'is_last': t == 2,
        }
        for t in range(3)
    ]
    # TFDS stores doubles as floats; the walker must not assume the schema's width.
    encode = rlds_writer.EpisodeEncoder(features)
    rlds_writer.write_shard(
        tmp_path / rlds_writer.shard_name('other', 'train', 0, 1), [encode({'steps': steps})]
    )
    rlds_writer.finish(
        tmp_path, features, name='other', version='1.0.0', description='', shard_lengths=[1]
    )
    source = rlds.open_source(tmp_path, card)
    np.testing.assert_array_equal(source[0].frames[0], frame)
    assert [source.table.action(i)[0] for i in range(3)] == [0, 0, 1]
    np.testing.assert_allclose(source.table.action(2)[1:], np.full([7], 0.2), rtol=1e-6)
    with pytest.raises(ValueError, match="doesn't say which episodes succeeded"):
        rlds.open_source(tmp_path, card, success_only=True)


def test_writer_refuses_what_the_schema_lacks():
    episode = drawn_episodes.make_episode(0)
    episode['steps'][1]['observation']['depth'] = 1.0
    del episode['steps'][1]['reward']
    with pytest.raises(
        ValueError, match=r"step 1 .*missing: \['steps/reward'\].*observation/depth"
    ):
        rlds_writer.EpisodeEncoder(schema.features(drawn_episodes.SIZE))(episode)


def test_index_json_names_its_files(whole_dataset):
    rlds.open_source(whole_dataset, 'tabletop')
    place = index_build.place(Rlds(whole_dataset, cards.TABLETOP))
    about = json.loads((place / 'index.json').read_text())
    assert about['episodes'] == 30 and about['steps'] == len(STEPS) and not about['skipped']
    assert [f['name'] for f in about['files']] == [
        rlds_writer.shard_name('tabletop', 'train', i, 3) for i in range(3)
    ]


def test_a_folder_above_versions_is_its_only_version(dataset, tmp_path):
    """As tfds.builder takes it: .../tabletop for .../tabletop/1.0.0."""
    above = tmp_path / 'above'
    above.mkdir()
    dataset.rename(above / '1.0.0')
    source = rlds.open_source(above, 'tabletop')
    assert source.index.directory == epath.Path(above / '1.0.0') and len(source)
    with pytest.raises(data_errors.DataSetError, match='is the folder above a version: add 1.0.0'):
        tfds_directory.shard_names(above)
    shutil.copytree(above / '1.0.0', above / '1.1.0')
    with pytest.raises(
        data_errors.DataSetError, match=r'several versions of the data set: 1.0.0, 1.1.0'
    ):
        rlds.open_source(above, 'tabletop')


def test_a_folder_that_moved_keeps_its_index(dataset, tmp_path, caplog):
    source = rlds.open_source(dataset, 'tabletop')
    moved = dataset.rename(tmp_path / 'elsewhere')
    with caplog.at_level('INFO'):
        again = rlds.open_source(moved, 'tabletop')
    assert again.fingerprint == source.fingerprint and 'indexing' not in caplog.text
    assert len(again[3].frames) == 1


def test_shards_by_a_template_of_their_own(dataset):
    """As `tfds.convert_format` and builders with a file name template write them."""
    whole = rlds.open_source(dataset, 'tabletop')
    expected = whole[20].frames
    info = json.loads((dataset / 'dataset_info.json').read_text())
    info['splits'][0]['filepathTemplate'] = '{SPLIT}/data-{SHARD_INDEX}.{FILEFORMAT}'
    (dataset / 'train').mkdir()
    for number in range(3):
        shard = dataset / rlds_writer.shard_name('tabletop', 'train', number, 3)
        shard.rename(dataset / f'train/data-{number:05d}.tfrecord')
    (dataset / 'dataset_info.json').write_text(json.dumps(info))
    location = dataset.parent / 'index'
    source = rlds.open_source(dataset, 'tabletop', location=location)
    assert source.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(source[20].frames, expected)
    info['splits'][0]['filepathTemplate'] = '{SPLIT}/data-{SHARD}.{FILEFORMAT}'
    (dataset / 'dataset_info.json').write_text(json.dumps(info))
    with pytest.raises(data_errors.DataSetError, match='SHARD}.*names something else than DATASET'):
        rlds.open_source(dataset, 'tabletop')


def test_a_folder_that_cannot_be_written(dataset, tmp_path):
    command = [sys.executable, '-c', OPEN, str(dataset), 'tabletop']
    if not os.getuid():  # to root nothing is read-only, unless it gives up that right
        if not shutil.which('setpriv'):
            pytest.skip('root needs setpriv: apt-get install util-linux')
        command = ['setpriv', '--bounding-set=-dac_override', *command]
    dataset.chmod(0o555)
    environment = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    dataset.chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / 'cache')), result.stdout
    assert not (dataset / 'rt2_index').exists()
    assert 'cannot be written, so its index goes to' in result.stderr
    assert '`location` names another folder' in result.stderr
