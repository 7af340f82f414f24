"""What is asked, whichever protocol it came by: a picture, and words that want an action or a text."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from rt2_jax.nearest import nearest
from rt2_jax.serving import dialects, json_arrays, msgpack_arrays
from rt2_jax.serving.dialects import Dialect
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.refusals import Malformed
from rt2_jax.text import prompts

# Each says that an episode begins with this message: True, or the control word.
STARTS = ('reset', 'episode_start', '__ctrl__')
CONTROL_WORDS = ('reset', 'episode_start')
WEBSOCKET_KEYS = ('prompt', 'deadline_ms', *STARTS)
ACT_KEYS = ('instruction', 'unnorm_key', *STARTS)
ANSWER = ('image', 'question')

_ROBOT_PROMPT = re.compile(
    re.escape(prompts.robot('\0')).replace(re.escape('\0'), '(.+)'), re.DOTALL
)


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """One request.

    Attributes:
      frames: uint8 [F, H, W, 3], oldest first; one, unless the client keeps a history itself. None
        where the message only says that an episode begins.
      text: an instruction, or the whole prompt of a question.
      wants_text: whether it is a question.
      reset: whether an episode begins with it.
      seconds: how long the client will wait, None if it didn't say.
      encoded: whether JSON came within JSON, and so goes back.
      chunks: whether the client takes a list of actions.
      msgpack_numpy: whether arrays came as the package msgpack-numpy writes them, and so go back.
    """

    frames: np.ndarray | None
    text: str
    wants_text: bool = False
    reset: bool = False
    seconds: float | None = None
    encoded: bool = False
    chunks: bool = False
    msgpack_numpy: bool = False


def from_openpi(message: bytes, limits: Limits) -> Asked:
    """An observation of openpi's protocol; Malformed or TooLarge if it is none."""
    found, foreign = _parsed(msgpack_arrays.read, message)
    found = dialects.flattened(_as_map(found))
    dialect = dialects.recognise(found, dialects.WEBSOCKET, WEBSOCKET_KEYS)
    _check_finite(found)
    seconds = _seconds(found.get('deadline_ms'))
    reset = _episode_starts(found)
    if reset and dialect is None and 'prompt' not in found:
        return Asked(None, '', reset=True, seconds=seconds, msgpack_numpy=foreign)
    _check_needed(found, dialect, dialects.WEBSOCKET[0], 'prompt')
    text, wants_text = _wanted(limits.check_text("'prompt'", found['prompt']))
    frames = _frames(found, dialect, limits)
    return Asked(frames, text, wants_text, reset, seconds, msgpack_numpy=foreign)


def from_act(
    message: bytes, limits: Limits, source: str, sources: Collection[str], card: str = ''
) -> Asked:
    """OpenVLA's request.

    Args:
      message: its JSON.
      limits: of the server.
      source: the data set that the policy acts for: the `unnorm_key` that it answers.
      sources: all that it learnt from.
      card: name of the robot's card, which does as well where no source is called so.
    """
    found, encoded = _from_json(message)
    dialect = dialects.recognise(found, dialects.ACT, ACT_KEYS)
    _check_needed(found, dialect, dialects.ACT[0], 'instruction')
    key = found.get('unnorm_key')
    if key is not None and key != source and (key != card or key in sources):
        _refuse_key(key if isinstance(key, str) else repr(key), source, sources)
    _episode_starts(found)  # checked only: nothing is remembered between these requests
    text, wants_text = _wanted(limits.check_text("'instruction'", found['instruction']))
    if wants_text:
        raise Malformed("'instruction' is a question; POST it to /answer as 'question'.")
    return Asked(_frames(found, dialect, limits), text, encoded=encoded, chunks=dialect.chunks)


def _refuse_key(key: str, source: str, sources: Collection[str]) -> None:
    if key in sources:
        raise Malformed(
            f'This server acts for {source!r}; for unnorm_key {key!r} start another one with '
            f'--source={key}.'
        )
    raise Malformed(f'Unknown unnorm_key {key[:80]!r}{nearest(key[:80], sources or [source])}')


def from_answer(message: bytes, limits: Limits) -> Asked:
    """A question about a picture, in the manner of OpenVLA's requests."""
    found, encoded = _from_json(message)
    plain = dialects.ACT[0]
    _check_needed(found, dialects.recognise(found, [plain], ['question']), plain, 'question')
    text = limits.check_text("'question'", found['question'])
    whole = text if _is_prompt(text) else prompts.web(text)
    return Asked(_frames(found, plain, limits), whole, True, encoded=encoded)


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


def _parsed(read: Any, message: Any) -> Any:
    try:
        return read(message)
    except ValueError as error:
        raise Malformed(str(error)) from error


def _as_map(message: Any) -> Mapping[Any, Any]:
    if not isinstance(message, dict):
        raise Malformed(f'A request is a map; got {type(message).__name__}.')
    return message


def _from_json(message: bytes) -> tuple[Mapping[str, Any], bool]:
    found = _as_map(_parsed(json_arrays.loads, message))
    encoded = json_arrays.doubly_encoded(found)
    return (_as_map(_parsed(json_arrays.inner, found)) if encoded else found), encoded


def _check_needed(
    found: Mapping[str, Any], dialect: Dialect | None, usual: Dialect, text: str
) -> None:
    """Malformed unless the message has a camera and its text."""
    for key, missing in ((usual.camera, dialect is None), (text, text not in found)):
        if missing:
            raise Malformed(f'The key {key!r} is missing. Got: {", ".join(map(repr, found))}.')


def _seconds(milliseconds: Any) -> float | None:
    if milliseconds is None:
        return None
    number = isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool)
    if not number or not 0 < milliseconds < 1e9:
        raise Malformed(f"'deadline_ms' is {str(milliseconds)[:40]}; milliseconds are needed.")
    return milliseconds / 1000


def _episode_starts(found: Mapping[str, Any]) -> bool:
    """Whether one of STARTS says that an episode begins."""
    starts = []
    for key in ('reset', 'episode_start'):
        value = found.get(key, False)
        if not isinstance(value, (bool, np.bool_)):
            raise Malformed(f'{key!r} is {str(value)[:40]}; True or False is needed.')
        starts.append(bool(value))
    word = found.get('__ctrl__')
    if word is not None and word not in CONTROL_WORDS:
        raise Malformed(
            f"Unknown '__ctrl__' {str(word)[:40]!r}{nearest(str(word)[:40], CONTROL_WORDS)}"
        )
    return any(starts) or word is not None


def _frames(found: Mapping[str, Any], dialect: Dialect, limits: Limits) -> np.ndarray:
    """The frames uint8 [F, H, W, 3] of the camera that the policy sees."""
    picture = _pixels(dialect.camera, found[dialect.camera])
    if dialect.channels_first:
        picture = dialects.channels_last(picture)
    return limits.check_picture(repr(dialect.camera), picture)


def _check_finite(found: Mapping[str, Any]) -> None:
    """A robot that measures NaN is not fit to move, even where its state is not looked at."""
    for key, value in found.items():
        if isinstance(value, (np.ndarray, np.floating)) and value.dtype.kind == 'f':
            if not np.isfinite(value).all():
                raise Malformed(f'{key!r} holds NaN or infinite numbers.')


def _pixels(key: str, picture: Any) -> Any:
    """JSON has no bytes: a compressed picture comes as base64."""
    if not isinstance(picture, str):
        return picture
    try:
        return base64.b64decode(picture, validate=True)
    except ValueError as error:
        raise Malformed(f'{key!r} is a text but not base64: {error}') from error
