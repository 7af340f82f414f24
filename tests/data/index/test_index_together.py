"""Several hosts and one data set: it is indexed once, and a restart reads the index alone.

`python -m pytest -s tests/data/index/test_index_together.py` prints the bytes that each process asked for.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import drawn_episodes
import numpy as np
import object_server
import pytest

from rt2_jax import paths
from rt2_jax.data import images
from rt2_jax.data.robot import rlds

pytest.importorskip('obstore', reason="remote data need pip install 'rt2_jax[remote]'")

ROOT = pathlib.Path(__file__).parents[3]
PROCESSES = 2

# Each process is a host: it has a cache of its own and, to be counted, a server of its own.
START = """
import os, sys
urls, cache, indexes, kind, address = sys.argv[1:]
number = int(os.environ['JAX_PROCESS_ID'])
if urls:
    os.environ['GOOGLE_BASE_URL'] = urls.split(',')[number]
os.environ['XDG_CACHE_HOME'] = f'{cache}/{number}'
from rt2_jax.parallel import distributed
distributed.initialize()
from rt2_jax.data import sources
from rt2_jax.data.robot import rlds
from rt2_jax.data.web import open_web
if kind == 'robot':
    source = rlds.open_source(address, 'tabletop', indexes=indexes or None)
else:
    source = open_web.open_source(kind, address, tasks={'caption': 1.0}, indexes=indexes or None)
print('fingerprint', source.fingerprint)
"""


def start(kind, address, cache, indexes='', urls=(), processes=PROCESSES, expected=0):
    """Opens a data set in several processes at once; returns what they printed."""
    arguments = [','.join(urls), cache, indexes, kind, address]
    result = subprocess.run(
        [sys.executable, 'launch/local_pod.py', f'--processes={processes}', '--']
        + [sys.executable, '-c', START, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == expected, result.stdout + result.stderr
    return result.stdout + result.stderr


def fingerprints(printed):
    return re.findall(r'fingerprint (\w+)', printed)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder for servers, with bucket/tabletop of 8 shards and bucket/captions of 8 tar files."""
    root = tmp_path_factory.mktemp('served')
    drawn_episodes.write_dataset(root / 'bucket/tabletop', episodes=120, shards=8)
    for number in range(8):
        (root / 'bucket/captions').mkdir(exist_ok=True)
        with tarfile.open(root / f'bucket/captions/{number}.tar', 'w') as tar:
            for row in range(8 * number, 8 * number + 8):
                picture = images.encode_jpeg(np.full([32, 32, 3], row, np.uint8))
                for suffix, data in {'jpg': picture, 'txt': f'shade {row}'.encode()}.items():
                    member = tarfile.TarInfo(f'{row:04d}.{suffix}')
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root


@pytest.fixture
def servers(root, monkeypatch):
    """A server of these files for each process."""
    monkeypatch.setenv('GOOGLE_SKIP_SIGNATURE', 'true')
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(object_server.serve(root)) for _ in range(PROCESSES)]


def measured(servers, *arguments, **settings):
    """Bytes that each process asked for, and what they printed."""
    for server in servers:
        server.served.clear()
    printed = start(*arguments, urls=[server.url for server in servers], **settings)
    return [server.bytes_served() for server in servers], printed


def test_the_data_are_read_once_by_all_and_not_at_all_at_restart(root, servers, tmp_path):
    whole = sum(size for size in paths.files(root / 'bucket/tabletop').values())
    address = 'gs://bucket/tabletop'
    # A restart comes with new machines, whose caches are empty: to processes each of which keeps its
    # own index, it is one more first start.
    before = measured(servers, 'robot', address, tmp_path / 'a')[0]
    indexes = tmp_path / 'workdir/indexes'
    first, printed = measured(servers, 'robot', address, tmp_path / 'c', indexes)
    again, reopened = measured(servers, 'robot', address, tmp_path / 'd', indexes)
    print(f'\nset of {whole:,} bytes; asked for by each of {PROCESSES} processes')
    for name, row in {
        'each its own, every start': before,
        'together, first start': first,
        'together, restart': again,
    }.items():
        print(f'{name:28}', *(f'{size:>10,}' for size in row), f'{sum(row):>12,} in all')
    assert min(before) > 0.9 * whole
    assert sum(first) < 1.1 * whole and max(first) < 0.6 * whole
    assert sum(again) < 0.01 * whole and sum(map(bool, again)) == 1  # dataset_info.json, by one
    alone = rlds.open_source(root / 'bucket/tabletop', 'tabletop')
    assert fingerprints(printed) == fingerprints(reopened) == PROCESSES * [alone.fingerprint]


@pytest.mark.slow
def test_data_and_index_in_one_bucket(root, bucket, monkeypatch, tmp_path):
    """Parts and index are objects; each machine copies the index once, and maps the copy."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for name in ('tabletop', 'captions'):
        paths.upload(root / 'bucket' / name, f'{bucket.url}/data/{name}')
    for kind, name in {'robot': 'tabletop', 'webdataset': 'captions'}.items():
        address, indexes = f'{bucket.url}/data/{name}', f'{bucket.url}/run/indexes'
        whole = sum(paths.files(root / 'bucket' / name).values())
        bucket.clear()
        first = start(kind, address, tmp_path / 'a', indexes, processes=2)
        assert bucket.bytes('GET', prefix=f'data/{name}') < 1.1 * whole
        assert not [file for file in paths.files(indexes) if 'building' in file]
        bucket.clear()
        again = start(kind, address, tmp_path / 'a', indexes, processes=2)
        assert bucket.bytes('GET', prefix='data') < 1000
        assert bucket.bytes('PUT', 'POST') == 0
        # Its description alone: the arrays are in the machine's cache.
        folder = next(epath for epath in paths.files(indexes) if epath.endswith('index.json'))
        assert bucket.bytes('GET', prefix='run') < 2 * len(paths.read(f'{indexes}/{folder}')) + 1000
        assert len(set(fingerprints(first + again))) == 1


@pytest.mark.slow
def test_where_one_process_fails_all_end_and_the_parts_stay(root, tmp_path):
    damaged = tmp_path / 'tabletop'
    shutil.copytree(root / 'bucket/tabletop', damaged, ignore=shutil.ignore_patterns('rt2_index'))
    shard = damaged / 'tabletop-train.tfrecord-00005-of-00008'
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100] + bytes(100))
    indexes = tmp_path / 'indexes'
    printed = start('robot', damaged, tmp_path / 'cache', indexes, processes=2, expected=1)
    assert re.search(r'CorruptRecord: .*00005-of-00008, record at byte', printed)
    shard.write_bytes(whole)
    kept = {path.name for path in indexes.rglob('*.npz')}
    assert 0 < len(kept) < 8 and not [*indexes.rglob('index.json')]
    assert len(fingerprints(start('robot', damaged, tmp_path / 'cache', indexes, processes=2))) == 2
    assert not [*indexes.rglob('*.npz')] and len([*indexes.rglob('index.json')]) == 1


def test_processes_that_are_alone_wait_for_each_other(root, tmp_path):
    """Two jobs of one machine begin at once: one indexes, the other takes what it made."""
    data = shutil.copytree(root / 'bucket/tabletop', tmp_path / 'tabletop')
    shutil.rmtree(data / 'rt2_index', ignore_errors=True)
    program = (
        'import sys\n'
        'from rt2_jax.data.index import index_build\n'
        'from rt2_jax.data.robot import rlds\n'
        'run = index_build.index_unit\n'
        'index_build.index_unit = lambda *unit: (print("indexed", flush=True), run(*unit))\n'
        'print("fingerprint", rlds.open_source(sys.argv[1], "tabletop").fingerprint)'
    )
    command = [sys.executable, '-c', program, str(data)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in 'ab']
    printed = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(text.count('indexed') for text in printed) == [0, 8]
    assert len(set(fingerprints(''.join(printed)))) == 1


@pytest.mark.slow
def test_a_run_in_a_bucket_restarts_without_reading_its_data(root, bucket, monkeypatch, tmp_path):
    """python -m pytest -m slow -s tests/data/index/test_index_together.py prints requests and bytes."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    address, workdir = f'{bucket.url}/data/tabletop', f'{bucket.url}/run'
    paths.upload(root / 'bucket/tabletop', address)
    whole, rows = sum(paths.files(address).values()), {}
    for number, steps in enumerate((2, 4)):
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / f'cache{number}'))
        bucket.clear()
        result = subprocess.run(
            [sys.executable, 'launch/local_pod.py', '--processes=2', '--']
            + [sys.executable, '-m', 'rt2_jax.train', f'--workdir={workdir}']
            + ['--config=tests/training/tiny_config.py:robot', f'--config.total_steps={steps}']
            + [f'--config.data.robot.tabletop.directory={address}', '--config.log_every=1'],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
            env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
        )
        assert result.returncode == 0, result.stdout + result.stderr
        rows[steps] = {
            prefix: (bucket.count('GET', prefix=prefix), bucket.bytes('GET', prefix=prefix))
            for prefix in ('data', 'run/indexes', 'run/checkpoints')
        }
        print(f'\nto step {steps}, set of {whole:,} bytes: (requests, bytes) {rows[steps]}')
    assert 'resumed at step 2' in result.stdout
    # What is left are the pictures of the batches.
    assert rows[2]['data'][1] < 1.3 * whole and rows[4]['data'][1] < 0.3 * whole
