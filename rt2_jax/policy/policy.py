"""Observation and instruction in, action out: what evaluation, serving and notebooks share.

A frame is uint8 [H, W, 3], or such a picture of each camera. An action is float32 [L], the numbers of
the robot's action space: RT-2's arm has 8 (terminate, then seven dimensions), Language-Table's 2.
Without a terminate number the policy never ends an episode: whoever runs it has to.

    policy = Policy.from_checkpoint("runs/cofinetune")
    robot = policy.robot()
    answer = policy.act(robot.see(image), "pick banana")
    arm.move(policy.convention().values(answer.action, robot))  # in the robot's own numbers
    policy.answer(image, "where is the banana")
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
from typing import Any, cast

from jax.sharding import Mesh
import numpy as np

from rt2_jax.checkpoints import loading, param_shapes
from rt2_jax.data import views
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.models import backbone
from rt2_jax.models.backbone import Backbone
from rt2_jax.nearest import check
from rt2_jax.policy import observations
from rt2_jax.policy.answers import Answer, decode_answer
from rt2_jax.policy.attention import ImageAttention
from rt2_jax.policy.conventions import Convention
from rt2_jax.policy.pointer import Pointer
from rt2_jax.policy.policy_settings import Settings
from rt2_jax.policy.prompt_encoder import PromptEncoder, check_text, padded
from rt2_jax.policy.robot import Robot
from rt2_jax.policy.runner import Inputs, Runner
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import train_state as state_lib

Plan = bool | str


class Policy:
    """A model with all that turns pixels and words into actions and answers.

    Each static batch size is compiled once (`warm_up` does it ahead). Thread-safe but for the count
    of clipped prompts.

    Attributes:
        model: the Flax module.
        params: its parameter tree.
        tokenizer: of the run.
        action_tokenizer: of the action space that the policy acts in.
        settings: see `Settings`; `image_size`, `frames`, `frame_stride`, `cameras`, `prompt_length`,
            `plan` and `embodiment` are short for its fields.
        batch_sizes: static batch sizes, ascending.
        mesh: devices of this process that share the work, None for one device. Parameters and batches
            are split over it as in training; `params` must lie on it already (`state.place`).
        source: the robot data set that the policy acts for; '' if made without a checkpoint.
        sources: all robot data sets that it learnt from.
        cards: the cards that the checkpoint has recorded, by robot set or source.
        config: the training run's config, None if made without one.
        step: how many steps the weights were trained for, None if not known.
        state_grid: of the numbers of states in prompts; None where they have none.
        pointer: puts places in the stead of things in instructions, for a model that needs them.
    """

    def __init__(
        self,
        model: Backbone,
        params: Any,
        tokenizer: Tokenizer,
        action_space: ActionSpace,
        settings: Settings,
        mesh: Mesh | None = None,
    ) -> None:
        self.model, self.tokenizer, self.mesh = model, tokenizer, mesh
        self.action_tokenizer = ActionTokenizer(action_space, tokenizer)
        self.settings = settings
        self.image_size, self.prompt_length = settings.image_size, settings.prompt_length
        self.frames, self.frame_stride = settings.frames, settings.frame_stride
        self.plan, self.embodiment = settings.plan, settings.embodiment
        self.source = ''
        self.sources: tuple[str, ...] = ()
        self.cards: dict[str, RobotCard] = {}
        self.config: Any = None
        self.step: int | None = None
        self.pointer: Pointer | None = None
        grammar = Grammar.create(
            tokenizer,
            self.action_tokenizer,
            text_length=settings.text_length,
            plan_length=settings.plan_length,
            one_pass=settings.one_pass,
        )
        self.sampler = Sampler(model, grammar, **settings.sampling)
        self._runner = Runner(
            self.sampler, params, self.prompt_length, settings.batch_sizes, mesh, settings.seed
        )
        self.params, self.batch_sizes = self._runner.params, self._runner.batch_sizes
        self._prompts = PromptEncoder(
            tokenizer, self.prompt_length, settings.long_prompts, settings.state_space
        )
        self.cameras, self.state_grid = settings.cameras, self._prompts.state_grid
        self._image_attention = ImageAttention(model, grammar, self.prompt_length, mesh)

    @classmethod
    def from_checkpoint(
        cls,
        workdir: Any,
        step: int | None = None,
        *,
        source: str = '',
        untrained: bool = False,
        mesh: Mesh | None = None,
        weights: str = compact.STORED,
        **settings: Any,
    ) -> Policy:
        """The policy of a training run's directory, a packed one, or 'package:NAME'.

        Args:
            workdir: where the checkpoint is; nothing else is needed.
            step: which step; the latest by default.
            source: the robot data set in whose action space to act, where the run learnt from several
                (one of `sources`); by default the only one, or else that of its config.embodiment.
            untrained: random weights in place of the trained ones, as a baseline.
            mesh: see the class; every array is read straight to where it lies.
            weights: 'stored' as the run multiplied them, or 'bfloat16' or 'int8', which are read faster
                (`decoding/compact.py`).
            **settings: fields of `Settings` in place of the checkpoint's own.

        Raises:
            CheckpointError: no such directory, empty, half-written, no such step or source, or several
                sources and none is named.
            ValueError: no such type of weights, or no such setting.
        """
        check('weights', weights, compact.WEIGHTS)
        if untrained:
            loaded = loading.open_for_inference(workdir, step)
            params = param_shapes.random(loaded.config, loaded.tokenizer, settings.get('seed', 0))
        else:
            onto = functools.partial(param_shapes.shapes, mesh=mesh)
            loaded = loading.load_for_inference(workdir, step, onto)
            params = loaded.params
        chosen = loaded.select_source(source)
        acting = {'embodiment': chosen.card, 'state_space': chosen.state_space}
        settings = acting | {'mesh': mesh, 'weights': weights} | settings
        parts = loaded.config, params, loaded.tokenizer, chosen.action_space
        policy = cls.from_config(*parts, **settings)
        policy.source, policy.sources = chosen.name, tuple(sorted(loaded.action_spaces))
        policy.cards, policy.step = loaded.cards, 0 if untrained else loaded.step
        return policy

    @classmethod
    def from_config(
        cls,
        config: Any,
        params: Any,
        tokenizer: Tokenizer,
        action_space: ActionSpace,
        *,
        mesh: Mesh | None = None,
        weights: str = compact.STORED,
        **settings: Any,
    ) -> Policy:
        """The policy of a model in memory, with the settings that its training run's config implies.

        Args:
            config: of the training run.
            params: the model's parameter tree.
            tokenizer: of the run.
            action_space: of the robot that the policy acts for.
            mesh: see `from_checkpoint`; so are `weights` and `settings`.
            weights: in which type they are multiplied.
            **settings: fields of `Settings`.
        """
        chosen = Settings.from_config(config, action_space, **settings)
        model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids)
        params = state_lib.place(params, param_shapes.shapes(config, tokenizer, mesh))
        inputs = param_shapes.inputs(config)
        model, params = compact.compact(model, params, weights, inputs, mesh)
        policy = cls(model, params, tokenizer, action_space, chosen, mesh)
        policy.config = config
        if source := config.get('pointer', ''):
            policy.pointer = Pointer(cls.from_checkpoint(source))
        return policy

    def act(self, image: Any, instruction: str, state: Any = None, **settings: Any) -> Answer:
        """The next action for one robot; arguments as for `act_batch`."""
        return self.act_batch([image], [instruction], [state], **settings)[0]

    def act_batch(
        self,
        images: Sequence[Any],
        instructions: Sequence[str],
        states: Sequence[Any] | None = None,
        *,
        temperature: float = 0.0,
        plan: Plan | None | Sequence[Plan] = None,
        seed: int | None = None,
        raw: bool = False,
        alternatives: int = 0,
    ) -> list[Answer]:
        """The next actions of several robots.

        Args:
            images: one observation a robot: uint8 [H, W, 3] RGB of any size, JPEG or PNG bytes, or,
                for a model with a history, F of these, oldest first; of several cameras these by
                name, or as `Robot.see` gives them.
            instructions: one a robot, as an operator says it ("pick banana").
            states: of each robot, float [K] in its data's numbers, for a policy that learnt with them.
            temperature: 0 takes the likeliest action.
            plan: False acts at once, True lets the model plan first, a text is the plan (one for all
                or one a robot); None does what the checkpoint was trained for.
            seed: of the draws where the temperature is above 0; None takes another one each call.
            raw: the instructions are whole prompts already ("Q: what action ...? A:"), a state included.
            alternatives: how many likeliest values of each number the answers hold; 0 costs nothing.

        Raises:
            ValueError: an image that is not uint8 RGB, numbers of images and instructions that
                differ, or an instruction longer than the prompt (unless `long_prompts='clip'`).
        """
        plan = self.plan if plan is None else plan
        plans = [plan] * len(images) if isinstance(plan, (bool, str)) else list(plan)
        states = [None] * len(images) if states is None else states
        if not len(images) == len(instructions) == len(plans) == len(states):
            counts = f'{len(images)} images, {len(instructions)} instructions, {len(plans)} plans'
            raise ValueError(f'{counts}, {len(states)} states; there must be as many of each.')
        kinds = [Kind.PLAN if plan else Kind.ACTION for plan in plans]
        forced = [
            self.tokenizer.encode(prompts.plan(plan)) if isinstance(plan, str) and plan else []
            for plan in plans
        ]
        frames = (views.observed(image, self.cameras) for image in images)
        rows = zip(frames, instructions, kinds, forced, states, strict=True)
        inputs = [self.prepare(*row, raw=raw) for row in rows]
        answers = self.run(inputs, temperature=temperature, seed=seed, alternatives=alternatives)
        return cast(list[Answer], answers)

    def answer(self, image: Any, question: str, **settings: Any) -> str:
        """The answer in words to a question about a picture ("what is in the image")."""
        return self.answer_batch([image], [question], **settings)[0]

    def answer_batch(
        self,
        images: Sequence[Any],
        questions: Sequence[str],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        raw: bool = False,
    ) -> list[str]:
        """Answers to several questions, as `act_batch`; a picture alone stood still before all cameras."""
        if len(images) != len(questions):
            raise ValueError(f'{len(images)} images for {len(questions)} questions.')
        frames = (views.observed(image, self.cameras) for image in images)
        rows = zip(frames, questions, strict=True)
        inputs = [self.prepare(*row, Kind.TEXT, raw=raw) for row in rows]
        return cast(list[str], self.run(inputs, temperature=temperature, seed=seed))

    def prepare(
        self,
        frames: np.ndarray,
        text: str,
        kind: Kind,
        forced: Sequence[int] = (),
        state: Any = None,
        *,
        raw: bool = False,
    ) -> Inputs:
        """Inputs of `run`: cropped, resized and tokenised. Any thread may do it.

        Args:
            frames: uint8 [F * V, H, W, 3], as `views.observed` gives them; one is enough for a question.
            text: an instruction, or a question where the kind is TEXT.
            kind: of the answer.
            forced: token ids of a given plan.
            state: see `act_batch`.
            raw: the text is the whole prompt.
        """
        text = check_text('question' if kind == Kind.TEXT else 'instruction', text)
        if self.pointer and kind != Kind.TEXT and not raw:
            text = self.pointer(frames[0], text)
        prompt = self._prompts.encode(text, None if raw else kind, state)
        return Inputs(observations.resized(frames, kind, self.settings), prompt, kind, forced)

    def run(
        self,
        inputs: Sequence[Inputs],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        alternatives: int = 0,
    ) -> list[Answer | str]:
        """One answer for each of the inputs: a text where the kind is TEXT."""
        samples = self._runner.run(
            inputs, temperature=temperature, seed=seed, alternatives=alternatives
        )
        return [
            self.tokenizer.decode(sample.tokens.tolist()).strip()
            if row.kind == Kind.TEXT
            else decode_answer(sample, self.action_tokenizer, self.tokenizer)
            for row, sample in zip(inputs, samples, strict=True)
        ]

    def attention(
        self,
        image: Any,
        instruction: str,
        answer: Answer,
        state: Any = None,
        *,
        per_layer: bool = False,
        raw: bool = False,
    ) -> np.ndarray:
        """Where the model looked when it decided each number of an action.

        Args:
            image: of the `act` that gave the answer; so are `instruction` and `raw`.
            instruction: what was to be done.
            answer: its plan is part of the context.
            state: as `image`.
            per_layer: by layer of the decoder, in place of the mean over them.
            raw: the instruction is the whole prompt.

        Returns:
            float32 [L, F * V, rows, columns] ([layers, L, ...] if `per_layer`), mean over heads: the share
            of each image token, in rows from the top left of the frame as `preprocess` gives it. The
            rest to 1 went to the prompt and, in some models, to the tokens of the answer before.

        Raises:
            ValueError: as `act_batch`, or the action is not of this policy's action space.
        """
        numbers, length = len(answer.tokens), self.action_tokenizer.length
        if numbers != length:
            raise ValueError(f'The action has {numbers} numbers; this policy decides {length}.')
        kind = Kind.PLAN if len(answer.plan_tokens) else Kind.ACTION
        pictures = views.observed(image, self.cameras)
        inputs = self.prepare(pictures, instruction, kind, state=state, raw=raw)
        tokens = [*answer.plan_tokens, *answer.tokens]
        attention = self._image_attention(self.params, inputs, tokens)
        return attention if per_layer else attention.mean(0)

    def robot(self) -> Robot:
        """The memory of one robot (its frames, its gripper) that the policy acts for."""
        patience = self.settings.patience
        return Robot(self.frames, self.frame_stride, self.embodiment, patience, self.cameras)

    def convention(self, name: str | None = None) -> Convention:
        """In whose numbers actions leave for the robot, by default its own; see `Convention.create`."""
        return Convention.create(name, self.action_tokenizer.space, self.embodiment)

    def command(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """An action [L] by feature, as the robot's data hold it; see `RobotCard.to_command`.

        Raises:
            ValueError: no card is known, or the action has another length.
        """
        if self.embodiment is None:
            raise ValueError('This policy knows no embodiment card, which says what robots take.')
        return self.embodiment.to_command(action)

    def warm_up(
        self,
        batch_sizes: Sequence[int] | None = None,
        kinds: Sequence[Kind] = (Kind.ACTION,),
        alternatives: int = 0,
    ) -> None:
        """Compiles for these batch sizes (all by default), each kind of answer, and `alternatives`."""
        for size in batch_sizes or self.batch_sizes:
            for kind in kinds:
                inputs = [observations.empty(kind, self.tokenizer.eos_id, self.settings)] * size
                self._runner.run(inputs, seed=0, alternatives=alternatives)

    def warm_up_attention(self) -> None:
        """Compiles `attention`."""
        eos, length = self.tokenizer.eos_id, self.action_tokenizer.length
        inputs = observations.empty(Kind.ACTION, eos, self.settings)
        self._image_attention(self.params, inputs, [eos] * length)

    def preprocess(self, image: Any, kind: Kind = Kind.ACTION) -> np.ndarray:
        """An observation as the model sees it for a kind of answer, uint8 [F * V, S, S, 3]."""
        return observations.resized(views.observed(image, self.cameras), kind, self.settings)

    def prompt_array(self, texts: Sequence[str]) -> np.ndarray:
        """Whole prompts to ids int32 [B, P], padded on the right; raises as `act_batch`."""
        ids = [self._prompts.encode(text) for text in texts]
        return padded(ids, self.prompt_length, self.tokenizer.pad_id)

    @property
    def clipped_prompts(self) -> int:
        """How many prompts were too long and lost words (`long_prompts='clip'` only)."""
        return self._prompts.clipped
