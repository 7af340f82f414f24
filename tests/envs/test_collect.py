"""Collection: what is stored is what was played, whatever the processes and interruptions."""

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from rt2_jax import paths
from rt2_jax.data import data_errors, images
from rt2_jax.data.robot import rlds
from rt2_jax.envs import collected_files, collection as collecting
from rt2_jax.envs.tabletop import collect, detours as detours_lib, tasks

SETTINGS = collect.Settings(episodes=6, image_size=64, noise=0.1)


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    output = tmp_path_factory.mktemp('collection') / 'data'
    return output, collect.collect(output, SETTINGS, processes=2)


def shards(directory):
    return {p.name: p.read_bytes() for p in directory.glob('*.tfrecord-*')}


def test_stored_is_what_was_played(collection):
    output, summary = collection
    source = rlds.open_source(output, 'tabletop')
    env = collect.environment(SETTINGS)
    played = [collect.play(env, SETTINGS, n) for n in range(6)]
    assert summary['episodes'] == 6 and summary['steps'] == len(source)
    assert len(source) == sum(len(episode['steps']) for episode in played)
    for number in (0, 3, 5):
        steps = played[number]['steps']
        for i, step in zip(source.table.episode_steps(number), steps, strict=True):
            raw = source.table.raw(i)
            frame = images.decode(images.encode_jpeg(step['observation']['image']))
            np.testing.assert_array_equal(source.frames(i)[0], frame)
            np.testing.assert_array_equal(raw['action'][1:4], step['action']['world_vector'])
            assert raw['instruction'] == step['observation']['natural_language_instruction']
            assert raw['success'] == played[number]['episode_metadata']['success']
            names = raw['observation/object_names'].split('\n')
            pixels = raw['observation/object_pixels']
            assert np.isfinite(pixels[: len(names)]).all() and np.isnan(pixels[len(names) :]).all()
            u, v = raw['observation/gripper_pixel']
            assert -0.5 < u < 1.5 and -0.5 < v < 1.5
        assert source.table.action(source.table.episode_steps(number)[-1])[0] == 1.0


def test_actions_stay_in_their_range(collection):
    source = rlds.open_source(collection[0], 'tabletop')
    actions = np.stack([source.table.action(i) for i in range(len(source))])[:, 1:]
    low, high = np.array(source.action_space.low), np.array(source.action_space.high)
    assert (actions >= low - 1e-6).all() and (actions <= high + 1e-6).all()


def test_processes_and_interruption_change_nothing(collection, tmp_path):
    """Half-done, with a half-written shard about: named by the reader, finished by a second run."""
    whole = collection[0]
    part = tmp_path / 'data'
    part.mkdir()
    names = sorted(shards(whole))
    (part / collecting.COLLECTION_JSON).write_bytes(
        (whole / collecting.COLLECTION_JSON).read_bytes()
    )
    for name in names[:3]:
        (part / name).write_bytes((whole / name).read_bytes())
    (part / f'{paths.NEW}1-{names[3]}').write_bytes(b'half a shard')
    with pytest.raises(data_errors.DataSetError, match='half-written.*run the same command again'):
        rlds.open_source(part, 'tabletop')
    collect.collect(part, SETTINGS, processes=1)
    assert shards(part) == shards(whole)
    files = {p.name for p in part.iterdir()}
    assert files == {p.name for p in whole.iterdir()} - {'rt2_index'}


def test_a_worker_that_dies_costs_its_shard_alone(collection, tmp_path):
    """As when a driver of OpenGL crashes."""
    output = tmp_path / 'data'
    flags = ['--episodes=6', '--image_size=64', '--noise=0.1', '--processes=2']
    process = subprocess.Popen(
        [sys.executable, '-m', 'rt2_jax.envs.tabletop.collect', f'--output={output}', *flags],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(output.glob(f'{paths.NEW}*')):
        time.sleep(0.01)
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if 'spawn_main' in ' '.join(child.cmdline())
    ]
    workers[0].kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and 'a worker died; its part is collected again' in said
    assert shards(output) == shards(collection[0])


def test_detours_are_found_back_from():
    """More of the stored actions go far, and the goal is reached all the same."""

    def far(detours):
        settings = collect.Settings(episodes=9, image_size=16, detours=detours, tasks=tasks.KINDS)
        episodes = [collect.play(collect.environment(settings), settings, n) for n in range(9)]
        assert sum(episode['episode_metadata']['success'] for episode in episodes) >= 8
        steps = [step for episode in episodes for step in episode['steps']]
        ways = np.array([step['action']['world_vector'][:2] for step in steps])
        return np.mean(np.linalg.norm(ways, axis=1) > detours_lib.FAR)

    assert far(detours=0.8) > 1.4 * far(detours=0.0)


def test_what_is_in_the_way(collection, tmp_path):
    output, summary = collection
    assert collect.collect(output, SETTINGS) == summary  # complete: nothing is done again
    other = collect.Settings(episodes=6, image_size=64, noise=0.0)
    with pytest.raises(collecting.OutputError, match=r'noise=0.1 \(now 0.0\).*another --output'):
        collect.collect(output, other)
    about = json.loads((output / collecting.COLLECTION_JSON).read_text())
    unfinished = tmp_path / 'unfinished'
    unfinished.mkdir()
    older = json.dumps({**about, 'environment': 'older'})
    (unfinished / collecting.COLLECTION_JSON).write_text(older)
    with pytest.raises(collecting.OutputError, match="environment='older'"):
        collect.collect(unfinished, SETTINGS)
    (tmp_path / 'mine.txt').write_text('precious')
    with pytest.raises(collecting.OutputError, match="isn't empty"):
        collect.collect(tmp_path, SETTINGS)


def test_bad_settings():
    with pytest.raises(ValueError, match="did you mean 'train'"):
        collect.Settings(episodes=1, suite='trian')
    with pytest.raises(ValueError, match="did you mean 'push'"):
        collect.Settings(episodes=1, tasks=('pusch',))
    with pytest.raises(ValueError, match='seed must be 0 to 9'):
        collect.Settings(episodes=1, seed=10)
    assert sum(collected_files.part_lengths(5000)) == 5000
    assert collected_files.part_lengths(3) == [1, 1, 1]


def test_command_line(tmp_path):
    command = [
        sys.executable,
        '-m',
        'rt2_jax.envs.tabletop.collect',
        f'--output={tmp_path / "d"}',
        '--processes=1',
        '--image_size=64',
    ]
    done = subprocess.run([*command, '--episodes=2'], capture_output=True, text=True, check=True)
    assert '2 episodes' in done.stdout and 'collected 2/2 episodes' in done.stderr
    assert json.loads((tmp_path / 'd' / 'dataset_info.json').read_text())['splits']
    wrong = subprocess.run([*command, '--episodes=3'], capture_output=True, text=True, check=False)
    assert (
        wrong.returncode == 1
        and 'collect: ' in wrong.stderr
        and 'episodes=2 (now 3)' in wrong.stderr
    )
    assert 'Traceback' not in wrong.stderr
