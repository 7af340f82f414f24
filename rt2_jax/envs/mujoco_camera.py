"""Pictures of a MuJoCo 3 model, for the worlds whose packages bring one; without shadows, as they cost most.

The tabletop, of MuJoCo 4, has its own (tabletop/rendering.py).
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import cv2
import numpy as np


def choose_driver() -> None:
    """Draws without a display; to be called before the first `import mujoco` of a process."""
    os.environ.setdefault('MUJOCO_GL', 'egl')
    # Of Mesa; more threads slow small pictures down.
    os.environ.setdefault('LP_NUM_THREADS', '1')


class MujocoCamera:
    """Draws what a model's camera sees.

    Args:
        model: the mujoco.MjModel; its cameras may be moved before, not after.
        camera: the usual camera's name.
        buffer: height and width of the largest picture, pixels.
    """

    def __init__(self, model: Any, camera: str, buffer: int) -> None:
        import mujoco

        self._mujoco, self._model = mujoco, model
        model.vis.global_.offwidth = model.vis.global_.offheight = buffer
        model.vis.quality.offsamples = 0
        self._context = mujoco.GLContext(buffer, buffer)
        self._context.make_current()
        self._scene = mujoco.MjvScene(model, 1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._usual = camera
        # Before OpenGL's own end, which complains of contexts that are left.
        atexit.register(self.free)

    def draw(self, data: Any, size: int, camera: str = '') -> np.ndarray:
        """What a camera sees of `data`, the model's mujoco.MjData: uint8 [size, size, 3]."""
        mujoco = self._mujoco
        self._camera.fixedcamid = self._model.cam(camera or self._usual).id
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._camera, everything, self._scene
        )
        view = mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_render(view, self._scene, self._drawing)
        pixels = np.empty((size, size, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, view, self._drawing)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's rows go up

    def pixels(self, data: Any, places: np.ndarray, camera: str = '') -> np.ndarray:
        """Where places lie in a camera's picture.

        Args:
            data: the model's mujoco.MjData.
            places: float [N, 3], metres.
            camera: its name.

        Returns:
            Float [N, 2]: u to the right and v down, 0 to 1 within the picture.
        """
        about = self._model.cam(camera or self._usual)
        turned = (places - data.cam_xpos[about.id]) @ data.cam_xmat[about.id].reshape(3, 3)
        # The camera looks along -z, and y is up; `fovy` is the whole height of the picture.
        half = np.tan(np.radians(float(about.fovy[0])) / 2)
        return 0.5 + turned[:, :2] * (1, -1) / (-2 * half * turned[:, 2:])

    def free(self) -> None:
        """Frees what is held of OpenGL."""
        atexit.unregister(self.free)
        self._drawing.free()
        self._context.free()


def smoothed(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [2 S, 2 S, 3] at half its size.

    Smoother than the renderer's own edges at a fraction of their cost.
    """
    side = len(picture) // 2
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
