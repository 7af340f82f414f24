"""Data sets on remote stores, read from a server that fails on purpose."""

import concurrent.futures
import dataclasses
import pickle
import shutil
import threading
import time

import drawn_episodes
import episode_records
import numpy as np
import object_server
import pytest

from rt2_jax import paths
from rt2_jax.data import cards, data_errors, files, remote_files
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.index import index_build
from rt2_jax.data.mixture import Schedule, Sources
from rt2_jax.data.pipeline import make_iterator
from rt2_jax.data.readers import tfrecord
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.text.tokenizer import Tokenizer

pytest.importorskip('obstore', reason="remote data need pip install 'rt2_jax[remote]'")

LIMITS = object_server.LIMITS
SHARD = rlds_writer.shard_name('tabletop', 'train', 1, drawn_episodes.SHARDS)


@pytest.fixture
def server(store, whole_dataset):
    """Serves a copy of the data set as bucket/tabletop."""
    shutil.copytree(
        whole_dataset, store.root / 'bucket/tabletop', ignore=shutil.ignore_patterns('rt2_index')
    )
    return store


@pytest.fixture
def address(server):
    return f'{server.url}/bucket/tabletop'


@pytest.fixture
def blob(server):
    """3 MB of noise as an object: its bytes and its address."""
    data = np.random.default_rng(0).bytes(3_000_000)
    (server.root / 'bucket/blob').write_bytes(data)
    return data, files.path(f'{server.url}/bucket/blob')


def same(a, b):
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(a)
    )


@pytest.mark.parametrize('scheme', ['http', 'gs', 's3'])
def test_a_failing_store_gives_what_the_disk_gives(
    server, whole_dataset, scheme, tmp_path, monkeypatch
):
    # Every tenth request fails, each time in another way. With eight readers one of them may be
    # the tenth several times in a row, so that four tries don't always do.
    monkeypatch.setattr(remote_files, 'LIMITS', dataclasses.replace(LIMITS, tries=20))
    faults = object_server.FAULTS
    server.fault = lambda number: '' if number % 10 else faults[number // 10 % len(faults)]
    root = f'{server.url}/' if scheme == 'http' else f'{scheme}://'
    source = rlds.open_source(f'{root}bucket/tabletop', 'tabletop', frames=2)
    local = rlds.open_source(whole_dataset, 'tabletop', frames=2)
    assert source.fingerprint == local.fingerprint and len(source) == len(local)
    for name, array in local.index.arrays.items():
        np.testing.assert_array_equal(source.index.arrays[name], array)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.__getitem__, range(len(source))))
    assert all(same(read[i], local[i]) for i in range(len(local)))
    assert server.requests - len(server.served) >= server.requests // 10
    assert source.index.location.is_relative_to(tmp_path / 'cache')
    episode = episode_records.features(source, 4)
    assert (
        episode['steps/reward'].tolist()
        == episode_records.features(local, 4)['steps/reward'].tolist()
    )


@pytest.mark.parametrize('fault', object_server.FAULTS)
def test_one_failure_costs_one_request(server, blob, fault):
    data, path = blob
    file = files.open_file(path)
    first = server.requests
    server.fault = lambda number: fault if number == first else ''
    assert file.read(1000, 1_000_000) == data[1000:1_001_000]
    assert server.requests == first + 2


@pytest.mark.parametrize('fault', object_server.FAULTS)
def test_giving_up_names_file_range_tries_and_cause(server, blob, fault):
    _, path = blob
    file = files.open_file(path)
    first = server.requests
    server.fault = lambda number: fault
    with pytest.raises(remote_files.RemoteError, match='limit is 4 tries') as caught:
        file.read(1000, 500)
    assert server.requests == first + LIMITS.tries
    message = str(caught.value)
    assert f'{path}, bytes 1000 to 1500' in message
    causes = {'drop': 'sending request', '503': '503', '429': '429'}
    assert causes.get(fault, 'response body') in message


def test_what_trying_again_cannot_mend_is_asked_once(server, blob):
    _, path = blob
    file = files.open_file(path)
    first = server.requests
    server.fault = lambda number: '403'
    with pytest.raises(remote_files.RemoteError, match='bytes 0 to 5.*privileges'):
        file.read(0, 5)
    server.fault = lambda number: 'no ranges'
    with pytest.raises(remote_files.RemoteError, match="doesn't serve byte ranges"):
        file.read(0, 5)
    server.fault = lambda number: ''
    (server.root / 'bucket/blob').unlink()
    with pytest.raises(FileNotFoundError, match='blob, bytes 0 to 5: there is no such file'):
        file.read(0, 5)
    assert server.requests == first + 3
    with pytest.raises(FileNotFoundError, match='blob: there is no such file'):
        files.open_file(path)


@pytest.mark.parametrize('conditional, weak', [(True, False), (False, False), (True, True)])
def test_two_versions_never_mix(server, blob, conditional, weak):
    data, path = blob
    server.conditional, server.weak = conditional, weak
    file = files.open_file(path)
    with file.reader() as reader:
        assert reader.read(10) == data[:10]
    server.touched.add('bucket/blob')
    with pytest.raises(remote_files.ChangedFile, match='blob, bytes 0 to 9'):
        file.read(0, 9)


def test_a_shard_that_changes_while_it_is_indexed(server, address, monkeypatch):
    monkeypatch.setattr(remote_files, 'AHEAD', 1)
    monkeypatch.setattr(remote_files, 'AHEAD_BYTES', 1000)
    records = tfrecord.scan(files.path(address) / SHARD)
    next(records)
    server.touched.add(f'bucket/tabletop/{SHARD}')
    with pytest.raises(remote_files.ChangedFile, match=SHARD):
        list(records)


def test_shards_are_read_as_indexed(server, address):
    source = rlds.open_source(address, 'tabletop')
    last = len(source) - 1
    source[last]
    name = source.index.files[2].name
    server.touched.add(f'bucket/tabletop/{name}')
    with pytest.raises(remote_files.ChangedFile, match=name):
        source[last]
    # The same records uploaded once more are another version, and as good.
    rlds.open_source(address, 'tabletop')[last]
    path = server.root / 'bucket/tabletop' / name
    data = bytearray(path.read_bytes())
    record = next(iter(tfrecord.scan(path)))
    data[12 + record.length] ^= 1
    path.write_bytes(data)
    with pytest.raises(data_errors.IndexMismatch, match='same sizes, other records'):
        rlds.open_source(address, 'tabletop')
    (server.root / 'bucket/tabletop' / SHARD).unlink()
    with pytest.raises(data_errors.DataSetError, match=f'lacks 1 of 3.*{SHARD}'):
        rlds.open_source(address, 'tabletop')


def test_a_lost_connection_is_no_corrupt_record(server, address):
    source = rlds.open_source(address, 'tabletop', on_corrupt='skip')
    server.fault = lambda number: 'drop'
    with pytest.raises(remote_files.RemoteError, match='limit is 4 tries'):
        source[0]
    assert source.skipped == 0


def test_missing_data_set(server):
    with pytest.raises(data_errors.DataSetError, match='no dataset_info.json'):
        rlds.open_source(f'{server.url}/bucket/nothing', 'tabletop')
    with pytest.raises(ValueError, match="can't have a query"):
        rlds.open_source(f'{server.url}/bucket/tabletop?token=1', 'tabletop')
    with pytest.raises(
        paths.PathError, match='http: is not supported; use a folder, gs:// or s3://'
    ):
        rlds.open_source(f'{server.url}/x', 'tabletop', location=f'{server.url}/index')


@pytest.mark.parametrize('size', [1, 8, 4096, 100_000])
def test_reading_ahead_yields_every_byte_once(server, blob, monkeypatch, size):
    data, path = blob
    data = data[: 30_000 * size] if size < 10 else data
    (server.root / 'bucket/blob').write_bytes(data)
    monkeypatch.setattr(remote_files, 'AHEAD_BYTES', 70_000)
    server.fault = lambda number: '' if number % 10 else ('drop', 'truncate')[number // 10 % 2]
    with files.open_file(path) as file, file.reader() as reader:
        got = b''.join(iter(lambda: reader.read(size), b''))
        assert got == data
        assert reader.seek(-5, 2) and reader.read(9) == data[-5:]
        assert reader.seek(3) == 3 and reader.read(4) == data[3:7]


@pytest.mark.parametrize('ahead', [True, False])
def test_a_reader_that_failed_leaves_no_gap(server, blob, monkeypatch, ahead):
    monkeypatch.setattr(remote_files, 'AHEAD_BYTES', 10_000)
    data, path = blob
    with files.open_file(path) as file, file.reader(ahead=ahead) as reader:
        assert reader.read(5) == data[:5]
        server.fault = lambda number: 'drop'
        with pytest.raises(remote_files.RemoteError):
            reader.read(100_000)
        server.fault = lambda number: ''
        with pytest.raises(remote_files.RemoteError):
            reader.read(10)
        reader.seek(5)
        assert reader.read(100_000) == data[5:100_005]


def test_a_slow_reader_holds_a_bounded_number_of_bytes(server, blob, monkeypatch):
    monkeypatch.setattr(remote_files, 'AHEAD_BYTES', 100_000)
    _, path = blob
    with files.open_file(path) as file, file.reader() as reader:
        for used in (1, 500_000):
            reader.read(used)
            time.sleep(0.3)
            assert (
                server.bytes_served() <= used + (remote_files.AHEAD + 1) * remote_files.AHEAD_BYTES
            )


def test_ranges_close_together_are_one_request(server, address, blob):
    data, path = blob
    file = files.open_file(path)
    spans = [(500_000, 100), (0, 50), (40, 30), (70_000, 9), (2_999_990, 50)]
    before = server.requests
    assert file.read_many(spans) == [data[a : a + n] for a, n in spans]
    assert server.requests == before + 4
    source = rlds.open_source(address, 'tabletop', frames=3)
    before = server.requests
    source[source.table.episode_steps(2)[3]]
    assert server.requests == before + 1


def test_walking_the_framing_skips_the_payloads(server, address, monkeypatch):
    monkeypatch.setattr(remote_files, 'FRAMING_BYTES', 64)
    before = server.bytes_served()
    path = files.path(address) / SHARD
    there = list(tfrecord.scan(path, payloads=False))
    assert there == list(tfrecord.scan(server.root / 'bucket/tabletop' / SHARD, payloads=False))
    assert server.bytes_served() - before <= 64 * (len(there) + 2)


def test_connections_are_bounded(server, blob, monkeypatch):
    monkeypatch.setattr(remote_files, '_connections', threading.BoundedSemaphore(3))
    data, path = blob
    server.latency = 0.02
    running, most, lock = [0], [0], threading.Lock()

    def fault(number):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return ''

    server.fault = fault
    file = files.open_file(path)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda i: file.read(i, 5), range(40))) == [
            data[i : i + 5] for i in range(40)
        ]
    assert 1 < most[0] <= 3


def test_sources_go_to_other_processes(address):
    source = rlds.open_source(address, 'tabletop')
    expected = source[5]
    assert same(pickle.loads(pickle.dumps(source))[5], expected)


@pytest.mark.parametrize('threads', [2, 16])
def test_the_pipeline_over_a_failing_store(server, address, whole_dataset, threads):
    server.fault = lambda number: '' if number % 10 else 'drop'

    def batches(directory):
        source = rlds.open_source(directory, 'tabletop')
        iterator = make_iterator(
            Sources.of({'tabletop': (source, 1.0)}, {}),
            Tokenizer.load_default(),
            DataConfig(
                image_size=32,
                prompt_length=24,
                target_length=16,
                robot_share=Schedule(start=1.0),
                threads=threads,
            ),
            batches=6,
            batch_size=16,
        )
        yield from iterator
        iterator.close()

    for there, here in zip(batches(address), batches(whole_dataset), strict=True):
        assert all(np.array_equal(there[key], here[key]) for key in here)


def test_an_index_built_by_processes_is_the_same(server, address, whole_dataset, tmp_path):
    card = cards.find('tabletop')
    index_build.build(Rlds(address, card), location=tmp_path / 'index', processes=2)
    local = rlds.open_source(whole_dataset, 'tabletop')
    source = rlds.open_source(address, 'tabletop', location=tmp_path / 'index')
    assert source.fingerprint == local.fingerprint
