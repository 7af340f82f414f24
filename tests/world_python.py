"""The Python environments of other worlds, for tests that play in them."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def python_of(world):
    """The Python of a world: WORLD_PYTHON, such as METAWORLD_PYTHON, or the one that worlds.sh makes."""
    usual = ROOT / '.worlds' / world / 'bin' / 'python'
    return pathlib.Path(os.environ.get(f'{world.upper()}_PYTHON', usual))


def needs(world):
    """Skips a test where a world is not installed."""
    return pytest.mark.skipif(
        not python_of(world).exists(),
        reason=f'{world} wants an environment of its own: bash launch/worlds.sh {world} '
        f'(or {world.upper()}_PYTHON=PATH of its Python)',
    )


def in_python_of(world, *command):
    """What a command prints that runs where a world is installed."""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(
        [python_of(world), *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
