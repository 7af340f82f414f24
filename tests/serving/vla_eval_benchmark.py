"""A benchmark of vla-eval that shows pictures of a file and keeps the actions that come.

The harness imports it, in an environment of its own:

    vla-eval run --no-docker --config CONFIG --server-url ws://127.0.0.1:PORT/vla_eval?camera=agentview

Run as a command it is a training that evaluates its policy: python vla_eval_benchmark.py CONFIG
"""

import sys

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, RAW


class Pictures(StepBenchmark):
    """One task; an episode shows each picture once, turned by its number so that episodes differ."""

    def __init__(self, pictures: str, actions: str) -> None:
        super().__init__()
        self._pictures, self._file, self._actions = np.load(pictures), actions, []

    def get_tasks(self):
        return [{'name': 'pick banana'}]

    def reset(self, task):
        self._step, self._episode = 0, task['episode_idx']
        return self._picture()

    def step(self, action):
        self._actions.append(action['actions'])
        np.save(self._file, self._actions)
        self._step += 1
        done = self._step == len(self._pictures)
        return StepResult(None if done else self._picture(), 0.0, done, {})

    def make_obs(self, raw_obs, task):
        wrist = np.zeros([8, 8, 3], np.uint8)
        return {
            'images': {'wrist': wrist, 'agentview': raw_obs},
            'task_description': task['name'],
            'states': np.zeros([8]),
        }

    def get_step_result(self, step_result):
        return {'success': step_result.done}

    def get_action_spec(self):
        return {'position': POSITION_DELTA, 'rotation': RAW, 'gripper': GRIPPER_CLOSE_POS}

    def get_observation_spec(self):
        return {'agentview': IMAGE_RGB, 'wrist': IMAGE_RGB, 'language': LANGUAGE, 'state': RAW}

    def _picture(self):
        return np.ascontiguousarray(np.rot90(self._pictures[self._step], self._episode))


def main():
    """`evaluate` in the process that has the policy."""
    import vla_eval

    from rt2_jax.policy import Policy
    from rt2_jax.serving.vla_eval_model import model_server

    config, checkpoint = sys.argv[1:]
    policy = Policy.from_checkpoint(checkpoint, batch_sizes=(1,))
    server = model_server(policy, camera='agentview')
    (result,) = vla_eval.evaluate(server, config, docker=False, no_save=True)
    assert result['mean_success'] == 1, result


if __name__ == '__main__':
    main()
