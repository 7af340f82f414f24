"""What the user can mend is one line on stderr and exit code 1, in every binary."""

import importlib
import inspect
import os
import pathlib
import pickle
import pkgutil
import re
import shutil
import socket
import subprocess
import sys

from in_process import BINARIES, run
import numpy as np
import pytest

import rt2_jax
from rt2_jax import buckets, command, configuration, exit_codes
from rt2_jax.data.data_errors import CorruptRecord
from rt2_jax.errors import MissingPackage, UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGED = ROOT / 'rt2_jax' / 'weights' / 'tabletop_pretrained'
MODEL = 'package:tabletop_pretrained'
TINY = 'tests/training/tiny_config.py:web'
# Errors that go to a client of the server as an answer, not to whoever started it.
INTERNAL = {'rt2_jax.serving.limits.Refusal'}


def modules():
    for found in pkgutil.walk_packages(rt2_jax.__path__, 'rt2_jax.'):
        yield importlib.import_module(found.name)


@pytest.fixture(name='errors', scope='module')
def fixture_errors():
    return {
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception)
        if value.__module__.startswith('rt2_jax.')
    }


def test_every_error_crosses_to_another_process(errors):
    details = {MissingPackage: ('reading', 'av', 'lerobot'), CorruptRecord: ('a file', 8, 'short')}
    for kind in errors:
        base = next((base for base in details if issubclass(kind, base)), None)
        error = kind(*details[base]) if base else kind('what is wrong')
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)


def test_every_error_of_the_package_is_a_users_or_a_clients(errors):
    assert len(errors) > 20
    internal = {c for c in errors if INTERNAL & {f'{b.__module__}.{b.__name__}' for b in c.__mro__}}
    others = sorted(c.__name__ for c in errors - internal if not issubclass(c, UserError))
    assert not others, f'{others} must derive from rt2_jax.errors.UserError'


def test_every_binary_starts_through_command():
    for path in (ROOT / 'rt2_jax').rglob('*.py'):
        text = path.read_text()
        if path.name != 'command.py' and 'absl' in text and "__name__ == '__main__'" in text:
            main = text[text.index("__name__ == '__main__'") :]
            assert 'command.run(' in main and 'app.run(' not in main, path


def test_what_is_a_bug_keeps_its_trace(capsys):
    with pytest.raises(ValueError), command.one_line('x'):
        np.zeros(3).reshape(2)
    with pytest.raises(KeyError), command.one_line('x'):
        {}['a']
    with pytest.raises(SystemExit) as ended, command.one_line('x'):
        rt2_jax.nearest.check('colour', 'red', ['blue'])
    assert capsys.readouterr().err.startswith('x: Unknown colour')
    assert ended.value.code == exit_codes.USER_ERROR
    with pytest.raises(SystemExit) as ended, command.one_line('x'):
        raise buckets.Unavailable('a bucket that does not answer')
    assert ended.value.code == exit_codes.CRASHED
    with pytest.raises(SystemExit) as ended, command.one_line('x'):
        raise KeyboardInterrupt
    assert ended.value.code == 130


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    """A folder of bad inputs; {here} in the arguments below."""
    folder = tmp_path_factory.mktemp('bad')
    (folder / 'empty').mkdir()
    (folder / 'file').write_text('x')
    (folder / 'bytes').write_bytes(np.random.default_rng(0).bytes(1000))
    (folder / 'bad.py').write_text('def get_config():\n  return 1 / 0\n')
    (folder / 'deep').mkdir()
    (folder / 'deep/a.jsonl').write_text('[' * 900 + ']' * 900 + '\n{"image": "x.jpg"}\n')
    (folder / 'weights').mkdir()
    (folder / 'weights/model.safetensors').write_bytes(b'\x08' + 7 * b'\0' + b'[[[[[[[[')
    (folder / 'weights/config.json').write_text('[]')
    run_folder = folder / 'run'
    (run_folder / 'checkpoints/16').mkdir(parents=True)
    for name in ('config.json', 'embodiment.json', 'tokenizer.model'):
        shutil.copy(PACKAGED / name, run_folder / name)
    for name, changes in {
        'config.json': {'brackets': b'{"a":' * 900, 'list': b'[]', 'stripped': b'{}'},
        'embodiment.json': {'stripped': b'{}', 'bytes': b'\xff\xfe'},
        'tokenizer.model': {'bytes': b'xx'},
        'params.npz': {'bytes': b'xx'},
    }.items():
        for what, content in changes.items():
            shutil.copytree(PACKAGED, folder / f'{what}_{name}')
            (folder / f'{what}_{name}' / name).write_bytes(content)
    return folder


TRAIN = (f'--config={TINY}', '--workdir={here}/new')
CASES = [
    ('train', ('--config={here}/nope.py', '--workdir={here}/new'), 'there is no file'),
    ('train', ('--config={here}/bad.py', '--workdir={here}/new'), 'division by zero'),
    ('train', (f'--config={TINY}',), 'workdir'),
    ('train', (f'--config={TINY}', '--workdir={here}/file'), 'cannot make .*file'),
    ('train', (f'--config={TINY}', '--workdir={here}/run/checkpoints/16'), 'the run, .*run and step 16'),
    ('train', (f'--config={TINY}', '--workdir={here}/run/checkpoints'), 'directory of the run, .*run$'),
    ('train', (*TRAIN, '--config.embodiment=tabletopp'), "did you mean 'tabletop'"),
    ('train', (*TRAIN, '--config.batch_size=0'), 'batch_size is 0; it must be at least 1'),
    ('train', (*TRAIN, '--config.log_every=0'), 'log_every is 0'),
    ('train', (*TRAIN, '--config.data.threads=-1'), 'data.threads is -1'),
    ('train', (*TRAIN, '--config.model.vision.patch=0'), 'model.vision.patch is 0'),
    ('train', (*TRAIN, '--config.model.dtype=float31'), "did you mean 'float32'"),
    ('train', (*TRAIN, '--config.seed=abc'), 'invalid literal'),
    ('train', (*TRAIN, '--config.tokenizer={here}/bytes'), 'tokenizer .*bytes: neither a Sentence'),
    ('train', (*TRAIN, '--config.init_from={here}/empty'), 'empty'),
    ('train', (*TRAIN, '--config.mesh.data=7'), 'does not fit'),
    ('evaluate', ('--workdir={here}/file', '--output={here}/o.json'), 'is a file; a run is a dir'),
    ('evaluate', ('--policy=expert', '--output={here}/empty'), 'is a directory; name a file'),
    ('evaluate', ('--policy=expert', '--output={here}/file/o.json'), 'file'),
    ('evaluate', ('--policy=expert', '--output={here}/o.json', '--suite=sen'), "did you mean 'seen'"),
    ('evaluate', ('--policy=expert', '--output={here}/o.json', '--episodes=0'), 'episodes'),
    ('evaluate', ('--policy=expert', '--output={here}/o.json', '--image_size=7'), '8 to 960'),
    ('evaluate', ('--policy=expert', '--output={here}/o.json', '--image_size=0'), 'image_size=0'),
    ('serve', (f'--workdir={MODEL}', '--port=99999'), '65535'),
    ('serve', (f'--workdir={MODEL}', '--host=999.1.1.1'), 'cannot listen on --host=999.1.1.1'),
    ('serve', (f'--workdir={MODEL}', '--mesh=tensor', '--port=0'), 'such as tensor=4'),
    ('serve', ('--workdir={here}/run/checkpoints', '--port=0'), 'the directory of the run'),
    ('export', ('--workdir={here}/empty', '--output={here}/e'), 'is empty'),
    ('export', ('--workdir={here}/bytes_params.npz', '--output={here}/e'), 'no npz file'),
    ('convert', ('--source={here}/weights', '--format=t5', '--output={here}/c'), 'header of .* damaged'),
    ('convert', ('--source={here}/empty', '--format=t6', '--output={here}/c'), "did you mean 't5'"),
    ('convert', (f'--source={MODEL}', '--format=paligemma', '--output={here}/c'), "a 'pali' model"),
    ('estimate', (f'--config={TINY}', '--topology=v5q:2x2'), "did you mean 'v5p'"),
    ('estimate', (f'--config={TINY}', '--topology=cpu:1', '--mode=tran'), "did you mean 'train'"),
    ('collect', ('--output={here}/file', '--episodes=1'), 'file'),
    ('collect', ('--output={here}/deep', '--episodes=1'), "isn't empty"),
    ('collect', ('--output={here}/n', '--episodes=1', '--suite=sen'), 'suite'),
    ('collect', ('--output={here}/n', '--episodes=0'), 'episodes'),
    ('expert', ('--task=pik',), "did you mean 'pick'"),
    ('expert', ('extra',), 'extra'),
    ('data.inspect', ('--dataset={here}/file', '--output={here}/r'), 'no TFDS data set'),
    ('data.inspect', ('--dataset={here}/empty', '--output={here}/file'), 'file'),
    ('inspect_web', ('--kind=jsonl', '--dataset={here}/file', '--output={here}/w'), 'file'),
    ('inspect_web', ('--kind=jsonl', '--dataset={here}/deep', '--output={here}/w'), 'record at byte 1'),
    ('preview', (f'--config={TINY}', '--config.data.frames=0'), 'frames is 0'),
    ('preview', (f'--config={TINY}', '--frames={here}/empty'), 'empty'),
    ('preview', (f'--config={TINY}', '--config.bach_size=3'), "did you mean 'batch_size'"),
    *((name, ('--nosuchflag',), 'nosuchflag') for name in BINARIES),
]  # fmt: skip


@pytest.mark.parametrize(
    'name, arguments, message', CASES, ids=lambda x: x if isinstance(x, str) else ''
)
def test_bad_arguments_end_with_a_line(monkeypatch, here, name, arguments, message):
    monkeypatch.chdir(ROOT)
    line = run(monkeypatch, name, *(text.replace('{here}', str(here)) for text in arguments))
    assert line.startswith(f'{name}: ') or name == 'data.inspect', line
    assert re.search(message, line), line


@pytest.mark.parametrize('name', ['serve', 'inspect'])
@pytest.mark.parametrize(
    'directory, message',
    [
        ('brackets_config.json', 'config.json is damaged'),
        ('list_config.json', 'must hold an object with model, data, embodiment'),
        ('stripped_config.json', 'lacks model, data, embodiment'),
        ('stripped_embodiment.json', 'lacks embodiment, sources, action_space'),
        ('bytes_embodiment.json', 'embodiment.json is damaged'),
        ('bytes_tokenizer.model', 'tokenizer.model is damaged'),
        ('bytes_params.npz', 'no npz file'),
    ],
)
def test_damaged_checkpoints_name_the_file(monkeypatch, here, name, directory, message):
    flag = {'serve': ('--port=0', '--workdir'), 'inspect': ('--novalues', '--checkpoint')}[name]
    assert re.search(message, run(monkeypatch, name, flag[0], f'{flag[1]}={here / directory}'))


def test_a_port_in_use_is_named_before_the_model_is_loaded(monkeypatch):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        line = run(monkeypatch, 'serve', f'--workdir={MODEL}', f'--port={port}')
    assert f'--port={port}: address already in use' in line


def test_a_run_that_cannot_begin_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    run(monkeypatch, 'train', f'--config={TINY}', f'--workdir={tmp_path}/w', '--config.mesh.data=7')
    assert not (tmp_path / 'w').exists()


def test_a_config_files_own_typo_is_named():
    config = configuration.defaults()
    config.model = {}
    config.data.image_siz = 3
    with pytest.raises(
        configuration.ConfigError, match="no such field; did you mean 'data.image_size'"
    ):
        configuration.check(config)


def test_the_real_binary_prints_one_line(here):
    """A process of its own, as a user starts it."""
    result = subprocess.run(
        [sys.executable, '-m', 'rt2_jax.checkpoints.inspect', f'--checkpoint={here}/nope'],
        capture_output=True, text=True, cwd=ROOT, timeout=120, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert result.returncode == 1 and result.stderr.count('\n') == 1, result.stderr
    assert result.stderr.startswith(f'inspect: there is no directory {here}/nope')
