"""policy.json: what it takes to run an exported policy without this package."""

from __future__ import annotations

from collections.abc import Sequence
import json
from typing import Any

from rt2_jax.decoding.grammar import Kind
from rt2_jax.exported.function import OUTPUTS
from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import Convention
from rt2_jax.text import fast_tokenizer, prompts

TOKENIZER = 'tokenizer.model'
TEMPLATES = {
    Kind.ACTION: prompts.robot('{instruction}'),
    Kind.PLAN: prompts.robot_plan('{instruction}'),
    Kind.TEXT: prompts.web('{question}'),
}
_TRIMMED = {Kind.ACTION: '.?', Kind.PLAN: '.', Kind.TEXT: '?'}
# Runs as it is, in the directory.
_CALL = """\
import json, jax, jax.export, jax.numpy as jnp, numpy as np

raw = np.memmap('weights.safetensors', np.uint8, 'r')
start = 8 + int(raw[:8].view('<u8')[0])
types = {'F32': np.float32, 'BF16': jnp.bfloat16, 'F16': np.float16}
weights = {
    name: jax.device_put(raw[start + x['data_offsets'][0] : start + x['data_offsets'][1]]
                         .view(types[x['dtype']]).reshape(x['shape']))
    for name, x in json.loads(raw[8:start].tobytes()).items() if name != '__metadata__'}
act = jax.jit(jax.export.deserialize(bytearray(open('FUNCTION', 'rb').read())).call)
example = np.load('example.npz')
answer = act(weights, example['KIND/images'], example['KIND/prompt'])
assert (answer['tokens'] == example['KIND/tokens']).all()
"""


def describe(
    policy: Policy,
    kinds: Sequence[Kind],
    convention: Convention,
    functions: dict[str, list[dict[str, Any]]],
    **files: Any,
) -> dict[str, Any]:
    """The content of policy.json but for its manifest.

    Args:
        policy: that is exported.
        kinds: of answers.
        convention: of the actions.
        functions: by kind, those for each batch size: file, batch, bytes, sha256.
        **files: what is said of the other files, by field.
    """
    side, kind = policy.image_size, next(iter(functions))
    call = _CALL.replace('FUNCTION', functions[kind][0]['file']).replace('KIND', kind)
    return {
        'format': 1,
        'functions': functions,
        'acts_by': (Kind.PLAN if policy.plan else Kind.ACTION).name.lower(),
        **files,
        'inputs': {
            'images': {
                'dtype': 'uint8',
                'shape': ['B', policy.settings.pictures, side, side, 3],
                'what': f'RGB, {policy.frames} frame(s) a robot, oldest first, '
                f'{policy.frame_stride} step(s) apart{_cameras(policy)}',
                'preprocessing': _preprocessing(policy),
            },
            'prompt': {
                'dtype': 'int32',
                'shape': ['B', policy.prompt_length],
                'what': f'token ids of the prompt, {policy.tokenizer.pad_id} behind them',
            },
        },
        'outputs': {
            kind.name.lower(): {
                'T': policy.sampler.grammar.max_length(frozenset({kind})),
                **{n: x for n, x in OUTPUTS.items() if n != 'actions' or kind != Kind.TEXT},
            }
            for kind in kinds
        },
        'action': _action(policy, convention),
        **_state(policy),
        'prompts': {
            kind.name.lower(): {
                'template': template(policy, kind),
                'trimming': f'blanks around the words go, then any of {_TRIMMED[kind]!r} at their end',
            }
            for kind in kinds
        },
        'tokenizer': _tokenizer(policy),
        'call': call.splitlines(),
        'step': policy.step,
        'config': policy.config.to_dict(),
    }


def template(policy: Policy, kind: Kind) -> str:
    """The prompt of a kind of answer, with the names of what is put in: instruction or question, state."""
    asks_state = policy.settings.state_space is not None and kind != Kind.TEXT
    return prompts.with_state(TEMPLATES[kind], '{state}' if asks_state else '')


def _cameras(policy: Policy) -> str:
    if len(policy.cameras) < 2:
        return ''
    return f'; a frame is a picture each of {", ".join(policy.cameras)}, in this order'


def _state(policy: Policy) -> dict[str, Any]:
    """The robot's state, and how its numbers become the integers of a prompt."""
    grid = policy.state_grid
    if grid is None:
        return {}
    return {
        'state': {
            'names': list(grid.space.names),
            'units': list(grid.space.units),
            **grid.constants(),
            'what': 'the integers of its numbers, a blank between them, stand for {state} in prompts; what '
            'lies outside of low to high is clipped to it: min(max(floor((value - origin) / width + half) '
            '+ middle, first), last)',
        }
    }


def _preprocessing(policy: Policy) -> dict[str, str]:
    """How a camera's picture becomes a frame, in words and in OpenCV's."""
    side, settings = policy.image_size, policy.settings
    area = sum(settings.augment.scale) / 2
    crop = 'whole frames'
    if area < 1:
        crop = (
            f'the centre: {area**0.5:.6f} of each side, edges rounded to whole pixels; for plans '
            + ('whole frames' if settings.whole_plans else 'the same')
            + ', for texts whole frames'
        )
    return {
        'crop': crop,
        'resize': f'cv2.resize(frame, ({side}, {side}), interpolation=cv2.INTER_AREA), INTER_LINEAR '
        f'if a side is below {side} pixels; the aspect ratio is not kept',
    }


def _action(policy: Policy, convention: Convention) -> dict[str, Any]:
    """The numbers of an action and what they mean to the robot."""
    space, numbers = policy.action_tokenizer.space, convention.describe()
    fields = {
        'convention': convention.name,
        'L': space.length,
        'names': list(space.number_names),
        'units': ['1'] * space.terminate + list(space.units),
        'low': [0.0] * space.terminate + numbers['action_low'],
        'high': [1.0] * space.terminate + numbers['action_high'],
        'bins': space.bins,
        'terminate': '1 ends the episode' if space.terminate else 'there is no such number',
        'space': json.loads(space.to_json()),
    }
    if card := policy.embodiment:
        fields |= {
            'robot': card.name,
            'motion': card.motion,
            'frame': card.frame,
            'frequency_hz': card.frequency,
            'gripper': numbers.get('gripper'),
        }
    return fields


def _tokenizer(policy: Policy) -> dict[str, Any]:
    kind, encode = (
        'SentencePiece',
        "sentencepiece.SentencePieceProcessor(model_file='tokenizer.model').encode(prompt)",
    )
    if fast_tokenizer.is_json(policy.tokenizer.model_bytes):
        kind, encode = (
            'tokenizer.json',
            "tokenizers.Tokenizer.from_file('tokenizer.model')"
            '.encode(prompt, add_special_tokens=False).ids',
        )
    return {
        'file': TOKENIZER,
        'kind': kind,
        'encode': encode,
        'pad': policy.tokenizer.pad_id,
        'eos': policy.tokenizer.eos_id,
        'action_ids': policy.action_tokenizer.integer_ids.tolist(),
    }
