"""How a policy has to ask and listen, by the config of the run that taught it."""

from __future__ import annotations

from typing import Any

from rt2_jax.data.augmentation import Augmentation
from rt2_jax.text.actions import ActionSpace


def of_config(config: Any, action_space: ActionSpace) -> dict[str, Any]:
    """Arguments of `Policy`'s constructor.

    It plans before it acts if at least half of the robot's steps were taught so.
    """
    data = config.data
    shares = [robot.get('plan_share', 0.0) for robot in data.get('robot', {}).values()]
    # A target's length held the longest answer, plan and action and EOS included.
    return {
        'image_size': data.image_size,
        'prompt_length': data.prompt_length,
        'frames': data.frames,
        'frame_stride': data.get('frame_stride', 1),
        'text_length': data.target_length,
        'plan_length': max(data.target_length - action_space.length - 1, 8),
        'plan': bool(shares) and min(shares) >= 0.5,
        'augment': Augmentation.from_config(data.get('augment', {})),
        'whole_plans': any(shares),
    }
