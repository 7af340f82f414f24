"""What the server says of its policy: the metadata of openpi's protocol, and GET /."""

from __future__ import annotations

import dataclasses
from typing import Any

from rt2_jax.data import embodiments
from rt2_jax.data.embodiment import Embodiment
from rt2_jax.policy import Policy
from rt2_jax.serving.requests import OBSERVATION, UNUSED


@dataclasses.dataclass(frozen=True)
class Served:
    """What a policy acts for.

    Attributes:
      source: the data set whose action space it is.
      sources: all that the checkpoint learnt from.
      card: that data set's embodiment card; None if unknown.
    """

    source: str
    sources: tuple[str, ...]
    card: Embodiment | None

    @classmethod
    def of(cls, policy: Policy, source: str = '') -> Served:
        """For a policy made with `source` ('' being its config's embodiment)."""
        config = policy.config
        robot = config.data.get('robot', {}) if config else {}
        source = source or (config.embodiment if config else '')
        card = robot[source].card if source in robot else source
        return cls(source, tuple(robot) or (source,), embodiments.CARDS.get(card))


def describe(policy: Policy, served: Served) -> dict[str, Any]:
    """Metadata, of plain values that both msgpack and JSON hold."""
    space, card = policy.action_tokenizer.space, served.card
    found = {
        'model': policy.config.model.name if policy.config else type(policy.model).__name__,
        'step': policy.step,
        'source': served.source,
        'sources': list(served.sources),
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
        found |= {'hz': card.frequency, 'action_frame': card.frame, 'action_motion': card.motion}
        if card.gripper:
            found['gripper'] = {'kind': card.gripper.kind, 'closed': 1.0, 'open': -1.0}
    return found
