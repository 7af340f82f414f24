"""The settings of a policy, and those that the config of its training run implies."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from rt2_jax.data.augmentation import Augmentation
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.decoding.grammar import Kind
from rt2_jax.nearest import check
from rt2_jax.text.actions import ActionSpace


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a policy prompts its model and reads the answers.

    Attributes:
        image_size: height and width of the frames that the model takes, pixels.
        prompt_length: most tokens of a prompt, P.
        frames: frames of an observation, F, oldest first.
        frame_stride: steps between two frames.
        cameras: names of the cameras that a frame has a picture of each of, V, in order; empty for one
            without a name.
        state_space: of the states in prompts; None where they have none.
        text_length: most tokens of an answer in words.
        plan_length: most tokens of a plan.
        plan: whether `act` plans by default.
        augment: the augmentation of training; actions are decided on the centre of its crop,
            questions are answered on whole frames.
        whole_plans: whether plans, which name places, are made on whole frames too.
        top_p: see `Sampler`; so are `smoothing` and `terminate_threshold`.
        patience: see `Robot`.
        one_pass: see `Grammar`.
        long_prompts: what happens to prompts that are too long, see `PromptEncoder`.
        batch_sizes: see `runner.check_batch_sizes`.
        embodiment: the card of the robot that the policy acts for, None if unknown.
        seed: of draws at a temperature above 0 where a call names no seed.
    """

    image_size: int
    prompt_length: int
    frames: int = 1
    frame_stride: int = 1
    cameras: tuple[str, ...] = ()
    state_space: ActionSpace | None = None
    text_length: int = 48
    plan_length: int = 32
    plan: bool = False
    augment: Augmentation = Augmentation()
    whole_plans: bool = True
    top_p: float = 1.0
    smoothing: float = 0.0
    terminate_threshold: float = 0.5
    patience: int = 1
    one_pass: bool = False
    long_prompts: str = 'raise'
    batch_sizes: Sequence[int] | None = None
    embodiment: RobotCard | None = None
    seed: int = 0

    @classmethod
    def from_config(cls, config: Any, action_space: ActionSpace, **changes: Any) -> Settings:
        """The settings for a model that a run of `config` trained.

        The policy plans by default if at least half of every robot's steps were taught with a plan.
        Sets of weight 0 are no robots' here.

        Args:
            config: of the training run.
            action_space: of the robot that the policy acts for.
            **changes: fields that differ from what the config implies.

        Raises:
            ValueError: an unknown field; names the nearest.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in changes:
            check('policy setting', name, names)
        data = config.data
        robots = [robot for robot in data.get('robot', {}).values() if robot.get('weight', 1.0)]
        shares = [robot.get('plan_share', 0.0) for robot in robots]
        implied = {
            'image_size': data.image_size,
            'prompt_length': data.prompt_length,
            'frames': data.frames,
            'frame_stride': data.get('frame_stride', 1),
            'cameras': tuple(data.get('cameras', ())),
            # The longest target was a plan, an action and EOS.
            'text_length': data.target_length,
            'plan_length': max(data.target_length - action_space.length - 1, 8),
            'plan': bool(shares) and min(shares) >= 0.5,
            'augment': Augmentation.from_config(data.get('augment', {})),
            'whole_plans': any(shares),
            'smoothing': config.get('action_smoothing', 0.0),
            'one_pass': config.get('one_pass', False),
        }
        return cls(**(implied | changes))

    @property
    def pictures(self) -> int:
        """Pictures of an observation: of each frame one a camera."""
        return self.frames * max(1, len(self.cameras))

    @property
    def sampling(self) -> dict[str, Any]:
        """Those that `Sampler` takes."""
        names = ('top_p', 'smoothing', 'terminate_threshold')
        return {name: getattr(self, name) for name in names}

    def crops(self, kind: Kind) -> bool:
        """Whether answers of a kind are made on the crop."""
        return kind == Kind.ACTION or (kind == Kind.PLAN and not self.whole_plans)
