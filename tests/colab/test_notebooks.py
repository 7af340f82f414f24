"""The notebooks run as they are, with nothing but the package, and show what they say."""

import base64
import pathlib
import re
import subprocess
import sys

import imageio.v2 as imageio
import nbclient
import nbformat
import numpy as np
import pytest

from rt2_jax.data import images
from rt2_jax.envs.tabletop.env import TabletopEnv

FOLDER = pathlib.Path(__file__).parents[2] / 'rt2_jax/colab'
NAMES = ('ask_and_act', 'inspect_checkpoint', 'look_at_robot_data')


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f'{name}.ipynb', as_version=nbformat.NO_CONVERT)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


class Run:
    """A notebook as it ran: its texts, its tables, its pictures and its films."""

    def __init__(self, name: str, folder: pathlib.Path, **fields: str):
        notebook = read(name)
        for field, value in fields.items():
            fill(notebook, field, value)
        client = nbclient.NotebookClient(
            notebook, timeout=300, resources={'metadata': {'path': str(folder)}}
        )
        client.execute()
        outputs = [output for cell in code(notebook) for output in cell.outputs]
        assert 'error' not in {output.output_type for output in outputs}
        shown = [output.data for output in outputs if 'data' in output]
        tables = [data['text/html'] for data in shown if 'text/html' in data]
        self.printed = ''.join(output.get('text', '') for output in outputs)
        self.html = '\n'.join(tables)
        self.rows = re.findall(r'<tr.*?</tr>', self.html)
        self.pictures = [
            images.decode(base64.b64decode(d['image/png'])) for d in shown if 'image/png' in d
        ]
        self.films = re.findall(r'data:video/mp4;base64,([\w+/=]+)', self.html)

    def cells_of(self, first: str) -> list[list[str]]:
        """The cells of the table rows that begin with a word."""
        rows = [re.findall(r'<td[^>]*>(.*?)</td>', row) for row in self.rows]
        return [row for row in rows if row and row[0] == first]


def fill(notebook: nbformat.NotebookNode, field: str, value: str) -> None:
    """Fills in a field of a Colab form."""
    found = 0
    for cell in code(notebook):
        pattern = rf'(?m)^{field} = .*?(?=  # @param)'
        cell.source, times = re.subn(pattern, f'{field} = {value}', cell.source)
        found += times
    assert found == 1, field


def assert_figures(pictures: list[np.ndarray], number: int):
    assert len(pictures) == number
    for picture in pictures:
        assert min(picture.shape[:2]) > 200 and picture.std() > 10


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Kernels compile fast and run slow."""
    monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')


def test_all_notebooks_are_tested():
    assert NAMES == tuple(sorted(path.stem for path in FOLDER.glob('*.ipynb')))


@pytest.mark.parametrize('name', NAMES)
def test_notebook_is_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == 'python3'
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))
    assert code(notebook)[0].source == code(read(NAMES[0]))[0].source


def test_installing_asks_for_the_repository():
    # Without site-packages, so that rt2_jax is not there.
    cell = code(read(NAMES[0]))[0].source
    done = subprocess.run([sys.executable, '-I', '-S', '-c', cell], capture_output=True, text=True)
    assert done.returncode and 'Fill in REPOSITORY' in done.stderr


def test_inspect_checkpoint(tmp_path):
    run = Run('inspect_checkpoint', tmp_path, MATRICES='3')
    assert_figures(run.pictures, 5)
    ((_, dtype, _, parameters, *_),) = run.cells_of('all')
    assert (dtype, parameters) == ('bfloat16', '2,392,880')
    numbers = [row[1] for row in run.cells_of('acts in')]
    assert numbers == ['terminate', 'dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper']
    assert 'no metrics.jsonl' in run.printed


def test_ask_and_act(tmp_path):
    run = Run('ask_and_act', tmp_path, MAX_STEPS='3')
    assert_figures(run.pictures, 4)
    # It says where things are, to within half a tile.
    env = TabletopEnv('seen')
    _, info = env.reset(seed=7)
    env.close()
    for name, place in zip(info['object_names'], info['object_pixels'], strict=True):
        ((_, answer),) = run.cells_of(f'where is the {name}')
        np.testing.assert_allclose([int(x) / 1000 for x in answer.split()], place, atol=0.1)
    # An action has eight numbers, each with its unit, its token and its probability.
    action = [run.cells_of(n)[0] for n in ('terminate', 'dx', 'dy', 'dz', 'drx', 'dry', 'drz')]
    action += run.cells_of('gripper')
    assert len(action) == 8
    assert all(0 <= int(row[3]) <= 255 and 0 < float(row[4]) <= 1 for row in action)
    # The tabletop is its own robot: what it is sent is what was decided.
    assert all(float(row[2]) == pytest.approx(float(row[6]), abs=1e-3) for row in action[1:])
    assert len(run.films) == 2
    for film in run.films:
        path = tmp_path / 'film.mp4'
        path.write_bytes(base64.b64decode(film))
        assert len([frame for frame in imageio.get_reader(path)]) >= 3


def test_look_at_robot_data(tmp_path):
    run = Run('look_at_robot_data', tmp_path, COLLECT='4')
    assert_figures(run.pictures, 5)
    assert run.cells_of('episodes') == [['episodes', '4']]
    (tokens,) = run.cells_of('tokens')
    assert len(tokens[1].split()) == 8
    # RT-1's bounds hold every action, so no error is above half a bin.
    for _, _, _, used, width, _, largest, outside in run.cells_of('RT-1&#x27;s bounds'):
        assert 1 <= int(used) <= 256 and outside == '0.0%'
        assert float(largest) <= 0.51 * float(width)
