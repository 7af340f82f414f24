"""Web sets as a config names them, through the pipeline."""

import collections
import dataclasses

import ml_collections
import pytest
import web_files

from rt2_jax import configuration
from rt2_jax.data import example, pipeline, sources
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.mixture import Schedule
from rt2_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load_default()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The `data` part of a config with a set of each kind."""
    tar = web_files.write_tar(tmp_path_factory.mktemp('tar'))
    vqa = web_files.write_tfds(
        tmp_path_factory.mktemp('vqa'), web_files.vqa_features(), web_files.vqa_example, 'vqa'
    )
    config = configuration.defaults()
    config.data.web.small = dict(weight=1.0, seed=0, kinds=dict())
    config.data.web.webli = dict(
        kind='webdataset',
        directory=str(tar),
        fields=web_files.TAR_FIELDS,
        tasks=dict(caption=3.0, ocr=1.0),
        languages=dict(en=0.5, de=0.5),
        keep_top=0.5,
        weight=2.0,
    )
    config.data.web.vqa = dict(
        kind='tfds', directory=str(vqa), card='vqa', tasks=dict(vqa=1.0), wording='pali', weight=1.0
    )
    return config.lock().data


def batches(data, count=20):
    settings = dataclasses.replace(
        DataConfig.from_config(data),
        robot_share=Schedule(start=0.0),
        image_size=32,
        prompt_length=32,
        target_length=24,
    )
    opened = sources.open_sources(settings)
    return pipeline.make_iterator(
        opened, TOKENIZER, settings, batches=count, batch_size=8, rows=range(8)
    )


def test_sets_of_a_config_fill_batches_by_weight(data):
    iterator = batches(data)
    assert iterator.sources == ('small', 'vqa', 'webli')
    assert {'caption', 'ocr', 'vqa', 'name'} <= set(iterator.kinds)
    seen = list(iterator)
    counts = collections.Counter(int(k) for batch in seen for k in batch['source'])
    assert [counts[k] for k in range(3)] == [40, 40, 80]
    webli = [
        TOKENIZER.decode(prompt.tolist())
        for batch in seen
        for prompt, source in zip(batch['prompt'], batch['source'])
        if source == 2
    ]
    german = sum(' DE' in prompt for prompt in webli)
    assert abs(german - 40) <= 3 and all(' EN' in p or ' DE' in p for p in webli)


def test_resuming_refuses_other_settings(data):
    state = batches(data).get_state()
    batches(data).set_state(state)
    other = ml_collections.ConfigDict(data.to_dict())
    other.web.webli.keep_top = 0.4
    with pytest.raises(pipeline.StateMismatch, match="source 'webli'"):
        batches(other).set_state(state)


def test_mistyped_config_is_named(data):
    other = ml_collections.ConfigDict(data.to_dict())
    other.web.vqa.taskz = other.web.vqa.tasks
    with pytest.raises(
        ValueError, match="config.data.web.vqa.taskz: there is no such field; did you mean 'tasks'"
    ):
        DataConfig.from_config(other)
    other.web.vqa = dict(kind='tdfs', weight=1.0)
    with pytest.raises(ValueError, match=r"config.data.web.vqa.kind 'tdfs'; did you mean 'tfds'"):
        DataConfig.from_config(other)
    other.web.vqa = dict(kind='jsonl', weight=1.0)
    with pytest.raises(ValueError, match='config.data.web.vqa lacks directory, tasks'):
        DataConfig.from_config(other)


def test_long_captions_are_clipped_and_counted_others_refused(caplog):
    encoder = ExampleEncoder(
        TOKENIZER,
        DataConfig(image_size=8, prompt_length=4, target_length=6),
        sources=['web'],
        kinds=['caption'],
        actions={},
    )
    frames = web_files.images.decode(web_files.picture(0))[None]
    long = ' '.join(str(k) for k in range(20))
    given = dict(frames=frames, prompt='', answer=long, source='web', kind='caption')
    target = encoder(example.Example(**given, clip=True), 'web')['target']
    assert TOKENIZER.decode(target) == '0 1 2 3 4 5' and TOKENIZER.eos_id not in target
    assert encoder.clipped_answers == 1 and 'answer of 21 tokens was clipped to 6' in caplog.text
    with pytest.raises(ValueError, match="21 tokens doesn't fit"):
        encoder(example.Example(**given), 'web')
