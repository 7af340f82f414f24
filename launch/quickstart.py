"""From nothing to a policy that follows instructions: the packaged one acts, then one is made.

launch/quickstart.sh runs this once its set-up is done. Every stage is one of the documented command
lines, printed before it starts, so that any of them can be run again by hand. A stage that is done
is not run again; one that was interrupted goes on where it was.

WORKDIR/results.json holds the results of the last run that ended, WORKDIR/rollouts.mp4 its video,
WORKDIR/packaged.mp4 that of the packaged policy, WORKDIR/full (or WORKDIR/quick) all the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import ctypes
import dataclasses
import fcntl
import json
import pathlib
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = 'configs/tabletop.py:quickstart'
SUITES = ('seen', 'unseen_objects')
PACKAGED = 'package:tabletop_policy'
# Name in the results -> the name for `evaluate --policy`.
POLICIES = {
    'packaged': 'checkpoint',
    'cofinetuned': 'checkpoint',
    'untrained': 'untrained',
    'expert': 'expert',
}
AGAIN = 'The same command again goes on from here.'


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        episodes: expert's episodes to learn from.
        steps: of training; None is the config's.
        checkpoint_every: steps; an interruption costs at most these.
        evaluated: episodes a suite, by policy.
    """

    episodes: int
    steps: int | None
    checkpoint_every: int
    evaluated: Mapping[str, int]


FULL = Size(1_500, None, 250, {'packaged': 5, 'cofinetuned': 50, 'untrained': 10, 'expert': 10})
QUICK = Size(200, 250, 50, {'packaged': 5, 'cofinetuned': 10, 'untrained': 5, 'expert': 5})


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command and its product.

    Attributes:
        name: unique in a run.
        timed: the entry of `seconds` that its time counts towards.
        command: arguments after `python`.
        product: exists once the command has done all of its work.
    """

    name: str
    timed: str
    command: tuple[str, ...]
    product: pathlib.Path


class StageFailed(Exception):
    """A command ended without having done its work; the message tells how to go on."""


def make_stages(
    size: Size, workdir: pathlib.Path, name: str, train_arguments: Sequence[str]
) -> list[Stage]:
    """The run, in order. Paths in commands are relative to the project where they can be."""
    runs, steps = workdir / name, size.steps
    if steps is None:
        path, _, argument = CONFIG.partition(':')
        steps = runpy.run_path(str(ROOT / path))['get_config'](argument).total_steps
    data, train = runs / 'data', runs / 'train'

    def stage(name: str, module: str, product: pathlib.Path, *arguments: str) -> Stage:
        return Stage(name, name.split()[0], ('-m', f'rt2_jax.{module}', *arguments), product)

    def evaluation(policy: str, *options: str) -> Stage:
        output = runs / 'evaluate' / f'{policy}.json'
        made = stage(
            f'evaluate {policy}', 'evaluate', output, f'--policy={POLICIES[policy]}',
            f'--suite={",".join(SUITES)}', f'--episodes={size.evaluated[policy]}',
            f'--output={shown(output)}', *options,
        )  # fmt: skip
        return dataclasses.replace(made, timed='act') if policy == 'packaged' else made

    collect = f'--episodes={size.episodes}', f'--output={shown(data)}'
    workdir_option = f'--workdir={shown(train)}'
    return [
        evaluation(
            'packaged', f'--workdir={PACKAGED}', f'--video={shown(runs / "packaged.mp4")}'
        ),
        stage('collect', 'envs.tabletop.collect', data / 'dataset_info.json', *collect),
        stage(
            'train', 'train', train / 'checkpoints' / str(steps), f'--config={CONFIG}',
            workdir_option, f'--config.data.robot.tabletop.directory={shown(data)}',
            f'--config.total_steps={steps}', f'--config.checkpoint_every={size.checkpoint_every}',
            *train_arguments,
        ),
        evaluation('cofinetuned', workdir_option, f'--video={shown(runs / "rollouts.mp4")}'),
        evaluation('untrained', workdir_option),
        evaluation('expert'),
    ]  # fmt: skip


def shown(path: pathlib.Path) -> str:
    """A path for the commands, which run in the project's folder."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Progress:
    """The stages that are done and the time they took, in a file.

    Args:
        path: the file.

    Attributes:
        seconds: by stage name, interrupted tries included.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        record = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = record.get('seconds', {})
        self._done: dict[str, list[str]] = record.get('done', {})

    def is_done(self, stage: Stage) -> bool:
        """Whether this very command ran to its end and its product is still there."""
        return self._done.get(stage.name) == list(stage.command) and stage.product.exists()

    def begin(self, stage: Stage, later: Sequence[Stage]) -> None:
        """Forgets that `later` stages are done: they would use what `stage` is about to replace."""
        if stage.name in self._done:
            self.seconds.pop(stage.name, None)
        for outdated in later:
            self.seconds.pop(outdated.name, None)
        for outdated in (stage, *later):
            self._done.pop(outdated.name, None)
        self.save()

    def finish(self, stage: Stage) -> None:
        """Records that a stage is done."""
        self._done[stage.name] = list(stage.command)
        self.save()

    def save(self) -> None:
        """Writes the file."""
        _write(self._path, {'seconds': self.seconds, 'done': self._done})


def _write(path: pathlib.Path, content: Any) -> None:
    temporary = path.with_name(path.name + '.new')
    temporary.write_text(json.dumps(content, indent=2) + '\n')
    temporary.replace(path)


def run_stage(stage: Stage, progress: Progress, lock: int) -> None:
    """Runs a command to its end, its output going where ours goes.

    Raises:
        StageFailed: it failed.
        KeyboardInterrupt: a signal stopped it early, or this process.
    """
    from rt2_jax import exit_codes  # --check_arguments runs before rt2_jax is installed

    print(f'\n$ python {shlex.join(stage.command)}', flush=True)
    earlier, start = progress.seconds.get(stage.name, 0.0), time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *stage.command], cwd=ROOT, pass_fds=(lock,), preexec_fn=_end_with_parent
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while (code := child.poll()) is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=2)
            # Saved as it goes, so that a kill loses no more than a moment.
            progress.seconds[stage.name] = round(earlier + time.monotonic() - start, 1)
            progress.save()
    except KeyboardInterrupt:
        child.wait()  # the terminal sent it Ctrl-C too, and it may save
        raise
    if code == exit_codes.STOPPED:
        raise KeyboardInterrupt
    if code or not stage.product.exists():
        how = f'failed with code {code}' if code else 'stopped before its end'
        raise StageFailed(f'{stage.name} {how}. {AGAIN}')
    progress.finish(stage)


def _end_with_parent() -> None:
    if sys.platform == 'linux':
        # PR_SET_PDEATHSIG: a child whose parent was killed would else train on, unseen.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextlib.contextmanager
def only_one(workdir: pathlib.Path) -> Iterator[int]:
    """Locks the directory for this run and its children; waits for an earlier one to end."""
    with (workdir / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting for another quickstart in {shown(workdir)} to end', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def gather(stages: Sequence[Stage], seconds: Mapping[str, float]) -> dict[str, Any]:
    """The policies' success and the times, from the stages' products."""
    products = {stage.name: stage.product for stage in stages}
    policies: dict[str, Any] = {}
    for policy, name in POLICIES.items():
        measured = json.loads(products[f'evaluate {policy}'].read_text())['policies'][name]
        keys = ('success', 'episodes', 'interval')
        policies[policy] = {suite: {key: measured[suite][key] for key in keys} for suite in SUITES}
    spent = dict(setup=seconds.get('setup', 0.0), act=0.0, collect=0.0, train=0.0, evaluate=0.0)
    for stage in stages:
        spent[stage.timed] += seconds[stage.name]
    spent['total'] = sum(spent.values())
    return {'policies': policies, 'seconds': {name: round(x, 1) for name, x in spent.items()}}


def table(results: Mapping[str, Any]) -> str:
    """The results for a terminal: a row a policy, a column a suite, then the times."""
    rows: list[tuple[str, ...]] = [('success (95 % interval)', *SUITES)]
    for policy, suites in results['policies'].items():
        cells = [
            f'{100 * x["success"]:3.0f} % ({100 * x["interval"][0]:.0f} to '
            f'{100 * x["interval"][1]:.0f} %) of {x["episodes"]}'
            for x in (suites[suite] for suite in SUITES)
        ]
        rows.append((policy, *cells))
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, tuple('-' * width for width in widths))
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    times = ', '.join(f'{name} {value / 60:.1f}' for name, value in results['seconds'].items())
    return '\n'.join(lines) + f'\n\nminutes: {times}'


def run(options: argparse.Namespace) -> None:
    """All stages, then the table."""
    size, name = (QUICK, 'quick') if options.quick else (FULL, 'full')
    size = dataclasses.replace(
        size,
        episodes=options.episodes or size.episodes,
        steps=options.steps or size.steps,
        evaluated={k: options.evaluated or n for k, n in size.evaluated.items()},
    )
    if '://' in options.workdir:
        sys.exit(f'quickstart: --workdir={options.workdir} must be a folder of this machine')
    workdir = ROOT / 'runs/quickstart'
    if options.workdir:
        workdir = pathlib.Path(options.workdir).expanduser().resolve()
    stages = make_stages(size, workdir, name, options.train_arguments)
    steps = next(stage.product.name for stage in stages if stage.name == 'train')
    print(
        f'{size.episodes} episodes, {steps} steps of training, '
        f'{size.evaluated["cofinetuned"]} episodes a suite to measure it; all in {shown(workdir)}'
    )
    (workdir / name).mkdir(parents=True, exist_ok=True)
    with only_one(workdir) as lock:
        progress = Progress(workdir / name / 'progress.json')
        setup = max(progress.seconds.get('setup', 0.0), options.setup_seconds)
        progress.seconds['setup'] = setup
        for position, stage in enumerate(stages):
            if progress.is_done(stage):
                print(f'{stage.name}: done already')
                continue
            progress.begin(stage, stages[position + 1 :])
            run_stage(stage, progress, lock)
            if stage.name == 'evaluate packaged':
                print(_invitation(stage, workdir / name / 'packaged.mp4'), flush=True)
        results = gather(stages, progress.seconds)
        results['manifest'] = _manifest(name, stages)
        for video in ('rollouts.mp4', 'packaged.mp4'):
            shutil.copyfile(workdir / name / video, workdir / video)
        _write(workdir / 'results.json', results)
    outputs = (
        f'results: {shown(workdir / "results.json")}\nvideo:   {shown(workdir / "rollouts.mp4")}'
    )
    print(f'\n{table(results)}\n\n{outputs}')


def _invitation(stage: Stage, video: pathlib.Path) -> str:
    """What the packaged policy did, and how to play with it."""
    measured = json.loads(stage.product.read_text())['policies'][POLICIES['packaged']]
    successes = ', '.join(
        f'{round(measured[suite]["success"] * measured[suite]["episodes"])} of '
        f'{measured[suite]["episodes"]} {suite}'
        for suite in SUITES
    )
    python = pathlib.Path(sys.executable)
    return (
        f'\nThe packaged policy followed {successes} instructions. Its video: {shown(video)}\n'
        f'Play with it in your browser: {shown(python)} -m rt2_jax.serve --workdir={PACKAGED} --demo\n'
        'Next, you make one yourself.'
    )


def _manifest(name: str, stages: Sequence[Stage]) -> dict[str, Any]:
    from rt2_jax.manifest import make_manifest  # --check_arguments runs before it is installed

    arguments = [x for x in sys.argv[1:] if not x.startswith('--setup_seconds')]
    cofinetuned = next(stage for stage in stages if stage.name == 'evaluate cofinetuned')
    evaluated = json.loads(cofinetuned.product.read_text())['manifest']
    return make_manifest(
        command=shlex.join(['bash', 'launch/quickstart.sh', *arguments]),
        size=name,
        commands={stage.name: f'python {shlex.join(stage.command)}' for stage in stages},
        config=evaluated['config'],
        seeds=evaluated['seeds'],
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments of launch/quickstart.sh; those after '--' go to training as they are."""
    parser = argparse.ArgumentParser(
        prog='launch/quickstart.sh',
        allow_abbrev=False,
        description='The packaged policy acts on the tabletop; then episodes are collected, the '
        'packaged tiny PaLI is co-fine-tuned on them and on the small web, and the policy is '
        'measured beside an untrained one and the expert: 10 to 20 minutes on 2 cores. The same '
        'command again goes on where it was.',
    )
    add, hidden = parser.add_argument, argparse.SUPPRESS
    add('--quick', action='store_true', help='less than 5 minutes, with smaller numbers')
    add('--workdir', default='', help='where everything goes; runs/quickstart by default')
    add('--episodes', type=_positive, help='episodes to collect')
    add('--steps', type=_positive, help='steps of training')
    add('--evaluated', type=_positive, help='episodes a suite, for every policy')
    add('train_arguments', nargs='*', metavar='-- ...', help='more arguments of rt2_jax.train')
    add('--setup_seconds', type=float, default=0.0, help=hidden)
    add('--check_arguments', action='store_true', help=hidden)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be a number from 1 on')
    return int(text)


def main() -> None:
    """Checks the arguments and runs the stages."""
    options = parse(sys.argv[1:])
    if options.check_arguments:
        return
    try:
        run(options)
    except StageFailed as failure:
        sys.exit(f'\nquickstart: {failure}')
    except KeyboardInterrupt:
        from rt2_jax import exit_codes

        print(f'\nquickstart: interrupted. {AGAIN}', file=sys.stderr)
        sys.exit(exit_codes.STOPPED)


if __name__ == '__main__':
    main()
