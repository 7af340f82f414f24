"""Does the action follow the words? Recorded frames, with their own instruction and with another.

    python -m rt2_jax.evaluate --workdir=runs/cofinetune --suite=swap --data=runs/data/tabletop \
        --episodes=200 --output=swap.json

A policy that has learnt what episodes look like, and not what they say, answers the same to any
instruction. One frame of each episode is asked about three times at temperature 1: twice with the
episode's own instruction, which shows how far two draws differ anyway, and once with another. The ratio
of the two differences is 1 where words change nothing.

The other instruction is one of another episode, drawn. Where the data say what lies where, as the
tabletop's do, it is one that fits the scene: the same task with another tile, asked of the episode's
first frame, where nothing else tells which tile is meant. Then the likeliest action must also point
to the tile that the instruction names. Its place is reckoned with the usual camera of the tabletop.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data.robot import rlds
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.envs.tabletop import stage, tasks
from rt2_jax.envs.tabletop.scene import Camera
from rt2_jax.evaluation import report
from rt2_jax.policy import Policy
from rt2_jax.text import prompts

SCENE_COLUMNS = tuple(
    f'observation/{name}'
    for name in ('gripper_xyz', 'gripper_pixel', 'object_names', 'object_pixels')
)
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the data say about a frame.

    Attributes:
        gripper: float [3], metres, and `gripper_pixel` float [2].
        gripper_pixel: see `gripper`.
        pixels: float [n, 2], of the tiles.
        own: number of the tile that the episode's instruction names first.
        other: number of the tile that the other instruction names first.
    """

    gripper: np.ndarray
    gripper_pixel: np.ndarray
    pixels: np.ndarray
    own: int
    other: int

    def pointed_at(self, across: np.ndarray) -> int:
        """Number of the tile nearest to where the gripper goes by [2] metres."""
        goal = np.array([*(self.gripper[:2] + across), stage.TILE_HEIGHT])
        usual = Camera()
        # The camera of the episode differs a little; it shows the gripper off by about as much.
        off = self.gripper_pixel - usual.project(self.gripper)
        far = np.linalg.norm(self.pixels - usual.project(goal) - off, axis=1)
        return int(far.argmin())


@dataclasses.dataclass(frozen=True)
class Swap:
    """A frame to ask about.

    Attributes:
        step: its number in the source.
        own: the episode's instruction.
        other: another.
        scene: what lies where, None where the data don't say.
    """

    step: int
    own: str
    other: str
    scene: Scene | None = None


def measure(
    policy: Policy, directory: epath.PathLike, episodes: int, *, first: int = 0, seed: int = 0
) -> dict[str, Any]:
    """How far the action changes with the instruction, on frames of a data set.

    Args:
        policy: to be measured; the data are read by its card.
        directory: of the data set.
        episodes: how many episodes, one frame of each, drawn from all that are left.
        first: leaves out this many episodes at the start of the data set.
        seed: draws episodes, steps and instructions.

    Returns:
        Ready for JSON. `change`: mean distance of actions in bins of the action space, mean over its
        numbers (the terminate flag apart), of two draws for one instruction (`noise`) and for two
        (`swapped`), their ratio (None without noise), and its bootstrap interval, 95 %. `numbers`: the
        same for each number, and by how much the likeliest action changes in its unit. `points`:
        shares of the likeliest actions that point to the tile named, with the own instruction and with
        the other; `stays` is the share that points to the own tile though the other is named. None
        where no frame says what lies where.

    Raises:
        ValueError: the policy knows no card, the data don't fit it, or have only one instruction.
    """
    if policy.embodiment is None:
        raise ValueError('the policy knows no embodiment card, by which its data are read')
    source = rlds.open_source(
        directory,
        policy.embodiment,
        frames=policy.frames,
        frame_stride=policy.frame_stride,
        cameras=policy.cameras,
        # Of a state the policy has its own ranges.
        state='q01-q99' if policy.settings.state_space else '',
        on_corrupt='skip',
    )
    swaps = choose(source, episodes, first=first, seed=seed)
    frames = [source.frames(swap.step) for swap in swaps]
    own, other = [swap.own for swap in swaps], [swap.other for swap in swaps]
    states = [source.state(swap.step) for swap in swaps]
    draw = lambda words, number: _actions(
        policy, frames, words, states, temperature=1.0, seed=3 * seed + number
    )
    draws = [draw(own, 0), draw(own, 1), draw(other, 2)]
    likeliest = [_actions(policy, frames, words, states) for words in (own, other)]
    space = policy.action_tokenizer.space
    flags = int(space.terminate)
    first_draw, again, swapped = (policy.action_tokenizer.to_integers(a)[:, flags:] for a in draws)
    noise = np.abs(first_draw - again).astype(np.float64)
    change = np.abs(first_draw - swapped).astype(np.float64)
    moved = np.abs(likeliest[0] - likeliest[1])[:, flags:]
    return {
        'frames': len(swaps),
        'scenes': sum(swap.scene is not None for swap in swaps),
        'change': _ratio(change.mean(1), noise.mean(1), seed),
        'numbers': {
            name: {
                'noise': round(float(noise[:, i].mean()), 3),
                'swapped': round(float(change[:, i].mean()), 3),
                'likeliest': round(float(moved[:, i].mean()), 5),
                'unit': unit,
            }
            for i, (name, unit) in enumerate(zip(space.names, space.units, strict=True))
        },
        'points': _points(swaps, likeliest, space.number_names),
        'examples': [[swap.own, swap.other] for swap in swaps[:5]],
    }


def choose(source: StepSource, episodes: int, *, first: int = 0, seed: int = 0) -> list[Swap]:
    """The frames to ask about, and the other instruction of each; see `measure`."""
    rng = np.random.default_rng([seed, 23])
    table = source.table
    positions = first + rng.permutation(max(0, len(table.episodes) - first))[:episodes]
    if not len(positions):
        raise ValueError(f'{len(table.episodes)} episodes, and the first {first} are left out')
    texts = table.texts()[1]
    places = set(SCENE_COLUMNS) <= set(source.index.about['columns'])
    swaps = []
    for position in positions.tolist():
        steps = table.episode_steps(position)
        raw = table.raw(steps[0])
        if places and (swap := _within_scene(steps[0], raw, rng)):
            swaps.append(swap)
            continue
        # In the first half, since the end of an episode says what it was about.
        step = steps[int(rng.integers((len(steps) + 1) // 2))]
        own = table.instruction(step)
        others = [text for text in texts if text != own]
        if not others:
            raise ValueError(f'all episodes have one instruction, {own!r}')
        swaps.append(Swap(step, own, others[int(rng.integers(len(others)))]))
    return swaps


def _within_scene(step: int, raw: Mapping[str, Any], rng: np.random.Generator) -> Swap | None:
    """A swap by the same task with another tile of the frame; None where the words don't name one."""
    text = raw['instruction']
    names = [name for name in raw['observation/object_names'].split('\n') if name]
    kind, _, words = text.partition(' ')
    if kind not in tasks.KINDS or len(set(names)) < 2:
        return None
    x, y, direction = words, '', ''
    if kind == 'push':
        x, _, y = words.partition(' to ')
    elif kind == 'turn':
        x, _, direction = words.rpartition(' ')
    pixels = raw['observation/object_pixels'][: len(names)]
    named = x in names and (kind != 'push' or y in names)
    if not named or not np.isfinite(pixels).all():
        return None
    other = str(rng.choice([name for name in names if name != x]))
    swapped = prompts.phrase(kind, other, x if other == y else y, direction)
    scene = Scene(
        raw['observation/gripper_xyz'],
        raw['observation/gripper_pixel'],
        pixels,
        names.index(x),
        names.index(other),
    )
    return Swap(step, text, swapped, scene)


def _actions(
    policy: Policy,
    frames: list[np.ndarray],
    words: list[str],
    states: list[np.ndarray | None],
    **settings: Any,
) -> np.ndarray:
    """Float32 [N, L]."""
    answers = policy.act_batch(frames, words, states, **settings)
    return np.stack([answer.action for answer in answers])


def _ratio(change: np.ndarray, noise: np.ndarray, seed: int) -> dict[str, Any]:
    figures = {'swapped': round(float(change.mean()), 3), 'noise': round(float(noise.mean()), 3)}
    if not noise.any():
        return figures | {'ratio': None, 'interval': None}
    rows = np.random.default_rng([seed, 29]).integers(len(noise), size=(_RESAMPLES, len(noise)))
    # Half a bin at least, so that a resample without noise has a ratio too.
    ratios = change[rows].mean(1) / np.maximum(noise[rows].mean(1), 0.5 / len(noise))
    low, high = np.percentile(ratios, (2.5, 97.5))
    return figures | {
        'ratio': round(float(change.mean() / noise.mean()), 3),
        'interval': [round(float(low), 3), round(float(high), 3)],
    }


def _points(
    swaps: list[Swap], likeliest: list[np.ndarray], names: tuple[str, ...]
) -> dict[str, Any] | None:
    """What the likeliest actions point to; see `measure`."""
    if not {'dx', 'dy'} <= set(names):
        return None
    across = [names.index('dx'), names.index('dy')]
    own = again = stays = number = 0
    by_chance = 0.0
    for swap, first, second in zip(swaps, *likeliest, strict=True):
        if (scene := swap.scene) is None:
            continue
        number += 1
        own += scene.pointed_at(first[across]) == scene.own
        again += scene.pointed_at(second[across]) == scene.other
        stays += scene.pointed_at(second[across]) == scene.own
        by_chance += 1 / len(scene.pixels)
    if not number:
        return None
    return {
        'own': report.share(own, number),
        'swapped': report.share(again, number),
        'stays': report.share(stays, number),
        'by_chance': round(by_chance / number, 4),
    }
