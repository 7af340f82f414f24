"""Small web sets in each format, every field a function of the record's number."""

import io
import json
import tarfile

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from rt2_jax.data import images
from rt2_jax.data.robot import rlds_writer

LANGUAGES = ('en', 'en', 'en', 'de', 'fr')
NAMES = ('cat', 'dog', 'crane')


def picture(number: int) -> bytes:
    """A JPEG of one shade a record, 24 x 32."""
    pixels = np.full([24, 32, 3], (7 * number % 256, 100, 200), np.uint8)
    return images.encode_jpeg(pixels)


def record(number: int) -> dict:
    """What a record says, as JSON."""
    return {
        'image': f'{number % 3}/{number:04d}.jpg',
        'captions': [f'thing {number}, said the {k}th wäy' for k in range(1 + number % 3)],
        'question': f'what is number {number}?',
        'answers': [f'{number}', f'it is {number}'],
        'ocr': ['EXIT', str(number)],
        'objects': [
            {'name': NAMES[(number + k) % 3], 'box': [0.1 * k, 0.25, 0.1 * k + 0.3, 0.75]}
            for k in range(number % 4)
        ],
        'language': LANGUAGES[number % 5],
        'score': number * 37 % 101 / 100,
    }


JSONL_FIELDS = {'caption': 'captions', 'answer': 'answers', 'label': 'objects/name'}


def write_jsonl(directory, records: int = 60):
    """One file of lines and three folders of pictures; returns the directory."""
    for number in range(records):
        path = directory / record(number)['image']
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    lines = [json.dumps(record(number), ensure_ascii=False) for number in range(records)]
    (directory / 'all.jsonl').write_text('\n'.join(lines) + '\n')
    return directory


TAR_FIELDS = {
    'caption': 'txt',
    'question': 'json/question',
    'answer': 'json/answers',
    'ocr': 'json/ocr',
    'label': 'json/objects/name',
    'box': 'json/objects/box',
    'score': 'json/score',
}


def write_tar(directory, records: int = 60, shards: int = 3):
    """Shards of KEY.jpg, KEY.txt (the first caption) and KEY.json."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(records), shards)):
        with tarfile.open(directory / f'web-{shard:03d}.tar', 'w') as archive:
            for number in numbers.tolist():
                said = record(number)
                add(archive, f'a.b/{number:06d}.jpg', picture(number))
                add(archive, f'a.b/{number:06d}.txt', said['captions'][0].encode())
                add(archive, f'a.b/{number:06d}.json', json.dumps(said).encode())
    return directory


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def coco_features() -> tfds.features.FeaturesDict:
    """coco_captions's schema (tensorflow_datasets/object_detection/{coco,coco_captions}.py)."""
    f = tfds.features
    objects = {
        'area': np.int64,
        'bbox': f.BBoxFeature(),
        'id': np.int64,
        'is_crowd': np.bool_,
        'label': f.ClassLabel(names=NAMES),
    }
    return f.FeaturesDict(
        {
            'image': f.Image(encoding_format='jpeg'),
            'image/filename': f.Text(),
            'image/id': np.int64,
            'objects': f.Sequence(objects),
            'captions': f.Sequence({'text': np.str_, 'id': np.int64}),
        }
    )


def coco_example(number: int) -> dict:
    """A record in that schema."""
    said = record(number)
    return {
        'image': picture(number),
        'image/filename': said['image'],
        'image/id': number,
        'objects': [
            {
                'area': 5,
                'bbox': tfds.features.BBox(*thing['box']),
                'id': k,
                'is_crowd': False,
                'label': thing['name'],
            }
            for k, thing in enumerate(said['objects'])
        ],
        'captions': [{'text': text, 'id': k} for k, text in enumerate(said['captions'])],
    }


def vqa_features() -> tfds.features.FeaturesDict:
    """VQAv2's schema in big_vision (big_vision/datasets/vqa/vqa.py)."""
    f = tfds.features
    return f.FeaturesDict(
        {
            'image/id': np.int32,
            'image/filename': f.Text(),
            'image': f.Image(encoding_format='jpeg'),
            'question_id': np.int32,
            'question_type': f.Text(),
            'question_text': f.Text(),
            'answer_type': f.Text(),
            'answers': f.Sequence(f.Text()),
            'answer_confidences': f.Sequence(f.ClassLabel(names=['no', 'maybe', 'yes'])),
            'top_answer': f.Text(),
        }
    )


def vqa_example(number: int) -> dict:
    """A record in that schema."""
    said = record(number)
    return {
        'image/id': number,
        'image/filename': said['image'],
        'image': picture(number),
        'question_id': 3 * number,
        'question_type': 'what',
        'question_text': said['question'],
        'answer_type': 'other',
        'answers': said['answers'],
        'answer_confidences': ['yes'] * len(said['answers']),
        'top_answer': said['answers'][0],
    }


def encode(features: tfds.features.FeaturesDict, example: dict) -> bytes:
    """A record as TFDS serialises it, without TensorFlow; pictures are given encoded."""
    encoded = {
        key: example[key] if key == 'image' else feature.encode_example(example[key])
        for key, feature in features.items()
    }
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)


def write_tfds(directory, features, example, name: str, records: int = 60, shards: int = 3):
    """A TFDS set of `example(number)`; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    split = np.array_split(np.arange(records), shards)
    for shard, numbers in enumerate(split):
        rlds_writer.write_shard(
            directory / rlds_writer.shard_name(name, 'train', shard, shards),
            (encode(features, example(number)) for number in numbers.tolist()),
        )
    rlds_writer.finish(
        directory,
        features,
        name=name,
        version='1.1.0',
        description='',
        shard_lengths=[len(numbers) for numbers in split],
    )
    return directory
