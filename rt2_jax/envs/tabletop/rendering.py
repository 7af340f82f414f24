"""Offscreen rendering of MuJoCo scenes without a display.

OpenGL comes through EGL or, where that fails, OSMesa, unless MUJOCO_GL names one of the two. Both draw
in software where there is no GPU. A context belongs to the process that made it: build the environment
inside the worker that uses it.
"""

from collections.abc import Sequence
import ctypes
import importlib
import os
import sys
from typing import Any
import weakref

from absl import logging
import mujoco
import numpy as np

from rt2_jax.errors import UserError

# One thread draws a 128 px frame fastest; more threads only take cores from other processes.
os.environ.setdefault('LP_NUM_THREADS', '1')

_LIBRARIES = {'egl': 'libEGL.so.1', 'osmesa': 'libOSMesa.so'}
_DEBIAN = {'egl': 'libegl1 libgl1-mesa-dri', 'osmesa': 'libosmesa6'}


class RenderingUnavailable(UserError, RuntimeError):
    """Neither EGL nor OSMesa can draw here; the message names what to install."""


def create_context(width: int, height: int, backends: Sequence[str] | None = None) -> Any:
    """Returns an offscreen OpenGL context of MuJoCo's (`make_current()`, `free()`).

    Args:
        width: of the frame buffer, pixels.
        height: of the frame buffer, pixels.
        backends: names to try in this order; None means the one that MUJOCO_GL names, or both.

    Raises:
        RenderingUnavailable: none of them works.
        ValueError: an unknown backend.
    """
    if backends is None:
        wanted = os.environ.get('MUJOCO_GL', '').lower().strip()
        backends = (wanted,) if wanted in _LIBRARIES else tuple(_LIBRARIES)
    failures = []
    for backend in backends:
        if backend not in _LIBRARIES:
            raise ValueError(f'Unknown backend {backend!r}. Valid: {", ".join(_LIBRARIES)}')
        try:
            context = _try_backend(backend, width, height)
            logging.log_first_n(logging.INFO, 'Rendering with %s.', 1, backend)
            return context
        except Exception as error:  # each library fails in a way of its own
            failures.append(f'  {backend}: {type(error).__name__}: {error}')
    raise RenderingUnavailable(
        'No offscreen OpenGL on this machine. Install one of these sets of Debian packages:\n'
        + '\n'.join(f'  apt-get install {_DEBIAN[backend]}' for backend in backends)
        + '\nWhat was tried:\n'
        + '\n'.join(failures)
    )


def _try_backend(backend: str, width: int, height: int) -> Any:
    _load_library(backend)
    chosen = os.environ.get('PYOPENGL_PLATFORM')
    if chosen not in (None, backend):
        # PyOpenGL binds to one platform on import; a failed try must not stick.
        for name in [name for name in sys.modules if name.split('.')[0] == 'OpenGL']:
            del sys.modules[name]
        sys.modules.pop(f'mujoco.{backend}', None)
    os.environ['PYOPENGL_PLATFORM'] = backend
    try:
        return importlib.import_module(f'mujoco.{backend}').GLContext(width, height)
    except ModuleNotFoundError as error:
        if error.name and error.name.split('.')[0] == 'OpenGL':
            raise ImportError("PyOpenGL is missing: pip install 'rt2_jax[sim]'") from error
        raise


def _load_library(backend: str) -> None:
    names = [_LIBRARIES[backend]]
    if backend == 'osmesa':
        names += [f'libOSMesa.so.{version}' for version in (8, 6)]
    for name in names:
        try:
            ctypes.CDLL(name)
            return
        except OSError as error:
            last = error
    raise OSError(f'{names[0]} is not installed ({last})')


class FrameRenderer:
    """Draws one model, from one of its cameras, at any size up to the model's frame buffer.

    Several may live in one process. Textures written to `model.tex_data` show after
    `upload_textures`.
    """

    def __init__(self, model: mujoco.MjModel, camera: int = 0) -> None:
        self._model = model
        self._owner = os.getpid()
        buffer = model.vis.global_
        self._context = create_context(buffer.offwidth, buffer.offheight)
        self._context.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera
        self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._mjr)
        # One that is dropped frees its own context, too: else MuJoCo would free textures and buffers of
        # the same numbers in whichever context is current, that of the renderer in its place.
        self._finalizer = weakref.finalize(self, _free, self._context, self._mjr, self._owner)
        self._finalizer.atexit = False

    def upload_textures(self, texture_ids: Sequence[int]) -> None:
        """Sends the textures with these ids from `model.tex_data` to the renderer."""
        self._make_current()
        for texture in texture_ids:
            mujoco.mjr_uploadTexture(self._model, self._mjr, texture)

    def draw(self, data: mujoco.MjData, height: int, width: int) -> np.ndarray:
        """Returns uint8 [H, W, 3], first row at the top.

        Raises:
            ValueError: larger than the frame buffer.
            RuntimeError: called in another process than the one that built this object.
        """
        buffer = self._model.vis.global_
        if not (0 < height <= buffer.offheight and 0 < width <= buffer.offwidth):
            raise ValueError(
                f'A frame of {height} x {width} does not fit the frame buffer of '
                f'{buffer.offheight} x {buffer.offwidth} pixels.'
            )
        self._make_current()
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._mjr)
        frame = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, viewport, self._mjr)
        return np.ascontiguousarray(frame[::-1])

    def close(self) -> None:
        """Frees the context; a second call does nothing."""
        if self._owner == os.getpid():
            self._finalizer()

    def _make_current(self) -> None:
        if not self._finalizer.alive:
            raise RuntimeError('This renderer is closed.')
        if self._owner != os.getpid():
            raise RuntimeError(
                'An OpenGL context cannot move to another process: build the environment inside '
                'the worker (and start workers with the "spawn" method).'
            )
        self._context.make_current()


def _free(context: Any, mjr: mujoco.MjrContext, owner: int) -> None:
    if owner == os.getpid():
        context.make_current()
        mjr.free()
        context.free()
