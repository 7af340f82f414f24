"""vla-eval plays LIBERO by its own adapter, and our world is the same one, step by step."""

import json
import os
import pathlib
import sqlite3
import subprocess

import numpy as np
import pytest
from running import running, tiny_policy
from world_python import in_python_of, needs

HOW = (
    'vla-eval and LIBERO want an environment of their own: python -m venv ENV; ENV/bin/pip install '
    "'vla-eval>=0.8,<0.9' torch -r launch/libero.txt; bash launch/worlds.sh libero; "
    'VLA_EVAL_LIBERO_PYTHON=ENV/bin/python pytest -m slow tests/serving/test_vla_eval_libero.py'
)
STEPS, TASKS = 10, 2
# Reads actions of episodes [E, T, 7], plays them in our world, prints its states [E, T, 8].
REPLAY = """
import json, sys
import numpy as np
from rt2_jax.envs.libero.libero_env import LiberoEnvironment

env = LiberoEnvironment('object', image_size=16, render_size=16, execution_noise=0.0)
states = []
for number, actions in enumerate(json.load(open(sys.argv[1]))):
    env.reset(number)
    states.append([env.step(np.array(action)).state.tolist() for action in actions])
json.dump(states, open(sys.argv[2], 'w'))
"""


def recorded(folder):
    """Actions [E, T, 7] and the states after them [E, T, 8], as the harness kept them."""
    (file,) = folder.glob('*.sqlite')
    steps = {}
    with sqlite3.connect(file) as rows:
        for episode, fields in rows.execute(
            'select eid, fields from step_rows order by rowid, cast(step_id as integer)'
        ):
            steps.setdefault(episode, []).append(json.loads(fields))
    return [[[step[k] for step in steps[e]] for e in steps] for k in ('action', 'state')]


@needs('libero')
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('VLA_EVAL_LIBERO_PYTHON'), reason=HOW)
def test_states_are_the_same_to_the_bit(tiny, tmp_path):
    entry = {
        'benchmark': 'vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark',
        'episodes_per_task': 1,
        'max_tasks': TASKS,
        'params': {'suite': 'libero_object', 'max_steps': STEPS, 'quat_no_antipodal': True},
    }
    config, results = tmp_path / 'libero.yaml', tmp_path / 'results'
    config.write_text(json.dumps({'benchmarks': [entry], 'output_dir': str(results)}))
    command = pathlib.Path(os.environ['VLA_EVAL_LIBERO_PYTHON']).with_name('vla-eval')
    with running(tiny_policy(tiny, prompt_length=40)) as server:
        address = f'ws://127.0.0.1:{server.port}/vla_eval?camera=agentview&gripper=1,-1'
        harness = subprocess.run(
            [command, 'run', '--no-docker', f'--config={config}', f'--server-url={address}'],
            capture_output=True, text=True, timeout=600, cwd=tmp_path,
            env=os.environ | {'MUJOCO_GL': 'egl'},
        )  # fmt: skip
    printed = harness.stdout + harness.stderr
    assert harness.returncode == 0 and 'errored' not in harness.stdout, printed
    actions, theirs = recorded(results)
    assert np.shape(actions) == (TASKS, STEPS, 7)
    (tmp_path / 'actions.json').write_text(json.dumps(actions))
    in_python_of('libero', '-c', REPLAY, tmp_path / 'actions.json', tmp_path / 'states.json')
    np.testing.assert_array_equal(json.loads((tmp_path / 'states.json').read_text()), theirs)
