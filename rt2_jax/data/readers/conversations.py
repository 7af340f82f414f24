r"""Conversations about a picture, as sets for instruction tuning hold them.

    {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}

is LLaVA's form (github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md); with "role" and "content"
it is that of OpenAI's messages, whose content may be a list of parts. Only the assistant's turns are
answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rt2_jax.nearest import nearest

# Key of the speaker -> key of the text.
FORMS = {'from': 'value', 'role': 'content'}
TEXT_KEYS = tuple(FORMS.values())
HUMAN, ASSISTANT = ('human', 'user'), ('gpt', 'assistant')
UNUSED = ('system',)
_PICTURE = '<image>'


def is_turn(node: Any, key: str) -> bool:
    """Whether `node` is a turn of a conversation, with its text under `key`."""
    return isinstance(node, Mapping) and any(
        key == text and speaker in node for speaker, text in FORMS.items()
    )


def questions_and_answers(turns: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The human turns that the assistant answers, and the answers; as many of each.

    Raises:
        ValueError: turns that are none, or an unknown speaker.
    """
    questions: list[str] = []
    answers: list[str] = []
    question = ''
    for turn in turns:
        speaker, text = _turn(turn)
        if speaker in HUMAN:
            question = ' '.join(text.replace(_PICTURE, ' ').split())
        elif speaker in ASSISTANT and question and text.strip():
            questions.append(question)
            answers.append(text.strip())
            question = ''
    return questions, answers


def _turn(turn: Any) -> tuple[str, str]:
    for key, text_key in FORMS.items():
        if isinstance(turn, Mapping) and key in turn and text_key in turn:
            speaker = str(turn[key]).lower()
            if speaker not in (*HUMAN, *ASSISTANT, *UNUSED):
                valid = (*HUMAN, *ASSISTANT, *UNUSED)
                raise ValueError(
                    f'conversation: unknown speaker {speaker!r}{nearest(speaker, valid)}'
                )
            return speaker, _text(turn[text_key])
    raise ValueError(
        f'conversation: a turn has "from" and "value", or "role" and "content"; got {turn!r:.80}'
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return ' '.join(str(part['text']) for part in content if 'text' in part)
    raise ValueError(f'conversation: a text is expected, not {content!r:.80}')
