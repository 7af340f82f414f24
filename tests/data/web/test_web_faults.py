"""Web sets with something wrong: each fault is named, and nothing half-done is taken for whole."""

import io
import json
import os
import resource
import shutil
import tarfile

import numpy as np
import pytest
import web_files

from rt2_jax.data import data_errors, images
from rt2_jax.data.index import index_build
from rt2_jax.data.index.opened_index import open_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.readers import jsonl as jsonl_reader, tfrecord
from rt2_jax.data.web import open_web

ALL = {'caption': 1.0, 'vqa': 1.0, 'ocr': 1.0, 'detect': 1.0}


@pytest.fixture
def jsonl(tmp_path):
    return web_files.write_jsonl(tmp_path / 'jsonl', 12)


@pytest.fixture
def tar(tmp_path):
    return web_files.write_tar(tmp_path / 'tar', 12)


@pytest.fixture
def coco(tmp_path):
    return web_files.write_tfds(
        tmp_path / 'coco', web_files.coco_features(), web_files.coco_example, 'coco_captions', 12
    )


def open_jsonl(folder, **settings):
    return open_web.open_source(
        'jsonl', folder, fields=web_files.JSONL_FIELDS, tasks=ALL, **settings
    )


def open_tar(folder, **settings):
    return open_web.open_source(
        'webdataset', folder, fields=web_files.TAR_FIELDS, tasks=ALL, **settings
    )


def open_coco(folder, **settings):
    tasks = {'caption': 1.0, 'detect': 1.0}
    return open_web.open_source('tfds', folder, card='coco_captions', tasks=tasks, **settings)


def replace_line(folder, number: int, line: bytes) -> int:
    """Puts `line` in the place of the number-th, from 1; returns the byte at which it begins."""
    path = folder / 'all.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line + b'\n'
    path.write_bytes(b''.join(lines))
    return sum(map(len, lines[: number - 1]))


@pytest.mark.parametrize(
    'line, reason',
    [
        (b'{"image": "0/0003.jpg", "captions": [', 'not JSON: '),
        (b'{"image": "0/0003.jpg", "captions": ["caf\xe9"]}', 'not UTF-8: '),
        (b'{"image": "0/0999.jpg"}', 'picture .*0/0999.jpg: No such file'),
        (b'{"picture": "0/0003.jpg"}', "'image' names no picture; the line holds picture"),
        (b'{"image": "all.jsonl"}', 'picture: .* neither a JPEG nor a PNG'),
        (b'{"image": "0/0003.jpg", "captions": [{"text": "a"}]}', 'caption: a text is expected'),
        (b'{"image": "0/0003.jpg", "score": "high"}', 'score: one number is expected'),
        (b'{"image": "0/0003.jpg", "language": ["en", "de"]}', 'language: one is expected'),
        (
            b'{"image": "0/0003.jpg", "question": ["a", "b"], "answers": ["c"]}',
            '2 questions have 1',
        ),
        (b'[1, 2]', "'image' names no picture; the line holds list"),
    ],
)
def test_a_bad_line_is_named(jsonl, line, reason, caplog):
    offset = replace_line(jsonl, 4, line)
    with pytest.raises(
        tfrecord.CorruptRecord, match=f'all.jsonl, record at byte {offset}: line 4: {reason}'
    ):
        open_jsonl(jsonl)
    with pytest.raises(FileNotFoundError):
        open_web.WebTable(open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS))
    source = open_jsonl(jsonl, on_corrupt='skip')
    assert len(source) == 11 and source.table.about['skipped_count'] == 1
    assert source.encoded(3) == web_files.picture(4)
    assert 'line 4' in caplog.text
    with pytest.raises(tfrecord.CorruptRecord, match="line 4.*on_corrupt='skip'"):
        open_jsonl(jsonl, on_corrupt='raise')


@pytest.mark.parametrize('where', ['picture', 'header', 'end'])
def test_a_truncated_tar_is_found(tar, where):
    shard = tar / 'web-001.tar'
    with tarfile.open(shard) as archive:
        last = archive.getmembers()[-3]
    cut = {'picture': last.offset_data + 100, 'header': last.offset + 100, 'end': last.offset}
    os.truncate(shard, cut[where])
    with pytest.raises(tfrecord.CorruptRecord, match='web-001.tar, record at byte .*truncated'):
        open_tar(tar)
    source = open_tar(tar, on_corrupt='skip')
    assert len(source) == 11 and source.table.about['skipped_count'] == 1
    assert [source.encoded(row) for row in range(11)] == [
        web_files.picture(n) for n in range(12) if n != 7
    ]


def test_a_damaged_tar_header_is_found(tar):
    """The library takes such a block for the end of the archive."""
    shard = tar / 'web-001.tar'
    with tarfile.open(shard) as archive:
        offset = archive.getmembers()[3].offset
    flip(shard, offset + 10)
    with pytest.raises(
        tfrecord.CorruptRecord, match=f'web-001.tar, record at byte {offset}: trunc'
    ):
        open_tar(tar)
    assert len(open_tar(tar, on_corrupt='skip')) == 12 - 3


@pytest.mark.parametrize(
    'members, reason',
    [
        ({'x.txt': b'lone'}, r"sample 'x': 0 members are a picture .*there are txt"),
        ({'x.jpg': None, 'x.txt': b'caf\xe9'}, "sample 'x': caption: not UTF-8"),
        ({'x.jpg': None, 'x.json': b'{'}, "sample 'x': json: not JSON"),
        ({'x.jpg': b'GIF89a'}, "sample 'x': picture: 6 bytes .* neither"),
        ({'x.jpg': None, 'x.JPG': None}, "sample 'x': two members end in .jpg"),
    ],
)
def test_a_bad_sample_is_named(tar, members, reason):
    with tarfile.open(tar / 'web-009.tar', 'w') as archive:
        web_files.add(archive, 'w.jpg', web_files.picture(0))
        web_files.add(archive, 'w.txt', b'fine')
        for name, content in members.items():
            web_files.add(archive, name, content or web_files.picture(1))
    with pytest.raises(tfrecord.CorruptRecord, match=f'web-009.tar, record at byte 2560: {reason}'):
        open_tar(tar)
    assert len(open_tar(tar, on_corrupt='skip')) == 13


def test_a_compressed_tar_is_refused(tar):
    shutil.make_archive(str(tar / 'web-009'), 'gztar', tar, 'web-000.tar')
    os.rename(tar / 'web-009.tar.gz', tar / 'web-009.tar')
    with pytest.raises(
        tfrecord.CorruptRecord, match='web-009.tar.*compressed by gzip.*`gunzip FILE'
    ):
        open_tar(tar)


def count_units(dataset) -> int:
    return len(dataset.units([stamp['size'] for stamp in index_build.stamps(dataset)]))


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x08
    path.write_bytes(bytes(data))


def test_a_flipped_byte_of_a_tfrecord_is_named(coco):
    shard = sorted(coco.glob('*.tfrecord*'))[1]
    second = list(tfrecord.scan(shard, payloads=False))[1]
    flip(shard, second.offset + second.length // 2)
    with pytest.raises(
        tfrecord.CorruptRecord, match=f'00001-of-00003, .* {second.offset}: .*check'
    ):
        open_coco(coco)
    assert len(open_coco(coco, on_corrupt='skip')) == 11


def test_damage_after_indexing_is_found_when_read(jsonl, caplog):
    source = open_jsonl(jsonl)
    path = jsonl / web_files.record(4)['image']
    flip(path, 300)
    with pytest.raises(
        tfrecord.CorruptRecord, match='0004.jpg, .* changed since they were indexed'
    ):
        source[4]
    lenient = open_jsonl(jsonl, on_corrupt='skip')
    np.testing.assert_array_equal(lenient[4].frames, source[5].frames)
    assert lenient.skipped == 1 and "example 4 can't be read; 5 stands in" in caplog.text
    path.unlink()
    with pytest.raises(tfrecord.CorruptRecord, match='0004.jpg, .*has vanished'):
        source[4]


def test_a_picture_that_does_not_decode_is_named(tar):
    """Its header is whole, so that only decoding tells."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        noise = np.random.default_rng(0).integers(0, 256, [24, 32, 3], dtype=np.uint8)
        web_files.add(archive, 'x.jpg', images.encode_jpeg(noise)[:-400])
        web_files.add(archive, 'x.txt', b'half a picture')
    (tar / 'web-009.tar').write_bytes(buffer.getvalue())
    source = open_tar(tar)
    with pytest.raises(tfrecord.CorruptRecord, match='web-009.tar, .* 512: picture: .*JPEG'):
        source[12]
    lenient = open_tar(tar, on_corrupt='skip')
    np.testing.assert_array_equal(lenient[12].frames[0], images.decode(web_files.picture(0)))


def test_indexing_goes_on_where_it_was(jsonl, monkeypatch, tmp_path):
    monkeypatch.setattr(jsonl_reader, 'UNIT_BYTES', 600)
    dataset = open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS)
    good = (jsonl / 'all.jsonl').read_bytes()
    units = count_units(dataset)
    picture = jsonl / web_files.record(9)['image']
    hidden = picture.rename(tmp_path / 'hidden')
    with pytest.raises(tfrecord.CorruptRecord, match='line 10'):
        index_build.build(dataset, processes=1)
    location = index_build.place(dataset)
    assert not location.exists()
    hidden.rename(picture)
    done = []
    index_build.build(dataset, processes=1, progress=lambda k, n: done.append((k, n)))
    assert 0 < len(done) < units and done[-1] == (units, units)
    assert not location.with_name(f'{location.name}.building').exists()
    table = open_index(WebTable, dataset)
    fresh = index_build.build(dataset, location=tmp_path / 'fresh')
    about = json.loads((fresh / 'index.json').read_text())
    assert about == table.about and (jsonl / 'all.jsonl').read_bytes() == good
    for name in fresh.glob('*.npy'):
        np.testing.assert_array_equal(np.load(name), np.load(location / name.name))


def test_a_full_disk_is_named_and_leaves_nothing_half(jsonl, monkeypatch):
    """Files are limited in size, which fails as a full disk does."""
    monkeypatch.setattr(jsonl_reader, 'UNIT_BYTES', 600)
    dataset = open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS)
    location = index_build.place(dataset)
    limits, units = resource.getrlimit(resource.RLIMIT_FSIZE), count_units(dataset)

    def fill(done, _):
        if done == last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (130, limits[1]))

    # Too little for a part, then for the joined columns alone.
    for last in (1, units):
        try:
            with pytest.raises(
                OSError, match=f'while indexing {jsonl}: {last} of {units} parts are done'
            ):
                index_build.build(dataset, progress=fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not location.exists() and not [*jsonl.joinpath('rt2_index').rglob('*incompl*')]
    index_build.build(dataset)
    assert len(open_index(WebTable, dataset)) == 12


def test_changed_files_are_not_taken_from_an_earlier_try(jsonl):
    dataset = open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS)
    shutil.copy(jsonl / 'all.jsonl', jsonl / 'b.jsonl')
    with open(jsonl / 'b.jsonl', 'a') as file:
        file.write('{\n')
    with pytest.raises(tfrecord.CorruptRecord, match='b.jsonl, .* line 13'):
        index_build.build(dataset)
    replace_line(jsonl, 1, b'{"image": "0/0000.jpg", "captions": ["new"]}')
    (jsonl / 'b.jsonl').unlink()
    index_build.build(dataset)
    table = open_index(WebTable, dataset)
    assert len(table) == 12 and table.texts('caption', 0) == ['new']


@pytest.mark.parametrize('kind', ['jsonl', 'tar', 'coco'])
def test_index_of_other_data(kind, request):
    folder = request.getfixturevalue(kind)
    opened = {'jsonl': open_jsonl, 'tar': open_tar, 'coco': open_coco}[kind]
    fingerprint = opened(folder).fingerprint
    file = next(
        p for p in sorted(folder.iterdir()) if p.suffix in ('.jsonl', '.tar') or 'tfrec' in p.name
    )
    copied = shutil.copytree(folder, folder.with_name('copy'), copy_function=shutil.copyfile)
    assert opened(copied).fingerprint == fingerprint
    data = file.read_bytes()
    said, other = b'thing 1, said the 0th', b'thong 1, said the 0th'
    assert said in data
    file.write_bytes(data.replace(said, other))
    with pytest.raises(data_errors.IndexMismatch, match='same sizes, other records'):
        if kind == 'coco':  # whose framing has the payload's checksum
            rewrite(file)
        opened(folder)
    with open(file, 'ab') as appended:
        appended.write(b'\n')
    with pytest.raises(
        data_errors.IndexMismatch, match='bytes; the index .* Delete .* index again'
    ):
        opened(folder)
    (folder / f'z{file.name}').write_bytes(data)
    if kind != 'coco':  # where dataset_info.json says which files there are
        with pytest.raises(data_errors.IndexMismatch, match='covers . files'):
            opened(folder)


def rewrite(file):
    """Gives the records of a changed TFRecord file the checksums of what they hold now."""
    data, out = file.read_bytes(), io.BytesIO()
    for record in tfrecord.scan(file, payloads=False):
        start = record.offset + tfrecord.HEADER_BYTES
        tfrecord.write_record(out, data[start : start + record.length])
    file.write_bytes(out.getvalue())


def test_classes_without_names_are_refused(coco):
    """TFDS would call them '0', '1' and so on."""
    (coco / 'objects-label.labels.txt').unlink()
    with pytest.raises(
        data_errors.DataSetError, match='lacks objects-label.labels.txt, which names'
    ):
        open_coco(coco)


def test_a_damaged_index_is_found_and_named(tar):
    table = open_tar(tar).table
    table.verify()
    flip(table.location / 'caption.npy', 200)
    damaged = open_index(
        WebTable, open_web.open_format('webdataset', tar, fields=web_files.TAR_FIELDS)
    )
    with pytest.raises(
        data_errors.IndexMismatch, match='caption.npy is damaged.*Delete .* index again'
    ):
        damaged.verify()


def test_sets_that_are_not_there(tmp_path, jsonl):
    with pytest.raises(data_errors.DataSetError, match="no such directory.*did you mean 'jsonl'"):
        open_jsonl(tmp_path / 'jsonll')
    with pytest.raises(data_errors.DataSetError, match=r"no file '\*\.tar'; it holds 0, 1, 2, all"):
        open_tar(jsonl)
    (jsonl / 'all.jsonl').write_text('\n\n')
    with pytest.raises(data_errors.DataSetError, match='no readable records'):
        open_jsonl(jsonl)
