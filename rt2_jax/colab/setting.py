"""What a notebook needs before it starts, on Colab and elsewhere."""

import os
import subprocess
import sys

from absl import logging
import IPython
import jax
import matplotlib

# What MuJoCo draws with where there is no display; the names are those of Debian and Ubuntu.
GRAPHICS = ('libegl1', 'libgl1-mesa-dri', 'libosmesa6')
_DRAW = 'from rt2_jax.envs.tabletop import rendering; rendering.create_context(64, 64).free()'
LOOK = {
    'figure.dpi': 100,
    'font.size': 11,
    'axes.titlesize': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'legend.frameon': False,
    'image.cmap': 'viridis',
}


def prepare(simulator: bool = True) -> None:
    """Shows figures in the notebook, makes sure that the simulator can draw, names the devices.

    Args:
        simulator: whether the notebook draws the tabletop.

    Raises:
        RuntimeError: nothing here draws without a display; the message says what to install.
    """
    if shell := IPython.get_ipython():
        shell.run_line_magic('matplotlib', 'inline')
    matplotlib.rcParams.update(LOOK)
    # What is logged is meant for runs: what Orbax says of directories that are only read, say.
    logging.set_verbosity(logging.ERROR)
    if simulator:
        _make_drawing_work()
    devices = jax.devices()
    print(f'jax {jax.__version__} on {len(devices)} x {devices[0].device_kind}')


def on_colab() -> bool:
    """Whether this is a machine of Colab's, where packages of the system may be installed."""
    return 'COLAB_RELEASE_TAG' in os.environ


def _make_drawing_work() -> None:
    """Installs what MuJoCo draws with, on Colab and if it is missing."""
    problem = _drawing_problem()
    if problem and on_colab():
        # The lists that Colab's image came with are too old for most packages.
        subprocess.run(['apt-get', 'update', '-qq'], check=True)
        subprocess.run(['apt-get', 'install', '-qq', '-y', *GRAPHICS], check=True)
        problem = _drawing_problem()
    if problem:
        raise RuntimeError(problem)


def _drawing_problem() -> str:
    """Why nothing can be drawn, '' if it can; found out beside this process, as a failure sticks."""
    tried = subprocess.run([sys.executable, '-c', _DRAW], capture_output=True, text=True)
    return tried.stderr if tried.returncode else ''
