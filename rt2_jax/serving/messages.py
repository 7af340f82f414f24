"""What clients send, in the keys of whichever protocol, as a `Request`.

Which keys are read is said in `dialects.py`; of vla-eval, in its types.py and benchmarks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import re
from typing import Any, NoReturn

import numpy as np

from rt2_jax.data import views
from rt2_jax.nearest import nearest
from rt2_jax.serving import codec
from rt2_jax.serving.dialects import (
    ACT,
    ACT_KEYS,
    CONTROL_WORDS,
    WEBSOCKET,
    WEBSOCKET_KEYS,
    Dialect,
    Needs,
    find_dialect,
    flatten,
)
from rt2_jax.serving.limits import Limits, Malformed
from rt2_jax.text import prompts

_ROBOT_PROMPT = re.compile(
    re.escape(prompts.robot('\0')).replace(re.escape('\0'), '(.+)'), re.DOTALL
)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A picture, and an instruction or a question.

    Attributes:
        frames: uint8 [F * V, H, W, 3] of V cameras, see `data/views.py`; of one frame, unless the client
            keeps a history itself. None where the message only says that an episode begins.
        text: an instruction, or the whole prompt of a question.
        wants_text: whether it is a question.
        reset: whether an episode begins with it.
        seconds: how long the client will wait, None if it didn't say.
        encoded: whether JSON came within JSON, and so is the reply.
        chunks: whether the client takes a list of actions.
        msgpack_numpy: whether arrays came in the form of msgpack-numpy, and so do those of the reply.
        state: float64 [K], the robot's; None where none is read.
    """

    frames: np.ndarray | None
    text: str
    wants_text: bool = False
    reset: bool = False
    seconds: float | None = None
    encoded: bool = False
    chunks: bool = False
    msgpack_numpy: bool = False
    state: np.ndarray | None = None


def from_openpi(message: bytes, limits: Limits, needs: Needs = Needs()) -> Request:
    """An observation of openpi's protocol; Malformed or TooLarge if it is none."""
    dialects = needs.dialects(WEBSOCKET)
    fields, foreign = _decode(codec.unpack_any, message)
    fields = flatten(fields)
    dialect = find_dialect(fields, dialects, WEBSOCKET_KEYS)
    _check_finite(fields)
    seconds = _seconds(fields.get('deadline_ms'))
    reset = _episode_starts(fields)
    if reset and dialect is None and 'prompt' not in fields:
        return Request(None, '', reset=True, seconds=seconds, msgpack_numpy=foreign)
    dialect = _check_needed(fields, dialect, dialects[0], 'prompt')
    text, wants_text = _instruction_or_question(limits.check_text("'prompt'", fields['prompt']))
    frames, state = _observation(fields, dialect, limits, wants_text)
    return Request(frames, text, wants_text, reset, seconds, msgpack_numpy=foreign, state=state)


def from_act(
    message: bytes,
    limits: Limits,
    source: str,
    sources: Collection[str],
    card: str = '',
    needs: Needs = Needs(),
) -> Request:
    """OpenVLA's request; Malformed or TooLarge if it is none.

    Args:
        message: its JSON.
        limits: of the server.
        source: the data set that the policy acts for, and so the `unnorm_key` that it takes.
        sources: all that it learnt from.
        card: name of the robot's card, which does as well where no source is called so.
        needs: of the policy.
    """
    dialects = needs.dialects(ACT)
    fields, encoded = _decode(codec.loads_any, message)
    dialect = find_dialect(fields, dialects, ACT_KEYS)
    dialect = _check_needed(fields, dialect, dialects[0], 'instruction')
    key = fields.get('unnorm_key')
    if key is not None and key != source and (key != card or key in sources):
        _refuse_key(key if isinstance(key, str) else repr(key), source, sources)
    _episode_starts(fields)  # checked only: nothing is remembered between these requests
    instruction = limits.check_text("'instruction'", fields['instruction'])
    text, wants_text = _instruction_or_question(instruction)
    if wants_text:
        raise Malformed("'instruction' is a question; POST it to /answer as 'question'.")
    frames, state = _observation(fields, dialect, limits)
    return Request(frames, text, encoded=encoded, chunks=dialect.chunks, state=state)


def from_vla_eval(
    payload: Any, limits: Limits, cameras: Sequence[str] = (), state: bool = False
) -> Request:
    """An observation of vla-eval: {'images': {NAME: picture}, 'task_description': text, ...}.

    Each benchmark sends further keys of its own; none is read but CALVIN's 'episode_restart'.

    Args:
        payload: of the message, as `codec.unpack_vla_eval` gives it.
        limits: of the server.
        cameras: names of the pictures that the policy sees, in its order; none where it sees one, and one
            comes.
        state: whether it acts by the robot's state, which is under 'states' or 'state'.

    Raises:
        Malformed: it is no observation, or which picture is meant isn't clear.
        TooLarge: than the limits allow.
    """
    if not isinstance(payload, dict):
        raise Malformed(f'An observation is a map; got {type(payload).__name__}.')
    for key in ('images', 'task_description'):
        if key not in payload:
            raise Malformed(
                f'The key {key!r} is missing. Got: {", ".join(map(repr, payload)) or "nothing"}.'
            )
    names = _select_cameras(payload['images'], cameras)
    text = limits.check_text("'task_description'", payload['task_description'])
    restart = payload.get('episode_restart', False)
    if not isinstance(restart, (bool, np.bool_)):
        raise Malformed(f"'episode_restart' is {str(restart)[:40]}; True or False is needed.")
    pictures = {f'images[{name!r}]': payload['images'][name] for name in names}
    frames = _interleaved(pictures, limits)
    felt = None
    if state:
        key = 'states' if 'states' in payload or 'state' not in payload else 'state'
        if key not in payload:
            raise Malformed(
                "The key 'states' is missing, the robot's state, by which this policy acts. Got: "
                f'{", ".join(map(repr, payload))}.'
            )
        felt = _numbers(key, payload[key])
    return Request(frames, text, reset=bool(restart), state=felt)


def from_answer(message: bytes, limits: Limits) -> Request:
    """A question about a picture, in the manner of OpenVLA's requests; raises as `from_act`."""
    fields, encoded = _decode(codec.loads_any, message)
    dialect = find_dialect(fields, ACT[:1], ['question'])
    dialect = _check_needed(fields, dialect, ACT[0], 'question')
    text = limits.check_text("'question'", fields['question'])
    prompt = text if _is_question_prompt(text) else prompts.web(text)
    frames, _ = _observation(fields, dialect, limits, wants_text=True)
    return Request(frames, prompt, True, encoded=encoded)


def channels_last(picture: Any) -> Any:
    """An array [..., 3, H, W] as [..., H, W, 3]; anything else as it is."""
    if isinstance(picture, np.ndarray) and picture.ndim in (3, 4) and picture.shape[-3] == 3:
        return np.moveaxis(picture, -3, -1)
    return picture


def _select_cameras(pictures: Any, cameras: Sequence[str]) -> Sequence[str]:
    if not isinstance(pictures, dict):
        raise Malformed(
            f"'images' must be a map from a camera's name to its picture; got {type(pictures).__name__}."
        )
    if not pictures:
        raise Malformed("'images' is empty; the policy needs one picture.")
    names = ', '.join(repr(name) for name in pictures)
    if not cameras:
        if len(pictures) > 1:
            raise Malformed(
                f"{len(pictures)} pictures came, and the policy sees one: name it in the server's "
                f'address, ?camera=NAME. Got: {names}.'
            )
        return list(pictures)
    for camera in cameras:
        if camera not in pictures:
            raise Malformed(
                f'No picture of the camera {camera!r}. Got: {names}. ?camera=NAME,NAME in the '
                "server's address says which of them the policy sees, in its order."
            )
    return cameras


def _decode(decode: Callable[[bytes], tuple[Any, bool]], message: bytes) -> tuple[dict, bool]:
    try:
        content, foreign = decode(message)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not isinstance(content, dict):
        raise Malformed(f'A request is a map; got {type(content).__name__}.')
    return content, foreign


def _refuse_key(key: str, source: str, sources: Collection[str]) -> None:
    if key in sources:
        raise Malformed(
            f'This server acts for {source!r}; for unnorm_key {key!r} start another one with '
            f'--source={key}.'
        )
    raise Malformed(f'Unknown unnorm_key {key[:80]!r}{nearest(key[:80], sources or [source])}')


def _instruction_or_question(text: str) -> tuple[str, bool]:
    """An instruction, or a question's whole prompt, and whether it is a question.

    A robot prompt written out ("Q: what action should the robot take to pick banana? A:") is its
    instruction, so that the server words it as the checkpoint was taught to plan or not.
    """
    if robot := _ROBOT_PROMPT.fullmatch(text.strip()):
        return robot[1], False
    return (text.strip(), True) if _is_question_prompt(text) else (text, False)


def _is_question_prompt(text: str) -> bool:
    text = text.strip()
    return text.startswith('Q:') and text.endswith('A:')


def _check_needed(
    fields: Mapping[str, Any], dialect: Dialect | None, usual: Dialect, text: str
) -> Dialect:
    """The message's dialect; Malformed unless it has a camera and its text."""
    if dialect is not None and text in fields:
        return dialect
    _refuse_missing(text if dialect else usual.camera, fields)


def _refuse_missing(key: str, fields: Mapping[str, Any]) -> NoReturn:
    raise Malformed(f'The key {key!r} is missing. Got: {", ".join(map(repr, fields))}.')


def _seconds(milliseconds: Any) -> float | None:
    if milliseconds is None:
        return None
    number = isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool)
    if not number or not 0 < milliseconds < 1e9:
        raise Malformed(f"'deadline_ms' is {str(milliseconds)[:40]}; milliseconds are needed.")
    return milliseconds / 1000


def _episode_starts(fields: Mapping[str, Any]) -> bool:
    """Whether one of STARTS says that an episode begins."""
    starts = []
    for key in ('reset', 'episode_start'):
        value = fields.get(key, False)
        if not isinstance(value, (bool, np.bool_)):
            raise Malformed(f'{key!r} is {str(value)[:40]}; True or False is needed.')
        starts.append(bool(value))
    word = fields.get('__ctrl__')
    if word is not None and word not in CONTROL_WORDS:
        raise Malformed(
            f"Unknown '__ctrl__' {str(word)[:40]!r}{nearest(str(word)[:40], CONTROL_WORDS)}"
        )
    return any(starts) or word is not None


def _observation(
    fields: Mapping[str, Any], dialect: Dialect, limits: Limits, wants_text: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The pictures uint8 [F * V, H, W, 3] that the policy sees, and the state [K] if it acts by one.

    A question needs the first camera's picture alone.
    """
    keys = (dialect.camera,) if wants_text else (dialect.camera, *dialect.more)
    for key in keys if wants_text else dialect.needed:
        if key not in fields:
            _refuse_missing(key, fields)
    pictures = {key: _from_base64(key, fields[key]) for key in keys}
    if dialect.channels_first:
        pictures = {key: channels_last(picture) for key, picture in pictures.items()}
    frames = _interleaved({repr(key): picture for key, picture in pictures.items()}, limits)
    if not dialect.needs_state or wants_text:
        return frames, None
    return frames, _numbers(dialect.state, fields[dialect.state])


def _interleaved(pictures: Mapping[str, Any], limits: Limits) -> np.ndarray:
    """Pictures, or frames, of each camera as `data/views.py` has them; the keys name them in errors."""
    parts = {what: limits.check_picture(what, picture) for what, picture in pictures.items()}
    if len({len(frames) for frames in parts.values()}) > 1:
        counts = ', '.join(f'{what} {len(frames)}' for what, frames in parts.items())
        raise Malformed(f'The cameras show different numbers of frames: {counts}.')
    return views.interleave(list(parts.values()))


def _numbers(key: str, values: Any) -> np.ndarray:
    """A state float64 [K]; Malformed for anything but a list of numbers."""
    numbers = np.asarray(values) if isinstance(values, (np.ndarray, list, tuple)) else None
    if numbers is None or numbers.dtype.kind not in 'fiu' or numbers.ndim != 1:
        shape = (
            type(values).__name__ if numbers is None else f'{numbers.dtype} {list(numbers.shape)}'
        )
        raise Malformed(f"{key!r} must be the state's numbers, [K]; got {shape}.")
    return numbers.astype(np.float64)


def _check_finite(fields: Mapping[str, Any]) -> None:
    """A robot that measures NaN is not fit to move, even where its state is not read."""
    for key, value in fields.items():
        if isinstance(value, (np.ndarray, np.floating)) and value.dtype.kind == 'f':
            if not np.isfinite(value).all():
                raise Malformed(f'{key!r} holds NaN or infinite numbers.')


def _from_base64(key: str, picture: Any) -> Any:
    """JSON has no bytes: a compressed picture comes as base64."""
    if not isinstance(picture, str):
        return picture
    try:
        return base64.b64decode(picture, validate=True)
    except ValueError as error:
        raise Malformed(f'{key!r} is a text but not base64: {error}') from error
