"""From a data set's files to a robot: index, training until it is known by heart, server, clients.

Slow (minutes): python -m pytest -m slow tests/serving/test_journeys.py
"""

import jax
import numpy as np
import open_x
import pytest
import requests
from running import running
from test_conventions import JOURNEYS, check

from rt2_jax.checkpoints import assets, checkpoint
from rt2_jax.data import pipeline
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Schedule, Sources
from rt2_jax.data.robot import rlds
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.policy import Policy
from rt2_jax.serving import codec
from rt2_jax.training import program as program_lib

MOST_STEPS, ROUND = 3000, 250


@pytest.fixture(params=JOURNEYS)
def learnt(request, tiny, tokenizer, tmp_path):
    """(source, the raw actions of its steps, a run's directory): two episodes, known by heart."""
    name = request.param
    episodes = [open_x.make_episode(name, n) for n in range(2)]
    directory = open_x.write_dataset(tmp_path / 'data' / name, name, episodes)
    source = rlds.open_source(directory, name)
    raw = np.stack(
        [
            open_x.raw_action(source.index.card, episode['steps'][t])
            for episode in episodes
            for t in open_x.expected(name, episode['steps'])[0]
        ]
    )
    config = tiny.config().unlock()
    config.update(batch_size=16, accumulate=1, total_steps=MOST_STEPS, seed=0, embodiment=name)
    config.data.robot = {name: {'card': name}}
    config.adapters = dict(rank=0)
    config.optimizer = dict(
        name='adamw', lr=3e-3, schedule='constant', warmup=20, end_fraction=1.0, clip=1.0,
        weight_decay=0.0, b1=0.9, b2=0.95, eps=1e-8, frozen=(), part_lr=dict(),
    )  # fmt: skip
    config.mesh = dict(data=1, fsdp=1, tensor=1)
    spaces = {name: source.action_space}
    data = DataConfig(
        image_size=config.data.image_size,
        prompt_length=config.data.prompt_length,
        target_length=config.data.target_length,
        robot_share=Schedule(start=1.0),
    )
    batches = pipeline.make_iterator(
        Sources.of({name: (source, 1.0)}, {}), tokenizer, data, batches=MOST_STEPS, batch_size=16
    )
    program = program_lib.build(
        config.lock(),
        mesh_lib.make_mesh(config.mesh),
        tokenizer,
        batches.sources,
        batches.kinds,
        batches.acting_kinds,
        spaces,
    )
    state = program.init()
    for number, batch in enumerate(batches, 1):
        state, _ = program.step(state, batch)
        if number % ROUND == 0:
            policy = Policy.from_config(
                config, jax.device_get(state.params), tokenizer, source.action_space
            )
            wanted = [
                policy.action_tokenizer.encode(source.table.action(i)) for i in range(len(source))
            ]
            frames = [source.frames(i) for i in range(len(source))]
            words = [source.table.raw(i)['instruction'] for i in range(len(source))]
            decisions = policy.act_batch(frames, words)
            right = np.mean([d.tokens == w for d, w in zip(decisions, wanted, strict=True)])
            print(f'{name}: step {number}, {right:.1%} of the tokens', flush=True)
            if right == 1:
                break
    workdir = tmp_path / 'run'
    assets.write_assets(workdir, config, tokenizer, spaces)
    checkpoints = checkpoint.Checkpoints(workdir)
    checkpoints.save(state, batches.get_state(), number)
    checkpoints.close()
    return source, raw, workdir


@pytest.mark.slow
def test_what_was_learnt_by_heart_is_what_the_robot_is_sent(learnt):
    """Both protocols, gripper included, within half a bin of the data."""
    source, raw, workdir = learnt
    policy = Policy.from_checkpoint(workdir, batch_sizes=(1,))
    with running(policy) as server, server.robot() as robot:
        posted, answers = [], []
        for i in range(len(source)):
            frame, instruction = source.frames(i)[0], source.table.raw(i)['instruction']
            message = codec.dumps({'image': frame, 'instruction': instruction})
            reply = requests.post(f'{server.http}/act', message, timeout=60)
            posted.append(codec.loads(reply.text))
            answers.append(robot.infer(frame, instruction, reset=True)['actions'][0])
    check(source.index.card, policy.action_tokenizer.space, np.stack(posted), raw)
    np.testing.assert_array_equal(np.stack(answers), np.stack(posted).astype(np.float32))
