"""What policy.json tells whoever runs an exported policy without this package."""

from __future__ import annotations

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
CALL = """\
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


def call(file: str, kind: str) -> list[str]:
    """Lines of Python that call a function of an export, in its directory."""
    return CALL.replace('FUNCTION', file).replace('KIND', kind).splitlines()


def inputs(policy: Policy) -> dict[str, Any]:
    """What goes in."""
    side = policy.image_size
    return {
        'images': {
            'dtype': 'uint8',
            'shape': ['B', policy.frames, side, side, 3],
            'what': f'RGB, {policy.frames} frame(s) a robot, oldest first, '
            f'{policy.frame_stride} step(s) apart',
            'preprocessing': _preprocessing(policy),
        },
        'prompt': {
            'dtype': 'int32',
            'shape': ['B', policy.prompt_length],
            'what': f'token ids of the prompt, {policy.tokenizer.pad_id} behind them',
        },
    }


def _preprocessing(policy: Policy) -> dict[str, Any]:
    """How a camera's picture becomes a frame, in words and in OpenCV's."""
    area = sum(policy.settings.augment.scale) / 2
    crop = 'whole frames'
    if area < 1:
        crop = (
            f'the centre: {area**0.5:.6f} of each side, edges rounded to whole pixels; for plans '
            + ('whole frames' if policy.settings.whole_plans else 'the same')
            + ', for texts whole frames'
        )
    side = policy.image_size
    return {
        'crop': crop,
        'resize': f'cv2.resize(frame, ({side}, {side}), interpolation=cv2.INTER_AREA), INTER_LINEAR '
        f'if a side is below {side} pixels; the aspect ratio is not kept',
    }


def outputs(policy: Policy, kinds: list[Kind]) -> dict[str, Any]:
    """What comes out of each kind of function."""
    length = {kind: policy.sampler.grammar.max_length(frozenset({kind})) for kind in kinds}
    return {
        kind.name.lower(): {
            'T': length[kind],
            **{n: x for n, x in OUTPUTS.items() if n != 'actions' or kind != Kind.TEXT},
        }
        for kind in kinds
    }


def action(policy: Policy, convention: Convention) -> dict[str, Any]:
    """The numbers of an action and what they mean to the robot."""
    space, described = policy.action_tokenizer.space, convention.describe()
    told = {
        'convention': convention.name,
        'L': space.length,
        'names': list(space.number_names),
        'units': ['1'] * space.terminate + list(space.units),
        'low': [0.0] * space.terminate + described['action_low'],
        'high': [1.0] * space.terminate + described['action_high'],
        'bins': space.bins,
        'terminate': '1 ends the episode' if space.terminate else 'there is no such number',
        'space': json.loads(space.to_json()),
    }
    if card := policy.embodiment:
        told |= {
            'robot': card.name,
            'motion': card.motion,
            'frame': card.frame,
            'frequency_hz': card.frequency,
            'gripper': described.get('gripper'),
        }
    return told


def words(policy: Policy, kinds: list[Kind]) -> dict[str, Any]:
    """The prompts' wording and the tokenizer."""
    json_kind = fast_tokenizer.is_json(policy.tokenizer.model_bytes)
    return {
        'prompts': {
            kind.name.lower(): {
                'template': TEMPLATES[kind],
                'trimming': f'blanks around the words go, then any of {_TRIMMED[kind]!r} at their end',
            }
            for kind in kinds
        },
        'tokenizer': {
            'file': TOKENIZER,
            'kind': 'tokenizer.json' if json_kind else 'SentencePiece',
            'encode': "tokenizers.Tokenizer.from_file('tokenizer.model')"
            '.encode(prompt, add_special_tokens=False).ids'
            if json_kind
            else "sentencepiece.SentencePieceProcessor(model_file='tokenizer.model').encode(prompt)",
            'pad': policy.tokenizer.pad_id,
            'eos': policy.tokenizer.eos_id,
            'action_ids': policy.action_tokenizer.integer_ids.tolist(),
        },
    }
