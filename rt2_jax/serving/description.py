"""What the server says of its policy: the metadata of openpi's protocol, and GET /."""

from __future__ import annotations

from typing import Any

from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import CONVENTIONS, Convention
from rt2_jax.serving import dialects
from rt2_jax.serving.requests import WEBSOCKET_KEYS


def describe(policy: Policy, convention: Convention) -> dict[str, Any]:
    """Metadata, of plain values that both msgpack and JSON hold.

    Args:
      policy: that is served.
      convention: in whose numbers the actions are that come with it.
    """
    card = policy.embodiment
    found = {
        'model': policy.config.model.name if policy.config else type(policy.model).__name__,
        'step': policy.step,
        'source': policy.source,
        'sources': list(policy.sources),
        **convention.describe(),
        'conventions': dict(CONVENTIONS),
        'action_horizon': 1,
        'terminate': policy.action_tokenizer.space.terminate,
        'image_size': policy.image_size,
        'frames': policy.frames,
        'frame_stride': policy.frame_stride,
        'plan': policy.plan,
        'remembers': _remembered(policy, convention),
        'observation_keys': [*(x.camera for x in dialects.WEBSOCKET), *WEBSOCKET_KEYS],
        'ignored_keys': list(dialects.ignored(dialects.WEBSOCKET)),
    }
    if card:
        found |= {
            'card': card.name,
            'hz': card.frequency,
            'action_frame': card.frame,
            'action_motion': card.motion,
        }
    return found


def _remembered(policy: Policy, convention: Convention) -> list[str]:
    """What a connection's next action depends on beside its message, until an episode begins."""
    return ['frames'] * (policy.frames > 1) + ['gripper'] * convention.needs_memory
