"""Held-out episodes: which they are, that they stay it, and that none is trained on."""

import shutil

import ml_collections
import numpy as np
import pytest

from rt2_jax.data import data_errors, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.robot import episode_splits, rlds


def split(directory, holdout, **settings):
    return {
        part: rlds.open_source(directory, 'tabletop', holdout=holdout, part=part, **settings)
        for part in episode_splits.PARTS
    }


def known(source):
    return set(episode_splits.identities(source.index)[source.table.episodes].tolist())


def test_every_episode_is_on_one_side(whole_dataset):
    for holdout in (0.3, 7):
        parts = split(whole_dataset, holdout)
        together = np.concatenate([source.table.episodes for source in parts.values()])
        assert sorted(together) == list(range(30))
        assert (
            len(parts['validation'].table.episodes) == 7
            or 4 <= len(parts['validation'].table.episodes) <= 14
        )
        assert parts['train'].fingerprint != parts['validation'].fingerprint
    successful = split(whole_dataset, 0.3, success_only=True)
    assert all(
        (s.index.arrays['episode_success'][s.table.episodes] == 1).all()
        for s in successful.values()
    )
    whole = rlds.open_source(whole_dataset, 'tabletop')
    assert len(known(whole)) == 30 and whole.fingerprint not in (
        source.fingerprint for source in parts.values()
    )


def test_an_episode_stays_on_its_side_when_others_are_added_and_all_change_places(write):
    few = split(write('few', range(20)), 0.3)
    many = split(write('many', [*range(60, 40, -1), *range(19, -1, -1)]), 0.3)
    for part in episode_splits.PARTS:
        assert known(few[part]) < known(many[part])


def test_copies_of_an_episode_go_to_one_side(write):
    twice = split(write('twice', [*range(20), *range(20)]), 0.3)
    assert not known(twice['train']) & known(twice['validation'])
    assert len(twice['validation'].table.episodes) == 2 * len(known(twice['validation']))


def test_a_copy_in_another_set_is_found_and_named(whole_dataset, write):
    parts = split(whole_dataset, 0.3)
    held = int(parts['validation'].table.episodes[0])
    copy = rlds.open_source(write('copy', [50, held]), 'tabletop', name='copy')
    episode_splits.check_apart({'tabletop': parts['train']}, {'tabletop': parts['validation']})
    with pytest.raises(
        episode_splits.Leakage, match=f'1 episodes.*\n  episode {held} of val = episode 1 of copy'
    ):
        episode_splits.check_apart(
            {'x': parts['train'], 'copy': copy}, {'val': parts['validation']}
        )


def test_another_take_of_one_layout_is_logged(write, caplog):
    take = write.episode(3)
    shorter = {**take, 'steps': take['steps'][:-1]}
    first, second = (
        rlds.open_source(write(name, [5, episode]), 'tabletop', name=name, episodes=None)
        for name, episode in (('first', take), ('second', shorter))
    )
    second.table.episodes = second.table.episodes[1:]
    episode_splits.check_apart({'a': first}, {'b': second})
    assert 'episode 1 of b = episode 1 of a' in caplog.text


def test_bad_holdouts(whole_dataset):
    for holdout in (-1, 1.5, 30, 31):
        with pytest.raises(data_errors.DataSetError, match='a number of its 30 episodes from 1 up'):
            split(whole_dataset, holdout)
    with pytest.raises(data_errors.DataSetError, match='holds out none of the 30'):
        split(whole_dataset, 1e-9)
    with pytest.raises(ValueError, match="part 'trian'; did you mean 'train'"):
        rlds.open_source(whole_dataset, 'tabletop', part='trian')


def config(directory, **validation):
    robot = dict(directory=str(directory), card='tabletop', weight=2.0)
    web = dict(weight=1.0, seed=0, kinds=dict())
    return ml_collections.ConfigDict(
        dict(
            data=dict(
                robot=dict(tabletop=robot | dict(holdout=0.3, plan_share=0.5, questions=0.3)),
                web=dict(web=web),
                image_size=32,
                prompt_length=24,
                target_length=16,
                frames=1,
                on_corrupt='raise',
                weights_per='step',
            ),
            validation=dict(robot=dict(), web=dict()) | validation,
        )
    )


def test_sources_of_a_config(whole_dataset, write, tmp_path):
    own = dict(own=dict(directory=str(write('own', [99])), card='tabletop', weight=1.0))
    web = dict(other=dict(weight=1.0, seed=9, kinds=dict()))
    made = config(whole_dataset, robot=own, web=web)
    robot, others = sources.open_sources(DataConfig.from_config(made.data))
    steps = len(robot['tabletop'][0])
    assert robot['tabletop'][1].start == robot['tabletop_plans'][1].start == steps
    trained = {name: source for name, (source, _) in {**robot, **others}.items()}
    held, asked = sources.open_validation(made, trained)
    assert list(held) == ['tabletop', 'tabletop_plans', 'own']
    assert list(asked) == ['tabletop_frames', 'other']
    assert not known(held['tabletop'][0]) & known(robot['tabletop'][0])
    leaking = config(shutil.copytree(whole_dataset, tmp_path / 'copy'))
    leaking.data.robot.tabletop.holdout = 0.6
    with pytest.raises(episode_splits.Leakage, match='of tabletop = episode'):
        sources.open_validation(leaking, trained)
    leaking.data.robot.tabletop.holdout = 0
    with pytest.raises(ValueError, match='nothing is held out: set config.data.robot.NAME.holdout'):
        sources.open_validation(leaking, trained)
