"""The evaluation binary and its measures, on the real tabletop."""

import dataclasses
import json
import shutil

from absl import flags
from absl.testing import flagsaver
import drawn_episodes
import imageio.v2 as imageio
from in_process import defined_flags
import numpy as np
import pytest

pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")

from rt2_jax import evaluate
from rt2_jax.checkpoints import assets
from rt2_jax.data import cards
from rt2_jax.data.example import Example
from rt2_jax.data.robot import rlds
from rt2_jax.data.web import small_web
from rt2_jax.evaluation import closed_loop, offline, video
from rt2_jax.policy import Policy
from rt2_jax.policy.from_flags import FlagError
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace


@pytest.fixture(scope='module', autouse=True)
def parsed_flags():
    with defined_flags(evaluate):
        flags.FLAGS(['evaluate', '--output=unused'])
        yield


def evaluated(tmp_path, **settings):
    """Runs the binary's main with flags, returns what it wrote."""
    output = tmp_path / 'out' / 'results.json'
    with flagsaver.flagsaver(output=str(output), **settings):
        evaluate.main(['evaluate'])
    return json.loads(output.read_text())


def test_expert_in_two_suites_with_a_video(tmp_path, capsys):
    film = tmp_path / 'films' / 'rollouts.mp4'
    results = evaluated(
        tmp_path,
        policy='expert',
        suite=['seen', 'emergent'],
        episodes=4,
        parallel=3,
        video=str(film),
        video_episodes=2,
    )
    suites = results['policies']['expert']
    assert list(suites) == ['seen', 'emergent']
    for figures in suites.values():
        assert figures['episodes'] == 4 and figures['success'] >= 0.75
        low, high = figures['interval']
        assert low < figures['success'] <= high <= 1
        assert sum(part['episodes'] for part in figures['tasks'].values()) == 4
        assert [rollout['seed'] for rollout in figures['rollouts']] == [0, 1, 2, 3]
        assert figures['recognition']['count'] == figures['recognition']['of'] == 4
        assert figures['execution']['of'] == 4 and figures['recovered'] == 0
        assert figures['terminated_by_policy'] > 0 and figures['decision_ms']['robots_a_call'] == 3
    manifest = results['manifest']
    assert manifest['seeds']['episodes'] == 4 and manifest['versions']['mujoco-core']
    with imageio.get_reader(film, format='FFMPEG') as reader:
        assert reader.count_frames() >= 8
        width, height = reader.get_meta_data()['size']
    assert width % 2 == height % 2 == 0 and width >= 640
    printed = capsys.readouterr().out
    assert 'seen: ' in printed and 'went to X first: 100%' in printed
    assert 'success given X' in printed


def test_results_do_not_depend_on_how_many_run_side_by_side():
    """Nor do the frames, and seeds start where they are told to."""
    runs = [
        closed_loop.run(
            closed_loop.scripted(), 'seen', range(5, 8), parallel=n, record=1, render_size=64
        )
        for n in (1, 3)
    ]
    one, three = ([rollout.to_json() for rollout in run.rollouts] for run in runs)
    assert one == three and [rollout['seed'] for rollout in one] == [5, 6, 7]
    for a, b in zip(runs[0].rollouts[0].frames, runs[1].rollouts[0].frames, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not runs[0].rollouts[1].frames


def test_checkpoint_and_untrained_in_closed_loop(tiny_checkpoint, tmp_path):
    results = evaluated(
        tmp_path, workdir=str(tiny_checkpoint), suite=['seen'], episodes=2, parallel=2, task='pick'
    )
    figures = results['policies']['checkpoint']['seen']
    assert list(figures['tasks']) == ['pick'] and figures['episodes'] == 2
    assert results['manifest']['step'] == 7
    assert results['manifest']['config']['data']['image_size'] == 16


def test_patience_carries_on_until_as_many_actions_in_a_row_end_the_episode():
    flags = [1, 0, 1, 1, 1]

    def decide(observations, envs):
        flag = flags[len(moved)]
        moved.append(envs[0].env.state.x)
        return [closed_loop.Move(np.array([flag, 0.02, 0, 0, 0, 0, 0, -1], np.float32))]

    for patience, steps in ((1, 1), (2, 4), (3, 5)):
        moved = []
        run = closed_loop.run(decide, 'seen', [0], patience=patience, image_size=32)
        assert run.rollouts[0].steps == steps and run.rollouts[0].terminated
        assert (np.diff(moved) > 0).all()  # an action that is not heeded moves the arm all the same


@pytest.mark.parametrize('stride', [1, 2])
def test_histories_hold_the_last_frames_oldest_first(stride):
    seen = []

    def watch(observations, envs):
        seen.append(observations[0]['image'])
        action = np.array([len(seen) == 4, 0.1, 0, 0, 0, 0, 0, -1], np.float32)
        return [closed_loop.Move(action)]

    closed_loop.run(watch, 'seen', [0], frames=2, frame_stride=stride, image_size=32)
    assert all(frames.shape == (2, 32, 32, 3) for frames in seen)
    np.testing.assert_array_equal(seen[0][0], seen[0][1])
    for step, observation in enumerate(seen):
        np.testing.assert_array_equal(observation[0], seen[max(0, step - stride)][1])
    assert (seen[1][0] != seen[1][1]).any()


def test_offline(tiny_checkpoint, tmp_path):
    results = evaluated(
        tmp_path,
        workdir=str(tiny_checkpoint),
        suite=['offline'],
        episodes=2,
        questions=20,
        parallel=8,
    )
    figures = results['policies']['checkpoint']['offline']
    assert figures['web']['questions'] == 20
    assert sum(kind['questions'] for kind in figures['web']['kinds'].values()) == 20
    actions = figures['actions']
    assert actions['steps'] >= 8 and 0 <= actions['token_accuracy'] <= 1
    assert list(actions['error']) == ['dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper']
    assert actions['error']['dx']['unit'] == 'm' and actions['error']['drz']['unit'] == 'rad'


def test_held_out_episodes(tiny, tiny_checkpoint, tmp_path):
    with pytest.raises(FlagError, match='nothing is held out'):
        evaluated(tmp_path, workdir=str(tiny_checkpoint), suite=['held_out'])
    directory = drawn_episodes.write_dataset(tmp_path / 'episodes')
    given = dict(directory=str(directory), card='tabletop', weight=1.0, holdout=5)
    config = tiny.config().to_dict()
    config['data'] |= dict(robot={'table': given}, web={}, on_corrupt='raise')
    config['validation'] = dict(robot={}, web={})
    workdir = shutil.copytree(tiny_checkpoint, tmp_path / 'run')
    (workdir / 'config.json').write_text(json.dumps(config))
    results = evaluated(tmp_path, workdir=str(workdir), suite=['held_out'], parallel=8)
    figures = results['policies']['checkpoint']['held_out']['sets']
    held = rlds.open_source(directory, 'tabletop', holdout=5, part='validation')
    assert list(figures) == ['table'] and figures['table']['steps'] == len(held)
    assert len(figures['table']['error']) == 7


def test_held_out_episodes_of_a_card_that_only_the_checkpoint_has(
    tiny, tiny_checkpoint, tokenizer, tmp_path
):
    directory = drawn_episodes.write_dataset(tmp_path / 'episodes')
    file = tmp_path / 'mine.json'
    # Its actions are no arm's that the tabletop has, which concerns the suites that are played alone.
    space = ActionSpace((-0.5,) * 3, (0.5,) * 3, ('dx', 'dy', 'dz'), ('m',) * 3)
    card = dataclasses.replace(
        cards.TABLETOP,
        name='mine',
        columns=(),
        action=cards.TABLETOP.action[:1],
        action_space=space,
        gripper=None,
    )
    file.write_text(json.dumps(dataclasses.asdict(card)))
    config = tiny.config().unlock()
    config.update(embodiment=str(file), validation=dict(robot={}, web={}))
    fields = dict(directory=str(directory), card=str(file), weight=1.0, holdout=5)
    config.data.update(robot={'table': fields}, web={}, on_corrupt='raise')
    workdir = shutil.copytree(tiny_checkpoint, tmp_path / 'run')
    assets.write_assets(workdir, config, tokenizer, {'table': card.action_space})
    file.unlink()
    results = evaluated(tmp_path, workdir=str(workdir), suite=['held_out'], parallel=8)
    (figures,) = results['policies']['checkpoint']['held_out']['sets'].values()
    assert list(figures['error']) == ['dx', 'dy', 'dz']
    assert Policy.from_checkpoint(workdir, batch_sizes=(8,)).embodiment == card


def test_the_models_own_actions_have_no_error(tiny_checkpoint):
    """Offline measures against what the policy itself says: everything must be right."""
    policy = Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(8,))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
    told = policy.act_batch(frames, ['pick banana'] * 5)
    examples = [
        Example(frame[None], prompts.robot('pick banana'), action=decision.action)
        for frame, decision in zip(frames, told, strict=True)
    ]
    figures = offline.actions(policy, examples, batch=4)
    assert figures['steps'] == 5 and figures['terminate_accuracy'] == 1
    assert all(error['mean'] < 1e-6 for error in figures['error'].values())
    assert all(error['within_one_bin'] == 1 for error in figures['error'].values())
    # The teacher-forced loss is over the whole vocabulary, the policy's over what is allowed.
    assert figures['loss'] >= -np.mean([d.log_prob for d in told]) / 8 - 1e-3


def test_questions_are_scored_by_kind(tiny_checkpoint):
    policy = Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(8,))
    source = small_web.SmallWeb(seed=5, size=16)
    figures = offline.questions(policy, source, 12, batch=8)
    expected = {}
    for i in range(12):
        example = source[i]
        answer = policy.answer_batch([example.frames], [example.prompt], raw=True)[0]
        expected.setdefault(example.kind, []).append(small_web.score(example, answer))
    assert {k: v['questions'] for k, v in figures['kinds'].items()} == {
        k: len(v) for k, v in expected.items()
    }
    assert figures['accuracy'] == pytest.approx(np.mean(sum(expected.values(), [])), abs=1e-4)


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'suite': ['unseen_object'], 'policy': 'expert'}, "did you mean 'unseen_objects'"),
        ({'policy': 'expret'}, "did you mean 'expert'"),
        ({'policy': 'expert', 'task': 'pickk'}, "did you mean 'pick'"),
        ({'policy': 'checkpoint'}, 'needs --workdir'),
        ({'policy': 'expert', 'suite': ['web']}, 'not for the expert'),
        ({'workdir': 'x', 'suite': ['web'], 'video': 'v.mp4'}, 'needs a suite that is played'),
        ({'workdir': 'x', 'suite': ['swap']}, 'go together'),
    ],
)
def test_mistyped_names_are_usage_errors(tmp_path, settings, message):
    with pytest.raises(FlagError, match=message):
        evaluated(tmp_path, **settings)


def test_a_workdir_without_a_checkpoint_raises(tmp_path):
    with pytest.raises(FlagError, match='is empty'):
        evaluated(tmp_path, workdir=str(tmp_path))


def test_videos_need_recorded_rollouts(tmp_path):
    with pytest.raises(ValueError, match='No rollout was recorded'):
        video.write(tmp_path / 'x.mp4', [closed_loop.Rollout(0, 'pick', 'name', 'pick banana')])


def test_videos_say_how_an_episode_ended():
    """A world that ends at the first success has not run out of steps."""
    rollout = closed_loop.Rollout(0, 'pick', 'name', 'pick banana', success=True, steps=5)
    rollout.frames = [np.zeros((64, 320, 3), np.uint8)] * 6
    last = {}
    for ended in ('terminated', 'over', ''):
        last[ended] = video.film(dataclasses.replace(rollout, **{ended: True} if ended else {}))[-1]
    np.testing.assert_array_equal(last['over'], last['terminated'])
    assert (last[''] != last['over']).any()


def test_videos_show_plans():
    """Below the frame that they were made for; the results are as without them."""
    expert = closed_loop.scripted()
    films, results = [], []
    for plan in ('', 'banana 410 530'):
        decide = lambda *told, plan=plan: [move._replace(plan=plan) for move in expert(*told)]
        (rollout,) = closed_loop.run(decide, 'seen', [3], record=1, render_size=320).rollouts
        assert rollout.plans == [plan] * rollout.steps
        films.append(video.film(rollout))
        results.append(rollout.to_json())
    assert results[0] == results[1]
    changed = [np.nonzero((a != b).any((1, 2)))[0] for a, b in zip(*films, strict=True)]
    assert all(rows.min() >= 320 + video.BAR for rows in changed[: rollout.steps])
    assert not any(rows.size for rows in changed[rollout.steps :])
