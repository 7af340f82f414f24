"""Measures without a robot: actions on held-out examples, answers to questions about pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.data import history, sources
from rt2_jax.data.data_config import DataConfig, SmallWebSet
from rt2_jax.data.example import Example
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.data.web import small_web
from rt2_jax.evaluation import report
from rt2_jax.parallel import distributed
from rt2_jax.policy import Policy
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace


def expert_steps(
    suite: str, seeds: Sequence[int], image_size: int, frames: int = 1, frame_stride: int = 1
) -> list[Example]:
    """The steps of the expert in episodes of a suite, as robot examples.

    Args:
        suite: a name of `suites.SUITES`.
        seeds: which episodes.
        image_size: height and width of the frames, pixels.
        frames: frames an example, oldest first; the first one stands in for those before it.
        frame_stride: steps from one of them to the next.
    """
    from rt2_jax.envs.tabletop import expert
    from rt2_jax.envs.tabletop.env import TabletopEnv

    env = TabletopEnv(suite, image_size=image_size, render_mode=None)
    examples = []
    try:
        for seed in seeds:
            observation, _ = env.reset(seed=seed)
            past = history.History(frames, frame_stride)
            over = False
            while not over:
                action = expert.act(env.state, env.start, env.task)
                examples.append(
                    Example(
                        frames=past.add(observation['image']),
                        prompt=prompts.robot(observation['instruction']),
                        action=action,
                        source=suite,
                        kind='robot',
                    )
                )
                observation, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
    finally:
        env.close()
    return examples


def held_out_steps(
    config: Any,
    space: ActionSpace,
    episodes: int,
    cards: Mapping[str, RobotCard],
    indexes: epath.PathLike | None = None,
) -> dict[str, list[Example]]:
    """Steps of the episodes that a run held out, by data set, for those of this action space.

    Several processes take a share of the episodes each.

    Args:
        config: the run's config.
        space: of the policy.
        episodes: most episodes a set.
        cards: those that the run has recorded, by robot set; others are looked up by the config's name.
        indexes: the run's folder for indexes of its data, see `sources.open_sources`.

    Raises:
        ValueError: the run held no such episodes out, or trained on them (splits.Leakage).
    """
    config = _with_cards(config, cards)
    trained = sources.open_sources(DataConfig.from_config(config.data), indexes).by_name()
    steps = {}
    for name, source in sources.open_validation(config, trained, indexes).by_name().items():
        if isinstance(source, StepSource) and source.action_space == space:
            table = source.table
            positions = distributed.share(range(min(episodes, len(table.episodes))))
            steps[name] = [source[i] for p in positions for i in table.episode_steps(p)]
    if not steps:
        raise ValueError('nothing that is held out has the action space of the policy')
    return steps


def _with_cards(config: Any, cards: Mapping[str, RobotCard]) -> Any:
    """The config with the cards in place of their names."""
    config = config.copy_and_resolve_references()
    for sets in (config.data.robot, config.validation.robot):
        for name in sets:
            with sets[name].unlocked() as fields, fields.ignore_type():
                fields.card = cards.get(name, fields.card)
    return config


def actions(policy: Policy, examples: Sequence[Example], batch: int = 64) -> dict[str, Any]:
    """Token accuracy and action error on robot examples (those with an action and no plan).

    Several processes give each its own examples, and get the figures of all.

    Args:
        policy: to be measured.
        examples: robot examples.
        batch: rows of a teacher-forced batch.

    Returns:
        Ready for JSON: `loss` (nats a token) and `token_accuracy` with the right tokens before each
        (teacher forcing, whole vocabulary), by position too; and of the greedy action, the mean and
        95th percentile of the absolute error of each dimension in its unit, the share within one
        bin, and the accuracy of the terminate flag where there is one.
    """
    tokenizer = policy.action_tokenizer
    truth = np.stack([np.asarray(example.action) for example in examples])
    losses, hits = _teacher_forced(policy, examples, tokenizer.encode(truth), batch)
    answers = policy.act_batch(
        [example.frames for example in examples],
        [example.prompt for example in examples],
        plan=False,
        raw=True,
    )
    guess = np.stack([answer.action for answer in answers])
    losses, hits, truth, guess = map(distributed.gather_rows, (losses, hits, truth, guess))
    space = tokenizer.space
    flags = int(space.terminate)
    error = np.abs(guess - truth)[:, flags:]
    within = np.abs(tokenizer.to_integers(guess) - tokenizer.to_integers(truth))[:, flags:] <= 1
    by_position = zip(space.number_names, hits.mean(0).round(4).tolist(), strict=True)
    flag = float((guess[:, 0] == (truth[:, 0] >= 0.5)).mean())
    return {
        'steps': len(truth),
        'loss': round(float(losses.mean()), 4),
        'token_accuracy': round(float(hits.mean()), 4),
        'token_accuracy_by_position': dict(by_position),
        **({'terminate_accuracy': round(flag, 4)} if space.terminate else {}),
        'error': {
            name: {
                'unit': unit,
                'mean': round(float(error[:, i].mean()), 5),
                'p95': round(float(np.percentile(error[:, i], 95)), 5),
                'within_one_bin': round(float(within[:, i].mean()), 4),
            }
            for i, (name, unit) in enumerate(zip(space.names, space.units, strict=True))
        },
    }


def _teacher_forced(
    policy: Policy, examples: Sequence[Example], target: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and hits, float32 [N, L] each, of answers `target` int32 [N, L]."""

    @jax.jit
    def score(
        images: jax.Array, prompt: jax.Array, target: jax.Array, target_in: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits: Any = policy.model.apply({'params': policy.params}, images, prompt, target_in)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)
        return -log_p[..., 0], logits.argmax(-1) == target

    scores = []
    target_in = policy.sampler.grammar.decoder_inputs(target)
    for start in range(0, len(examples), batch):
        # The last batch is filled up with the first example, so that one size is compiled.
        rows = [i if i < len(examples) else 0 for i in range(start, start + batch)]
        images = np.stack([policy.preprocess(examples[i].frames) for i in rows])
        prompt = policy.prompt_array([examples[i].prompt for i in rows])
        scores.append(jax.device_get(score(images, prompt, target[rows], target_in[rows])))
    loss, hits = (np.concatenate(parts)[: len(examples)] for parts in zip(*scores, strict=True))
    return loss, hits.astype(np.float32)


def new_web(policy: Policy, seed: int) -> small_web.SmallWeb:
    """The small web that a policy learnt from, of another seed: scenes that it has not seen.

    It is the one with all defaults where the policy learnt from none, or from several.
    """
    data = {**policy.config.data, 'robot': {}} if policy.config else {}
    sets = DataConfig.from_config(data).web.values() if data else ()
    learnt = [web.source for web in sets if isinstance(web, SmallWebSet)]
    web = learnt[0] if len(learnt) == 1 else small_web.SmallWeb()
    return dataclasses.replace(web, seed=seed, size=policy.image_size)


def questions(
    policy: Policy,
    source: small_web.SmallWeb,
    number: int,
    *,
    batch: int = 64,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Accuracy on the first `number` questions of a small web, overall and by kind of question.

    Several processes answer a share each, and get the figures of all.

    Args:
        policy: to be measured.
        source: of the questions; its `score` judges: to the letter, places within half a tile.
        number: of questions.
        batch: questions a call of the policy.
        progress: called with a line now and then.
    """
    right: dict[str, list[bool]] = {}
    numbers = distributed.share(range(number))
    for start in range(0, len(numbers), batch):
        examples = [source[i] for i in numbers[start : start + batch]]
        answers = policy.answer_batch(
            [example.frames for example in examples],
            [example.prompt for example in examples],
            raw=True,
        )
        for example, answer in zip(examples, answers, strict=True):
            right.setdefault(example.kind, []).append(small_web.score(example, answer))
        if start // batch % 10 == 9:
            progress(f'web: {start + len(examples)} of {len(numbers)} questions')
    parts = distributed.gather(right)
    kinds = sorted({kind for part in parts for kind in part})
    right = {kind: [hit for part in parts for hit in part.get(kind, ())] for kind in kinds}
    everything = [hit for hits in right.values() for hit in hits]
    return _accuracy(everything) | {
        'kinds': {kind: _accuracy(hits) for kind, hits in right.items()}
    }


def _accuracy(hits: Sequence[bool]) -> dict[str, Any]:
    share = report.proportion(sum(hits), len(hits))
    return {
        'accuracy': share['success'],
        'questions': share['episodes'],
        'interval': share['interval'],
    }
