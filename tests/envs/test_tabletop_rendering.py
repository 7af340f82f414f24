"""Offscreen rendering: the choice of a backend, what is said without one, several processes."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from rt2_jax.envs.tabletop import rendering
from rt2_jax.envs.tabletop.env import TabletopEnv


def frame(seed):
    env = TabletopEnv(suite='seen', image_size=48)
    image = env.reset(seed=seed)[0]['image']
    env.close()
    return image


def test_processes_draw_the_same_frames():
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        theirs = pool.map(frame, range(4))
    for seed, image in enumerate(theirs):
        np.testing.assert_array_equal(image, frame(seed))


def test_several_in_one_process():
    first, second = (TabletopEnv(suite='seen', image_size=48) for _ in range(2))
    alone = frame(1)
    first.reset(seed=1)
    second.reset(seed=2)
    np.testing.assert_array_equal(first.reset(seed=1)[0]['image'], alone)
    second.close()
    np.testing.assert_array_equal(first.reset(seed=1)[0]['image'], alone)
    first.close()
    first.close()
    with pytest.raises(RuntimeError, match='closed'):
        first.render()


def test_one_that_is_dropped_leaves_the_next_alone():
    expected = [frame(seed) for seed in range(3)]
    for seed in range(3):
        environment = TabletopEnv('seen', image_size=48)
        for _ in range(2):
            observation, _ = environment.reset(seed=seed)
            np.testing.assert_array_equal(observation['image'], expected[seed])


def test_context_stays_in_its_process():
    env = TabletopEnv(suite='seen', image_size=16)
    env.reset(seed=0)

    def child(connection):
        try:
            env.render()
        except RuntimeError as error:
            connection.send(str(error))

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context('fork').Process(target=child, args=(theirs,))
    process.start()
    assert ours.poll(20) and 'spawn' in ours.recv()
    process.join()
    env.close()


def test_without_opengl_the_packages_are_named(tmp_path):
    """In a process whose libraries can't be found: a loader path with broken ones stands first."""
    for name in ('libEGL.so.1', 'libOSMesa.so', 'libOSMesa.so.8', 'libOSMesa.so.6'):
        (tmp_path / name).write_bytes(b'not a library')
    code = 'from rt2_jax.envs.tabletop.rendering import create_context\ncreate_context(8, 8)'
    environment = {**os.environ, 'LD_LIBRARY_PATH': str(tmp_path)}
    environment.pop('MUJOCO_GL', None)
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert 'RenderingUnavailable' in done.stderr
    assert 'libegl1 libgl1-mesa-dri' in done.stderr and 'libosmesa6' in done.stderr


def test_unknown_backend():
    with pytest.raises(ValueError, match='Valid: egl, osmesa'):
        rendering.create_context(8, 8, backends=('metal',))


def test_frame_must_fit_the_buffer():
    env = TabletopEnv(suite='seen', image_size=16)
    env.reset(seed=0)
    with pytest.raises(ValueError, match='frame buffer'):
        env._renderer.draw(env.stage.data, 4000, 16)
    env.close()
