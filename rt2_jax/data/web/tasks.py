"""A record of a web set as a question and its answer, by task.

| task | needs | answer |
|---|---|---|
| caption | caption | one of the captions |
| vqa | question, answer | one of the answers; of several questions, one with its own answer |
| ocr | ocr | the texts in the picture, in reading order |
| detect | label | boxes and names of everything so called |

Boxes are written as rt2_jax/text/places.py says:

    detect cat ; dog  ->  104 22 560 481 cat ; 300 0 999 412 dog ; 12 700 80 810 cat
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt2_jax.data.index.web_table import WebTable
from rt2_jax.text import places, prompts

# Task -> the fields that it needs.
TASKS = {'caption': ('caption',), 'vqa': ('question', 'answer'), 'ocr': ('ocr',)}
TASKS['detect'] = ('label',)
WORDINGS = ('rt2', 'pali')


def ask(
    task: str, table: WebTable, row: int, rng: np.random.Generator, wording: str, most_boxes: int
) -> tuple[str, str]:
    """Prompt and answer.

    Args:
        task: a key of TASKS whose fields the record holds.
        table: the opened index.
        row: the record.
        rng: draws what the record leaves open.
        wording: how questions are worded, of WORDINGS.
        most_boxes: objects that an answer of `detect` names at most.
    """
    language = table.language(row)
    if task == 'caption':
        return prompts.caption(language), _one(table.texts('caption', row), rng)
    if task == 'ocr':
        return prompts.ocr(language), ' '.join(table.texts('ocr', row))
    if task == 'detect':
        return _detect(table.texts('label', row), table.boxes(row), rng, most_boxes)
    questions, answers = table.texts('question', row), table.texts('answer', row)
    which = int(rng.integers(len(answers)))
    question = questions[which if len(questions) > 1 else 0]
    prompt = prompts.web(question) if wording == 'rt2' else prompts.answer(question, language)
    return prompt, answers[which]


def _one(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]


def _detect(labels, boxes, rng, most_boxes: int) -> tuple[str, str]:
    """Asks for as many names as have room with all of their objects, at least for one.

    Objects come in random order, as Pix2Seq found best. Of a lone name with more than there is room
    for, the largest are answered.
    """
    names = sorted(set(labels))
    asked: list[str] = []
    chosen: list[int] = []
    for name in (names[k] for k in rng.permutation(len(names))):
        objects = [k for k, label in enumerate(labels) if label == name]
        if asked and len(chosen) + len(objects) > most_boxes:
            break
        area = np.prod(boxes[objects, 2:] - boxes[objects, :2], axis=1)
        chosen += [objects[k] for k in np.argsort(-area, kind='stable')[:most_boxes]]
        asked.append(name)
    order = rng.permutation(len(chosen))
    answer = places.SEPARATOR.join(
        places.write_box(boxes[chosen[k]], labels[chosen[k]]) for k in order
    )
    return prompts.detect(asked), answer
