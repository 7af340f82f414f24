"""Web sets as others write them: conversations, arrays, UTF-16, WebP, macOS's files, languages."""

import io
import json
import tarfile

import cv2
import numpy as np
import pytest
import web_files

from rt2_jax.data import images
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.web import open_web

LLAVA = {
    'image': '0/0000.jpg',
    'conversations': [
        {'from': 'human', 'value': '<image>\nWhat is it?'},
        {'from': 'gpt', 'value': 'A cat.'},
        {'from': 'human', 'value': 'What colour?'},
        {'from': 'gpt', 'value': 'Grey.'},
    ],
}


def folder_with(tmp_path, content, name='all.jsonl'):
    """A set of one picture, whose file of objects has this content."""
    folder = tmp_path / 'set'
    (folder / '0').mkdir(parents=True)
    (folder / '0/0000.jpg').write_bytes(web_files.picture(0))
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def examples(folder, kind='jsonl', tasks=None, **settings):
    source = open_web.open_source(kind, folder, tasks=tasks or {'vqa': 1.0}, **settings)
    return [source[i] for i in range(len(source))]


def said(found):
    return {(example.prompt, example.answer) for example in found}


@pytest.mark.parametrize('form', ['llava', 'messages', 'parts'])
def test_only_the_assistants_turns_are_answers(tmp_path, form):
    line, settings = LLAVA, {}
    if form != 'llava':
        roles = {'human': 'user', 'gpt': 'assistant'}
        text = lambda value: [{'type': 'image'}, {'type': 'text', 'text': value}]
        turns = [
            {
                'role': roles[turn['from']],
                'content': text(turn['value']) if form == 'parts' else turn['value'],
            }
            for turn in LLAVA['conversations']
        ]
        line = {
            'image': LLAVA['image'],
            'messages': [{'role': 'system', 'content': 'Be kind.'}, *turns],
        }
        settings = {'fields': {'conversation': 'messages'}}
    folder = folder_with(tmp_path, json.dumps(line))
    found = said(examples(folder, passes=8, **settings))
    assert found == {('Q: What is it? A:', 'A cat.'), ('Q: What colour? A:', 'Grey.')}


@pytest.mark.parametrize('field', ['answer', 'caption'])
def test_turns_named_as_answers_are_refused(tmp_path, field):
    folder = folder_with(tmp_path, json.dumps(LLAVA))
    with pytest.raises(
        tfrecord.CorruptRecord, match='turns of a conversation.*field `conversation`'
    ):
        examples(folder, fields={field: 'conversations/value'})


def test_an_unknown_speaker_is_named(tmp_path):
    turns = [{'from': 'humam', 'value': 'What?'}]
    folder = folder_with(tmp_path, json.dumps(LLAVA | {'conversations': turns}))
    with pytest.raises(tfrecord.CorruptRecord, match="speaker 'humam'; did you mean 'human'"):
        examples(folder)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
@pytest.mark.parametrize('layout', ['lines', 'array', 'pretty array'])
def test_lines_and_arrays_in_any_encoding(tmp_path, encoding, layout):
    objects = [
        {'image': '0/0000.jpg', 'caption': f'Würfel {number} ← ], [{{"'} for number in range(5)
    ]
    if layout == 'lines':
        text = '\n\n'.join(json.dumps(each, ensure_ascii=False) for each in objects)
    else:
        indent = 1 if layout == 'pretty array' else None
        text = '\n' + json.dumps(objects, ensure_ascii=False, indent=indent) + '\n'
    folder = folder_with(tmp_path, text.encode(encoding), 'all.json')
    found = examples(folder, tasks={'caption': 1.0}, files='*.json')
    assert [example.answer for example in found] == [each['caption'] for each in objects]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('array', [False, True])
def test_a_fault_is_at_its_byte_and_line(tmp_path, encoding, array):
    good = json.dumps({'image': '0/0000.jpg', 'caption': 'Würfel'}, ensure_ascii=False)
    bad = '{"caption": "ö"}'
    text = f'[{good},\n{bad},\n{good}]' if array else f'{good}\n{bad}\n{good}\n'
    content = text.encode(encoding)
    folder = folder_with(tmp_path, content)
    at = content.index(bad.encode('utf-16-le' if encoding == 'utf-16' else 'utf-8'))
    with pytest.raises(
        tfrecord.CorruptRecord, match=f"byte {at}: line 2: 'image' names no picture"
    ):
        examples(folder)
    lenient = examples(folder, tasks={'caption': 1.0}, on_corrupt='skip')
    assert len(lenient) == 2


def test_an_array_that_breaks_off_is_named(tmp_path):
    folder = folder_with(tmp_path, '[' + json.dumps(LLAVA) + ', {"image": "0/00')
    with pytest.raises(tfrecord.CorruptRecord, match='line 1: not JSON'):
        examples(folder)


def test_what_follows_an_array_is_named(tmp_path):
    line = json.dumps(LLAVA)
    folder = folder_with(tmp_path, f'[{line}]\n{line}\n{line}\n')
    with pytest.raises(tfrecord.CorruptRecord, match='not JSON: Extra data'):
        examples(folder)


def test_nothing_readable_says_why(tmp_path):
    folder = folder_with(tmp_path, '{"id": 1}\n')
    with pytest.raises(
        DataSetError, match="no readable records: .*line 1: 'image' names no picture"
    ):
        examples(folder, on_corrupt='skip')


def webp(lossless=False, size=(24, 33)):
    pixels = np.full([*size, 3], (200, 100, 50), np.uint8)
    quality = [cv2.IMWRITE_WEBP_QUALITY, 101 if lossless else 90]
    return cv2.imencode('.webp', pixels[..., ::-1], quality)[1].tobytes()


def extended(plain):
    """The same picture with an extended header, as one with transparency or EXIF has."""
    header = b'VP8X' + (10).to_bytes(4, 'little') + bytes(4)
    header += (32).to_bytes(3, 'little') + (23).to_bytes(3, 'little')
    body = b'WEBP' + header + plain[12:]
    return b'RIFF' + len(body).to_bytes(4, 'little') + body


@pytest.mark.parametrize(
    'encoded', [webp(), webp(True), extended(webp())], ids=['lossy', 'lossless', 'extended']
)
def test_webp(encoded):
    assert images.webp_size(encoded) == (24, 33)
    decoded = images.decode(encoded)
    assert (
        decoded.shape == (24, 33, 3) and abs(decoded[5, 5].astype(int) - (200, 100, 50)).max() < 6
    )
    with pytest.raises(ValueError, match='WebP'):
        images.decode(encoded[:24])


def write_tar(folder, members, name='web-000.tar', mode='w'):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, mode) as archive:
        for member, content in members.items():
            header = tarfile.TarInfo(member)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return folder


def test_webp_and_macos_files_in_a_shard(tmp_path):
    members = {
        '._1.webp': b'\0\5\x16\7',
        '1.webp': webp(),
        '__MACOSX/1.txt': b'x',
        '._1.txt': b'\0\5\x16\7',
        '1.txt': 'ein Würfel'.encode('utf-16'),
        '2.jpg': web_files.picture(2),
        '2.txt': b'\xef\xbb\xbfa cube',
    }
    folder = write_tar(tmp_path / 'tar', members)
    (folder / '._web-000.tar').write_bytes(b'\0\5\x16\7')
    found = examples(folder, 'webdataset', tasks={'caption': 1.0})
    assert [example.answer for example in found] == ['ein Würfel', 'a cube']
    assert found[0].frames.shape == (1, 24, 33, 3)


@pytest.mark.parametrize('suffix, mode, name', [('gz', 'w:gz', 'gzip'), ('xz', 'w:xz', 'xz')])
def test_a_compressed_shard_says_what_to_do(tmp_path, suffix, mode, name):
    members = {'1.jpg': web_files.picture(1), '1.txt': b'a cube'}
    folder = write_tar(tmp_path / 'tar', members, f'web-000.tar.{suffix}', mode)
    with pytest.raises(DataSetError, match=rf"no file '\*.tar'; it holds web-000.tar.{suffix}"):
        examples(folder, 'webdataset')
    with pytest.raises(tfrecord.CorruptRecord, match=f'compressed by {name}.*must be plain: `'):
        examples(folder, 'webdataset', files=f'*.tar.{suffix}')


def test_a_language_for_each_text(tmp_path):
    line = {
        'image': '0/0000.jpg',
        'caption': ['a cube', 'ein Würfel', 'a box'],
        'language': ['en', 'de', 'en'],
    }
    folder = folder_with(tmp_path, json.dumps(line))
    german = examples(folder, tasks={'caption': 1.0}, languages={'de': 1.0}, passes=4)
    assert {example.answer for example in german} == {'ein Würfel'}
    both = examples(folder, tasks={'caption': 1.0}, passes=20)
    assert {example.answer for example in both} == {'a cube', 'ein Würfel', 'a box'}


def test_one_language_column_of_several(tmp_path):
    line = {'image': '0/0000.jpg', 'caption': {'en': 'a cube', 'de': 'ein Würfel'}}
    folder = folder_with(tmp_path, json.dumps(line))
    fields = {'caption': 'caption/de', 'default_language': 'de'}
    (example,) = examples(folder, tasks={'caption': 1.0}, fields=fields)
    assert example.answer == 'ein Würfel' and 'in DE' in example.prompt


@pytest.mark.parametrize('channels', [1, 3])
def test_depth_is_no_picture(tmp_path, channels):
    depth = np.full([24, 32, channels], 900, np.uint16)
    folder = folder_with(tmp_path, json.dumps({'image': '0/0000.jpg', 'caption': 'far'}))
    (folder / '0/0000.jpg').write_bytes(cv2.imencode('.png', depth)[1].tobytes())
    with pytest.raises(tfrecord.CorruptRecord, match='a PNG of 16 bits a channel'):
        examples(folder, tasks={'caption': 1.0})
