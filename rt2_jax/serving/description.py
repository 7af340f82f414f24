"""What the server says of its policy: the metadata of openpi's protocol, and GET /."""

from __future__ import annotations

from typing import Any

from rt2_jax.policy import Policy
from rt2_jax.serving.requests import OBSERVATION, UNUSED


def describe(policy: Policy) -> dict[str, Any]:
    """Metadata, of plain values that both msgpack and JSON hold."""
    space, card = policy.action_tokenizer.space, policy.embodiment
    found = {
        'model': policy.config.model.name if policy.config else type(policy.model).__name__,
        'step': policy.step,
        'source': policy.source,
        'sources': list(policy.sources),
        'action_names': list(space.names),
        'action_units': list(space.units),
        'action_low': list(space.low),
        'action_high': list(space.high),
        'action_horizon': 1,
        'terminate': space.terminate,
        'image_size': policy.image_size,
        'frames': policy.frames,
        'frame_stride': policy.frame_stride,
        'plan': policy.plan,
        'observation_keys': [key for key in OBSERVATION if key not in UNUSED],
        'ignored_keys': list(UNUSED),
    }
    if card:
        found |= {
            'card': card.name,
            'hz': card.frequency,
            'action_frame': card.frame,
            'action_motion': card.motion,
        }
        if card.gripper:
            # By the websocket a relative one is settled to where it is to be; by POST /act it is not.
            found['gripper'] = {'kind': card.gripper.kind, 'closed': 1.0, 'open': -1.0}
    return found
