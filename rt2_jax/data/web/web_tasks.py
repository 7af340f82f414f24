"""A record of a web set as a question and its answer, by task.

| task | needs | answer |
|---|---|---|
| caption | caption | one of the captions |
| vqa | question, answer | one of the answers; of several questions, one with its own answer |
| ocr | ocr | the texts in the picture, in reading order |
| detect | label | boxes and names of everything of these names |

Boxes are written by rt2_jax/text/places.py:

    detect cat ; dog  ->  104 22 560 481 cat ; 300 0 999 412 dog ; 12 700 80 810 cat
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt2_jax.data.index.web_table import WebTable
from rt2_jax.text import places, prompts

# Task -> the fields that it needs.
TASKS = {
    'caption': ('caption',),
    'vqa': ('question', 'answer'),
    'ocr': ('ocr',),
    'detect': ('label',),
}
WORDINGS = ('rt2', 'pali')


def ask(
    task: str, table: WebTable, row: int, rng: np.random.Generator, wording: str, most_boxes: int
) -> tuple[str, str]:
    """Draws a prompt and its answer from a record.

    Args:
        task: a key of TASKS whose fields the record holds.
        table: the opened index.
        row: the record.
        rng: chooses between several texts.
        wording: of questions, one of WORDINGS.
        most_boxes: objects in an answer of `detect` at most.
    """
    language = table.language(row)
    if task == 'caption':
        return prompts.caption(language), _choice(table.texts('caption', row), rng)
    if task == 'ocr':
        return prompts.ocr(language), ' '.join(table.texts('ocr', row))
    if task == 'detect':
        return _detect(table.texts('label', row), table.boxes(row), rng, most_boxes)
    questions, answers = table.texts('question', row), table.texts('answer', row)
    which = int(rng.integers(len(answers)))
    question = questions[which if len(questions) > 1 else 0]
    prompt = prompts.web(question) if wording == 'rt2' else prompts.answer(question, language)
    return prompt, answers[which]


def _choice(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]


def _detect(
    labels: Sequence[str], boxes: np.ndarray, rng: np.random.Generator, most_boxes: int
) -> tuple[str, str]:
    """Asks for names, at least one, as long as all their objects fit into the answer.

    Objects come in random order, as Pix2Seq found best. If the first name alone has too many, the
    largest are answered.
    """
    names = sorted(set(labels))
    prompted: list[str] = []
    chosen: list[int] = []
    for name in (names[k] for k in rng.permutation(len(names))):
        objects = [k for k, label in enumerate(labels) if label == name]
        if prompted and len(chosen) + len(objects) > most_boxes:
            break
        area = np.prod(boxes[objects, 2:] - boxes[objects, :2], axis=1)
        chosen += [objects[k] for k in np.argsort(-area, kind='stable')[:most_boxes]]
        prompted.append(name)
    order = rng.permutation(len(chosen))
    answer = places.SEPARATOR.join(
        places.write_box(boxes[chosen[k]], labels[chosen[k]]) for k in order
    )
    return prompts.detect(prompted), answer
