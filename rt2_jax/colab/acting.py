"""A policy in a notebook: a scene, answers to questions, the numbers of an action, rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from etils import epath
import imageio_ffmpeg
from IPython.display import HTML
from matplotlib.figure import Figure
import mediapy
import numpy as np

from rt2_jax import paths
from rt2_jax.colab import notebook
from rt2_jax.data import images
from rt2_jax.decoding.grammar import Kind
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.evaluation import closed_loop, video
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer

PLACE = 1000  # an answer's u and v are thousandths of the picture's sides
_PLACE = re.compile(r'\d+ \d+')


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A picture to ask about and act on.

    Attributes:
        picture: uint8 [H, W, 3], as the policy gets it.
        instruction: the scene's own; '' of a picture file.
        objects: names of its objects; none are known of a picture file.
    """

    picture: np.ndarray
    instruction: str = ''
    objects: tuple[str, ...] = ()


def tabletop_scene(suite: str, seed: int) -> Scene:
    """The first frame of a suite's episode; ValueError names the nearest of an unknown suite."""
    env = TabletopEnv(suite)
    try:
        observation, info = env.reset(seed=seed)
    finally:
        env.close()
    return Scene(observation['image'], observation['instruction'], tuple(info['object_names']))


def picture_scene(path: epath.PathLike) -> Scene:
    """A JPEG or PNG file.

    Raises:
        ValueError: no such file, or of another format.
    """
    path = paths.of(path)
    if not path.exists():
        raise ValueError(f'There is no {path}; on Colab, upload it by the folder sign on the left')
    try:
        return Scene(images.decode(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def questions(text: str, objects: Sequence[str]) -> list[str]:
    """The questions of a text, separated by semicolons; of an empty one, where each object is."""
    separate = [question.strip() for question in text.split(';') if question.strip()]
    return separate or [f'where is the {name}' for name in objects] or ['what is in the image']


def draw_answers(picture: np.ndarray, answers: Mapping[str, str]) -> Figure:
    """The picture, with a cross at each answer that is a place ("490 370": to the right, down)."""
    height, width = picture.shape[:2]
    figure, axis = notebook.single(5, 5 * height / width)
    axis.imshow(picture, interpolation='nearest')
    axis.axis('off')
    places = {q: a for q, a in answers.items() if _PLACE.fullmatch(a)}
    for (question, answer), colour in zip(places.items(), notebook.CYCLE * 9):
        u, v = (int(number) / PLACE for number in answer.split())
        x, y = u * width - 0.5, v * height - 0.5
        axis.plot(x, y, '+', color='white', markersize=26, markeredgewidth=6)
        axis.plot(x, y, '+', color=colour, markersize=24, markeredgewidth=3, label=question)
    if places:
        figure.legend(loc='outside lower center', fontsize=9, ncols=2)
    return figure


def numbers(policy: Policy, decision: Answer) -> HTML:
    """Every number of the action with its token, its probability and its entropy.

    The last column is what the robot is sent, in its own numbers; a line below explains the gripper.
    """
    space, convention = policy.action_tokenizer.space, policy.convention()
    sent = ['end' if x else 'go on' for x in decision.action[: space.terminate]]
    sent += [f'{x:g}' for x in convention.values(decision.action).astype(np.float32)]
    columns = (
        space.number_names,
        ('',) * space.terminate + space.units,
        map(float, decision.action),
        map(int, policy.action_tokenizer.bin_of_id[decision.tokens]),
        map(float, np.exp(decision.log_probs)),
        map(float, decision.entropies),
        sent,
    )
    header = ('number', 'unit', 'value', 'token', 'probability', 'entropy, nats', 'sent')
    parts: list[Any] = [notebook.table(header, list(zip(*columns, strict=True)))]
    if decision.plan:
        parts.insert(0, f'<b>Plan:</b> {decision.plan}')
    if gripper := convention.describe().get('gripper'):
        relative = gripper['kind'] == 'relative'
        closed, opened = ('closes', 'opens') if relative else ('is closed', 'is open')
        parts.append(
            f'The gripper {closed} at the value +1 and {opened} at -1; the robot is sent '
            f'{gripper["closed"]:g} and {gripper["open"]:g} for these.'
        )
    parts.append(f'Log-probability of the whole answer: {decision.log_prob:.2f} nats.')
    return notebook.stack(*parts)


def alternatives(policy: Policy, decision: Answer) -> Figure:
    """The likeliest values of every number, given the numbers before it."""
    space = policy.action_tokenizer.space
    figure, axes = notebook.grid(space.length, 4, 3.1, 2.6)
    units = ('1',) * space.terminate + space.units
    for name, unit, likeliest, taken, axis in zip(
        space.number_names, units, decision.alternatives, decision.action, axes, strict=True
    ):
        values, probabilities = zip(*likeliest)
        shades = [notebook.ORANGE if np.isclose(v, taken) else notebook.BLUE for v in values]
        axis.barh([_words(name, value) for value in values], probabilities, color=shades)
        axis.invert_yaxis()
        axis.grid(axis='y', visible=False)
        axis.set(title=name if unit == '1' else f'{name}, {unit}', xlim=(0, 1))
        rest = max(1 - sum(probabilities), 0)
        axis.set_xlabel(f'others: {rest:.0%}', fontsize=9, loc='right')
    figure.suptitle('Probability of the likeliest values of each number; orange was taken')
    return figure


def attention(
    policy: Policy, frames: Sequence[np.ndarray], instruction: str, decision: Answer
) -> Figure:
    """Attention of each number of the action over the newest frame.

    Args:
        policy: that made the decision.
        frames: its input.
        instruction: its input.
        decision: its output.
    """
    kind = Kind.PLAN if len(decision.plan_tokens) else Kind.ACTION
    frame = policy.preprocess(frames, kind)[-1]
    maps = policy.attention(frames, instruction, decision)[:, -1]
    names = policy.action_tokenizer.space.number_names
    figure, axes = notebook.grid(len(maps), 4, 2.9, 3.0)
    side = frame.shape[0]
    for name, weights, value, axis in zip(names, maps, decision.action, axes, strict=True):
        # Where there is little attention, the picture shows through.
        opacity = 0.65 * (0.15 + 0.85 * weights / weights.max())
        axis.imshow(frame.mean(axis=2), cmap='gray', vmin=0, vmax=255)
        axis.imshow(
            weights, extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap='inferno', vmin=0,
            alpha=opacity, interpolation='bilinear',
        )  # fmt: skip
        axis.axis('off')
        title = f'{name} = {_words(name, value)}\n{weights.sum():.0%} on the image'
        axis.set_title(title, fontsize=10)
    figure.suptitle('Attention of each number over the image, the brightest being the most of it')
    return figure


def _words(name: str, value: float) -> str:
    if name == 'terminate':
        return 'end' if value >= 0.5 else 'go on'
    return f'{value:+.3f}'


def rollout(
    policy: Policy, suite: str, seed: int, max_steps: int = 20, **settings: Any
) -> closed_loop.Rollout:
    """One recorded episode of a suite by a policy; `settings` as for `Policy.act_batch`."""
    decide = closed_loop.learnt(policy, **settings)
    seen: dict[str, Any] = dict(
        frames=policy.frames,
        frame_stride=policy.frame_stride,
        cameras=policy.cameras,
        card=policy.embodiment,
    )
    run = closed_loop.run(decide, suite, [seed], record=1, max_steps=max_steps, **seen)
    return run.rollouts[0]


def expert_rollout(suite: str, seed: int, max_steps: int = 20) -> closed_loop.Rollout:
    """The same episode by the scripted expert, who knows the truth."""
    run = closed_loop.run(closed_loop.scripted(), suite, [seed], record=1, max_steps=max_steps)
    return run.rollouts[0]


def films(rollouts: Mapping[str, closed_loop.Rollout], fps: float = 3.0) -> HTML:
    """Rollouts side by side, each under its title; 3 frames a second is real time."""
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    videos = {title: video.film(rollout) for title, rollout in rollouts.items()}
    return HTML(mediapy.show_videos(videos, fps=fps, codec='h264', return_html=True))
