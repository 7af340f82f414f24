"""Plans from instructions, labels and files, and other words for instructions."""

import json

import numpy as np
import pytest

from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.robot import plan_files, plans, rlds
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.decoding.grammar import Grammar
from rt2_jax.text import prompts

NAMES = 'observation/object_names'


@pytest.fixture(scope='module')
def steps(whole_dataset):
    return rlds.open_source(whole_dataset, 'tabletop', name='tabletop')


def write(path, content):
    lines = content if path.suffix == '.jsonl' else [content]
    path.write_text('\n'.join(json.dumps(line) for line in lines))
    return path


def test_plans_of_instructions_and_of_labels(steps):
    for planner, text in (
        (plans.Instruction(), lambda step: step['instruction']),
        (plans.Column(NAMES), lambda step: step[NAMES]),
    ):
        source = plans.Planned(steps, planner)
        for i in (0, 7, len(source) - 1):
            example, step = source[i], steps.table.raw(i)
            assert example.prompt == prompts.robot_plan(step['instruction'])
            assert example.answer == prompts.plan(text(step))
            np.testing.assert_array_equal(example.action, step['action'])
        assert {source[i].answer for i in range(len(source))} == set(source.answers())
    with pytest.raises(ValueError, match="did you mean 'observation/object_names'"):
        plans.Planned(steps, plans.Column('observation/object_name'))
    with pytest.raises(ValueError, match='holds numbers; text is needed'):
        plans.Planned(steps, plans.Column('observation/gripper_xyz'))


def test_a_file_says_most_about_steps_then_episodes_then_instructions(steps, tmp_path):
    lines = [{'instruction': f'pick thing {n}', 'plan': f'get it {n}.'} for n in range(4)] + [
        {'episode': 5, 'plan': 'look'},
        {'episode': 5, 'steps': [2, 4], 'plan': 'open  the drawer'},
        {'episode': 9, 'steps': [0, 1], 'plan': 'wait'},
    ]
    source = plans.Planned(steps, plan_files.PlanFile.read(write(tmp_path / 'p.jsonl', lines)))
    told = lambda episode: [source[i].answer for i in steps.table.episode_steps(episode)]
    plain, opening = 'Plan: look. Action:', 'Plan: open the drawer. Action:'
    assert told(5) == [plain] * 2 + [opening] * 2 + [plain] * 4
    assert told(9) == ['Plan: wait. Action:'] + ['Plan: get it 1. Action:'] * 5
    simple = write(tmp_path / 'p.json', {f'pick thing {n}': f'get it {n}' for n in range(4)})
    other = plan_files.PlanFile.read(simple)
    assert plans.Planned(steps, other)[0].answer == 'Plan: get it 0. Action:'
    assert other.fingerprint != source.planner.fingerprint


def test_steps_without_a_plan(steps, tmp_path, caplog):
    some = {'pick thing 1': 'one', 'pick thimg 2': 'two'}
    planner = plan_files.PlanFile.read(write(tmp_path / 'some.json', some))
    with pytest.raises(ValueError, match="steps have no plan, the first is 'pick thing 0' of epi"):
        plans.Planned(steps, planner)
    source = plans.Planned(steps, planner, missing='act')
    examples = [source[i] for i in range(len(source))]
    acting = [example for example in examples if example.kind == 'robot']
    assert f'{len(acting)} of {len(steps)} steps have no plan' in caplog.text
    assert "'pick thimg 2'; did you mean 'pick thing 2'" in caplog.text
    assert source.kinds == ('robot', 'robot_plan')
    for example in examples:
        one = example.prompt in (prompts.robot_plan('pick thing 1'), prompts.robot('pick thing 1'))
        assert (example.kind == 'robot_plan') == one
        assert example.answer == ('Plan: one. Action:' if one else '')


@pytest.mark.parametrize(
    'lines, message',
    [
        ([{'instruction': 'a', 'plan': ''}], 'entry 1: the plan must be a text'),
        ([{'instruction': 'a', 'plam': 'b'}], "did you mean 'plan'"),
        ([{'episode': -1, 'plan': 'b'}], 'needs an "instruction", or'),
        ([{'episode': 1, 'steps': [3, 3], 'plan': 'b'}], 'needs an "instruction", or'),
        (
            [{'instruction': 'a', 'plan': 'b'}, {'instruction': 'a', 'plan': 'c'}],
            'entry 2.*already',
        ),
        (
            [{'episode': 1, 'steps': s, 'plan': 'b'} for s in ([4, 6], [0, 5])],
            'episode 1 has two plans for step 4',
        ),
        ([], 'holds no plan'),
    ],
)
def test_a_wrong_plan_file_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=f'(?s)p.jsonl.*{message}|{message}.*p.jsonl'):
        plan_files.PlanFile.read(write(tmp_path / 'p.jsonl', lines))


def test_a_plan_file_of_other_data(steps, tmp_path):
    file = write(tmp_path / 'p.jsonl', [{'episode': 30, 'plan': 'b'}])
    with pytest.raises(ValueError, match='no episode 30 in .* has 0..29'):
        plans.Planned(steps, plan_files.PlanFile.read(file))
    with pytest.raises(ValueError, match=r"no file .*q.jsonl; did you mean '.*p.jsonl'"):
        plan_files.PlanFile.read(tmp_path / 'q.jsonl')


@pytest.fixture(scope='module')
def encoder(tokenizer, action_tokenizer):
    return ExampleEncoder(
        tokenizer,
        DataConfig(image_size=16, prompt_length=24, target_length=24),
        sources=['plans'],
        kinds=['robot_plan'],
        actions={'plans': action_tokenizer},
    )


def test_plans_come_through_tokens_and_grammar(steps, tmp_path, encoder, tokenizer):
    """What a policy would make of a plan's target is the plan."""
    texts = ['pick the thing', 'thé drawer', 'go 410 530, then 90', 'Plan: act']
    file = write(tmp_path / 'p.json', {f'pick thing {n}': text for n, text in enumerate(texts)})
    source = plans.Planned(steps, plan_files.PlanFile.read(file))
    encoder.check_answers(source.answers(), 'plans')
    action_tokenizer = encoder._actions['plans']
    grammar = Grammar.create(tokenizer, action_tokenizer)
    for episode, text in enumerate(texts):
        example = source[steps.table.episode_steps(episode)[0]]
        target = encoder(example, 'plans')['target']
        ids = target[: list(target).index(tokenizer.eos_id)]
        plan, action = ids[:-8], ids[-8:]
        assert prompts.plan_text(tokenizer.decode(plan)) == text
        assert tuple(plan[-len(grammar.marker_ids) :]) == grammar.marker_ids
        assert np.isin(action, grammar.bin_ids).all()
    for plan, message in (
        ('first Action: then', 'stand nowhere else'),
        ('word ' * 20, "doesn't fit config.data.target_length=24"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.check_answers([prompts.plan(plan)], 'plans')


def test_paraphrases_are_drawn_by_seed_and_step(steps, whole_dataset, tmp_path):
    said = {'pick thing 1': ['get the one', 'fetch one'], 'pick thing 3': ['take three']}
    file = write(tmp_path / 'said.json', said)
    source, again, other = (
        StepSource(steps.index, steps.settings, paraphrases=Paraphrases.read(file, 0.4, seed))
        for seed in (0, 0, 1)
    )
    words = lambda source: [source.table.wording(i) for i in range(len(source))]
    assert words(source) == words(again) != words(other)
    assert source.fingerprint == again.fingerprint != other.fingerprint
    kept = {instruction: [] for instruction in said}
    for i, wording in enumerate(words(source)):
        own = source.table.instruction(i)
        assert source[i].prompt == prompts.robot(wording)
        assert wording in (own, *said.get(own, ()))
        if own in said:
            kept[own].append(wording == own)
    assert 0.2 < np.mean(sum(kept.values(), [])) < 0.6
    assert set(words(source)) >= {'get the one', 'fetch one', 'take three'}
    planned = plans.Planned(source, plans.Instruction())
    i = words(source).index('take three')
    assert (planned[i].prompt, planned[i].answer) == (
        'Instruction: take three.',
        'Plan: pick thing 3. Action:',
    )
    file.write_text(json.dumps(said | {'pick thing 2': ['take two']}))
    changed = rlds.open_source(
        whole_dataset, 'tabletop', paraphrases=str(file), paraphrase_keep=0.4
    )
    assert changed.fingerprint != source.fingerprint


def test_paraphrases_that_do_not_fit(tmp_path, caplog):
    said = {'pick one': ['get one'], 'pick tow': ['get two']}
    paraphrases = Paraphrases.read(write(tmp_path / 'said.json', said))
    there = ['pick one', 'pick two', 'pick three']
    assert paraphrases.check(there, 'here') == (2, 1)
    assert "'pick tow'; did you mean 'pick two'" in caplog.text
    assert "2 of 3 instructions of the data have no paraphrase, such as 'pick three'" in caplog.text
    with pytest.raises(ValueError, match='none of the 2 instructions is one of the data'):
        paraphrases.check(['push bell'], 'here')
    with pytest.raises(ValueError, match=r"'a' needs a list of texts"):
        Paraphrases.read(write(tmp_path / 'wrong.json', {'a': 'b'}))
    with pytest.raises(ValueError, match='must be 0 to 1'):
        Paraphrases.read(tmp_path / 'said.json', keep=2)
