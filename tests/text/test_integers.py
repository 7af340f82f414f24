"""Integers as single tokens of vocabularies that were made without: appended, or in place of rare words."""

import io

import numpy as np
import pytest
import sentencepiece

from rt2_jax.text import integers
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope='module', params=['unigram', 'bpe'])
def public(request):
    """A vocabulary as others train them."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in 'bcdfgklmnprst' for b in 'aeiou']
    words = [''.join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(4000)]
    lines = [' '.join(rng.choice(words, 12)) + f' {rng.integers(3000)}.' for _ in range(3000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type=request.param, vocab_size=600,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize('way, count', [('append', 1001), ('overwrite', 256)])
def test_every_integer_is_a_token(public, way, count):
    tokenizer = Tokenizer(integers.with_integers(public, way))
    assert len(tokenizer.integer_ids) >= count == len(set(tokenizer.integer_ids[:count]))
    before = sentencepiece.SentencePieceProcessor(model_proto=public)
    assert tokenizer.vocab_size == before.vocab_size() + (way == 'append') * sum(
        before.piece_to_id(f'\u2581{k}') == 2 for k in range(1001)
    )
    for k in range(count):
        assert tokenizer.encode(f'{k}') == [tokenizer.integer_ids[k]]
    assert tokenizer.decode(tokenizer.encode('babu 128 91')) == 'babu 128 91'
    space = ActionSpace.rt1_bounds()
    coder = ActionTokenizer(space, tokenizer)
    action = np.array([0, 0.01, -0.02, 0.0, 0.1, 0.0, -0.1, 1.0], np.float32)
    np.testing.assert_allclose(coder.decode(coder.encode(action)), action, atol=0.01)


def test_words_that_are_not_overwritten_are_as_they_were(public):
    before = sentencepiece.SentencePieceProcessor(model_proto=public)
    after = sentencepiece.SentencePieceProcessor(
        model_proto=integers.with_integers(public, 'overwrite')
    )
    same = [n for n in range(600) if before.id_to_piece(n) == after.id_to_piece(n)]
    assert 600 - 256 <= len(same) < 600
    kept = [before.get_score(n) for n in same if before.get_score(n) < 0]
    gone = [before.get_score(n) for n in range(600) if n not in same]
    assert np.median(gone) < np.median(kept)


def test_what_has_them_is_left_alone(tokenizer):
    assert Tokenizer(integers.with_integers(tokenizer.model_bytes, 'append')).vocab_size == (
        tokenizer.vocab_size
    )


def test_what_lacks_them_says_where_they_come_from(public):
    with pytest.raises(ValueError, match='rt2_jax.text.integers adds them'):
        Tokenizer(public)
