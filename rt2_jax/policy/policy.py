"""Observation and instruction in, action out: what evaluation, serving and notebooks share.

A frame is uint8 [H, W, 3]. An action is float32 [L], the numbers of the robot's action space: RT-2's
arm has 8 (terminate, then seven dimensions), Language-Table's 2. Where the space has no terminate
number, the policy never ends an episode: whoever runs it has to.

    policy = Policy.from_checkpoint("runs/cofinetune")
    robot = policy.robot()
    decision = policy.act(robot.see(image), "pick banana")
    arm.move(policy.convention().values(decision.action, robot))  # in the robot's own numbers
    policy.answer(image, "where is the banana")
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import itertools
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh
import numpy as np

from rt2_jax.checkpoints import loading, param_shapes as weights_lib
from rt2_jax.data import history, images as image_processing
from rt2_jax.data.augmentation import Augmentation
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler, padded
from rt2_jax.models import backbone
from rt2_jax.nearest import check
from rt2_jax.policy import batches, settings as settings_lib
from rt2_jax.policy.attention import ImageAttention
from rt2_jax.policy.batches import Answer, Question
from rt2_jax.policy.conventions import Convention
from rt2_jax.policy.decision import Decision, decided
from rt2_jax.policy.prompting import Prompts, checked
from rt2_jax.policy.robot import Robot
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import state as state_lib

Plan = bool | str
_WORDING = {Kind.ACTION: prompts.robot, Kind.PLAN: prompts.robot_plan, Kind.TEXT: prompts.web}


class Policy:
    """A model with all that turns pixels and words into actions and answers.

    Each static batch size is compiled once (`warm_up` does it ahead). Thread-safe but for the counters.

    Attributes:
      model: the Flax module; params: its parameter tree; tokenizer.
      action_tokenizer: of the action space that the policy acts in.
      embodiment: the card of the robot that it acts for, None if unknown.
      source, sources: the robot data set that it acts for, of all those that it learnt from, by name;
        '' and none if made without a checkpoint, or learnt from no robot.
      cards: the cards that the checkpoint has recorded, by robot set or source.
      image_size: height and width of the frames that the model takes, pixels.
      frames, frame_stride: number F of frames an observation has, oldest first; steps between them.
      prompts: makes a text the prompt that the model takes; prompt_length: its most tokens, P.
      mesh: devices of this process that share the work, None for one device. Parameters and batches
        are split over it as in training; `params` must lie on it already (`state.place`).
      plan: whether `act` plans where it isn't told.
      augment: what training did to frames at random; actions are decided on the centre of what it
        cropped, questions answered on whole frames.
      whole_plans: whether plans, too, are made on whole frames, because they speak of places.
      config: the training run's config, None if made without one.
      step: how many steps the weights were trained for, None if not known.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        tokenizer: Tokenizer,
        action_space: ActionSpace,
        *,
        image_size: int,
        prompt_length: int,
        frames: int = 1,
        frame_stride: int = 1,
        text_length: int = 48,
        plan_length: int = 32,
        plan: bool = False,
        augment: Augmentation = Augmentation(),
        whole_plans: bool = True,
        top_p: float = 1.0,
        long_prompts: str = 'raise',
        batch_sizes: Sequence[int] | None = None,
        embodiment: RobotCard | None = None,
        mesh: Mesh | None = None,
        seed: int = 0,
    ):
        self.model = model
        self.params = params if mesh else jax.device_put(params)
        self.mesh, self.tokenizer = mesh, tokenizer
        self.action_tokenizer = ActionTokenizer(action_space, tokenizer)
        self.image_size, self.frames, self.frame_stride = image_size, frames, frame_stride
        self.prompts = Prompts(tokenizer, prompt_length, long_prompts)
        self.prompt_length = prompt_length
        self.plan, self.augment, self.whole_plans = plan, augment, whole_plans
        self.batch_sizes = batches.check_sizes(batch_sizes, mesh)
        self.embodiment = embodiment
        self.source, self.sources = '', ()
        self.cards: dict[str, RobotCard] = {}
        self.config: Any = None
        self.step: int | None = None
        self.sampler = Sampler(
            model,
            Grammar.create(
                tokenizer, self.action_tokenizer, text_length=text_length, plan_length=plan_length
            ),
            top_p=top_p,
        )
        self._image_attention = ImageAttention(model, prompt_length, mesh)
        self._key = jax.random.key(seed)
        self._calls = itertools.count()

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
          **settings: of the constructor, in place of the checkpoint's own.

        Raises:
          CheckpointError: no such directory, empty, half-written, no such step or source, or several
            sources of which none is said to be the one.
          ValueError: no such type of weights.
        """
        check('weights', weights, compact.WEIGHTS)
        if untrained:
            loaded = loading.open_for_inference(workdir, step)
            params = weights_lib.random(loaded.config, loaded.tokenizer, settings.get('seed', 0))
        else:
            onto = functools.partial(weights_lib.shapes, mesh=mesh)
            loaded = loading.load_for_inference(workdir, step, onto)
            params = loaded.params
        chosen = loaded.select_source(source)
        settings = {'embodiment': chosen.card, 'mesh': mesh, 'weights': weights} | settings
        parts = loaded.config, params, loaded.tokenizer, chosen.action_space
        policy = cls.from_config(*parts, **settings)
        policy.source, policy.sources = chosen.name, tuple(sorted(loaded.action_spaces))
        policy.cards = loaded.cards
        policy.step = 0 if untrained else loaded.step
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
        """The policy of a model that is at hand, as a training run's config taught it."""
        model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids)
        params = state_lib.place(params, weights_lib.shapes(config, tokenizer, mesh))
        inputs = weights_lib.inputs(config)
        model, params = compact.compact(model, params, weights, inputs, mesh)
        policy = cls(
            model,
            params,
            tokenizer,
            action_space,
            mesh=mesh,
            **(settings_lib.of_config(config, action_space) | settings),
        )
        policy.config = config
        return policy

    def act(self, image: Any, instruction: str, **settings: Any) -> Decision:
        """The next action for one robot; arguments as for `act_batch`."""
        return self.act_batch([image], [instruction], **settings)[0]

    def act_batch(
        self,
        images: Sequence[Any],
        instructions: Sequence[str],
        *,
        temperature: float = 0.0,
        plan: Plan | None | Sequence[Plan] = None,
        seed: int | None = None,
        raw: bool = False,
        alternatives: int = 0,
    ) -> list[Decision]:
        """The next actions of several robots.

        Args:
          images: one observation a robot: uint8 [H, W, 3] RGB of any size, JPEG or PNG bytes, or,
            for a model with a history, F of these, oldest first.
          instructions: one a robot, as an operator says it ("pick banana").
          temperature: 0 takes the likeliest action.
          plan: False acts at once, True lets the model plan first, a text is the plan (one for all
            or one a robot); None does what the checkpoint was trained for.
          seed: of the draws where the temperature is above 0; None takes another one each call.
          raw: the instructions are whole prompts already ("Q: what action ...? A:").
          alternatives: how many likeliest values of each number the decisions hold, 0 costs nothing.

        Raises:
          ValueError: for an image that is not uint8 RGB, numbers of images and instructions that
            differ, or an instruction longer than the prompt (unless `long_prompts='clip'`).
        """
        plan = self.plan if plan is None else plan
        plans = [plan] * len(images) if isinstance(plan, (bool, str)) else list(plan)
        if not len(images) == len(instructions) == len(plans):
            counts = f'{len(images)} images, {len(instructions)} instructions, {len(plans)} plans'
            raise ValueError(f'{counts}; there must be as many of each.')
        kinds = [Kind.PLAN if plan else Kind.ACTION for plan in plans]
        forced = [
            self.tokenizer.encode(prompts.plan(plan)) if isinstance(plan, str) and plan else []
            for plan in plans
        ]
        rows = zip(images, instructions, kinds, forced, strict=True)
        questions = [self.prepare(*row, raw=raw) for row in rows]
        return self.run(questions, temperature=temperature, seed=seed, alternatives=alternatives)

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
        """Answers to several questions; `raw` ones are whole prompts; a single picture stands still."""
        if len(images) != len(questions):
            raise ValueError(f'{len(images)} images for {len(questions)} questions.')
        pairs = zip(images, questions, strict=True)
        rows = [self.prepare(*pair, Kind.TEXT, raw=raw) for pair in pairs]
        return self.run(rows, temperature=temperature, seed=seed)

    def prepare(
        self, image: Any, text: str, kind: Kind, forced: Sequence[int] = (), *, raw: bool = False
    ) -> Question:
        """A row for `run`: checked, cropped, resized and tokenised. Any thread may do it.

        Args:
          image, text, raw: as for `act_batch`, or for `answer_batch` where the kind is TEXT.
          kind: of the answer.
          forced: token ids of a plan that is decided already.
        """
        what = 'question' if kind == Kind.TEXT else 'instruction'
        prompt = self.prompts.ids(str if raw else _WORDING[kind], checked(what, text))
        if kind == Kind.TEXT:
            image = history.of_still(image_processing.observed(image), self.frames)
        return Question(self.preprocess(image, kind), prompt, kind, forced)

    def run(
        self,
        questions: Sequence[Question],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        alternatives: int = 0,
    ) -> list[Any]:
        """Answers to rows of `prepare`: a Decision each, a text where the kind is TEXT."""
        answers = self._sample(questions, temperature, seed, alternatives)
        return list(map(self._decoded, questions, answers))

    def attention(
        self,
        image: Any,
        instruction: str,
        decision: Decision,
        *,
        per_layer: bool = False,
        raw: bool = False,
    ) -> np.ndarray:
        """Where the model looked when it decided each number of an action.

        Args:
          image, instruction, raw: as for the `act` that decided.
          decision: what it decided; its plan is part of the context.
          per_layer: by layer of the decoder, in place of the mean over them.

        Returns:
          float32 [L, F, rows, columns] ([layers, L, ...] if `per_layer`), mean over heads: what each
          image token, in rows from the top left of the frame as `preprocess` gives it, has of the
          attention. A number's look sums to 1 together with what went to the prompt, and in models
          whose layers attend to both at once, to the answer's words so far.

        Raises:
          ValueError: as `act_batch`, or the decision is none of this policy's action space.
        """
        length = self.action_tokenizer.length
        if (numbers := len(decision.tokens)) != length:
            raise ValueError(f'The decision has {numbers} numbers; this policy decides {length}.')
        kind = Kind.PLAN if len(decision.plan_tokens) else Kind.ACTION
        question = self.prepare(image, instruction, kind, raw=raw)
        ids = [*decision.plan_tokens, *decision.tokens]
        longest = self.sampler.grammar.max_length(frozenset({Kind.PLAN}))
        looks = self._image_attention(self.params, question, ids, length, longest)
        return looks if per_layer else looks.mean(0)

    def robot(self) -> Robot:
        """What is to be remembered of one robot (its frames, its gripper) while the policy acts for it."""
        return Robot(self.frames, self.frame_stride, self.embodiment)

    def convention(self, name: str | None = None) -> Convention:
        """In whose numbers actions leave for the robot, by default its own; see `Convention.create`."""
        return Convention.create(name, self.action_tokenizer.space, self.embodiment)

    def command(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """A decided action [L] by feature, as the robot's data hold it; see `RobotCard.to_command`.

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
        """Compiles for these batch sizes (all by default) and each kind of answer by itself.

        A batch of several kinds, and each number of alternatives, is a program of its own.
        """
        frame = np.zeros([self.frames, self.image_size, self.image_size, 3], np.uint8)
        for size in batch_sizes or self.batch_sizes:
            for kind in kinds:
                row = Question(frame, [self.tokenizer.eos_id], kind)
                self._sample([row] * size, 0, 0, alternatives)

    def preprocess(self, image: Any, kind: Kind = Kind.ACTION) -> np.ndarray:
        """One observation to the frames for a kind of answer: uint8 [F, S, S, 3]; see `act_batch`."""
        frames = image_processing.observed(image)
        if len(frames) != self.frames:
            raise ValueError(
                f'This model sees {self.frames} frame(s) at a time, {self.frame_stride} step(s) '
                f'apart; got {len(frames)}. Policy.robot() keeps them.'
            )
        cropped = kind == Kind.ACTION or (kind == Kind.PLAN and not self.whole_plans)
        return self.augment.evaluation(frames, self.image_size, cropped)

    def prompt_array(self, texts: Sequence[str]) -> np.ndarray:
        """Whole prompts to ids int32 [B, P], padded on the right; raises as `act_batch`."""
        rows = [self.prompts.ids(str, text) for text in texts]
        return padded(rows, self.prompts.length, self.tokenizer.pad_id)

    @property
    def clipped_prompts(self) -> int:
        """How many prompts were too long and lost words (`long_prompts='clip'` only)."""
        return self.prompts.clipped

    def _decoded(self, question: Question, answer: Answer) -> Any:
        if question.kind == Kind.TEXT:
            return self.tokenizer.decode(answer.ids.tolist()).strip()
        return decided(answer, self.action_tokenizer, self.tokenizer)

    def _sample(
        self,
        questions: Sequence[Question],
        temperature: float,
        seed: int | None,
        alternatives: int = 0,
    ) -> list[Answer]:
        fresh = seed is None
        key = jax.random.fold_in(self._key, next(self._calls)) if fresh else jax.random.key(seed)
        return batches.ask(
            self.sampler, self.params, questions, sizes=self.batch_sizes, mesh=self.mesh, key=key,
            prompt_length=self.prompts.length, temperature=temperature, alternatives=alternatives,
        )  # fmt: skip
