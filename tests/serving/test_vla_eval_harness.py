"""The published harness of vla-eval gets the actions that are decided in process."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from running import running, tiny_policy, twelve_pictures

from rt2_jax.policy import Policy
from rt2_jax.serving.vla_eval_model import model_server

HERE = pathlib.Path(__file__).parent
HOW = (
    'vla-eval wants an environment of its own: python -m venv ENV; ENV/bin/pip install '
    "'vla-eval>=0.8,<0.9'; VLA_EVAL_PYTHON=ENV/bin/python pytest tests/serving/test_vla_eval_harness.py"
)


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny_policy(tiny)


@pytest.fixture(scope='module')
def pictures():
    return twelve_pictures()


@pytest.fixture
def benchmark(tmp_path, pictures):
    """(the harness's configuration of 17 episodes with 12 steps each, where the actions go)."""
    actions, config = tmp_path / 'actions.npy', tmp_path / 'pictures.yaml'
    np.save(tmp_path / 'pictures.npy', pictures)
    parameters = {'pictures': str(tmp_path / 'pictures.npy'), 'actions': str(actions)}
    entry = {
        'benchmark': 'vla_eval_benchmark:Pictures',
        'episodes_per_task': 17,
        'max_steps': 12,
        'params': parameters,
    }
    config.write_text(json.dumps({'benchmarks': [entry], 'output_dir': str(tmp_path / 'results')}))
    return config, actions


def wanted_actions(policy, pictures):
    """float32 [204, 7], decided in process."""
    turned = [np.ascontiguousarray(np.rot90(x, episode)) for episode in range(17) for x in pictures]
    return np.stack([policy.act(picture, 'pick banana').action[1:] for picture in turned])


@pytest.mark.skipif(not os.environ.get('VLA_EVAL_PYTHON'), reason=HOW)
def test_the_command_over_the_network(policy, pictures, benchmark):
    """`vla-eval run --no-docker`, 204 steps."""
    config, actions = benchmark
    command = pathlib.Path(os.environ['VLA_EVAL_PYTHON']).with_name('vla-eval')
    with running(policy) as server:
        address = f'ws://127.0.0.1:{server.port}/vla_eval?camera=agentview&gripper=1,-1'
        found = subprocess.run(
            [command, 'run', '--no-docker', '--no-save', '-v', f'--config={config}',
             f'--server-url={address}'],
            capture_output=True, text=True, timeout=600, env=os.environ | {'PYTHONPATH': str(HERE)},
        )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert 'Pictures: 100.0%' in found.stdout, found.stdout
    assert 'errored' not in found.stdout
    np.testing.assert_array_equal(
        np.load(actions).astype(np.float32), wanted_actions(policy, pictures)
    )


@pytest.mark.skipif(not os.environ.get('VLA_EVAL_PYTHON'), reason=HOW)
def test_evaluate_in_the_process_of_a_training(tiny_checkpoint, pictures, benchmark):
    """`vla_eval.evaluate` with the policy in its own process, 204 steps."""
    config, actions = benchmark
    where = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = subprocess.run(
        [os.environ['VLA_EVAL_PYTHON'], '-c', where], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Behind our own packages: those of both environments are ours.
    start = f'import runpy, sys; sys.path.append({packages!r}); sys.argv = sys.argv[1:]; '
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    found = subprocess.run(
        [sys.executable, '-c', start, HERE / 'vla_eval_benchmark.py', config, tiny_checkpoint],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(map(str, [HERE.parents[1], HERE]))},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    policy = Policy.from_checkpoint(str(tiny_checkpoint), batch_sizes=(1,))
    values = [
        policy.convention().values(np.concatenate([[0], action]))
        for action in wanted_actions(policy, pictures)
    ]
    np.testing.assert_allclose(np.load(actions), values, atol=1e-7)


def test_evaluate_says_how_to_install_it(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, 'vla_eval', None)
    with pytest.raises(ImportError, match=r"pip install 'rt2_jax\[vla_eval\]'"):
        model_server(policy)
