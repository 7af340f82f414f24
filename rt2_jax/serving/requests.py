"""What is asked, whichever protocol it came by: a picture, and words that want an action or a text."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from rt2_jax.nearest import nearest
from rt2_jax.serving import json_arrays, msgpack_arrays
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.refusals import Malformed
from rt2_jax.text import prompts

# What openpi's robots (LIBERO, DROID) also send, and a model of one camera has no use for.
UNUSED = ('observation/wrist_image', 'observation/state')
OBSERVATION = ('observation/image', 'prompt', 'reset', 'deadline_ms', *UNUSED)
ACT = ('image', 'instruction', 'unnorm_key')
ANSWER = ('image', 'question')

_ROBOT_PROMPT = re.compile(
    re.escape(prompts.robot('\0')).replace(re.escape('\0'), '(.+)'), re.DOTALL
)


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """One request.

    Attributes:
      frames: uint8 [F, H, W, 3], oldest first; one, unless the client keeps a history itself.
      text: an instruction, or the whole prompt of a question.
      wants_text: whether it is a question.
      reset: whether an episode begins with it.
      seconds: how long the client will wait, None if it didn't say.
    """

    frames: np.ndarray
    text: str
    wants_text: bool = False
    reset: bool = False
    seconds: float | None = None


def from_openpi(message: bytes, limits: Limits) -> Asked:
    """An observation of openpi's protocol; Malformed or TooLarge if it is none."""
    found = _content(msgpack_arrays.unpackb, message)
    _check_keys(found, ('observation/image', 'prompt'), OBSERVATION)
    _check_finite(found)
    seconds = found.get('deadline_ms')
    if seconds is not None:
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 < seconds < 1e9:
            raise Malformed(f"'deadline_ms' is {str(seconds)[:40]}; milliseconds are needed.")
        seconds = seconds / 1000
    reset = found.get('reset', False)
    if not isinstance(reset, (bool, np.bool_)):
        raise Malformed(f"'reset' is {str(reset)[:40]}; True or False is needed.")
    text, wants_text = _wanted(limits.check_text("'prompt'", found['prompt']))
    frames = limits.check_picture("'observation/image'", found['observation/image'])
    return Asked(frames, text, wants_text, bool(reset), seconds)


def from_act(
    message: bytes, limits: Limits, source: str, sources: Collection[str]
) -> tuple[Asked, bool]:
    """OpenVLA's request, and whether it was doubly encoded.

    Args:
      message: its JSON.
      limits: of the server.
      source: the data set that the policy acts for, the only `unnorm_key` that it answers.
      sources: all that it learnt from.
    """
    found, encoded = _from_json(message)
    _check_keys(found, ('image', 'instruction'), ACT)
    key = found.get('unnorm_key')
    if key is not None and key != source:
        _refuse_key(key if isinstance(key, str) else repr(key), source, sources)
    text, wants_text = _wanted(limits.check_text("'instruction'", found['instruction']))
    if wants_text:
        raise Malformed("'instruction' is a question; POST it to /answer as 'question'.")
    frames = limits.check_picture("'image'", _pixels(found['image']))
    return Asked(frames, text), encoded


def _refuse_key(key: str, source: str, sources: Collection[str]) -> None:
    if key in sources:
        raise Malformed(
            f'This server acts for {source!r}; for unnorm_key {key!r} start another one with '
            f'--source={key}.'
        )
    raise Malformed(f'Unknown unnorm_key {key[:80]!r}{nearest(key[:80], sources or [source])}')


def from_answer(message: bytes, limits: Limits) -> tuple[Asked, bool]:
    """A question about a picture, in the manner of OpenVLA's requests."""
    found, encoded = _from_json(message)
    _check_keys(found, ANSWER, ANSWER)
    text = limits.check_text("'question'", found['question'])
    whole = text if _is_prompt(text) else prompts.web(text)
    return Asked(limits.check_picture("'image'", _pixels(found['image'])), whole, True), encoded


def _wanted(text: str) -> tuple[str, bool]:
    """An instruction, or a question's whole prompt, and whether it is one.

    A robot prompt written out ("Q: what action should the robot take to pick banana? A:") is its
    instruction, so that the server words it as the checkpoint was taught to plan or not.
    """
    if robot := _ROBOT_PROMPT.fullmatch(text.strip()):
        return robot[1], False
    return (text.strip(), True) if _is_prompt(text) else (text, False)


def _is_prompt(text: str) -> bool:
    text = text.strip()
    return text.startswith('Q:') and text.endswith('A:')


def _content(read: Any, message: Any) -> Mapping[str, Any]:
    try:
        found = read(message)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not isinstance(found, dict):
        raise Malformed(f'A request is a map; got {type(found).__name__}.')
    return found


def _from_json(message: bytes) -> tuple[Mapping[str, Any], bool]:
    found = _content(json_arrays.loads, message)
    encoded = json_arrays.doubly_encoded(found)
    return (_content(json_arrays.inner, found) if encoded else found), encoded


def _check_keys(found: Mapping[Any, Any], needed: Collection[str], valid: Collection[str]) -> None:
    for key in found:
        if key not in valid:
            name = key if isinstance(key, str) else repr(key)
            raise Malformed(f'Unknown key {name[:80]!r}{nearest(name[:80], valid)}')
    for key in needed:
        if key not in found:
            raise Malformed(f'The key {key!r} is missing. Got: {", ".join(map(repr, found))}.')


def _check_finite(found: Mapping[str, Any]) -> None:
    """A robot that measures NaN is not fit to move, even where its state is not looked at."""
    for key, value in found.items():
        if isinstance(value, (np.ndarray, np.floating)) and value.dtype.kind == 'f':
            if not np.isfinite(value).all():
                raise Malformed(f'{key!r} holds NaN or infinite numbers.')


def _pixels(picture: Any) -> Any:
    """JSON has no bytes: a compressed picture comes as base64."""
    if not isinstance(picture, str):
        return picture
    try:
        return base64.b64decode(picture, validate=True)
    except ValueError as error:
        raise Malformed(f"'image' is a text but not base64: {error}") from error
