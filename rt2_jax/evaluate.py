"""Measures a policy: success in the tabletop or another world, or answers to held-out examples.

    python -m rt2_jax.evaluate --workdir=runs/cofinetune --suite=seen,unseen_objects --episodes=100 \
        --output=results.json --video=rollouts.mp4

Suites: those of rt2_jax.envs.tabletop.suites; WORLD/NAME, such as metaworld/mt10, of another world
(rt2_jax/envs/README.md); `offline` (action error on held-out episodes of the
expert, then `web`), `web` (questions about pictures of a small web never trained on) and `held_out`
(action error on the episodes that the run held out, by data set); `swap` (does the action change with
the instruction? On recorded frames of --data, see rt2_jax.evaluation.swapped_instructions).

Policies: `checkpoint`; `untrained` (the checkpoint's model with random weights); `expert` (needs no
--workdir) and `expert_rounded` (its actions rounded to the bins).

With --server=URL the policy is one that `python -m rt2_jax.serve` serves: ws://HOST:8000 is asked by
openpi's protocol, http://HOST:8000 by OpenVLA's; the key, if it needs one, is RT2_API_KEY's. Whatever
convention the server answers in, its metadata say it, and actions are turned to the world's. So a world
that lives in a Python environment of its own is played from there.

A job of several processes plays and answers a share in each: `launch/local_pod.py`, or as for
training. The weights must fit the devices of one process, over which --mesh splits them.

The output is {"policies": {POLICY: {SUITE: {"success": .., "episodes": .., "interval": [.., ..],
"recognition": {..}, "execution": {..}, "tasks": .., ..}}}, "seconds": .., "manifest": ..}; intervals are
Wilson's, 95 %. In worlds that know where their objects are, recognition is that the robot went to X first
(rt2_jax.envs.tabletop.approach), and execution success given that. It is written after each suite, with
those that are done. Episodes of an evaluation that was interrupted are kept in OUTPUT.episodes, and the same
command goes on after them.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import time
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging
import jax

from rt2_jax import command, paths
from rt2_jax.checkpoints import loading
from rt2_jax.data import sources
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Kind
from rt2_jax.envs.world import DEFAULT, World, open_world
from rt2_jax.evaluation import closed_loop, offline, play_figures, result_lines
from rt2_jax.evaluation.evaluate_options import OFFLINE, Options
from rt2_jax.evaluation.kept_episodes import KeptEpisodes
from rt2_jax.manifest import make_manifest
from rt2_jax.parallel import distributed
from rt2_jax.policy import Policy, from_flags
from rt2_jax.policy.from_flags import FlagError, local_mesh
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # needs the extra `serve`
    from rt2_jax.evaluation.remote_policy import Server

FLAGS = flags.FLAGS

_REPORTED = 'data image_size task temperature execution_noise parallel mesh weights'.split()


def evaluate(options: Options) -> dict[str, Any]:
    """Plays the suites and asks the questions.

    Args:
        options: what to measure; the files that it names are written by process 0.

    Returns:
        The results, as the head of this file says.

    Raises:
        FlagError: options that are wrong.
    """
    options.check()
    if options.episodes < jax.process_count():
        raise FlagError(
            f'--episodes={options.episodes} are fewer than the {jax.process_count()} processes.'
        )
    begin = time.perf_counter()
    policy, server = load_policy(options), connect(options)
    for path in filter(
        None, (options.output, options.video)
    ):  # fails now, not when all is measured
        paths.of(path).parent.mkdir(parents=True, exist_ok=True)
    decide = server.decide() if server else None
    kept = None
    if options.output and options.played:
        about = {**options.of_an_episode(), 'served': server and server.metadata}
        if policy:
            about |= {'step': policy.step, 'config': policy.config.to_dict()}
        kept = KeptEpisodes(options.output, jax.process_index(), about)
    figures, rollouts = {}, []
    for suite in options.suite:
        if suite in OFFLINE:
            assert policy is not None  # by Options.check
            figures[suite] = measure_offline(options, policy, suite)
        else:
            decide = decide or make_decide(options, policy)
            run = play(options, decide, suite, server or policy, kept)
            figures[suite] = play_figures.summary(run)
            rollouts += [rollout for rollout in run.rollouts if rollout.frames]
        distributed.say(result_lines.describe(suite, figures[suite]))
        manifest = manifest_of(options, policy)
        if server:
            manifest |= {'server': options.server, 'served': server.metadata}
        took = round(time.perf_counter() - begin, 1)
        results = {'policies': {options.policy: figures}, 'seconds': took, 'manifest': manifest}
        if options.output and distributed.is_leader():
            paths.write(paths.of(options.output), json.dumps(results, indent=2).encode())
    if len(options.suite) > 1 and (table := result_lines.table(figures)):
        distributed.say(table)
    if server:
        server.close()
    if distributed.is_leader():
        finish(options, rollouts)
    if kept:
        kept.remove()
    return results


def load_policy(options: Options) -> Policy | None:
    """The model to be measured; None for the expert and for a server."""
    if options.policy.startswith('expert') or options.server:
        return None
    assert options.workdir is not None  # by Options.check
    policy = from_flags.load_policy(
        options.workdir,
        options.step,
        source=options.source,
        untrained=options.policy == 'untrained',
        batch_sizes=(options.parallel,),
        # One instruction that is too long shall not end a measurement; the manifest says how many.
        long_prompts='clip',
        mesh=local_mesh(options.mesh),
        weights=options.weights,
        **{name: getattr(options, name) for name in from_flags.DECISIONS},
    )
    if world := options.world or ('offline' in options.suite and open_world(DEFAULT)):
        space = policy.action_tokenizer.space
        check_arm(f'--workdir={options.workdir}', space.number_names, space.units, world)
    return policy


def connect(options: Options) -> Server | None:
    """The server of --server; None without one."""
    if not options.server:
        return None
    from rt2_jax.evaluation import remote_policy

    assert options.world is not None  # by Options.check
    try:
        server = remote_policy.Server(options.server, options.parallel, options.world.card)
    except ValueError as error:
        raise FlagError(f'--server={error}') from error
    flag = ['terminate'] if server.metadata['terminate'] else []
    names = [*flag, *server.metadata['action_names']]
    units = server.metadata['action_units']
    check_arm(f'--server={options.server}', names, units, options.world)
    return server


def check_arm(policy: str, names: Sequence[str], units: Sequence[str], world: World) -> None:
    """FlagError for a policy whose actions are not those of a world's robot.

    Args:
        policy: names it in the message.
        names: of the numbers of its actions, the terminate flag's included.
        units: of its numbers, without the flag.
        world: where it is to act.
    """
    needed = world.card.action_space
    if tuple(names) != needed.number_names:
        raise FlagError(
            f'{policy}: this policy acts by {", ".join(names)}; the robot of {world.name} needs '
            f'{", ".join(needed.number_names)}. --suite=web,held_out are for any policy.'
        )
    if tuple(units) != needed.units:
        raise FlagError(
            f'{policy}: this policy acts in {", ".join(units)}; the robot of {world.name} in '
            f'{", ".join(needed.units)}. --suite=web,held_out are for any policy.'
        )


def make_decide(options: Options, policy: Policy | None) -> closed_loop.Decide:
    """Observations to actions, for the policy that --policy names."""
    if policy is not None:
        policy.warm_up(kinds=(Kind.PLAN if policy.plan else Kind.ACTION,))
        return closed_loop.learnt(policy, temperature=options.temperature)
    if options.policy == 'expert':
        return closed_loop.scripted()
    assert options.world is not None  # by Options.check
    tokenizer = ActionTokenizer(options.world.card.action_space, Tokenizer.load_default())
    return closed_loop.scripted(rounding=tokenizer)


def play(
    options: Options,
    decide: closed_loop.Decide,
    suite: str,
    actor: Policy | Server | None,
    kept: KeptEpisodes | None,
) -> closed_loop.Run:
    """Plays one suite in closed loop, with the frames and the card of the actor (None: the expert).

    Episodes of before are taken from `kept`, and those that are played added to it.
    """
    frames, stride, card, cameras = (
        (actor.frames, actor.frame_stride, actor.embodiment, actor.cameras)
        if actor
        else (1, 1, None, ())
    )
    run = closed_loop.run(
        decide,
        suite,
        options.seeds,
        parallel=options.parallel,
        task=options.task,
        image_size=options.image_size,
        record=options.video_episodes if options.video else 0,
        execution_noise=options.execution_noise,
        frames=frames,
        frame_stride=stride,
        cameras=cameras,
        card=card,
        patience=options.patience,
        read=actor.pointer if isinstance(actor, Policy) else None,
        progress=distributed.say,
        done=kept.of(suite) if kept else (),
        keep=(lambda rollout: kept.add(suite, rollout)) if kept else lambda rollout: None,
    )
    return closed_loop.gather_run(run)


def measure_offline(options: Options, policy: Policy, suite: str) -> dict[str, Any]:
    """The suites `web`, `offline` (web, and actions of new episodes), `held_out` and `swap`."""
    if suite == 'swap':
        from rt2_jax.evaluation import swapped_instructions  # needs the tabletop

        assert options.data is not None  # by Options.check
        try:
            figures = swapped_instructions.measure(
                policy, options.data, options.episodes, first=options.first_episode
            )
        except ValueError as error:
            raise FlagError(f'--suite=swap --data={options.data}: {error}') from error
        return {'swap': figures}
    if suite == 'held_out':
        assert options.workdir is not None
        space = policy.action_tokenizer.space
        indexes = loading.locate(options.workdir) / sources.INDEXES
        try:
            sets = offline.held_out_steps(
                policy.config,
                space,
                options.episodes,
                policy.cards,
                indexes if paths.files(indexes) else None,
            )
        except ValueError as error:
            raise FlagError(f'--suite=held_out: {error}') from error
        return {'sets': {name: offline.actions(policy, steps) for name, steps in sets.items()}}
    if suite == 'offline' and (len(policy.cameras) > 1 or policy.state_grid):
        raise FlagError(
            "--suite=offline asks with the tabletop's one picture and without a state; this policy acts by "
            'more. --suite=held_out asks with all.'
        )
    source = offline.new_web(policy, options.web_seed)
    web = offline.questions(policy, source, options.questions, progress=distributed.say)
    if suite == 'web':
        return {'web': web}
    examples = offline.expert_steps(
        'seen', options.seeds, options.image_size, policy.frames, policy.frame_stride
    )
    return {'web': web, 'actions': offline.actions(policy, examples)}


def finish(options: Options, rollouts: Sequence[closed_loop.Rollout]) -> None:
    """Says where the results are, and writes the video where one is wanted."""
    if options.output:
        distributed.say(f'Results in {paths.of(options.output)}')
    if options.video:
        from rt2_jax.evaluation import video  # needs ffmpeg

        path = paths.of(options.video)
        assert options.world is not None  # by Options.check
        video.write(path, rollouts, fps=options.world.card.frequency)
        distributed.say(f'Video in {path}')


def manifest_of(options: Options, policy: Policy | None) -> dict[str, Any]:
    """What it takes to get the same results again."""
    model = {}
    if policy is not None:
        model = {
            'step': policy.step,
            'source': policy.source,
            **{name: getattr(policy.settings, name) for name in from_flags.DECISIONS},
            'clipped_prompts': sum(distributed.gather(policy.clipped_prompts)),
            'config': policy.config.to_dict(),
        }
    return make_manifest(
        workdir=options.workdir,
        **model,
        seeds={
            'first_episode': options.first_episode,
            'episodes': options.episodes,
            'web': options.web_seed,
        },
        **{name: getattr(options, name) for name in _REPORTED},
        processes=jax.process_count(),
    )


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('workdir', None, "Checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_integer('step', None, 'Which step; the latest by default.')
    flags.DEFINE_string('source', '', 'Robot data set to act for, where it learnt from several.')
    flags.DEFINE_string(
        'server', None, "In place of --workdir: 'ws://HOST:8000' or 'http://HOST:8000'."
    )
    flags.DEFINE_string('data', None, 'For --suite=swap: a data set, of the card of the policy.')
    flags.DEFINE_list('suite', ['seen'], 'One or more suites, by comma.')
    flags.DEFINE_string('task', None, 'Only this kind of task; of the tabletop pick, push or turn.')
    flags.DEFINE_integer('episodes', 50, 'Episodes a suite.', lower_bound=1)
    flags.DEFINE_integer('first_episode', 0, 'Number of the first episode in its suite.', 0)
    flags.DEFINE_integer('questions', 1000, 'Questions of the small web.', lower_bound=1)
    flags.DEFINE_integer('web_seed', 1_000_003, 'Which small web the questions are from.')
    flags.DEFINE_string('policy', 'checkpoint', 'checkpoint, untrained, expert, expert_rounded')
    from_flags.define_decision_flags()
    flags.DEFINE_float('temperature', 0.0, '0 takes the likeliest action.', lower_bound=0)
    flags.DEFINE_float('execution_noise', 0.0, 'A share of a usual step.', lower_bound=0)
    flags.DEFINE_integer('parallel', 16, 'Episodes under way at a time.', lower_bound=1)
    flags.DEFINE_enum(
        'weights', compact.STORED, compact.WEIGHTS, 'In which type the weights are multiplied.'
    )
    flags.DEFINE_list('mesh', [], "Split over a process's devices, 'tensor=4'; else one device.")
    flags.DEFINE_integer('image_size', 128, 'Of the frames observed, pixels.', lower_bound=1)
    flags.DEFINE_string('output', None, 'Where the results go (JSON).')
    flags.DEFINE_string('video', None, 'Where a video of rollouts goes (.mp4).')
    flags.DEFINE_integer(
        'video_episodes', 12, 'Episodes a suite in the video (of those that process 0 plays).', 1
    )
    flags.mark_flag_as_required('output')


def main(argv: list[str]) -> None:
    """Measures what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f'Unknown arguments: {argv[1:]}')
    options = Options.from_flags()
    options.check()
    distributed.initialize()
    logging.set_verbosity(logging.WARNING)
    evaluate(options)


if __name__ == '__main__':
    define_flags()
    command.run('evaluate', main)
