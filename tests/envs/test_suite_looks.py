"""Tables, cameras and lights of the tests are in no training data, and leave the tiles in view."""

import colorsys
import itertools
import math

import numpy as np
import pytest

from rt2_jax.data.web import compose, variety
from rt2_jax.envs.tabletop import looks, scene as scenes, suite_looks, suites
from rt2_jax.envs.tabletop.scene import Surface
from rt2_jax.envs.tabletop.stage import TILE_HEIGHT, TILE_SIDE, Stage

TRAINING = suite_looks.TABLES['muted'].patterns
SLACK = 1e-9


def saturation(surface):
    return colorsys.rgb_to_hsv(*surface.first)[1]


def usual_table(surface):
    """Whether a table could be one of the episodes'."""
    return surface.pattern in TRAINING and saturation(surface) <= 0.4 + SLACK


def usual_light(light):
    white = np.ptp(light.key) < SLACK
    return bool(white and math.hypot(*light.direction[:2]) <= 0.3 + SLACK)


def usual_camera(camera):
    moved = np.abs(np.subtract(camera.position, scenes.CAMERA)).max()
    return moved <= 0.01 + SLACK and abs(camera.roll) <= 0.01 and abs(camera.fov - 32.5) <= 0.4


@pytest.mark.parametrize('name', ['train', 'seen', 'symbols', 'reasoning', 'people'])
def test_training_looks(name):
    for seed in range(300):
        scene = suites.draw(name, seed)
        assert usual_table(scene.surface) and usual_light(scene.light)
        assert usual_camera(scene.camera) and not scene.clutter


def test_no_training_scene_has_the_tables_of_the_tests():
    for seed in range(300):
        easy = suites.draw('unseen_backgrounds_easy', seed)
        hard = suites.draw('unseen_backgrounds_hard', seed)
        assert easy.surface.pattern in TRAINING and saturation(easy.surface) > 0.55
        assert hard.surface.pattern not in TRAINING
        for scene in (easy, hard):
            assert not usual_table(scene.surface)
            assert usual_light(scene.light) and usual_camera(scene.camera)


def test_no_training_scene_has_the_cameras_and_lights_of_the_tests():
    changed = set()
    for seed in range(300):
        easy = suites.draw('unseen_environments_easy', seed)
        hard = suites.draw('unseen_environments_hard', seed)
        assert usual_table(easy.surface) and usual_table(hard.surface)
        changed.add((usual_light(easy.light), usual_camera(easy.camera)))
        assert not easy.clutter and len(hard.clutter) >= 4
        assert not usual_light(hard.light) and not usual_camera(hard.camera)
    assert changed == {(True, False), (False, True)}


def test_frames_that_training_asks_about_are_like_no_test():
    views = [
        suites.SUITES[n].view for n in ('unseen_environments_easy', 'unseen_environments_hard')
    ]
    rng = np.random.default_rng(0)
    tests = [suite_looks.draw_view(rng, view) for view in views for _ in range(300)]
    off = lambda camera: math.dist(camera.position, scenes.CAMERA)
    lean = lambda light: math.hypot(*light.direction[:2])
    tint = lambda light: colorsys.rgb_to_hsv(*light.key)[1]
    furthest = max(off(camera) for _, camera, _ in tests)
    lowest = max(lean(light) for light, _, _ in tests)
    strongest = max(tint(light) for light, _, _ in tests)
    seen = set()
    for seed in range(300):
        scene = suites.draw('elsewhere', seed)
        assert scene.surface.pattern == 'web' and not scene.clutter
        camera, light = usual_camera(scene.camera), usual_light(scene.light)
        assert camera or (off(scene.camera) > furthest and abs(scene.camera.roll) > 0.12)
        assert light or lean(scene.light) > lowest or tint(scene.light) > strongest
        seen.add((camera, light))
    assert len(seen) == 4


def test_the_small_web_has_none_of_the_hard_patterns():
    """Of the older 'bold' tables it has stripes and checks, as suite_looks says."""
    drawn = {*variety.SURFACES, *compose.BACKGROUNDS}
    assert not drawn & set(suite_looks.TABLES['patterned'].patterns)
    assert drawn & set(suite_looks.TABLES['bold'].patterns) == {'stripes', 'checks', 'clouds'}


@pytest.mark.parametrize('pattern', looks.PATTERNS)
def test_patterns(pattern):
    """Both colours show, the same number draws the same, and another number another."""
    top = lambda seed: looks.table_top(
        Surface(pattern, (0.0, 0.2, 0.4), (1.0, 0.6, 0.8), 8.0, seed)
    )
    np.testing.assert_array_equal(top(1), top(1))
    if pattern == 'plain':
        return
    assert (top(1) != top(2)).any()
    if pattern == 'web':  # has colours of its own
        return
    assert 0.15 < (top(1)[..., 0] > 128).mean() < 0.85


def test_small_pictures():
    white = (1.0, 1.0, 1.0)
    whole, small = looks.tile_top('1F34C', white), looks.tile_top('1F34C', white, 0.7)
    assert whole.shape == small.shape
    rows, columns = np.nonzero((small != 255).any(-1))
    inside = np.nonzero((whole != 255).any(-1))[0]
    assert np.ptp(rows) == pytest.approx(0.7 * np.ptp(inside), abs=3)
    assert rows.min() > 15 and columns.max() < looks.PICTURE_SIZE - 15


@pytest.mark.parametrize('name', [n for n in suites.SUITES if 'environments' in n])
def test_every_camera_sees_the_tiles(name):
    stage = Stage()
    half = TILE_SIDE / 2
    hidden = total = 0
    for seed in range(60):
        scene = suites.draw(name, seed)
        stage.load(scene)
        for tile in scene.tiles:
            top = (tile.x, tile.y, TILE_HEIGHT)
            centre = np.array(stage.project(top))
            np.testing.assert_allclose(scene.camera.project(np.array(top)), centre, atol=1e-6)
            assert ((centre > 0.03) & (centre < 0.97)).all()
            for right, far in itertools.product((-half, half), repeat=2):
                corner = np.array(stage.project((tile.x + right, tile.y + far, TILE_HEIGHT)))
                hidden += bool(((corner < 0) | (corner > 1)).any())
                total += 1
    assert hidden / total < 0.02
