"""The stage's looks: textures, lights, camera and clutter, written into the model."""

import math

import cv2
import mujoco
import numpy as np

from rt2_jax.data.web import pictures, variety
from rt2_jax.envs.tabletop.scene import MAX_CLUTTER, Camera, Scene, Surface

PICTURE_SIZE = 128  # texels; a tile is at most some 110 pixels wide in the largest video
TABLE_SIZE = 256
PATTERNS = ('plain', 'stripes', 'checks', 'clouds', 'dots', 'rings', 'zigzag', 'web')
_MARGIN = 3  # of tile colour around the picture, texels
_SHAPES = {
    'box': mujoco.mjtGeom.mjGEOM_BOX,
    'ellipsoid': mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    'cylinder': mujoco.mjtGeom.mjGEOM_CYLINDER,
}


def apply(model: mujoco.MjModel, scene: Scene) -> list[int]:
    """Writes the scene's looks into `model`; returns the ids of the textures that changed."""
    changed = []
    for i, tile in enumerate(scene.tiles):
        model.geom(f'tile{i}').rgba[:3] = tile.colour
        top = tile_top(tile.picture.code, tile.colour, tile.scale, tile.drawn_by)
        changed.append(_write(model, f'picture{i}', top))
    changed.append(_write(model, 'table', table_top(scene.surface)))
    key, fill = model.light('key').id, model.light('fill').id
    direction = np.array(scene.light.direction) / np.linalg.norm(scene.light.direction)
    model.light_dir[key] = direction
    model.light_pos[key] = -1.5 * direction  # the shadow map is centred on the light's axis
    model.light_diffuse[key] = scene.light.key
    model.light_ambient[key] = scene.light.ambient
    model.light_specular[:] = 0
    model.light_diffuse[fill] = np.array(scene.light.key) * 0.6
    model.light_ambient[fill] = 0
    _place_camera(model, scene.camera)
    for i in range(MAX_CLUTTER):
        geom = model.geom(f'clutter{i}').id
        if i < len(scene.clutter):
            thing = scene.clutter[i]
            model.geom_type[geom] = _SHAPES[thing.shape]
            model.geom_pos[geom] = thing.position
            model.geom_size[geom] = thing.size
            model.geom_rbound[geom] = np.linalg.norm(thing.size)
            model.geom_rgba[geom] = (*thing.colour, 1)
        else:
            model.geom_rgba[geom, 3] = 0
    return changed


def tile_top(
    code: str, colour: tuple[float, float, float], scale: float = 1.0, drawn_by: str = 'openmoji'
) -> np.ndarray:
    """Returns a picture laid over a tile's colour, uint8 [PICTURE_SIZE, PICTURE_SIZE, 3]."""
    margin = round((PICTURE_SIZE - scale * (PICTURE_SIZE - 2 * _MARGIN)) / 2)
    inner = PICTURE_SIZE - 2 * margin
    drawing = pictures.raster(code, inner, drawn_by).astype(np.float32)
    ground = np.array(colour, np.float32) * 255
    alpha = drawing[..., 3:] / 255
    top = np.broadcast_to(ground, (PICTURE_SIZE, PICTURE_SIZE, 3)).copy()
    top[margin:-margin, margin:-margin] = drawing[..., :3] * alpha + ground * (1 - alpha)
    return top.round().astype(np.uint8)


def table_top(surface: Surface) -> np.ndarray:
    """Returns the table's texture, uint8 [TABLE_SIZE, TABLE_SIZE, 3]."""
    rng = np.random.default_rng(surface.seed)
    if surface.pattern == 'web':
        small = variety.surface(rng, TABLE_SIZE // 2).clip(0, 255).astype(np.uint8)
        return cv2.resize(small, (TABLE_SIZE, TABLE_SIZE), interpolation=cv2.INTER_LINEAR)
    ramp = np.linspace(-1, 1, TABLE_SIZE)
    x, y = np.meshgrid(ramp, ramp)
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    if surface.pattern == 'plain':
        weight = np.zeros_like(x)
    elif surface.pattern == 'stripes':
        weight = (np.sin(along * surface.cells * math.pi) > 0).astype(float)
    elif surface.pattern == 'checks':
        weight = (
            np.sin(along * surface.cells * math.pi) * np.sin(across * surface.cells * math.pi) > 0
        ).astype(float)
    elif surface.pattern == 'dots':
        step = 2 / surface.cells
        far = np.hypot((along + 9) % step - step / 2, (across + 9) % step - step / 2)
        weight = (far < 0.32 * step).astype(float)
    elif surface.pattern == 'rings':
        far = np.hypot(*(np.stack([x, y]) - rng.uniform(-0.4, 0.4, (2, 1, 1))))
        weight = (np.sin(far * surface.cells * 1.5 * math.pi) > 0).astype(float)
    elif surface.pattern == 'zigzag':
        bend = np.abs((across + 9) * surface.cells % 2 - 1) / surface.cells
        weight = (np.sin((along + 1.5 * bend) * surface.cells * math.pi) > 0).astype(float)
    elif surface.pattern == 'clouds':
        cells = max(2, round(surface.cells))
        weight = cv2.resize(
            rng.uniform(0, 1, (cells, cells)),
            (TABLE_SIZE, TABLE_SIZE),
            interpolation=cv2.INTER_CUBIC,
        ).clip(0, 1)
    else:
        raise ValueError(f'Unknown table pattern {surface.pattern!r}.')
    first, second = np.array(surface.first), np.array(surface.second)
    colours = first + weight[..., None] * (second - first)
    return (colours * 255).round().astype(np.uint8)


def _write(model: mujoco.MjModel, name: str, pixels: np.ndarray) -> int:
    texture = model.texture(name).id
    start = model.tex_adr[texture]
    model.tex_data[start : start + pixels.size] = pixels.reshape(-1)
    return int(texture)


def _place_camera(model: mujoco.MjModel, camera: Camera) -> None:
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, camera.axes().reshape(-1))
    model.cam_pos[0] = camera.position
    model.cam_quat[0] = quaternion
    model.cam_fovy[0] = camera.fov
