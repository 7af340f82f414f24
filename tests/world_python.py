"""The Python environments of other worlds, for tests that play in them."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = pathlib.Path(
    os.environ.get('METAWORLD_PYTHON', ROOT / '.worlds' / 'metaworld' / 'bin' / 'python')
)
needs_metaworld = pytest.mark.skipif(
    not PYTHON.exists(),
    reason='Meta-World wants an environment of its own: bash launch/worlds.sh metaworld '
    '(or METAWORLD_PYTHON=PATH of its Python)',
)


def in_its_python(*command):
    """What a command prints that runs where Meta-World is installed."""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(
        [PYTHON, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
