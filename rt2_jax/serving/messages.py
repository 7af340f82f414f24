"""What clients send, in the keys of whichever protocol, as a `Request`.

The policy sees one camera, so of the keys of a dialect one is read; the others are taken and ignored.
Sources: openpi's examples/{libero,droid,aloha_sim}, OpenVLA's vla-scripts/deploy.py and OpenVLA-OFT's
experiments/robot/openvla_utils.py; vla-eval's types.py and benchmarks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from rt2_jax.nearest import nearest
from rt2_jax.serving import codec
from rt2_jax.serving.limits import Limits, Malformed
from rt2_jax.text import prompts

# Each says that an episode begins with this message: True, or the control word.
STARTS = ('reset', 'episode_start', '__ctrl__')
CONTROL_WORDS = ('reset', 'episode_start')
WEBSOCKET_KEYS = ('prompt', 'deadline_ms', *STARTS)
ACT_KEYS = ('instruction', 'unnorm_key', *STARTS)
# 'images/cam_high' may come as {'images': {'cam_high': ...}}; so may 'observation/...'.
NESTED = ('images', 'observation')

_ROBOT_PROMPT = re.compile(
    re.escape(prompts.robot('\0')).replace(re.escape('\0'), '(.+)'), re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The keys of one family of clients.

    Attributes:
        name: of the family.
        camera: key of the picture that the policy sees.
        ignored: other keys that the clients send.
        channels_first: pictures are [3, H, W].
        chunks: the reply of POST /act is a list of actions, here of one.
    """

    name: str
    camera: str
    ignored: tuple[str, ...] = ()
    channels_first: bool = False
    chunks: bool = False


WEBSOCKET = (
    Dialect('LIBERO', 'observation/image', ('observation/wrist_image', 'observation/state')),
    Dialect(
        'DROID',
        'observation/exterior_image_1_left',
        (
            'observation/exterior_image_2_left',
            'observation/wrist_image_left',
            'observation/joint_position',
            'observation/cartesian_position',
            'observation/gripper_position',
        ),
    ),
    Dialect(
        'ALOHA',
        'images/cam_high',
        ('images/cam_low', 'images/cam_left_wrist', 'images/cam_right_wrist', 'state'),
        channels_first=True,
    ),
)
ACT = (
    Dialect('OpenVLA', 'image'),
    Dialect(
        'OpenVLA-OFT',
        'full_image',
        ('wrist_image', 'left_wrist_image', 'right_wrist_image', 'state'),
        chunks=True,
    ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A picture, and an instruction or a question.

    Attributes:
        frames: uint8 [F, H, W, 3], oldest first; one, unless the client keeps a history itself. None
            where the message only says that an episode begins.
        text: an instruction, or the whole prompt of a question.
        wants_text: whether it is a question.
        reset: whether an episode begins with it.
        seconds: how long the client will wait, None if it didn't say.
        encoded: whether JSON came within JSON, and so is the reply.
        chunks: whether the client takes a list of actions.
        msgpack_numpy: whether arrays came in the form of msgpack-numpy, and so do those of the reply.
    """

    frames: np.ndarray | None
    text: str
    wants_text: bool = False
    reset: bool = False
    seconds: float | None = None
    encoded: bool = False
    chunks: bool = False
    msgpack_numpy: bool = False


def from_openpi(message: bytes, limits: Limits) -> Request:
    """An observation of openpi's protocol; Malformed or TooLarge if it is none."""
    fields, foreign = _decode(codec.unpack_any, message)
    fields = flatten(fields)
    dialect = find_dialect(fields, WEBSOCKET, WEBSOCKET_KEYS)
    _check_finite(fields)
    seconds = _seconds(fields.get('deadline_ms'))
    reset = _episode_starts(fields)
    if reset and dialect is None and 'prompt' not in fields:
        return Request(None, '', reset=True, seconds=seconds, msgpack_numpy=foreign)
    dialect = _check_needed(fields, dialect, WEBSOCKET[0], 'prompt')
    text, wants_text = _instruction_or_question(limits.check_text("'prompt'", fields['prompt']))
    frames = _frames(fields, dialect, limits)
    return Request(frames, text, wants_text, reset, seconds, msgpack_numpy=foreign)


def from_act(
    message: bytes, limits: Limits, source: str, sources: Collection[str], card: str = ''
) -> Request:
    """OpenVLA's request; Malformed or TooLarge if it is none.

    Args:
        message: its JSON.
        limits: of the server.
        source: the data set that the policy acts for, and so the `unnorm_key` that it takes.
        sources: all that it learnt from.
        card: name of the robot's card, which does as well where no source is called so.
    """
    fields, encoded = _decode(codec.loads_any, message)
    dialect = find_dialect(fields, ACT, ACT_KEYS)
    dialect = _check_needed(fields, dialect, ACT[0], 'instruction')
    key = fields.get('unnorm_key')
    if key is not None and key != source and (key != card or key in sources):
        _refuse_key(key if isinstance(key, str) else repr(key), source, sources)
    _episode_starts(fields)  # checked only: nothing is remembered between these requests
    instruction = limits.check_text("'instruction'", fields['instruction'])
    text, wants_text = _instruction_or_question(instruction)
    if wants_text:
        raise Malformed("'instruction' is a question; POST it to /answer as 'question'.")
    frames = _frames(fields, dialect, limits)
    return Request(frames, text, encoded=encoded, chunks=dialect.chunks)


def from_vla_eval(payload: Any, limits: Limits, camera: str | None = None) -> Request:
    """An observation of vla-eval: {'images': {NAME: picture}, 'task_description': text, ...}.

    Each benchmark sends further keys of its own; none is read but CALVIN's 'episode_restart'.

    Args:
        payload: of the message, as `codec.unpack_vla_eval` gives it.
        limits: of the server.
        camera: name of the picture that the policy sees; may be left out where one picture comes.

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
    name = _select_camera(payload['images'], camera)
    text = limits.check_text("'task_description'", payload['task_description'])
    restart = payload.get('episode_restart', False)
    if not isinstance(restart, (bool, np.bool_)):
        raise Malformed(f"'episode_restart' is {str(restart)[:40]}; True or False is needed.")
    frames = limits.check_picture(f'images[{name!r}]', payload['images'][name])
    return Request(frames, text, reset=bool(restart))


def from_answer(message: bytes, limits: Limits) -> Request:
    """A question about a picture, in the manner of OpenVLA's requests; raises as `from_act`."""
    fields, encoded = _decode(codec.loads_any, message)
    dialect = find_dialect(fields, ACT[:1], ['question'])
    dialect = _check_needed(fields, dialect, ACT[0], 'question')
    text = limits.check_text("'question'", fields['question'])
    prompt = text if _is_question_prompt(text) else prompts.web(text)
    return Request(_frames(fields, dialect, limits), prompt, True, encoded=encoded)


def ignored_keys(dialects: Sequence[Dialect]) -> tuple[str, ...]:
    """All keys that are taken and not read."""
    return tuple(key for dialect in dialects for key in dialect.ignored)


def flatten(message: Mapping[Any, Any]) -> dict[Any, Any]:
    """The message with 'images/cam_high' for {'images': {'cam_high': ...}}."""
    flat: dict[Any, Any] = {}
    for key, value in message.items():
        if key in NESTED and isinstance(value, dict):
            flat |= {f'{key}/{inner}': entry for inner, entry in value.items()}
        else:
            flat[key] = value
    return flat


def find_dialect(
    message: Mapping[Any, Any], dialects: Sequence[Dialect], others: Collection[str]
) -> Dialect | None:
    """The dialect whose camera a message holds, None if it holds no camera.

    Args:
        message: as `flatten` gives it.
        dialects: of the protocol.
        others: keys that every dialect may have.

    Raises:
        Malformed: an unknown key, with the nearest one that is read, or several cameras.
    """
    cameras = [dialect.camera for dialect in dialects]
    valid = {*cameras, *others, *ignored_keys(dialects)}
    for key in message:
        if key not in valid:
            name = key if isinstance(key, str) else repr(key)
            raise Malformed(f'Unknown key {name[:80]!r}{nearest(name[:80], [*cameras, *others])}')
    present = [dialect for dialect in dialects if dialect.camera in message]
    if len(present) > 1:
        raise Malformed(
            f'{" and ".join(repr(dialect.camera) for dialect in present)} are both cameras that the '
            'policy would see; send one of them.'
        )
    return present[0] if present else None


def channels_last(picture: Any) -> Any:
    """An array [..., 3, H, W] as [..., H, W, 3]; anything else as it is."""
    if isinstance(picture, np.ndarray) and picture.ndim in (3, 4) and picture.shape[-3] == 3:
        return np.moveaxis(picture, -3, -1)
    return picture


def _select_camera(pictures: Any, camera: str | None) -> str:
    if not isinstance(pictures, dict):
        raise Malformed(
            f"'images' must be a map from a camera's name to its picture; got {type(pictures).__name__}."
        )
    if not pictures:
        raise Malformed("'images' is empty; the policy needs one picture.")
    names = ', '.join(repr(name) for name in pictures)
    if camera is None:
        if len(pictures) > 1:
            raise Malformed(
                f"{len(pictures)} pictures came, and the policy sees one: name it in the server's "
                f'address, ?camera=NAME. Got: {names}.'
            )
        return next(iter(pictures))
    if camera not in pictures:
        raise Malformed(
            f"No picture of the camera {camera!r}, which the server's address names. Got: {names}."
        )
    return camera


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
    key = text if dialect else usual.camera
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


def _frames(fields: Mapping[str, Any], dialect: Dialect, limits: Limits) -> np.ndarray:
    """The frames uint8 [F, H, W, 3] of the camera that the policy sees."""
    picture = _from_base64(dialect.camera, fields[dialect.camera])
    if dialect.channels_first:
        picture = channels_last(picture)
    return limits.check_picture(repr(dialect.camera), picture)


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
