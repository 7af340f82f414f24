"""The wheel works where there is no checkout: bash launch/test.sh -m slow tests/test_wheel.py"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ANSWER = """
import numpy as np
import rt2_jax
from rt2_jax.policy import Policy
policy = Policy.from_checkpoint('package:tabletop_pretrained')
picture = np.full((96, 96, 3), 200, np.uint8)
print(rt2_jax.__file__, repr(policy.answer(picture, 'what is in the image')), sep='\\n')
"""


def run(*command, folder):
    """The output of a command that sees nothing of this checkout or its environment."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """The interpreter of a new environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp('wheel')
    pip = '-m', 'pip', '-q', '--disable-pip-version-check'
    run(sys.executable, *pip, 'wheel', '--no-deps', '-w', folder, ROOT, folder=folder)
    [wheel] = folder.glob('rt2_jax-*.whl')
    run(sys.executable, '-m', 'venv', folder / 'venv', folder=folder)
    python = folder / 'venv' / 'bin' / 'python'
    what = '-c', ROOT / 'launch/constraints.txt', f'{wheel}[sim]'
    run(python, *pip, 'install', *what, folder=folder)
    return python


@pytest.mark.slow
def test_the_packaged_model_answers(python, tmp_path):
    location, answer = run(python, '-c', ANSWER, folder=tmp_path).splitlines()[-2:]
    assert pathlib.Path(location).is_relative_to(python.parents[1]) and len(answer) > 2


@pytest.mark.slow
def test_the_first_lines_of_the_readme_act(python, tmp_path):
    lines = re.search(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)[1]
    assert run(python, '-c', f'{lines}print(success)', folder=tmp_path).split()[-1] == '1.0'


@pytest.mark.slow
def test_a_checkpoint_is_inspected(python, tmp_path):
    command = '-m', 'rt2_jax.checkpoints.inspect', '--checkpoint=package:tabletop_pretrained'
    assert 'parameters' in run(python, *command, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('old, new', [('plan', 'estimate'), ('inspect', 'checkpoints.inspect')])
def test_old_names_of_commands_say_the_new_ones(python, old, new, tmp_path):
    result = subprocess.run(
        [python, '-m', f'rt2_jax.{old}'], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2 and f'python -m rt2_jax.{new}' in result.stderr
