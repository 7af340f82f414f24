"""TensorFlow and TFDS as oracles of web sets: they write and read, we read the same."""

import numpy as np
import pytest
import web_files

from rt2_jax.data import images
from rt2_jax.data.robot import rlds_writer
from rt2_jax.data.web import open_web

tf = pytest.importorskip(
    'tensorflow',
    reason='an oracle, no dependency; to run: pip install tensorflow && '
    'pytest tests/data/test_web_tensorflow_parity.py',
)
tfds = pytest.importorskip('tensorflow_datasets')

COUNT = 9


@pytest.fixture(params=['coco_captions', 'vqa'])
def written(request, tmp_path):
    """A set that TFDS encoded, pictures included, and TensorFlow wrote; its name and directory."""
    name = request.param
    features, example = {
        'coco_captions': (web_files.coco_features(), web_files.coco_example),
        'vqa': (web_files.vqa_features(), web_files.vqa_example),
    }[name]
    shard = rlds_writer.shard_name(name, 'train', 0, 1)
    with tf.io.TFRecordWriter(str(tmp_path / shard)) as writer:
        for number in range(COUNT):
            pixels = images.decode(web_files.picture(number))
            encoded = features.encode_example(example(number) | {'image': pixels})
            writer.write(features.serialize_example(encoded))
    rlds_writer.finish(
        tmp_path, features, name=name, version='1.1.0', description='', shard_lengths=[COUNT]
    )
    return name, tmp_path


def test_we_read_what_tfds_writes(written):
    name, folder = written
    source = open_web.open_source('tfds', folder, card=name, tasks={'caption': 1.0, 'vqa': 1.0})
    table = source.table
    builder = tfds.builder_from_directory(str(folder))
    theirs = list(tfds.as_numpy(builder.as_dataset(split='train')))
    assert len(theirs) == len(table) == COUNT
    for row, record in enumerate(theirs):
        encoded = source.encoded(row)
        accurate = tf.io.decode_jpeg(encoded, dct_method='INTEGER_ACCURATE').numpy()
        np.testing.assert_array_equal(images.decode(encoded), accurate)
        assert np.abs(accurate.astype(int) - record['image']).max() <= 8  # its DCT is the fast one
        if name == 'vqa':
            assert table.texts('question', row) == [record['question_text'].decode()]
            assert table.texts('answer', row) == [x.decode() for x in record['answers']]
            continue
        said = [x.decode() for x in record['captions']['text']]
        assert table.texts('caption', row) == said
        labels = builder.info.features['objects']['label']
        assert table.texts('label', row) == [labels.int2str(k) for k in record['objects']['label']]
        np.testing.assert_array_equal(table.boxes(row), record['objects']['bbox'])


def test_tfds_reads_what_the_tests_write(tmp_path):
    """So that the other tests' files, written without TensorFlow, are TFDS's own."""
    features = web_files.coco_features()
    web_files.write_tfds(tmp_path, features, web_files.coco_example, 'coco_captions', COUNT)
    builder = tfds.builder_from_directory(str(tmp_path))
    for number, record in enumerate(tfds.as_numpy(builder.as_dataset(split='train'))):
        said = web_files.record(number)
        assert [x.decode() for x in record['captions']['text']] == said['captions']
        boxes = np.array([thing['box'] for thing in said['objects']], np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(record['objects']['bbox'], boxes)
