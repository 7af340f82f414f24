"""Measures a policy: success on the tabletop's suites, or answers to held-out examples.

    python -m rt2_jax.evaluate --workdir=runs/cofinetune --suite=seen,unseen_objects --episodes=100 \
        --output=results.json --video=rollouts.mp4

Suites: those of rt2_jax.envs.tabletop.suites; `offline` (action error on held-out episodes of the
expert, then `web`), `web` (questions about pictures of a small web never trained on) and `held_out`
(action error on the episodes that the run held out, by data set).

Policies: `checkpoint`; `untrained` (the checkpoint's model with random weights); `expert` (needs no
--workdir) and `expert_rounded` (its actions rounded to the bins).

With --server=URL the policy is one that `python -m rt2_jax.serve` serves: ws://HOST:8000 is asked by
openpi's protocol, http://HOST:8000 by OpenVLA's; the key, if it needs one, is RT2_API_KEY's. Whatever
convention the server answers in, its metadata say it, and actions are turned to the tabletop's.

A job of several processes plays and answers a share in each: `launch/local_pod.py`, or as for
training. The weights must fit the devices of one process, over which --mesh splits them.

The output is {"policies": {POLICY: {SUITE: {"success": .., "episodes": .., "interval": [.., ..],
"tasks": .., ..}}}, "seconds": .., "manifest": ..}; intervals are Wilson's, 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import time
from typing import Any

from absl import app, flags, logging
from etils import epath
import jax
from jax.sharding import Mesh

from rt2_jax import command, paths
from rt2_jax.checkpoints import loading
from rt2_jax.data import sources
from rt2_jax.data.cards import TABLETOP
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.data.web import small_web
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Kind
from rt2_jax.envs.tabletop import suites, tasks
from rt2_jax.errors import UserError
from rt2_jax.evaluation import closed_loop, offline
from rt2_jax.manifest import make_manifest
from rt2_jax.nearest import check
from rt2_jax.parallel import distributed, mesh as mesh_lib
from rt2_jax.policy import Policy
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

FLAGS = flags.FLAGS

POLICIES = ('checkpoint', 'untrained', 'expert', 'expert_rounded')
OFFLINE = ('offline', 'web', 'held_out')


def check_flags() -> None:
    """Raises UsageError for names that don't exist and for flags that don't go together."""
    try:
        for suite in FLAGS.suite:
            check('suite', suite, (*suites.SUITES, *OFFLINE))
        check('policy', FLAGS.policy, POLICIES)
        if FLAGS.task is not None:
            tasks.check_kind(FLAGS.task)
        for path in filter(None, (FLAGS.output, FLAGS.video)):
            paths.of(path)
    except (ValueError, UserError) as error:
        raise app.UsageError(str(error)) from error
    if FLAGS.server:
        if FLAGS.workdir or FLAGS.policy != 'checkpoint' or set(FLAGS.suite) & set(OFFLINE):
            raise app.UsageError(
                '--server plays the suites of the tabletop with the policy that is served: leave out '
                f'--workdir, --policy and the suites {", ".join(OFFLINE)}.'
            )
    elif FLAGS.policy in ('checkpoint', 'untrained') and not FLAGS.workdir:
        raise app.UsageError(f'--policy={FLAGS.policy} needs --workdir or --server.')
    if FLAGS.policy.startswith('expert') and set(FLAGS.suite) & set(OFFLINE):
        raise app.UsageError(f'The suites {", ".join(OFFLINE)} are for models, not for the expert.')
    if not set(FLAGS.suite) - set(OFFLINE) and FLAGS.video:
        raise app.UsageError('--video needs a suite that is played on the tabletop.')
    for name in ('output', 'video'):  # now, and not when all is measured
        path = paths.of(FLAGS[name].value or '.')
        if FLAGS[name].value and path.is_dir():
            raise app.UsageError(f'--{name}={path} is a directory; name a file')


def load_policy() -> Policy | None:
    """The model to be measured, compiled; None for the expert, and where a server has it."""
    if FLAGS.policy.startswith('expert') or FLAGS.server:
        return None
    cache = loading.locate(FLAGS.workdir) / 'compile_cache'
    if cache.exists():
        jax.config.update('jax_compilation_cache_dir', str(cache))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    try:
        # One instruction that is too long shall not end a measurement; the manifest says how many.
        policy = Policy.from_checkpoint(
            FLAGS.workdir,
            FLAGS.step,
            source=FLAGS.source,
            untrained=FLAGS.policy == 'untrained',
            batch_sizes=(FLAGS.parallel,),
            long_prompts='clip',
            mesh=local_mesh(),
            weights=FLAGS.weights,
            **({} if FLAGS.plan is None else {'plan': FLAGS.plan}),
        )
    except ValueError as error:  # CheckpointError is one
        raise app.UsageError(f'--workdir={FLAGS.workdir}: {error}') from error
    if set(FLAGS.suite) - {'web'}:
        check_arm(f'--workdir={FLAGS.workdir}', policy.action_tokenizer.space.number_names)
    return policy


def check_arm(whose: str, names: Sequence[str]) -> None:
    """UsageError for a policy whose actions are not those of the tabletop's arm."""
    needed = TABLETOP.action_space.number_names
    if tuple(names) != needed:
        raise app.UsageError(
            f"{whose}: this policy acts by {', '.join(names)}; the tabletop's arm needs "
            f'{", ".join(needed)}. --suite=web is for any policy.'
        )


def connect() -> Any:
    """The server of --server; None without one."""
    if not FLAGS.server:
        return None
    # Only then, because it needs the extra `serve`.
    from rt2_jax.evaluation import remote

    try:
        server = remote.Server(FLAGS.server, FLAGS.parallel)
    except ValueError as error:
        raise app.UsageError(f'--server={error}') from error
    flag = ['terminate'] if server.metadata['terminate'] else []
    check_arm(f'--server={FLAGS.server}', [*flag, *server.metadata['action_names']])
    return server


def local_mesh() -> Mesh | None:
    """This process's devices as --mesh arranges them; None for one device.

    Raises:
      UsageError: sizes that are none, or that don't fit the devices.
    """
    if not FLAGS.mesh:
        return None
    try:
        sizes = {axis: int(size) for axis, size in (part.split('=') for part in FLAGS.mesh)}
        return mesh_lib.make_mesh(sizes, jax.local_devices())
    except ValueError as error:
        raise app.UsageError(
            f'--mesh={",".join(FLAGS.mesh)} (such as data=2,tensor=4): {error}'
        ) from error


def make_decide(policy: Policy | None) -> closed_loop.Decide:
    """Observations to actions, for the policy that --policy names."""
    if policy is not None:
        policy.warm_up(kinds=(Kind.PLAN if policy.plan else Kind.ACTION,))
        return closed_loop.learnt(policy, temperature=FLAGS.temperature)
    if FLAGS.policy == 'expert':
        return closed_loop.scripted()
    coder = ActionTokenizer(ActionSpace.rt1_bounds(), Tokenizer.load_default())
    return closed_loop.scripted(rounding=coder)


def play(
    decide: closed_loop.Decide,
    suite: str,
    frames: int = 1,
    frame_stride: int = 1,
    card: RobotCard | None = None,
) -> closed_loop.Run:
    """Closed loop on one suite."""
    first = FLAGS.first_episode
    run = closed_loop.run(
        decide,
        suite,
        distributed.share(range(first, first + FLAGS.episodes)),
        parallel=FLAGS.parallel,
        task=FLAGS.task,
        image_size=FLAGS.image_size,
        frames=frames,
        frame_stride=frame_stride,
        card=card,
        record=FLAGS.video_episodes if FLAGS.video else 0,
        execution_noise=FLAGS.execution_noise,
        progress=say,
    )
    return closed_loop.gathered(run)


def _indexes() -> epath.Path | None:
    """The run's own indexes of its data, if it has some."""
    folder = loading.locate(FLAGS.workdir) / sources.INDEXES
    return folder if paths.files(folder) else None


def answer(policy: Policy, suite: str) -> dict[str, Any]:
    """Offline measures: `web`, those and the actions of new episodes, or those of held-out ones."""
    if suite == 'held_out':
        space = policy.action_tokenizer.space
        try:
            sets = offline.held_out_steps(
                policy.config, space, FLAGS.episodes, policy.cards, _indexes()
            )
        except ValueError as error:
            raise app.UsageError(f'--suite=held_out: {error}') from error
        return {'sets': {name: offline.actions(policy, steps) for name, steps in sets.items()}}
    source = small_web.SmallWeb(seed=FLAGS.web_seed, size=policy.image_size)
    result = {'web': offline.questions(policy, source, FLAGS.questions, progress=say)}
    if suite == 'offline':
        seeds = distributed.share(range(FLAGS.first_episode, FLAGS.first_episode + FLAGS.episodes))
        examples = offline.expert_steps(
            'seen', seeds, FLAGS.image_size, policy.frames, policy.frame_stride
        )
        result['actions'] = offline.actions(policy, examples)
    return result


def describe(suite: str, result: Mapping[str, Any]) -> str:
    """A line for the terminal."""
    if 'success' in result:
        low, high = result['interval']
        return (
            f'{suite}: {result["success"]:.1%} of {result["episodes"]} episodes succeeded '
            f'(95 % interval {low:.1%} to {high:.1%}), {result["mean_steps"]:.1f} steps, '
            f'decision {result["decision_ms"]["p50"]:.1f} ms'
        )
    if 'sets' in result:
        return '\n'.join(
            f'{suite}: {name}: {found["steps"]} steps, tokens {found["token_accuracy"]:.1%}; '
            f'error {errors(found)}'
            for name, found in result['sets'].items()
        )
    parts = [f'{suite}: {result["web"]["accuracy"]:.1%} of {result["web"]["questions"]} questions']
    if 'actions' in result:
        found = result['actions']
        parts.append(f'tokens {found["token_accuracy"]:.1%}; error {errors(found)}')
    return '; '.join(parts)


def errors(found: Mapping[str, Any]) -> str:
    """The mean error of each dimension of an action, for the terminal."""
    return ', '.join(f'{n} {e["mean"]:.4f} {e["unit"]}' for n, e in found['error'].items())


def say(line: str) -> None:
    """Prints a line, on process 0."""
    if distributed.is_leader():
        print(line, flush=True)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('workdir', None, "Checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_integer('step', None, 'Which step; the latest by default.')
    flags.DEFINE_string('source', '', 'Robot data set to act for, where it learnt from several.')
    flags.DEFINE_string(
        'server', None, "In place of --workdir: 'ws://HOST:8000' or 'http://HOST:8000'."
    )
    flags.DEFINE_list('suite', ['seen'], 'One or more suites, by comma.')
    flags.DEFINE_string('task', None, 'Only this kind of task: pick, push or turn.')
    flags.DEFINE_integer('episodes', 50, 'Episodes a suite.', lower_bound=1)
    flags.DEFINE_integer('first_episode', 0, 'Number of the first episode in its suite.', 0)
    flags.DEFINE_integer('questions', 1000, 'Questions of the small web.', lower_bound=1)
    flags.DEFINE_integer('web_seed', 1_000_003, 'Which small web the questions are from.')
    flags.DEFINE_string('policy', 'checkpoint', 'checkpoint, untrained, expert, expert_rounded')
    flags.DEFINE_bool('plan', None, 'Plan before each action; by default as it was trained.')
    flags.DEFINE_float('temperature', 0.0, '0 takes the likeliest action.', lower_bound=0)
    flags.DEFINE_float('execution_noise', 0.0, 'See TabletopEnv.', lower_bound=0)
    flags.DEFINE_integer('parallel', 16, 'Episodes under way at a time.', lower_bound=1)
    flags.DEFINE_enum(
        'weights', compact.STORED, compact.WEIGHTS, 'In which type the weights are multiplied.'
    )
    flags.DEFINE_list('mesh', [], "Split over a process's devices, 'tensor=4'; else one device.")
    flags.DEFINE_integer('image_size', 128, 'Of the frames observed, pixels.')
    flags.DEFINE_string('output', None, 'Where the results go (JSON).')
    flags.DEFINE_string('video', None, 'Where a video of rollouts goes (.mp4).')
    flags.DEFINE_integer(
        'video_episodes', 12, 'Episodes a suite in the video (of those that process 0 plays).', 1
    )
    flags.mark_flag_as_required('output')


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'Unknown arguments: {argv[1:]}')
    check_flags()
    distributed.initialize()
    if FLAGS.episodes < jax.process_count():
        raise app.UsageError(
            f'--episodes={FLAGS.episodes} are fewer than the {jax.process_count()} processes.'
        )
    logging.set_verbosity(logging.WARNING)
    measure()


def measure() -> None:
    """Plays and asks what the flags say, and writes the results."""
    begin = time.perf_counter()
    policy, server = load_policy(), connect()
    for name in filter(None, (FLAGS.output, FLAGS.video)):  # now, and not when all is measured
        paths.of(name).parent.mkdir(parents=True, exist_ok=True)
    decide = server.decide() if server else None
    results, rollouts = {}, []
    for suite in FLAGS.suite:
        if suite in OFFLINE:
            results[suite] = answer(policy, suite)
        else:
            decide = decide or make_decide(policy)
            who = server or policy
            seen = (who.frames, who.frame_stride, who.embodiment) if who else ()
            run = play(decide, suite, *seen)
            results[suite] = closed_loop.summary(run)
            rollouts += [rollout for rollout in run.rollouts if rollout.frames]
        say(describe(suite, results[suite]))
    took = round(time.perf_counter() - begin, 1)
    manifest = policy_manifest(policy)
    if server:
        manifest |= {'server': FLAGS.server, 'served': server.metadata}
        server.close()
    if distributed.is_leader():
        write(
            {'policies': {FLAGS.policy: results}, 'seconds': took, 'manifest': manifest}, rollouts
        )


def write(found: dict[str, Any], rollouts: Sequence[closed_loop.Rollout]) -> None:
    """The results, then the video where one is wanted."""
    output = paths.of(FLAGS.output)
    paths.write(output, json.dumps(found, indent=2).encode())
    say(f'Results in {output}')
    if FLAGS.video:
        # Only then, because it needs ffmpeg.
        from rt2_jax.evaluation import video

        path = paths.of(FLAGS.video)
        video.write(path, rollouts)
        say(f'Video in {path}')


def policy_manifest(policy: Policy | None) -> dict[str, Any]:
    """What it takes to get the same results again."""
    model = {}
    if policy is not None:
        model = {
            'step': policy.step,
            'source': policy.source,
            'plan': policy.plan,
            'clipped_prompts': sum(distributed.gather(policy.clipped_prompts)),
            'config': policy.config.to_dict(),
        }
    return make_manifest(
        workdir=FLAGS.workdir,
        **model,
        seeds={
            'first_episode': FLAGS.first_episode,
            'episodes': FLAGS.episodes,
            'web': FLAGS.web_seed,
        },
        image_size=FLAGS.image_size,
        task=FLAGS.task,
        temperature=FLAGS.temperature,
        execution_noise=FLAGS.execution_noise,
        parallel=FLAGS.parallel,
        mesh=FLAGS.mesh,
        weights=FLAGS.weights,
        processes=jax.process_count(),
    )


if __name__ == '__main__':
    define_flags()
    command.run('evaluate', main)
