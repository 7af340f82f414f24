"""A config's robot set: what is opened around its steps, with which weights and how many frames."""

from collections import Counter
import dataclasses
import json

import numpy as np
import pytest

from rt2_jax import configuration
from rt2_jax.data import pipeline, sources
from rt2_jax.data.cards import TABLETOP
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Sources
from rt2_jax.data.schedules import Schedule
from rt2_jax.policy.policy_settings import Settings


@pytest.fixture
def data(whole_dataset):
    config = configuration.defaults()
    config.data.update(frames=2, image_size=32, target_length=32, prompt_length=32)
    config.data.robot.tabletop = dict(directory=str(whole_dataset), card='tabletop', weight=2.0)
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    return config.data


def weights(opened):
    return {name: weight.start for name, (_, weight) in opened.items()}


def test_steps_plans_tasks_and_questions_share_a_mixture(data, tokenizer, tmp_path):
    plans = tmp_path / 'plans.json'
    plans.write_text(json.dumps({f'pick thing {n}': 'get it' for n in range(4)}))
    data.robot.tabletop.update(
        plans=str(plans), plan_share=0.25, tasks=dict(weights=dict(time_steps=1.0, instruction=2.0))
    )
    robot, others = sources.open_sources(DataConfig.from_config(data))
    assert weights(robot) == {'tabletop': 1.5, 'tabletop_plans': 0.5, 'tabletop_tasks': 6.0}
    assert weights(others) == {'web': 1.0}
    settings = dataclasses.replace(DataConfig.from_config(data), robot_share=Schedule(start=0.8))
    iterator = pipeline.make_iterator(
        Sources(robot, others), tokenizer, settings, batches=5, batch_size=80
    )
    assert iterator.acting_kinds == {'robot', 'robot_plan'}
    counts = Counter()
    for batch in iterator:
        assert batch['images'].shape == (80, 2, 32, 32, 3)
        counts.update(iterator.kinds[kind] for kind in batch['kind'].tolist())
        for frames, source in zip(np.asarray(batch['images']), batch['source'].tolist()):
            if iterator.sources[source] == 'web':  # a picture of the web stands still
                np.testing.assert_array_equal(frames[0], frames[1])
    iterator.close()
    total = 5 * 80 * 0.8
    assert counts['robot'] == pytest.approx(total * 1.5 / 8, abs=2)
    assert counts['robot_plan'] == pytest.approx(total * 0.5 / 8, abs=2)
    asked = counts['instruction'] + counts['time_steps']
    assert asked == pytest.approx(total * 6 / 8, abs=2)
    assert counts['instruction'] / asked == pytest.approx(2 / 3, abs=0.1)


def test_a_set_of_weight_nought_is_only_asked_about(data):
    data.robot.tabletop.plan_share = 0.5
    fields = data.robot.tabletop.to_dict() | dict(weight=0.0, questions=0.4, plan_share=0.0)
    data.robot.elsewhere = fields
    robot, others = sources.open_sources(DataConfig.from_config(data))
    assert list(robot) == ['tabletop', 'tabletop_plans']
    assert weights(others) == {'web': 1.0, 'elsewhere_frames': 0.4}
    config = configuration.defaults()
    config.data = data
    # Whether the policy plans is for the sets to say that it learnt to act from.
    assert Settings.from_config(config, TABLETOP.action_space).plan


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(frames=3), r'robot.tabletop.frames=3, but config.data.frames=2'),
        (dict(frame_stride=2), r'tabletop.frame_stride=2, but config.data.frame_stride=1'),
        (dict(plan_share=1.0, plans='grouded'), "did you mean 'grounded'"),
        (dict(plan_share=1.0, plans='plan.json'), 'there is no file .*plan.json'),
        (dict(plan_share=1.0, plans_missing='rise'), "did you mean 'raise'"),
        (dict(plan_share=2.0), 'plan_share must be 0 to 1'),
        (dict(paraphrases='said.json'), 'there is no file .*said.json'),
    ],
)
def test_what_does_not_fit_is_refused(data, fields, message):
    data.robot.tabletop.update(fields)
    with pytest.raises(ValueError, match=message):
        sources.open_sources(DataConfig.from_config(data))


def test_answers_that_cannot_be_targets_are_refused_before_the_run(data, tokenizer):
    data.robot.tabletop.tasks = dict(weights=dict(instruction=1.0))
    data.target_length = 3
    settings = DataConfig.from_config(data)
    opened = sources.open_sources(settings)
    with pytest.raises(ValueError, match="target_length=3: 'pick thing"):
        pipeline.make_iterator(opened, tokenizer, settings, batches=1, batch_size=4)
