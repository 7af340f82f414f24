"""TensorFlow as an oracle: it reads what we write, and we read what it writes."""

import dataclasses

import drawn_episodes
import episode_records
import numpy as np
import open_x
import pytest

from rt2_jax.data import cards, images
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.envs.tabletop import schema

tf = pytest.importorskip(
    'tensorflow',
    reason='an oracle, no dependency; to run: pip install tensorflow && '
    'pytest tests/data/test_tensorflow_parity.py',
)
tfds = pytest.importorskip('tensorflow_datasets')


def assert_same(ours, theirs, path=''):
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), path
        for key in ours:
            assert_same(ours[key], theirs[key], f'{path}/{key}')
    elif path.endswith('/image'):
        assert theirs.shape == ours.shape
        # Two JPEG decoders may round differently; the file is the same.
        assert np.abs(theirs.astype(int) - ours.astype(int)).mean() < 8
    elif isinstance(ours, str):
        assert theirs == ours.encode(), path
    elif isinstance(ours, list):
        assert [x.encode() for x in ours] == list(theirs), path
    else:
        np.testing.assert_array_equal(theirs, ours, err_msg=path)
        assert theirs.dtype == np.asarray(ours).dtype, path


def test_tfds_reads_what_we_write(whole_dataset):
    builder = tfds.builder_from_directory(str(whole_dataset))
    assert builder.info.splits['train'].num_examples == 30
    assert builder.info.full_name == 'tabletop/0.1.0'
    for number, episode in enumerate(tfds.as_numpy(builder.as_dataset(split='train'))):
        expected = drawn_episodes.make_episode(number)
        expected['episode_metadata']['seed'] = np.int64(expected['episode_metadata']['seed'])
        expected['episode_metadata']['success'] = np.bool_(expected['episode_metadata']['success'])
        assert_same(expected['episode_metadata'], episode['episode_metadata'])
        steps = list(episode['steps'])
        assert len(steps) == len(expected['steps'])
        for ours, theirs in zip(expected['steps'], steps, strict=True):
            ours = {k: np.bool_(v) if k.startswith('is_') else v for k, v in ours.items()}
            assert_same(ours, theirs)
    assert number == 29


def test_bytes_are_those_of_tfds(tmp_path):
    """A shard by TFDS's own encoder and TensorFlow's own writer holds the same records as ours."""
    features = schema.features(drawn_episodes.SIZE)
    theirs, ours = tmp_path / 'theirs', tmp_path / 'ours'
    encode = rlds_writer.EpisodeEncoder(features)
    episodes = [drawn_episodes.make_episode(n) for n in range(3)]
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for episode in episodes:
            writer.write(encode(episode))
    rlds_writer.write_shard(ours, map(encode, episodes))
    assert theirs.read_bytes() == ours.read_bytes()


def test_we_read_what_tfds_writes(tmp_path):
    """Episodes encoded, pictures included, and written by TFDS and TensorFlow."""
    features = schema.features(drawn_episodes.SIZE)
    name = rlds_writer.shard_name(schema.NAME, 'train', 0, 1)
    with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
        for n in range(5):
            encoded = features.encode_example(drawn_episodes.make_episode(n))
            writer.write(features.serialize_example(encoded))
    rlds_writer.finish(
        tmp_path,
        features,
        name=schema.NAME,
        version=schema.VERSION,
        description='',
        shard_lengths=[5],
    )
    source = rlds.open_source(tmp_path, cards.TABLETOP)
    dataset = tfds.builder_from_directory(str(tmp_path)).as_dataset(split='train')
    steps = [step for episode in tfds.as_numpy(dataset) for step in episode['steps']]
    assert len(source) == len(steps)
    for i, step in enumerate(steps):
        np.testing.assert_array_equal(source.table.action(i)[1:4], step['action']['world_vector'])
        assert source.table.action(i)[0] == step['action']['terminate_episode'][0]
        raw = source.table.raw(i)
        assert raw['instruction'].encode() == step['observation']['natural_language_instruction']
        assert raw['observation/object_names'].encode() == step['observation']['object_names']
        # TFDS decodes with libjpeg's fast DCT, we with the accurate one.
        difference = source.frames(i)[0].astype(int) - step['observation']['image']
        assert np.abs(difference).max() <= 8 and np.abs(difference).mean() < 1
    for encoded in episode_records.features(source, 3)['steps/observation/image']:
        accurate = tf.io.decode_jpeg(encoded, dct_method='INTEGER_ACCURATE').numpy()
        np.testing.assert_array_equal(images.decode(encoded), accurate)


@pytest.mark.parametrize('name', open_x.NAMES)
def test_open_x_sets_read_identically(name, tmp_path):
    """Files by TFDS and TensorFlow in each data set's schema, as TFDS reads them and as we do."""
    features = open_x.features(name)
    shard = tmp_path / rlds_writer.shard_name(name, 'train', 0, 1)
    episodes = [open_x.make_episode(name, n) for n in range(3)]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for episode in [*episodes, episodes[0] | {'steps': []}]:
            writer.write(features.serialize_example(episode))
    open_x.finish(tmp_path, name, [4])
    source = rlds.open_source(tmp_path, name)
    assert (source.index.episodes, source.index.about['empty_episodes']) == (4, 1)
    dataset = tfds.builder_from_directory(str(tmp_path)).as_dataset(split='train')
    records = tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()
    stored = [tf.train.Example.FromString(record).features for record in records]
    i = 0
    for number, episode in enumerate(tfds.as_numpy(dataset)):
        steps = list(episode['steps'])
        if not steps:
            continue
        kept, actions = open_x.expected(name, steps)
        for t, action in zip(kept, actions, strict=True):
            np.testing.assert_array_equal(source.table.action(i), action)
            raw = source.table.raw(i)
            assert raw['instruction'] == instruction(steps[t])
            for path in source.index.card.columns:
                np.testing.assert_array_equal(raw[path], open_x.step_feature(steps[t], path))
            for camera, path in enumerate(source.index.card.images):
                encoded = stored[number].feature[f'steps/{path}'].bytes_list.value[t]
                frame = StepSource(
                    source.index, dataclasses.replace(source.settings, camera=camera)
                ).frames(i)[0]
                np.testing.assert_array_equal(frame, decoded(encoded))
                assert frame.shape == open_x.step_feature(steps[t], path).shape
            i += 1
    assert i == len(source) > 0


@pytest.mark.parametrize('name', open_x.NAMES)
def test_our_writer_writes_what_tfds_does(name, tmp_path):
    """The same records but for the pictures, which two encoders compress differently."""
    episode = open_x.make_episode(name, 1)
    features = open_x.features(name)
    theirs = features.serialize_example(episode)
    ours = rlds_writer.EpisodeEncoder(features)(episode)
    read = [tf.train.Example.FromString(data).features.feature for data in (ours, theirs)]
    assert set(read[0]) == set(read[1])
    pictures = {f'steps/{path}' for path in cards.find(name).images}
    for path in set(read[0]) - pictures:
        assert read[0][path] == read[1][path], path


def decoded(encoded):
    """TensorFlow's pixels; of a JPEG by the accurate DCT, which is not its own default."""
    if encoded.startswith(images.PNG_MAGIC):
        return tf.io.decode_png(encoded).numpy()
    return tf.io.decode_jpeg(encoded, dct_method='INTEGER_ACCURATE').numpy()


def instruction(step):
    """As Octo reads it: code points of one byte each are put together, padding cut off."""
    observation = step['observation']
    if 'instruction' in observation:
        encoded = bytes(observation['instruction'].astype(np.uint8))
        return encoded.rstrip(b'\0').decode()
    found = observation.get('natural_language_instruction', step.get('language_instruction'))
    return found.decode()
