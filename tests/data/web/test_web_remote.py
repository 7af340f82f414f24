"""Web sets on remote stores, read from a server that fails on purpose."""

import concurrent.futures
import dataclasses
import json
import pickle

import numpy as np
import object_server
import pytest
import web_files

from rt2_jax import paths
from rt2_jax.data import data_errors, read_ahead, remote_files
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.web import open_web

pytest.importorskip('obstore', reason="remote data need pip install 'rt2_jax[remote]'")

ALL = {'caption': 1.0, 'vqa': 1.0, 'ocr': 1.0, 'detect': 1.0}
SETTINGS = {
    'jsonl': dict(kind='jsonl', fields=web_files.JSONL_FIELDS, tasks=ALL),
    'tar': dict(kind='webdataset', fields=web_files.TAR_FIELDS, tasks=ALL),
    'coco': dict(kind='tfds', card='coco_captions', tasks={'caption': 1.0, 'detect': 1.0}),
}


def write(folder, name):
    """A set of 24 records."""
    if name == 'jsonl':
        return web_files.write_jsonl(folder / 'jsonl', 24)
    if name == 'tar':
        return web_files.write_tar(folder / 'tar/part', 24).parent
    features, example = web_files.coco_features(), web_files.coco_example
    return web_files.write_tfds(folder / 'coco', features, example, 'coco_captions', 24)


def open_set(address, name, **settings):
    settings = SETTINGS[name] | settings
    if name == 'tar' and 'files' not in settings:
        http = str(address).startswith('http')
        settings['files'] = 'part/web-{000..002}.tar' if http else 'part/*.tar'
    elif name == 'jsonl' and str(address).startswith('http'):
        settings['files'] = settings.get('files', 'a{0..0}.jsonl')
    return open_web.open_source(settings.pop('kind'), address, **settings)


def same(a, b):
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(a)
    )


def read(source):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(source.__getitem__, range(len(source))))


@pytest.mark.parametrize(
    'scheme, name',
    [
        ('s3', 'jsonl'),
        ('s3', 'tar'),
        ('s3', 'coco'),
        ('http', 'tar'),
        ('http', 'jsonl'),
        ('gs', 'tar'),
    ],
)
def test_a_failing_store_gives_what_the_disk_gives(store, tmp_path, monkeypatch, scheme, name):
    # Many threads ask at once, so that on a busy machine an answer may take as long as a stall.
    limits = dataclasses.replace(remote_files.LIMITS, tries=10, stall_seconds=0.5)
    monkeypatch.setattr(remote_files, 'LIMITS', limits)
    write(store.root / 'bucket', name)
    if name == 'jsonl':
        (store.root / 'bucket/jsonl/all.jsonl').rename(store.root / 'bucket/jsonl/a0.jsonl')
    local = open_set(store.root / 'bucket' / name, name, location=tmp_path / 'local')
    # Every tenth request fails, each time in another way.
    faults = object_server.FAULTS
    store.fault = lambda number: '' if number % 10 else faults[number // 10 % len(faults)]
    root = f'{store.url}/' if scheme == 'http' else f'{scheme}://'
    source = open_set(f'{root}bucket/{name}', name)
    assert all(map(same, read(source), [local[i] for i in range(len(local))]))
    assert len(source) == len(local) == 24
    assert source.table.location.is_relative_to(tmp_path / 'cache')
    for column, values in local.table.arrays.items():
        np.testing.assert_array_equal(source.table.arrays[column], values)
    # To HEAD, which has no body, two of the faults are none.
    assert store.requests - len(store.served) >= store.requests // 20
    assert same(pickle.loads(pickle.dumps(source))[5], local[5])


def test_requests_are_few(store):
    """A shard is read ahead once, a picture by one request; folders of pictures are never listed."""
    folder = write(store.root / 'bucket', 'tar')
    size = sum(path.stat().st_size for path in folder.glob('part/*'))
    source = open_set('s3://bucket/tar', 'tar')
    # Behind the end of an archive are blocks of zeros, which nobody needs.
    assert size / 2 < store.bytes_served() <= size
    assert [name for method, name, *_ in store.served if method == 'LIST'][0] == 'bucket/tar/part/'
    before = store.requests
    source[5]
    assert store.requests == before + 1
    write(store.root / 'bucket', 'jsonl')
    source, before = open_set('s3://bucket/jsonl', 'jsonl'), store.requests
    source[5]
    assert store.requests == before + 1
    listed = {name for method, name, *_ in store.served if method == 'LIST'}
    assert listed == {'bucket/tar/part/', 'bucket/jsonl/'}


@pytest.mark.parametrize('scheme', ['http', 's3'])
def test_names_may_hold_anything(store, scheme):
    folder, names = (
        store.root / 'bucket/odd',
        ['a b.jpg', 'c#1.jpg', 'd?e.jpg', 'f%20g.jpg', 'ü&.jpg'],
    )
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(web_files.picture(number))
    lines = [json.dumps({'image': name, 'caption': name}) for name in names]
    (folder / 'a0.jsonl').write_text('\n'.join(lines))
    root = f'{store.url}/' if scheme == 'http' else 's3://'
    source = open_set(f'{root}bucket/odd', 'jsonl', fields={}, tasks={'caption': 1.0})
    for number in range(len(names)):
        assert source.encoded(number) == web_files.picture(number)


def test_pictures_may_be_elsewhere(store, tmp_path):
    """The lines here, the pictures there."""
    folder = write(tmp_path, 'jsonl')
    write(store.root / 'bucket', 'jsonl')
    source = open_web.open_source(
        directory=folder, pictures=f'{store.url}/bucket/jsonl', **SETTINGS['jsonl']
    )
    assert source.encoded(7) == web_files.picture(7)
    assert source.table.location.is_relative_to(folder)


def test_a_lost_connection_is_no_corrupt_record(store):
    write(store.root / 'bucket', 'jsonl')
    picture = store.root / 'bucket/jsonl' / web_files.record(3)['image']
    hidden = picture.rename(picture.with_name('hidden'))
    with pytest.raises(tfrecord.CorruptRecord, match='picture .*0003.jpg: no such file'):
        open_set('s3://bucket/jsonl', 'jsonl')
    hidden.rename(picture)
    failing = {number for number in range(20, 1000)}
    store.fault = lambda number: '503' if number in failing else ''
    with pytest.raises(remote_files.RemoteError, match='limit is 4 tries'):
        open_set('s3://bucket/jsonl', 'jsonl', on_corrupt='skip')
    store.fault = lambda number: ''
    source = open_set('s3://bucket/jsonl', 'jsonl', on_corrupt='skip')
    assert len(source) == 24
    store.fault = lambda number: '503'
    with pytest.raises(remote_files.RemoteError, match='limit is 4 tries'):
        source[0]
    assert source.skipped == 0
    store.fault = lambda number: ''
    picture.unlink()
    assert same(source[3], source[4]) and source.skipped == 1


def test_shards_are_read_as_indexed(store):
    write(store.root / 'bucket', 'tar')
    source = open_set('s3://bucket/tar', 'tar')
    store.touched.add('bucket/tar/part/web-001.tar')
    with pytest.raises(remote_files.ChangedFile, match='web-001.tar'):
        source[10]
    # The same records uploaded once more are another version, and as good.
    open_set('s3://bucket/tar', 'tar')[10]
    path = store.root / 'bucket/tar/part/web-001.tar'
    path.write_bytes(path.read_bytes().replace(b'thing 10, said', b'thong 10, said'))
    with pytest.raises(data_errors.IndexMismatch, match='same sizes, other records'):
        open_set('s3://bucket/tar', 'tar')


def test_what_is_not_there_is_named(store):
    write(store.root / 'bucket', 'tar')
    address = f'{store.url}/bucket/tar'
    with pytest.raises(data_errors.DataSetError, match='lacks 1 of 4 files, first .*web-003.tar'):
        open_set(address, 'tar', files='part/web-{000..003}.tar')
    with pytest.raises(
        data_errors.DataSetError, match=r"doesn't say which files .* name them, as {000"
    ):
        open_set(address, 'tar', files='part/*.tar')
    with pytest.raises(data_errors.DataSetError, match=r"no file '\*\.tarr'; it holds part"):
        open_set('s3://bucket/tar', 'tar', files='*.tarr')
    with pytest.raises(
        paths.PathError, match='http: is not supported; use a folder, gs:// or s3://'
    ):
        open_set(address, 'tar', location=f'{address}/index')


class Counted:
    """Bytes by ranges, counted."""

    def __init__(self, data):
        self.data, self.size, self.read_bytes = data, len(data), 0

    def read(self, offset, length):
        found = self.data[offset : offset + length]
        self.read_bytes += len(found)
        return found


def test_small_seeks_lose_nothing_read_ahead():
    """As a walk over an archive makes them: a byte back, a block on."""
    data = np.random.default_rng(0).bytes(100_000)
    counted, reader = Counted(data), None
    reader = read_ahead.ReadAhead(counted, 3, 5_000)
    position = 0
    while position < len(data) - 3_000:
        reader.seek(position - 1 if position % 5_000 else position)
        at = reader.tell()
        assert reader.read(700) == data[at : at + 700][: 5_000 - at % 5_000]
        position += 1_500
    assert counted.read_bytes <= len(data)
    reader.seek(10)
    assert reader.read(5) == data[10:15]
    reader.close()
