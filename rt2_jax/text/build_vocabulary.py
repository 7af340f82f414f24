"""Builds `tokenizer.model`, the project's own SentencePiece vocabulary.

    python -m rt2_jax.text.build_vocabulary --output=rt2_jax/text/tokenizer.model

It is trained on the project's own texts: names of pictures in every language, the web's questions and
the robot's instructions. Bytes are a fallback, so that any other text can be encoded too.

With --integers=overwrite it is made as PaLM-E's: numbers are read digit by digit, then the 256 least used
words give their tokens to the integers 0..255 (`integers`). A larger number is its longest beginning that
has a token, then digits: 410 is "41" and "0". On the grid of `places` that is at most two tokens, and
each number has a first one of its own.
"""

import io
import itertools
from typing import Any

from absl import flags
import sentencepiece

from rt2_jax import command, paths
from rt2_jax.text import integers

FLAGS = flags.FLAGS
INTEGERS = ('own', 'overwrite')  # a token for each of 0..1000, or for 0..255 in place of words
_NUMBERS = ('one', 'two', 'three', 'four', 'five')


def sentences() -> list[str]:
    """The corpus: every wording with every name, so often that most names are tokens of their own."""
    from rt2_jax.data.web import compose, pictures, small_web
    from rt2_jax.text import prompts

    catalogue = pictures.catalogue() + pictures.people()
    names = [_in_figures(name) for picture in catalogue for name in picture.names.values()]
    categories = sorted({picture.category for picture in catalogue})
    things = categories + _sums()
    questions = [
        'what is in the image',
        'what kind of thing is in the image',
        'list all',
        'how many things are in the image',
        'what is at',
        'where is the gripper',
    ]
    questions += [
        f'what is in the image in {language}' for language in small_web.LANGUAGE_NAMES.values()
    ]
    for name in itertools.chain(names, things):
        questions += [
            f'where is the {name}',
            f'what colour is under the {name}',
            f'which way from the {name} to the {name}',
            f'is there a {name}',
            f'which way from the gripper to the {name}',
        ]
    instructions = [
        pattern.format(name)
        for name in itertools.chain(names, things)
        for pattern in (
            'pick {0}',
            'pick the {0}',
            'push {0} to {0}',
            'turn {0} left',
            'turn {0} right',
            'push {0} beside the {0}',
        )
    ]
    corpus = [prompts.web(question) for question in questions]
    corpus += [prompts.robot(instruction) for instruction in instructions]
    corpus += [prompts.robot_plan(instruction) for instruction in instructions]
    corpus += [prompts.plan(instruction) for instruction in instructions]
    corpus += names + list(compose.COLOURS) + ['yes', 'no', "I'm hungry.", 'gripper', '1, 2; 3.']
    # Most frequent, so that each English name is a single token.
    corpus += 20 * ([f'the {_in_figures(picture.name)}' for picture in catalogue] + categories)
    corpus += 20 * names
    corpus += 20 * [f'{colour} {number}' for colour in compose.COLOURS for number in _NUMBERS]
    return corpus


def _in_figures(name: str) -> str:
    """'number 3' for 'number three', whose words the sums have."""
    first, _, last = name.partition(' ')
    return f'number {1 + _NUMBERS.index(last)}' if first == 'number' else name


def _sums() -> list[str]:
    """Numbers by arithmetic, as in RT-2's reasoning tasks (arXiv 2307.15818, table 6)."""
    sums = [f'the sum of {a} plus {b}' for a in _NUMBERS for b in _NUMBERS]
    return sums + [f'{a} minus {b}' for a in _NUMBERS for b in _NUMBERS]


def build(size: int, way: str = 'own') -> bytes:
    """Returns a serialised SentencePiece model with `size` tokens.

    Args:
        size: of the vocabulary.
        way: of `INTEGERS`, in which integers have tokens.
    """
    if way == 'own':
        numbers: dict[str, Any] = dict(user_defined_symbols=[f'\u2581{k}' for k in range(1001)])
    else:
        numbers = dict(required_chars='0123456789', split_digits=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        model_type='bpe',
        vocab_size=size,
        hard_vocab_limit=True,
        character_coverage=1.0,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
        **numbers,
    )
    built = model.getvalue()
    return built if way == 'own' else integers.with_integers(built, way).model_bytes


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'Where to write the model.', required=True)
    flags.DEFINE_integer('size', 4096, 'Number of tokens.')
    flags.DEFINE_enum('integers', 'own', INTEGERS, 'Tokens of their own, or those of rare words.')


def main(_: list[str]) -> None:
    """Runs the command."""
    paths.write(paths.of(FLAGS.output), build(FLAGS.size, FLAGS.integers))


if __name__ == '__main__':
    define_flags()
    command.run('build_vocabulary', main)
