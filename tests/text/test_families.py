"""Every family of tokenizers: what is encoded alone is what stands in a sentence.

SentencePiece and tokenizer.json, Unigram and BPE, with a dummy prefix (T5, Llama) and without (Gemma),
integers appended or in place of the least used words.
"""

import io
import itertools
import json

import jax
import numpy as np
import pytest
import sentencepiece

from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.example import Example
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.text import integers, plan_marker, prompts
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

ROLES = ['<pad>', '</s>', '<unk>']
VOCABULARIES = [
    *itertools.product(['sentencepiece'], ['unigram', 'bpe'], ['dummy', 'bare', 'bare, stripped']),
    *itertools.product(['json'], ['unigram', 'bpe'], ['dummy', 'bare']),
]
FAMILIES = list(itertools.product(VOCABULARIES, integers.WAYS))


def by_sentencepiece(lines: list[str], kind: str, prefix: str, **settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=700,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        add_dummy_prefix=prefix == 'dummy', remove_extra_whitespaces=prefix != 'bare', **settings,
    )  # fmt: skip
    return model.getvalue()


def by_tokenizers(lines: list[str], kind: str, prefix: str) -> bytes:
    """As transformers writes T5's (unigram) and Llama's or Gemma's (bpe)."""
    tokenizers = pytest.importorskip('tokenizers', reason="pip install 'rt2_jax[convert]'")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    scheme = 'always' if prefix == 'dummy' else 'never'
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if kind == 'unigram':
        made = tokenizers.Tokenizer(models.Unigram())
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        trainer = trainers.UnigramTrainer(
            vocab_size=700, special_tokens=ROLES, unk_token='<unk>', show_progress=False
        )
    else:
        made = tokenizers.Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True))
        strip = [decoders.Strip(' ', 1, 0)] if prefix == 'dummy' else []
        made.decoder = decoders.Sequence([decoders.Replace('\u2581', ' '), decoders.Fuse(), *strip])
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=ROLES, initial_alphabet=list('0123456789'),
            show_progress=False,
        )  # fmt: skip
    made.pre_tokenizer = metaspace
    made.train_from_iterator(lines, trainer)
    if kind == 'bpe':
        prepend = [normalizers.Prepend('\u2581')] if prefix == 'dummy' else []
        made.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(' ', '\u2581')])
        text = json.loads(made.to_str()) | {'pre_tokenizer': None}
        return json.dumps(text).encode()
    return made.to_str().encode()


@pytest.fixture(scope='module')
def vocabularies(syllables):
    lines = [
        f"{line} Plan: it's -1. Action: what (is) in the image, pick banana? yes"
        for line in syllables[:800]
    ]
    makers = {'sentencepiece': by_sentencepiece, 'json': by_tokenizers}
    return {name: makers[name[0]](lines, *name[1:]) for name in VOCABULARIES}


@pytest.fixture(
    scope='module', params=FAMILIES, ids=lambda family: ' '.join([*family[0], family[1]])
)
def family(request, vocabularies):
    vocabulary, way = request.param
    return Tokenizer(integers.with_integers(vocabularies[vocabulary], way).model_bytes)


@pytest.fixture
def coder(family):
    return ActionTokenizer(ActionSpace.rt1_bounds(), family)


def test_integers_are_single_tokens_at_the_beginning_and_behind_spaces(family):
    count = len(family.integer_ids)
    assert count >= 256
    for integer in {0, 7, 10, 128, 255, count - 1}:
        token = int(family.integer_ids[integer])
        assert family.encode(f'{integer}') == [token]
        assert family.encode(f'bana {integer} {integer}')[-2:] == [token] * 2
        assert family.encode(f'bana {integer}, yes')[len(family.encode('bana'))] == token
    numbers = [1, 128, 91, 241, 5, 101, 127, 217]
    action = ' '.join(map(str, numbers))
    assert family.encode(action) == family.integer_ids[numbers].tolist()
    assert family.encode(f'pick. Action: {action}')[-8:] == family.encode(action)


@pytest.mark.parametrize(
    'text', ['210 230', '5 bananas', '0', 'pick banana', 'at 12, 13.', '-1', prompts.plan('go 4 5')]
)
def test_texts_survive(family, text):
    assert family.decode(family.encode(text)) == text


def test_an_answer_is_the_same_alone_and_behind_other_words(family):
    """What a decoder reads behind a prompt and what it is taught are one."""
    alone, lead = family.encode('210 230'), family.encode('bana')
    assert family.encode('bana 210 230') == lead + alone


@pytest.mark.parametrize('text', ['pick banana', '210 230'])
def test_plans_are_targets_and_come_through_the_grammar(family, coder, text):
    action = np.array([0, 0.01, -0.02, 0.0, 0.1, 0.0, -0.1, 1.0], np.float32)
    data = DataConfig(image_size=8, prompt_length=96, target_length=64)
    encoder = ExampleEncoder(
        family, data, sources=['plans'], kinds=['robot_plan'], actions={'plans': coder}
    )
    answer = prompts.plan(text)
    encoder.check_answers([answer], 'plans')
    example = Example(
        frames=np.zeros([1, 8, 8, 3], np.uint8), prompt=prompts.robot_plan('pick banana'),
        answer=answer, action=action, kind='robot_plan',
    )  # fmt: skip
    target = encoder(example, 'plans')['target'].tolist()
    ids = target[: target.index(family.eos_id)]
    grammar = Grammar.create(family, coder, plan_length=40)
    state = grammar.start(np.array([Kind.PLAN], np.int32))
    advance = jax.jit(grammar.advance)
    for token in ids[:-8]:
        assert not grammar.in_action(state)[0]
        state = advance(state, np.array([token], np.int32))
    assert grammar.in_action(state)[0]
    np.testing.assert_allclose(coder.decode(ids[-8:]), action, atol=0.01)
    # The integers behind a plan are those of the text that the paper prints.
    numbers = ' '.join(map(str, coder.to_integers(action)))
    assert ids == family.encode(f'{answer} {numbers}')
    with pytest.raises(ValueError, match='stand nowhere else'):
        encoder.check_answers([prompts.plan('pick. Action: now')], 'plans')


def test_a_model_plans_and_acts(vocabularies, tiny):
    """Random weights of a tiny PaLI, with a vocabulary like Gemma's."""
    vocabulary = vocabularies['sentencepiece', 'bpe', 'bare']
    tokenizer = Tokenizer(integers.with_integers(vocabulary, 'overwrite').model_bytes)
    coder = ActionTokenizer(ActionSpace.rt1_bounds(), tokenizer)
    tiny = type(tiny)(tokenizer)
    grammar = Grammar.create(tokenizer, coder, plan_length=16)
    images, prompt = tiny.inputs(0, 3)
    sampled = Sampler(tiny.model, grammar)(
        tiny.params(0), images, prompt, Kind.PLAN, rng=jax.random.key(0), temperature=1.0
    )
    for tokens, length in zip(sampled.tokens[:, 0], sampled.lengths[:, 0], strict=True):
        plan, action = tokens[: length - 8].tolist(), tokens[length - 8 : length]
        assert plan_marker.is_plan(plan, grammar.marker_ids)
        assert tokenizer.decode(plan).endswith('Action:')
        assert coder.decode(action).shape == (8,)


def test_a_tokenizer_that_joins_the_marker_to_its_words_is_refused(syllables):
    vocabulary = by_sentencepiece(
        syllables[:300], 'bpe', 'dummy', user_defined_symbols=['.\u2581Action:']
    )
    tokenizer = Tokenizer(integers.with_integers(vocabulary, 'append').model_bytes)
    with pytest.raises(ValueError, match="must split 'Action:' off"):
        plan_marker.marker_ids(tokenizer)
