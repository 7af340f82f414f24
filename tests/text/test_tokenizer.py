"""The project's vocabulary: integers are single tokens, any text survives."""

import numpy as np
import pytest
import sentencepiece

from rt2_jax.text import build_vocabulary, places, prompts
from rt2_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope='module')
def tokenizer():
    return Tokenizer.load_default()


def test_integers_are_single_tokens(tokenizer):
    for integer in (0, 7, 128, 255, 999, 1000):
        assert tokenizer.encode(str(integer)) == [tokenizer.integer_ids[integer]]
    assert len(np.unique(tokenizer.integer_ids)) == 1001
    text = '1 128 91 241 5 101 127 217'  # an action as the paper prints it
    assert tokenizer.encode(text) == [tokenizer.integer_ids[int(x)] for x in text.split()]


@pytest.mark.parametrize(
    'text',
    [
        'pick banana',
        'Plan: pick banana. Action:',
        'schraubenzieher',
        'naïve 你好 🍌',
        '1001',
        prompts.robot('push drum to fox'),
    ],
)
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decoding_stops_at_the_end_and_leaves_padding_out(tokenizer):
    ids = tokenizer.encode('banana')
    assert tokenizer.decode([0, *ids, tokenizer.eos_id, 50, 60]) == 'banana'


def test_the_shipped_model_is_what_the_builder_builds(tokenizer):
    built = Tokenizer(build_vocabulary.build(tokenizer.vocab_size))
    assert built.model_bytes == tokenizer.model_bytes


def test_overwritten_words_leave_places_two_tokens():
    overwritten = Tokenizer(build_vocabulary.build(3072, way='overwrite'))
    assert overwritten.vocab_size == 3072 and len(overwritten.integer_ids) == 256
    assert overwritten.encode('1 128 255') == overwritten.integer_ids[[1, 128, 255]].tolist()
    written = [places.write_point([x, x]).split()[0] for x in np.arange(0.01, 1, 0.02)]
    ids = [overwritten.encode(number) for number in written]
    assert len({first for first, *_ in ids}) == len(written) == 50
    assert {len(number) for number in ids} == {1, 2}
    zero = overwritten.encode('410')[1]
    assert all(rest in ([], [zero]) for _, *rest in ids)
    plan = f'{prompts.plan("banana 410 530 tiger 10 990")} 1 128 91'
    assert overwritten.decode(overwritten.encode(plan)) == plan


def test_a_model_without_integers_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['a plain text of a few words'] * 10),
        model_prefix=str(tmp_path / 'm'),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match='no single token for 1001 of the integers'):
        Tokenizer.load(tmp_path / 'm.model')


def test_prompts_are_those_of_the_paper():
    assert (
        prompts.robot('pick banana.') == 'Q: what action should the robot take to pick banana? A:'
    )
    assert prompts.robot_plan("I'm hungry") == "Instruction: I'm hungry."
    assert prompts.plan('pick rxbar chocolate.') == 'Plan: pick rxbar chocolate. Action:'
    assert prompts.web('what is in the image?') == 'Q: what is in the image? A:'
