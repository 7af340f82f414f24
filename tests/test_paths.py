"""Paths that users name: what is read and written is the same on a folder and in a bucket."""

import os
import pathlib

from etils import epath
import pytest

from rt2_jax import buckets, paths


@pytest.fixture(params=['folder', 'bucket'])
def root(request, tmp_path):
    """A folder that isn't there yet."""
    where = tmp_path if request.param == 'folder' else request.getfixturevalue('bucket').url
    return paths.of(f'{where}/runs/a b%20c')


def test_of_expands_and_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert paths.of('~/x') == paths.of('x') == epath.Path(tmp_path / 'x')
    assert str(paths.of('gs://b/x')) == 'gs://b/x' and paths.is_remote(paths.of('s3://b'))
    for name, words in {
        'http://host/x': 'http: is not supported; use a folder, gs:// or s3://',
        'gs:/b/x': 'write gs://BUCKET/FOLDER',
        's3://': 'names no bucket',
    }.items():
        with pytest.raises(paths.PathError, match=words):
            paths.of(name)


def test_files_are_written_whole(root):
    paths.probe(root)
    assert paths.files(root) == {}
    for name in ('a', 'deep/b', 'c'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        paths.write(root / name, name.encode())
    with pytest.raises(ZeroDivisionError), paths.writing(root / 'half') as local:
        local.write_bytes(b'1')
        raise ZeroDivisionError
    assert paths.files(root) == {'a': 1, 'c': 1, 'deep/b': 6}
    assert paths.read(root / 'deep/b') == b'deep/b' == (root / 'deep/b').read_bytes()
    paths.delete(root / 'a')
    with pytest.raises(paths.NoSuchPath, match='a'):
        paths.read(root / 'a')
    assert sorted(path.name for path in root.iterdir()) == ['c', 'deep']


def test_etils_sees_a_bucket_as_a_folder(root):
    (root / 'x').mkdir(parents=True, exist_ok=True)
    (root / 'x/one').write_text('1')
    (root / 'x/one').rename(root / 'x/two')
    (root / 'x/two').replace(root / 'x/three')
    assert [path.name for path in (root / 'x').glob('t*')] == ['three']
    assert (root / 'x').is_dir() and not (root / 'x/one').exists()
    assert (root / 'x/three').stat().length == 1
    (root / 'x').rmtree()
    assert not (root / 'x/three').exists()


def test_copies_for_what_needs_real_files(root, tmp_path):
    source = tmp_path / 'source'
    (source / 'in').mkdir(parents=True)
    (source / 'in/a').write_bytes(b'a' * 5)
    (source / 'b').write_bytes(b'b')
    paths.upload(source, root)
    assert paths.files(root) == {'b': 1, 'in/a': 5}
    with paths.local_copy(root) as local:
        assert isinstance(local, pathlib.Path) and (local / 'in/a').read_bytes() == b'aaaaa'


def test_large_objects_go_in_parts(bucket):
    content = os.urandom(buckets.PART_BYTES * 2 + 1)
    paths.write(f'{bucket.url}/large', content)
    assert paths.read(f'{bucket.url}/large') == content
    assert max(request.sent for request in bucket.requests) == buckets.PART_BYTES


def test_mirror_of_a_file_that_grows(root):
    mirror = paths.Mirror(root)
    (mirror.local / 'log').write_text('1')
    mirror.close()
    mirror = paths.Mirror(root, fetch=['log', 'never'])
    with open(mirror.local / 'log', 'a') as file:
        file.write('2')
    mirror.upload()
    assert paths.read(root / 'log') == b'12'
    if paths.is_remote(root):
        folder = mirror.local
        mirror.close()
        assert not folder.exists()


def test_errors_are_one_line(bucket):
    folder = paths.of(f'{bucket.url}/x')
    bucket.fault = lambda request: 403 if request.method == 'PUT' else None
    for action in (paths.probe, lambda path: paths.write(path, b''), lambda p: p.write_text('')):
        with pytest.raises(paths.PathError, match='403 Forbidden; check the cred') as caught:
            action(folder)
        assert str(folder) in str(caught.value) and '\n' not in str(caught.value)
    bucket.fault = lambda request: 403 if request.method == 'DELETE' else None
    with pytest.raises(paths.PathError, match='cannot delete in'):
        paths.probe(folder)
    with pytest.raises(paths.PathError, match='there is no bucket gs://rt2-nobody-has-it'):
        paths.probe('gs://rt2-nobody-has-it/x')


def test_requests_are_tried_again(bucket):
    failing = iter([503, 429, 500])
    bucket.fault = lambda request: next(failing, None)
    paths.write(f'{bucket.url}/x', b'1')
    assert [request.status for request in bucket.requests] == [503, 429, 500, 200]
