"""The iterator of batches: contents, exact resume, any number of hosts, errors."""

from collections import Counter
import dataclasses
import json
import threading
import time

import jax
import numpy as np
import pytest

from rt2_jax.data import images
from rt2_jax.data.augmentation import RECIPES, Augmentation
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.example import Example
from rt2_jax.data.mixture import Sources
from rt2_jax.data.pipeline import StateMismatch, make_iterator, rows_of_host
from rt2_jax.data.robot import rlds
from rt2_jax.data.schedules import Schedule
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Words:
    """A web source of plain frames: item i asks about, and shows, the number i."""

    length: int = 50
    answer: str = 'the number {}'
    question: str = 'Q: what number is this? A:'
    open_end: bool = False
    kinds = ('number',)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        frame = np.full([1, 40, 40, 3], i, np.uint8)
        answer = self.answer.format(i)
        return Example(
            frame, self.question, answer, None, 'words', 'number', open_end=self.open_end
        )


@pytest.fixture(scope='module')
def tokenizer():
    return Tokenizer.load_default()


@pytest.fixture
def make(whole_dataset, tokenizer):
    source = rlds.open_source(whole_dataset, 'tabletop')
    iterators = []

    def make(robot=None, web=None, **changes):
        shape = dict(image_size=32, prompt_length=24, target_length=16)
        names = {field.name for field in dataclasses.fields(DataConfig)} & set(changes)
        data = DataConfig(**shape | {name: changes.pop(name) for name in names})
        robot = {'tabletop': (source, 1.0)} if robot is None else robot
        web = {'words': (Words(), 1.0)} if web is None else web
        settings = dict(batches=30, batch_size=BATCH, seed=3) | changes
        iterators.append(make_iterator(Sources.of(robot, web), tokenizer, data, **settings))
        return iterators[-1]

    make.source = source
    yield make
    for iterator in iterators:
        iterator.close()


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_contents(make, tokenizer):
    iterator = make()
    actions = ActionTokenizer(make.source.action_space, tokenizer)
    expected = {make.source.table.action(i).tobytes(): i for i in range(len(make.source))}
    batch = jax.tree.map(np.asarray, next(iterator))
    assert iterator.sources == ('tabletop', 'words') and iterator.kinds == ('number', 'robot')
    assert batch['images'].shape == (BATCH, 1, 32, 32, 3) and batch['images'].dtype == np.uint8
    assert batch['prompt'].shape == (BATCH, 24) and batch['target'].shape == (BATCH, 16)
    assert all(batch[k].dtype == np.int32 for k in ('prompt', 'target', 'source', 'kind', 'index'))
    assert batch['index'].tolist() == list(range(BATCH))
    assert (batch['source'] == 0).sum() == BATCH // 2
    np.testing.assert_array_equal(batch['kind'], np.where(batch['source'] == 0, 1, 0))
    lookup = {actions.encode(make.source.table.action(i)).tobytes(): i for i in expected.values()}
    for row in range(BATCH):
        prompt, target = (batch[k][row][batch[k][row] != 0].tolist() for k in ('prompt', 'target'))
        assert target[-1] == tokenizer.eos_id
        if batch['source'][row] == 0:
            i = lookup[np.array(target[:-1], np.int32).tobytes()]
            example = make.source[i]
            assert prompt == tokenizer.encode(example.prompt)
            resized = images.resize(example.frames, 32)
            np.testing.assert_array_equal(batch['images'][row], resized)
        else:
            number = int(batch['images'][row].flat[0])
            assert target[:-1] == tokenizer.encode(f'the number {number}')


def test_every_epoch_is_another_permutation(make):
    iterator = make(robot_share=Schedule(start=0.0), batch_size=25, batches=6)
    numbers = [np.asarray(batch['images'])[:, 0, 0, 0, 0].tolist() for batch in iterator]
    epochs = [numbers[0] + numbers[1], numbers[2] + numbers[3], numbers[4] + numbers[5]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and sorted(epochs[0]) != epochs[0]


def test_another_seed_is_another_order(make):
    assert same(next(make(seed=1)), next(make(seed=1)))
    assert not same(next(make(seed=1)), next(make(seed=2)))


@pytest.mark.parametrize('threads,read_ahead', [(1, 1), (4, 3)])
def test_resume_is_exact(make, threads, read_ahead):
    whole = [jax.tree.map(np.asarray, batch) for batch in make()]
    assert len(whole) == 30
    stopped = make(threads=threads, read_ahead=read_ahead)
    for _ in range(11):
        next(stopped)
    state = json.dumps(stopped.get_state())
    resumed = make()
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == 19 and all(same(a, b) for a, b in zip(rest, whole[11:], strict=True))
    resumed.set_state(json.loads(state))
    assert same(next(resumed), whole[11])
    longer = make(batches=100)
    longer.set_state(state)
    assert same(next(longer), whole[11])


@pytest.mark.parametrize(
    'field,changes',
    [
        ('batch_size', {'batch_size': 8}),
        ('seed', {'seed': 4}),
        ('schedule', {'robot_share': Schedule(start=0.25)}),
        ("source 'words'", {'web': {'words': (Words(60), 1.0)}}),
        ("source 'words'", {'web': {'words': (Words(answer='{}'), 1.0)}}),
        ('web_sources', {'web': {'words': (Words(), 1.0), 'more': (Words(), 1.0)}}),
        ('image_size', {'image_size': 16}),
        ('target_length', {'target_length': 20}),
    ],
)
def test_resume_with_other_settings_names_the_field(make, field, changes):
    state = make().get_state()
    with pytest.raises(StateMismatch, match=f'other settings.*(?s:.*) {field}: was'):
        make(**changes).set_state(state)


def test_resume_is_exact_with_augmentation_and_weights_that_change(make):
    octo = Augmentation(**RECIPES['octo'])

    def run(weight=Schedule('linear', start=1, end=9, finish=20), augment=octo, **changes):
        robot = {'x': (make.source, weight), 'y': (make.source, 1.0)}
        return make(robot=robot, augment=augment, **changes)

    whole = [jax.tree.map(np.asarray, batch) for batch in run()]
    stopped = run(threads=4)
    for _ in range(17):
        next(stopped)
    state = json.dumps(stopped.get_state())
    stopped.set_state(state)
    assert all(same(a, b) for a, b in zip(stopped, whole[17:], strict=True))
    halves = [run(rows=range(h * 8, h * 8 + 8)) for h in range(2)]
    for batch in whole[:5]:
        shards = [next(half) for half in halves]
        assert same(batch, {k: np.concatenate([s[k] for s in shards]) for k in batch})
    assert not same(next(run(augment=Augmentation())), whole[0])
    with pytest.raises(StateMismatch, match=' augment: was'):
        run(augment=Augmentation(scale=(0.9, 0.9))).set_state(state)
    with pytest.raises(StateMismatch, match="source 'x': was"):
        run(weight=2.0).set_state(state)


def test_evaluation_shows_what_a_policy_sees(make, tokenizer):
    augment = Augmentation(**RECIPES['openvla'])
    batch = jax.tree.map(np.asarray, next(make(augment=augment, evaluation=True)))
    plain = jax.tree.map(np.asarray, next(make()))
    robot = batch['source'] == 0
    np.testing.assert_array_equal(batch['images'][~robot], plain['images'][~robot])
    actions = ActionTokenizer(make.source.action_space, tokenizer)
    seen = {
        actions.encode(make.source.table.action(i)).tobytes(): augment.evaluation(
            make.source.frames(i), 32, cropped=True
        )
        for i in range(len(make.source))
    }
    for image, target in zip(batch['images'][robot], batch['target'][robot]):
        np.testing.assert_array_equal(image, seen[target[:8].tobytes()])


def test_resume_with_other_episodes_is_an_error(make, whole_dataset):
    state = make().get_state()
    fewer = rlds.open_source(whole_dataset, 'tabletop', episodes=20)
    with pytest.raises(StateMismatch, match="source 'tabletop': was"):
        make(robot={'tabletop': (fewer, 1.0)}).set_state(state)
    with pytest.raises(StateMismatch, match="isn't the state of a data iterator"):
        make().set_state({'batches': 3})


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_any_number_of_hosts_makes_the_same_batches(make, hosts):
    whole = make(robot_share=Schedule('ramp', start=0.2, end=0.9, begin=0, finish=5))
    parts = [
        make(
            robot_share=Schedule('ramp', start=0.2, end=0.9, begin=0, finish=5),
            rows=range(h * BATCH // hosts, (h + 1) * BATCH // hosts),
        )
        for h in range(hosts)
    ]
    for _ in range(6):
        shards = [next(part) for part in parts]
        joined = {key: np.concatenate([s[key] for s in shards]) for key in shards[0]}
        assert same(jax.tree.map(np.asarray, next(whole)), joined)


def test_sharded_batches(make):
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    batch = next(make(sharding=sharding))
    assert all(x.sharding.is_equivalent_to(sharding, x.ndim) for x in batch.values())
    assert same(batch, next(make()))
    assert rows_of_host(sharding, BATCH) == list(range(BATCH))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert same(next(make(sharding=replicated)), batch)


def test_several_sources_a_side(make):
    web = {'a': (Words(20), 3.0), 'b': (Words(30), 1.0)}
    robot = {'x': (make.source, 1.0), 'y': (make.source, 1.0)}
    counts = Counter()
    for batch in make(robot=robot, web=web):
        counts.update(np.asarray(batch['source']).tolist())
    assert counts == {0: 120, 1: 120, 2: 180, 3: 60}


def test_one_side_alone(make):
    robots = next(make(web={}, robot_share=Schedule(start=1.0)))
    assert set(np.asarray(robots['kind']).tolist()) == {0}
    next(make(robot={}, robot_share=Schedule(start=0.0)))
    with pytest.raises(ValueError, match='no web source'):
        make(web={})


@pytest.mark.parametrize('plan', [prompts.plan('number 310 510'), 'Plan: number 310 510'])
def test_nothing_is_learnt_behind_an_open_end(make, tokenizer, plan):
    """Else a policy would learn that a plan ends there in frames whose actions it isn't shown."""
    words = Words(answer=plan, question=prompts.robot_plan('pick number'), open_end=True)
    batch = jax.tree.map(np.asarray, next(make(web={'words': (words, 1.0)})))
    planned = batch['target'][batch['source'] == 1]
    ids = tokenizer.encode(plan)
    assert (planned[:, : len(ids)] == ids).all() and not planned[:, len(ids) :].any()


def test_a_target_that_does_not_fit_is_an_error(make):
    iterator = make(target_length=8)
    with pytest.raises(ValueError, match="9 tokens doesn't fit config.data.target_length=8"):
        next(iterator)


def test_a_prompt_that_does_not_fit_is_clipped_counted_and_logged(make, caplog):
    web = {'words': (Words(question='what ' * 60), 1.0)}
    iterator = make(web=web)
    batch = next(iterator)
    assert iterator.encoder.clipped_prompts >= BATCH // 2
    assert 'clipped to 24' in caplog.text
    rows = np.asarray(batch['source']) == 1
    assert (np.asarray(batch['prompt'])[rows] != 0).all()


def test_clear_errors(make):
    class Mistaken(Words):
        kinds = ('nummer',)

    with pytest.raises(ValueError, match="kind 'number', which no source declares"):
        next(make(web={'words': (Mistaken(), 1.0)}))
    with pytest.raises(ValueError, match="source 'words' is empty"):
        make(web={'words': (Words(0), 1.0)})
    with pytest.raises(ValueError, match='both robot and web'):
        make(web={'tabletop': (Words(), 1.0)})
    with pytest.raises(ValueError, match=r'uint8 \[F, H, W, 3\]'):
        Example(np.zeros([2, 2, 3], np.uint8), '')
    with pytest.raises(ValueError, match='NaN'):
        Example(np.zeros([1, 2, 2, 3], np.uint8), '', action=np.full([8], np.nan))


def test_waiting_is_measured_and_closing_stops_the_threads(make):
    before = threading.active_count()
    iterator = make()
    next(iterator)
    assert iterator.wait_seconds > 0
    iterator.close()
    deadline = time.monotonic() + 10  # grain's pool ends its threads in its own time
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert np.asarray(next(iterator)['index'])[0] == BATCH
