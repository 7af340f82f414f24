"""Web sets in three formats, whole: what is written is read back, as often as asked."""

import collections
import json
import pickle

import numpy as np
import pytest
import web_files

from rt2_jax.data import images
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.index import index_build
from rt2_jax.data.index.opened_index import open_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.readers import jsonl as jsonl_reader
from rt2_jax.data.web import open_web, web_tasks
from rt2_jax.data.web.web_cards import WebCard
from rt2_jax.data.web.web_source import WebSource
from rt2_jax.text import places

EVERYTHING = {'caption': 1.0, 'vqa': 1.0, 'ocr': 1.0, 'detect': 1.0}
RECORDS = 60


def open_jsonl(folder, **settings):
    settings = {'fields': web_files.JSONL_FIELDS, 'tasks': EVERYTHING} | settings
    return open_web.open_source('jsonl', folder, **settings)


def source_of(table, **settings):
    return WebSource(table, WebSet('jsonl', table.directory, **settings))


@pytest.fixture(scope='module')
def jsonl(tmp_path_factory):
    return web_files.write_jsonl(tmp_path_factory.mktemp('jsonl'))


@pytest.fixture(scope='module')
def tables(jsonl, tmp_path_factory):
    """The same records in each format, indexed."""
    tar = web_files.write_tar(tmp_path_factory.mktemp('tar'))
    coco = web_files.write_tfds(
        tmp_path_factory.mktemp('coco'),
        web_files.coco_features(),
        web_files.coco_example,
        'coco_captions',
    )
    vqa = web_files.write_tfds(
        tmp_path_factory.mktemp('vqa'), web_files.vqa_features(), web_files.vqa_example, 'vqa'
    )
    formats = {
        'jsonl': open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS),
        'tar': open_web.open_format('webdataset', tar, fields=web_files.TAR_FIELDS),
        'coco': open_web.open_format('tfds', coco, card='coco_captions'),
        'vqa': open_web.open_format('tfds', vqa, card='vqa'),
    }
    return {name: open_index(WebTable, dataset) for name, dataset in formats.items()}


@pytest.mark.parametrize(
    'name, fields',
    [
        ('jsonl', 'caption question answer ocr label language score'),
        ('tar', 'question answer ocr label language score'),
        ('coco', 'caption label'),
        ('vqa', 'question answer'),
    ],
)
def test_every_record_is_read_back(tables, name, fields):
    table = tables[name]
    source = source_of(table, tasks=EVERYTHING)
    assert len(table) == len(source) == RECORDS
    for number in range(RECORDS):
        said = web_files.record(number)
        names = [thing['name'] for thing in said['objects']]
        expected = {
            'caption': said['captions'],
            'question': [said['question']],
            'answer': said['answers'],
            'ocr': said['ocr'],
            'label': names,
        }
        for field in set(fields.split()) & set(expected):
            assert table.texts(field, number) == expected[field]
        if 'label' in fields:
            boxes = np.array([thing['box'] for thing in said['objects']], np.float32)
            np.testing.assert_array_equal(table.boxes(number), boxes.reshape(-1, 4))
        if 'language' in fields:
            assert table.language(number) == said['language']
        if 'score' in fields:
            assert table.arrays['score'][number] == np.float32(said['score'])
        assert source.encoded(number) == web_files.picture(number)
    if name == 'tar':
        assert table.texts('caption', 7) == web_files.record(7)['captions'][:1]


def test_an_example_depends_on_seed_and_number_alone(tables):
    first = source_of(tables['jsonl'], tasks=EVERYTHING, seed=3, passes=5)
    again = pickle.loads(pickle.dumps(first))
    other = source_of(tables['jsonl'], tasks=EVERYTHING, seed=4, passes=5)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    same = []
    for i in reversed(range(0, len(first), 7)):
        a, b = first[i], again[i]
        assert (a.prompt, a.answer, a.kind) == (b.prompt, b.answer, b.kind)
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.frames[0], images.decode(web_files.picture(i % RECORDS)))
        same.append((a.prompt, a.answer) == (other[i].prompt, other[i].answer))
    assert not all(same)
    with pytest.raises(IndexError):
        first[len(first)]


def test_tasks_are_worded_as_published(tables):
    said = web_files.record(8)  # in German, two boxes more than none
    assert said['language'] == 'de'
    table, rng = tables['jsonl'], np.random.default_rng(0)

    def ask(task, wording='rt2', row=8):
        return web_tasks.ask(task, table, row, rng, wording, 8)

    assert ask('caption')[0] == 'Generate the alt_text in DE at 0:'
    assert ask('ocr') == ('Generate the ocr_text in DE:', 'EXIT 8')
    assert ask('vqa')[0] == 'Q: what is number 8? A:'
    assert ask('vqa', 'pali')[0] == 'Answer in DE: what is number 8?'
    assert ask('detect', row=1) == ('detect dog', '0 250 300 750 dog')


def test_several_answers_come_equally_often(tables):
    source = source_of(tables['jsonl'], tasks={'caption': 1.0}, passes=300)
    row = next(n for n in range(RECORDS) if len(web_files.record(n)['captions']) == 3)
    counts = collections.Counter(source[row + RECORDS * turn].answer for turn in range(300))
    assert set(counts) == set(web_files.record(row)['captions'])
    assert min(counts.values()) > 70


def test_tasks_come_as_often_as_asked_of_records_that_have_them(tables):
    source = source_of(tables['jsonl'], tasks={'vqa': 3.0, 'detect': 1.0}, passes=20)
    counts = collections.Counter()
    for i in range(len(source)):
        kind = source._task(source.row(i), np.random.default_rng(i))
        counts[kind, bool(web_files.record(i % RECORDS)['objects'])] += 1
    assert counts['detect', False] == 0
    share = counts['detect', True] / (counts['detect', True] + counts['vqa', True])
    assert abs(share - 0.25) < 0.04
    assert source.kinds == ('detect', 'vqa')


def test_records_without_the_tasks_texts_are_left_out_and_counted(tables):
    source = source_of(tables['coco'], tasks={'detect': 1.0})
    with_objects = [n for n in range(RECORDS) if web_files.record(n)['objects']]
    assert [source.row(i) for i in range(len(source))] == with_objects
    assert list(source.selection.left_out.values()) == [RECORDS - len(with_objects)]


def test_languages_come_as_often_as_weighted(tables):
    """Each row of a language as often as the next, to within one; the rarest use is exactly once."""
    weights = {'en': 0.2, 'de': 0.7, 'fr': 0.1}
    source = source_of(tables['jsonl'], tasks=EVERYTHING, languages=weights)
    rows = [source.row(i) for i in range(len(source))]
    languages = collections.Counter(web_files.record(row)['language'] for row in rows)
    assert len(rows) == 180  # 36 English records, of which an epoch holds each once, at 0.2
    for language, weight in weights.items():
        assert abs(languages[language] - weight * len(rows)) <= 1
        times = [
            rows.count(n) for n in range(RECORDS) if web_files.record(n)['language'] == language
        ]
        assert max(times) - min(times) <= 1 and min(times) >= 1
    only = source_of(tables['jsonl'], tasks=EVERYTHING, languages={'de': 1.0})
    assert {web_files.record(only.row(i))['language'] for i in range(len(only))} == {'de'}


def test_temperature_raises_rare_languages(tables):
    source = source_of(tables['jsonl'], tasks=EVERYTHING, temperature=2.0)
    languages = collections.Counter(
        web_files.record(source.row(i))['language'] for i in range(len(source))
    )
    roots = {'en': 36**0.5, 'de': 12**0.5, 'fr': 12**0.5}
    for language, root in roots.items():
        assert abs(languages[language] / len(source) - root / sum(roots.values())) < 0.02


def test_keep_top_is_exact(tables):
    scores = {n: web_files.record(n)['score'] for n in range(RECORDS)}
    best = sorted(scores, key=lambda n: -scores[n])
    for share, count in ((0.1, 6), (0.5, 30), (0.001, 1)):
        source = source_of(tables['jsonl'], tasks=EVERYTHING, keep_top=share)
        assert [source.row(i) for i in range(len(source))] == sorted(best[:count])
    source = source_of(
        tables['jsonl'], tasks=EVERYTHING, languages={'de': 1.0}, min_score=0.5, keep_top=0.5
    )
    german = [n for n in best if n % 5 == 3 and scores[n] >= 0.5]
    kept = {source.row(i) for i in range(len(source))}
    assert kept == set(german[: round(len(german) / 2)])
    assert source.selection.left_out['in another language'] == 48


def test_ties_go_to_the_first(tmp_path):
    web_files.write_jsonl(tmp_path, 10)
    source = open_jsonl(tmp_path, fields=web_files.JSONL_FIELDS | {'score': 'none'}, keep_top=1.0)
    assert len(source) == 10
    with pytest.raises(ValueError, match="no record is left.*'has no score': 10"):
        open_jsonl(tmp_path, fields=web_files.JSONL_FIELDS | {'score': 'none'}, keep_top=0.5)
    text = (tmp_path / 'all.jsonl').read_text()
    (tmp_path / 'all.jsonl').write_text(
        '\n'.join(line.split('"score"')[0] + '"score": 0.5}' for line in text.splitlines())
    )
    even = open_jsonl(tmp_path, location=tmp_path / 'index', keep_top=0.3)
    assert [even.row(i) for i in range(len(even))] == [0, 1, 2]


def test_a_selection_is_computed_once(tables):
    settings = {'tasks': EVERYTHING, 'keep_top': 0.25, 'languages': {'en': 1.0}}
    first = source_of(tables['jsonl'], **settings)
    again = source_of(tables['jsonl'], **settings)
    folders = [*tables['jsonl'].location.glob('selection-*')]
    assert not again.selection.rows.flags.owndata  # mapped, not computed
    np.testing.assert_array_equal(first.selection.rows, again.selection.rows)
    assert [*tables['jsonl'].location.glob('selection-*')] == folders


def test_boxes_are_read_back_from_the_answer(tables):
    source = source_of(tables['jsonl'], tasks={'detect': 1.0})
    for i in range(len(source)):
        things = web_files.record(source.row(i))['objects']
        asked = source[i].prompt.removeprefix('detect ').split(' ; ')
        said = sorted(
            (name, *box.round(3).tolist()) for box, name in places.read_boxes(source[i].answer)
        )
        expected = [(t['name'], *np.float32(t['box']).round(3).tolist()) for t in things]
        assert said == sorted(x for x in expected if x[0] in asked)
    assert len(places.read_boxes('1 2 3 4 a cat ; 1 2 3 cat ; 1 2 3 1001 cat')) == 1


def test_detection_answers_a_name_whole_or_not_at_all(tmp_path):
    """Two kites, or four of five persons: the largest, as no more are asked for."""
    web_files.write_jsonl(tmp_path, 1)
    names = ['person'] * 5 + ['kite'] * 2
    things = [{'name': name, 'box': [0, 0, k / 10, 0.5]} for k, name in enumerate(names)]
    (tmp_path / 'all.jsonl').write_text(json.dumps({'image': '0/0000.jpg', 'objects': things}))
    fields = {'label': 'objects/name'}
    source = open_jsonl(tmp_path, fields=fields, tasks={'detect': 1.0}, passes=40, most_boxes=4)
    asked = set()
    for i in range(len(source)):
        found = places.read_boxes(source[i].answer)
        asked.add((source[i].prompt, len(found)))
        if source[i].prompt == 'detect person':
            assert {float(box[2]) for box, _ in found} == {np.float32(k / 10) for k in (1, 2, 3, 4)}
    assert asked == {('detect person', 4), ('detect kite', 2)}


def test_boxes_in_pixels(tmp_path):
    web_files.write_jsonl(tmp_path, 1)
    (tmp_path / 'all.jsonl').write_text(
        '{"image": "0/0000.jpg", "objects": [{"name": "cat", "box": [8, 6, 16, 12]}]}\n'
    )
    fields = {'label': 'objects/name', 'box_form': 'xywh', 'box_unit': 'pixel'}
    source = open_jsonl(tmp_path, fields=fields, tasks={'detect': 1.0})
    assert source[0].answer == '250 250 750 750 cat'  # of 24 x 32 pixels
    with pytest.raises(ValueError, match="line 1: box: .*24 x 32.*are box_form='yxyx'"):
        open_jsonl(tmp_path, fields={'label': 'objects/name'}, tasks={'detect': 1.0})


def test_one_process_or_several_stretches_give_the_same_index(jsonl, tmp_path, monkeypatch):
    dataset = open_web.open_format('jsonl', jsonl, fields=web_files.JSONL_FIELDS)
    one = index_build.build(dataset, location=tmp_path / 'one', processes=1)
    monkeypatch.setattr(jsonl_reader, 'UNIT_BYTES', 1000)
    assert len(dataset.units([jsonl.joinpath('all.jsonl').stat().st_size])) > 10
    many = index_build.build(dataset, location=tmp_path / 'many', processes=2)
    names = sorted(path.name for path in one.glob('*.npy'))
    assert names == sorted(path.name for path in many.glob('*.npy'))
    for name in names:
        np.testing.assert_array_equal(np.load(one / name), np.load(many / name))


def test_mistyped_settings_are_named(jsonl, tables):
    with pytest.raises(
        ValueError, match="kep_top: there is no such field; did you mean 'keep_top'"
    ):
        open_jsonl(jsonl, kep_top=0.1)
    with pytest.raises(ValueError, match="field of a web set: 'captoin'; did you mean 'caption'"):
        open_jsonl(jsonl, fields={'captoin': 'captions'})
    with pytest.raises(ValueError, match="under 'captoins'.*its caption; did you mean 'captions'"):
        open_jsonl(jsonl, fields=web_files.JSONL_FIELDS | {'caption': 'captoins'})
    with pytest.raises(ValueError, match="task 'captoin'; did you mean 'caption'"):
        open_jsonl(jsonl, tasks={'captoin': 1.0})
    with pytest.raises(ValueError, match="language of .*'eng'; did you mean 'en'"):
        open_jsonl(jsonl, languages={'eng': 1.0})
    with pytest.raises(ValueError, match="called 'coco_caption'; did you mean 'coco_captions'"):
        open_web.open_format('tfds', jsonl, card='coco_caption')
    with pytest.raises(ValueError, match='box_form'):
        WebCard('x', box_form='yx')
    with pytest.raises(ValueError, match='as file'):
        open_web.open_format('jsonl', jsonl.parent, files='*.as file').files()
    with pytest.raises(
        ValueError, match="no record of language 'de' is left, though its weight is 1"
    ):
        open_jsonl(jsonl, languages={'de': 1.0, 'fr': 1.0}, min_score=0.95)
    with pytest.raises(ValueError, match='share of 1e-09'):
        source_of(tables['jsonl'], tasks=EVERYTHING, languages={'de': 1.0, 'en': 1e-9})


def test_a_schema_that_lacks_the_card_is_named(tables, tmp_path):
    with pytest.raises(
        ValueError, match="no feature 'captions/txt', .* did you mean 'captions/text'"
    ):
        open_web.open_source(
            'tfds',
            tables['coco'].directory,
            card='coco_captions',
            fields={'caption': 'captions/txt'},
            tasks=EVERYTHING,
        )
