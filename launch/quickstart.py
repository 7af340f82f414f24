"""From nothing to a policy that follows instructions: collect, co-fine-tune, evaluate.

launch/quickstart.sh runs this once its set-up is done. Every stage is one of the documented command
lines, printed before it starts, so that any of them can be run again by hand. A stage that is done
is not run again; one that was interrupted goes on where it was.

WORKDIR/results.json holds the results of the last run that ended, WORKDIR/rollouts.mp4 its video,
WORKDIR/full (or WORKDIR/quick) all the rest.
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
# Name in the results -> the name that `evaluate --policy` knows it by.
POLICIES = {'cofinetuned': 'checkpoint', 'untrained': 'untrained', 'expert': 'expert'}
_SETUP = '--setup_seconds'
MEASURED = ('success', 'episodes', 'interval')
TIMED = ('setup', 'collect', 'train', 'evaluate')


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        episodes: expert's episodes to learn from.
        steps: of training; None is what the config says.
        checkpoint_every: steps; what an interruption costs at most.
        evaluated: episodes a suite, by policy.
    """

    episodes: int
    steps: int | None
    checkpoint_every: int
    evaluated: Mapping[str, int]


FULL = Size(
    episodes=1_500,
    steps=None,
    checkpoint_every=250,
    evaluated={'cofinetuned': 50, 'untrained': 20, 'expert': 20},
)
QUICK = Size(
    episodes=200,
    steps=250,
    checkpoint_every=50,
    evaluated={'cofinetuned': 10, 'untrained': 5, 'expert': 5},
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command and what it leaves behind.

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


def make_stages(
    size: Size, workdir: pathlib.Path, name: str, train_arguments: Sequence[str]
) -> list[Stage]:
    """The run, in order. Paths in commands are relative to the project where they can be."""
    runs, steps = workdir / name, size.steps or _config_steps()
    data, train = runs / 'data', runs / 'train'
    collect_command = (
        '-m',
        'rt2_jax.envs.tabletop.collect',
        f'--episodes={size.episodes}',
        f'--output={shown(data)}',
    )
    train_command = (
        '-m',
        'rt2_jax.train',
        f'--config={CONFIG}',
        f'--workdir={shown(train)}',
        f'--config.data.robot.tabletop.directory={shown(data)}',
        f'--config.total_steps={steps}',
        f'--config.checkpoint_every={size.checkpoint_every}',
        *train_arguments,
    )
    stages = [
        Stage('collect', 'collect', collect_command, data / 'dataset_info.json'),
        Stage('train', 'train', train_command, train / 'checkpoints' / str(steps)),
    ]
    for policy, episodes in size.evaluated.items():
        output = runs / 'evaluate' / f'{policy}.json'
        command = [
            '-m',
            'rt2_jax.evaluate',
            f'--policy={POLICIES[policy]}',
            f'--suite={",".join(SUITES)}',
            f'--episodes={episodes}',
            f'--output={shown(output)}',
        ]
        if policy != 'expert':
            command.append(f'--workdir={shown(train)}')
        if policy == 'cofinetuned':
            command.append(f'--video={shown(runs / "rollouts.mp4")}')
        stages.append(Stage(f'evaluate {policy}', 'evaluate', tuple(command), output))
    return stages


def _config_steps() -> int:
    path, _, argument = CONFIG.partition(':')
    return runpy.run_path(str(ROOT / path))['get_config'](argument).total_steps


def shown(path: pathlib.Path) -> str:
    """A path as the commands, which run in the project's folder, say it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Progress:
    """What is done and how long it took, kept in a file from one start to the next.

    Attributes:
        seconds: by stage name, interrupted tries included.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        kept = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = kept.get('seconds', {})
        self._done: dict[str, list[str]] = kept.get('done', {})

    def is_done(self, stage: Stage) -> bool:
        """Whether this very command ran to its end and its product is still there."""
        return self._done.get(stage.name) == list(stage.command) and stage.product.exists()

    def begin(self, stage: Stage, later: Sequence[Stage]) -> None:
        """Forgets that `later` stages are done: they would use what `stage` is about to replace."""
        interrupted = stage.name not in self._done
        for outdated in (stage, *later):
            self._done.pop(outdated.name, None)
            if outdated is not stage or not interrupted:
                self.seconds.pop(outdated.name, None)
        self.save()

    def finish(self, stage: Stage) -> None:
        self._done[stage.name] = list(stage.command)
        self.save()

    def save(self) -> None:
        _write(self._path, {'seconds': self.seconds, 'done': self._done})


def _write(path: pathlib.Path, content: Any) -> None:
    temporary = path.with_name(path.name + '.new')
    temporary.write_text(json.dumps(content, indent=2) + '\n')
    temporary.replace(path)


class StageFailed(Exception):
    """A command ended without having done its work; the message says how to go on."""


def run_stage(stage: Stage, progress: Progress, lock: int) -> None:
    """Runs a command to its end, its output going where ours goes.

    Raises:
        StageFailed: it failed.
        KeyboardInterrupt: a signal stopped it early, or this process.
    """
    # Only then: --check_arguments runs before rt2_jax is installed.
    from rt2_jax import exit_codes

    print(f'\n$ python {shlex.join(stage.command)}', flush=True)
    earlier, start = progress.seconds.get(stage.name, 0.0), time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *stage.command], cwd=ROOT, pass_fds=(lock,), preexec_fn=_end_with_parent
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=2)
            # Kept as it goes, so that a kill loses no more than a moment of it.
            progress.seconds[stage.name] = round(earlier + time.monotonic() - start, 1)
            progress.save()
    except KeyboardInterrupt:
        # The terminal has told the child too; it ends in its own way.
        child.wait()
        raise
    if child.returncode == exit_codes.STOPPED:
        raise KeyboardInterrupt
    if child.returncode or not stage.product.exists():
        code = child.returncode
        how = f'failed with code {code}' if code else 'stopped before its end'
        raise StageFailed(f'{stage.name} {how}. The same command again goes on from here.')
    progress.finish(stage)


def _end_with_parent() -> None:
    if sys.platform == 'linux':
        # PR_SET_PDEATHSIG: a child whose parent was killed would else train on, unseen.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextlib.contextmanager
def only_one(workdir: pathlib.Path) -> Iterator[int]:
    """Holds the directory for this run and its children; waits for an earlier one to let go."""
    with (workdir / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting for another quickstart in {shown(workdir)} to end', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def gather(stages: Sequence[Stage], seconds: Mapping[str, float]) -> dict[str, Any]:
    """The policies' success and the times, out of what the stages left."""
    policies = {}
    for policy, name in POLICIES.items():
        stage = next(stage for stage in stages if stage.name == f'evaluate {policy}')
        measured = json.loads(stage.product.read_text())['policies'][name]
        policies[policy] = {
            suite: {key: measured[suite][key] for key in MEASURED} for suite in SUITES
        }
    spent = dict.fromkeys(TIMED, 0.0) | {'setup': seconds.get('setup', 0.0)}
    for stage in stages:
        spent[stage.timed] += seconds[stage.name]
    spent['total'] = sum(spent.values())
    rounded = {name: round(value, 1) for name, value in spent.items()}
    return {'policies': policies, 'seconds': rounded}


def table(results: Mapping[str, Any]) -> str:
    """The results for a terminal: a row a policy, a column a suite, then the times."""
    rows = [('success (95 % interval)', *SUITES)]
    for policy, suites in results['policies'].items():
        cells = []
        for suite in SUITES:
            success, episodes, (low, high) = (suites[suite][key] for key in MEASURED)
            cells.append(
                f'{100 * success:3.0f} % ({100 * low:.0f} to {100 * high:.0f} %) of {episodes}'
            )
        rows.append((policy, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.insert(1, '  '.join('-' * width for width in widths))
    times = ', '.join(f'{name} {value / 60:.1f}' for name, value in results['seconds'].items())
    return '\n'.join(lines) + f'\n\nminutes: {times}'


def run(options: argparse.Namespace, size: Size, name: str) -> None:
    """All stages, then the table."""
    workdir = ROOT / 'runs' / 'quickstart'
    if options.workdir:
        if '://' in options.workdir:
            sys.exit(f'quickstart: --workdir={options.workdir} must be a folder of this machine')
        workdir = pathlib.Path(options.workdir).expanduser().resolve()
    stages = make_stages(size, workdir, name, options.train_arguments)
    print(
        f'{size.episodes} episodes, {stages[1].product.name} steps of training, '
        f'{size.evaluated["cofinetuned"]} episodes a suite to measure it; all in '
        f'{shown(workdir)}'
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
        results = gather(stages, progress.seconds)
        _publish(results, workdir, name, stages)
    print(
        f'\n{table(results)}\n\nresults: {shown(workdir / "results.json")}\n'
        f'video:   {shown(workdir / "rollouts.mp4")}'
    )


def _publish(
    results: dict[str, Any], workdir: pathlib.Path, name: str, stages: Sequence[Stage]
) -> None:
    # Only here, because arguments are checked before anything is installed.
    from rt2_jax.manifest import make_manifest

    given = [argument for argument in sys.argv[1:] if not argument.startswith(_SETUP)]
    cofinetuned = next(stage for stage in stages if stage.name == 'evaluate cofinetuned')
    evaluated = json.loads(cofinetuned.product.read_text())['manifest']
    results['manifest'] = make_manifest(
        command=shlex.join(['bash', 'launch/quickstart.sh', *given]),
        size=name,
        commands={stage.name: f'python {shlex.join(stage.command)}' for stage in stages},
        config=evaluated['config'],
        seeds=evaluated['seeds'],
    )
    shutil.copyfile(workdir / name / 'rollouts.mp4', workdir / 'rollouts.mp4')
    _write(workdir / 'results.json', results)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments of launch/quickstart.sh; those after '--' go to training as they are."""
    parser = argparse.ArgumentParser(
        prog='launch/quickstart.sh',
        allow_abbrev=False,
        description='Collects episodes of the tabletop, co-fine-tunes the packaged tiny PaLI on '
        'them and on the small web, and measures the policy beside an untrained one and the '
        'expert: at most 25 minutes on 2 cores. The same command again goes on where it was.',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='the same path in less than 5 minutes, with smaller numbers',
    )
    parser.add_argument(
        '--workdir', default='', help='where everything goes; runs/quickstart by default'
    )
    parser.add_argument('--episodes', type=int, help='episodes to collect')
    parser.add_argument('--steps', type=int, help='steps of training')
    parser.add_argument('--evaluated', type=int, help='episodes a suite, for every policy')
    parser.add_argument(
        'train_arguments', nargs='*', metavar='-- ...', help='more arguments of rt2_jax.train'
    )
    parser.add_argument(_SETUP, type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument('--check_arguments', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ('episodes', 'steps', 'evaluated'):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f'--{name} must be at least 1')
    return options


def choose(options: argparse.Namespace) -> tuple[Size, str]:
    """The size asked for, and the folder's name for it."""
    size, name = (QUICK, 'quick') if options.quick else (FULL, 'full')
    if options.episodes:
        size = dataclasses.replace(size, episodes=options.episodes)
    if options.steps:
        size = dataclasses.replace(size, steps=options.steps)
    if options.evaluated:
        size = dataclasses.replace(size, evaluated=dict.fromkeys(size.evaluated, options.evaluated))
    return size, name


def main() -> None:
    options = parse(sys.argv[1:])
    if options.check_arguments:
        return
    try:
        run(options, *choose(options))
    except StageFailed as failure:
        sys.exit(f'\nquickstart: {failure}')
    except KeyboardInterrupt:
        from rt2_jax import exit_codes

        print(
            '\nquickstart: interrupted. The same command again goes on from here.', file=sys.stderr
        )
        sys.exit(exit_codes.STOPPED)


if __name__ == '__main__':
    main()
