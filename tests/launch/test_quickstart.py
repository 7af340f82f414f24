"""The quickstart's bookkeeping, with small commands in place of the long ones."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rt2_jax import exit_codes
from rt2_jax.evaluation import report

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(name: str, path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


quickstart = load('launch_quickstart', ROOT / 'launch/quickstart.py')


def stage(folder: pathlib.Path, name: str, code: str = 'open(sys.argv[1], "a").write("x")'):
    product = folder / name
    return quickstart.Stage(name, 'train', ('-c', f'import sys; {code}', str(product)), product)


def play(folder: pathlib.Path, stages) -> list[str]:
    """Runs what is not done yet; the names of what ran."""
    progress, ran = quickstart.Progress(folder / 'progress.json'), []
    with quickstart.only_one(folder) as lock:
        for position, one in enumerate(stages):
            if not progress.is_done(one):
                progress.begin(one, stages[position + 1 :])
                quickstart.run_stage(one, progress, lock)
                ran.append(one.name)
    return ran


def test_done_stages_are_not_run_again(tmp_path):
    stages = [stage(tmp_path, 'a'), stage(tmp_path, 'b'), stage(tmp_path, 'c')]
    assert play(tmp_path, stages) == ['a', 'b', 'c']
    assert play(tmp_path, stages) == []
    stages[1].product.unlink()
    assert play(tmp_path, stages) == ['b', 'c']
    assert stages[0].product.read_text() == 'x' and stages[2].product.read_text() == 'xx'


def test_another_command_is_another_stage(tmp_path):
    play(tmp_path, [stage(tmp_path, 'a'), stage(tmp_path, 'b')])
    changed = stage(tmp_path, 'a', 'open(sys.argv[1], "a").write("y")')
    assert play(tmp_path, [changed, stage(tmp_path, 'b')]) == ['a', 'b']


@pytest.mark.parametrize('code, says', [('sys.exit(3)', 'code 3'), ('pass', 'stopped before')])
def test_a_stage_that_ends_early_is_told_and_tried_again(tmp_path, code, says):
    with pytest.raises(quickstart.StageFailed, match=says):
        play(tmp_path, [stage(tmp_path, 'a', code)])
    seconds = json.loads((tmp_path / 'progress.json').read_text())['seconds']
    assert seconds['a'] >= 0
    assert play(tmp_path, [stage(tmp_path, 'a')]) == ['a']


def test_a_stage_that_stopped_and_saved_interrupts_the_quickstart(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, [stage(tmp_path, 'a', f'sys.exit({exit_codes.STOPPED})')])
    assert play(tmp_path, [stage(tmp_path, 'a')]) == ['a']


def test_seconds_add_up_over_interrupted_tries(tmp_path):
    with pytest.raises(quickstart.StageFailed):
        play(tmp_path, [stage(tmp_path, 'a', 'import time; time.sleep(0.5); sys.exit(1)')])
    play(tmp_path, [stage(tmp_path, 'a', 'import time; time.sleep(0.5); open(sys.argv[1], "w")')])
    assert json.loads((tmp_path / 'progress.json').read_text())['seconds']['a'] >= 1.0


CHILD = """
import pathlib, signal, sys, time
note = pathlib.Path(sys.argv[1] + ".note")
def save(*_):
    time.sleep(0.5)
    note.write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
note.write_text("started")
time.sleep(60)
"""
PARENT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import quickstart
folder = pathlib.Path(sys.argv[2])
one = quickstart.Stage("a", "train", ("-c", sys.argv[3], str(folder / "a")), folder / "a")
with quickstart.only_one(folder) as lock:
    quickstart.run_stage(one, quickstart.Progress(folder / "progress.json"), lock)
"""


def test_child_of_a_killed_quickstart_ends(tmp_path):
    """As training does, the child saves on SIGTERM; the next start waits until it has."""
    note = tmp_path / 'a.note'
    parent = subprocess.Popen([sys.executable, '-c', PARENT, ROOT / 'launch', tmp_path, CHILD])
    deadline = time.monotonic() + 30
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with quickstart.only_one(tmp_path):
        assert note.read_text() == 'saved'


def test_results_have_the_promised_shape(tmp_path):
    stages = quickstart.make_stages(quickstart.QUICK, tmp_path, 'quick', [])
    seconds = {'setup': 10.0} | {one.name: 60.0 for one in stages}
    for one in stages:
        one.product.parent.mkdir(parents=True, exist_ok=True)
        if one.timed in ('act', 'evaluate'):
            policy = one.command[2].removeprefix('--policy=')
            measured = {
                suite: report.proportion(7, 10) | {'tasks': {}} for suite in quickstart.SUITES
            }
            one.product.write_text(json.dumps({'policies': {policy: measured}}))
    results = quickstart.gather(stages, seconds)
    assert list(results['policies']) == ['packaged', 'cofinetuned', 'untrained', 'expert']
    assert results['policies']['expert']['unseen_objects'] == {
        'success': 0.7,
        'episodes': 10,
        'interval': [0.3968, 0.8922],
    }
    assert results['seconds'] == {
        'setup': 10.0,
        'act': 60.0,
        'collect': 60.0,
        'train': 60.0,
        'evaluate': 180.0,
        'total': 370.0,
    }
    assert '70 % (40 to 89 %) of 10' in quickstart.table(results)


def test_commands_are_those_of_the_binaries(tmp_path):
    house = load('tests_house', ROOT / 'tests/test_house.py')
    stages = quickstart.make_stages(quickstart.FULL, ROOT / 'runs/quickstart', 'full', [])
    act, collect, train, *_ = stages
    assert act.timed == 'act' and '--workdir=package:tabletop_policy' in act.command
    assert collect.command[-1] == '--output=runs/quickstart/full/data'
    for one in stages:
        known = house.flags_of(one.command[1])
        for word in one.command[2:]:
            assert word.removeprefix('--').partition('=')[0].split('.')[0] in known
    total = house.load_config(quickstart.CONFIG).total_steps
    assert train.product == ROOT / f'runs/quickstart/full/train/checkpoints/{total}'


@pytest.mark.parametrize('arguments', [['--quik'], ['--steps=0'], ['--episodes=many']])
def test_bad_arguments_are_refused_before_set_up(arguments):
    script = ROOT / 'launch/quickstart.py'
    checked = subprocess.run(
        [sys.executable, script, '--check_arguments', *arguments], capture_output=True, text=True
    )
    assert checked.returncode == 2 and arguments[0].partition('=')[0] in checked.stderr
