"""Fast tokenizers (tokenizer.json): the same ids as the SentencePiece model that they were made from."""

import json
import random
import sys

import pytest

from rt2_jax.text import integers
from rt2_jax.text.tokenizer import Tokenizer, read

tokenizers = pytest.importorskip('tokenizers', reason="pip install 'rt2_jax[convert]'")


@pytest.fixture(scope='module', params=['unigram', 'bpe'])
def models(request, public_vocabulary, syllables, tmp_path_factory):
    """A SentencePiece model, and what transformers makes of it, in the way of T5 or of Gemma."""
    transformers = pytest.importorskip('transformers', reason="pip install 'rt2_jax[parity]'")
    folder = tmp_path_factory.mktemp(request.param)
    model = public_vocabulary(request.param, syllables, 900)
    (folder / 'spiece.model').write_bytes(model)
    (folder / 'tokenizer.model').write_bytes(model)
    if request.param == 'unigram':
        theirs = transformers.T5Tokenizer.from_pretrained(folder, extra_ids=0)
    else:
        theirs = transformers.GemmaTokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder / 'fast')
    return model, read(folder / 'fast' / 'tokenizer.json')


def texts() -> list[str]:
    """Words, integers and other writing, with spaces in all places."""
    rng = random.Random(0)
    # No digit comes twice in ',120': pieces of equal scores are told apart by how floats round.
    words = [
        'babu',
        'kofi mi',
        'naïve',
        '你好',
        '🍌',
        'größer',
        '5th',
        '3D',
        'x1y',
        '(5)',
        '-1',
        '.',
        '',
    ]
    lines = [
        '',
        ' ',
        '512',
        ' 512',
        '512 ',
        '  5',
        '   5',
        '1 128 91 241 5 101 127 217',
        '0 00 007 1000',
    ]
    for _ in range(1000):
        parts = [
            str(rng.randrange(10 ** rng.randint(1, 6))) if rng.random() < 0.6 else rng.choice(words)
            for _ in range(rng.randint(1, 10))
        ]
        lines.append(
            rng.choice(['', ' ', '  ']) + rng.choice([' ', ' ', '\n', ',', ',120 ']).join(parts)
        )
    return lines


@pytest.mark.parametrize('way', integers.WAYS)
def test_ids_are_those_of_sentencepiece(models, way):
    changed, fast_changed = (integers.with_integers(model, way) for model in models)
    assert changed.ids == fast_changed.ids and changed.instead_of == fast_changed.instead_of
    slow, fast = Tokenizer(changed.model_bytes), Tokenizer(fast_changed.model_bytes)
    assert (slow.vocab_size, slow.pad_id, slow.eos_id) == (
        fast.vocab_size,
        fast.pad_id,
        fast.eos_id,
    )
    assert slow.integer_ids.tolist() == fast.integer_ids.tolist()
    for text in texts():
        ids = slow.encode(text)
        assert fast.encode(text) == ids, text
        assert fast.decode([0, *ids, 1, 50]) == slow.decode(ids).replace(' \u2047 ', ''), text


def plain(**model) -> dict:
    """A small tokenizer.json with integers, as T5 has them; `model` replaces fields of its model."""
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('\u2581', -2.0)]
    pieces += [(letter, -3.0) for letter in 'ab</s>0123456789'] + [('\u2581banana', -4.0)]
    unigram = tokenizers.models.Unigram(pieces + [(f'\u2581{k}', 0.0) for k in range(256)], 2)
    made = tokenizers.Tokenizer(unigram)
    made.add_special_tokens(['<pad>', '</s>', '<unk>'])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing('$A </s>', None, [('</s>', 1)])
    made.enable_padding(length=9)
    made.enable_truncation(3)
    text = json.loads(made.to_str())
    text['model'] |= model
    return text


def dumped(text: dict) -> bytes:
    return json.dumps(text).encode()


def test_a_text_is_all_that_is_encoded():
    tokenizer = Tokenizer(dumped(plain()))
    assert tokenizer.decode(tokenizer.encode('banana 5 banana 255')) == 'banana 5 banana 255'
    assert len(tokenizer.encode('banana 5 banana 255')) == 4  # nothing added, cut off or filled up
    assert not {0, 1} & set(tokenizer.encode('</s> banana<pad>'))
    assert tokenizer.decode(tokenizer.encode('a</s>b')) == 'a</s>b'


def test_what_ends_a_text_is_told_beside_it_and_kept(tmp_path):
    text = plain()
    text['added_tokens'].append(
        text['added_tokens'][1] | {'id': text['model']['vocab'].index(['\u2581banana', -4.0])}
    )
    text['added_tokens'][-1]['content'] = '\u2581banana'
    path = tmp_path / 'tokenizer.json'
    path.write_text(json.dumps(text))
    assert Tokenizer.load(path).eos_id == 1
    roles = {'eos_token': {'content': '\u2581banana'}, 'pad_token': '<pad>'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(roles))
    tokenizer = Tokenizer.load(path)
    assert (
        Tokenizer(tokenizer.model_bytes).eos_id
        == tokenizer.eos_id
        == text['added_tokens'][-1]['id']
    )
    (tmp_path / 'tokenizer_config.json').write_text('{"eos_token": "<s>"}')
    with pytest.raises(ValueError, match="eos_token is '<s>'.*did you mean '</s>'"):
        Tokenizer.load(path)
    text['added_tokens'] = text['added_tokens'][1:]
    with pytest.raises(ValueError, match='no added token <pad>.*it has </s>, <unk>'):
        Tokenizer(dumped(text))


def test_tokens_behind_the_list_keep_their_ids():
    text = plain()
    behind = len(text['model']['vocab'])
    text['added_tokens'].append(text['added_tokens'][1] | {'id': behind, 'content': '<extra>'})
    changed = integers.with_integers(dumped(text), 'append')
    assert changed.ids == list(range(behind + 1, behind + 1 + 1001 - 256))
    assert Tokenizer(changed.model_bytes).vocab_size == behind + 1 + 1001 - 256


def byte_pairs(joined: list, **fields) -> dict:
    """A small tokenizer.json as Gemma has them, with the joined pieces behind a hole in the ids."""
    letters = ['<pad>', '</s>', '<unk>', '\u2581', *'abc0123456789']
    vocab = {piece: number for number, piece in enumerate(letters)}
    vocab |= {''.join(merge.split()): 100 + number for number, merge in enumerate(joined)}
    text = plain(type='BPE', vocab=vocab, merges=joined, unk_token='<unk>', unk_id=None)
    text['model'].pop('unk_id')
    normalizer = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '\u2581'}
    return text | {'normalizer': normalizer, 'pre_tokenizer': None, 'decoder': None} | fields


def test_ids_may_have_holes_and_old_files_have_merges_in_one_text():
    changed = integers.with_integers(dumped(byte_pairs(['\u2581 a', '\u25811 a', 'b c'])), 'append')
    assert changed.ids == list(range(103, 1104))
    tokenizer = Tokenizer(changed.model_bytes)
    assert tokenizer.vocab_size == 1104
    # What was joined to an integer is so no more.
    assert tokenizer.encode('bc 1a') == [102, tokenizer.integer_ids[1], 4]


@pytest.mark.parametrize(
    'text, message',
    [
        (lambda: plain(type='WordPiece'), "Unknown model of a tokenizer.json 'WordPiece'"),
        (
            lambda: byte_pairs([]) | {'model': {'type': 'BPE', 'vocab': {}, 'merges': []}},
            'has no \u2581',
        ),
        (
            lambda: byte_pairs([], pre_tokenizer={'type': 'Digits', 'individual_digits': True}),
            'parts digits from what is around them',
        ),
    ],
)
def test_models_that_cannot_have_integers_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        integers.with_integers(dumped(text()), 'append')


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tokenizers', None)
    with pytest.raises(ImportError, match=r"pip install 'rt2_jax\[convert\]'"):
        Tokenizer(b'{}')
