"""Episodes of any world, several side by side, so that one call of the policy serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
import time
from typing import Any, NamedTuple

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.envs.world import Environment, Observation, find_suite
from rt2_jax.errors import UserError
from rt2_jax.evaluation import report
from rt2_jax.nearest import nearest
from rt2_jax.parallel import distributed
from rt2_jax.policy import Policy
from rt2_jax.policy.robot import Robot
from rt2_jax.text.actions import ActionTokenizer


class Move(NamedTuple):
    """An action float [terminate + D], and the plan that the policy made for it, '' without one."""

    action: np.ndarray
    plan: str = ''


# Observations and environments to a move each. An observation has the `image` uint8 [F, H, W, 3] with its
# frames oldest first (of V cameras [F * V, H, W, 3], see `data/views.py`), the `state`, None where the world
# has none, the `instruction`, and `is_first`, whether an episode begins with it. The expert looks at the
# environments, policies at the observations.
Decide = Callable[[Sequence[dict[str, Any]], Sequence[Any]], Sequence[Move]]
_FOR_VIDEOS = ('over', 'frames', 'plans')  # of a rollout


class ObservationError(UserError, ValueError):
    """The world lacks what the policy sees or feels."""


@dataclasses.dataclass(eq=False)
class Rollout:
    """The record of one episode.

    Attributes:
        seed: the episode's number in its suite.
        task: its kind of task.
        group: the part of the suite that it belongs to.
        instruction: what the policy was told to do.
        success: whether the goal was reached at the end, see `world.Environment`.
        steps: number of actions.
        terminated: whether the policy ended the episode itself, and not the world or the step limit.
        over: whether the world ended it; for videos.
        clipped: number of commands that the environment clipped.
        out_of_reach: number of commands that left the workspace.
        tiles: how many objects (on the tabletop, tiles) there were to choose from; 0 if not known.
        first_tile: the name of the object that the robot went to first; '' for none.
        recognised: whether that is X.
        brought_to: the name of the object that X was brought to; '' for none.
        brought_to_y: whether that is Y.
        frames: what `render()` showed before each decision and at the end; empty if not recorded.
        plans: of each decision.
    """

    seed: int
    task: str
    group: str
    instruction: str
    success: bool = False
    steps: int = 0
    terminated: bool = False
    over: bool = False
    clipped: int = 0
    out_of_reach: int = 0
    tiles: int = 0
    first_tile: str = ''
    recognised: bool = False
    brought_to: str = ''
    brought_to_y: bool = False
    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
    plans: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All but what is for videos, as plain values."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _FOR_VIDEOS}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The rollouts of one suite, by seed, and the seconds that each call of the policy took.

    Attributes:
        suite: its name.
        rollouts: in the order of their seeds.
        decision_seconds: of each call of the policy.
        decisions_a_call: how many robots each call served.
        seconds: of the whole run.
    """

    suite: str
    rollouts: list[Rollout]
    decision_seconds: list[float]
    decisions_a_call: list[int]
    seconds: float


def run(
    decide: Decide,
    suite: str,
    seeds: Sequence[int],
    *,
    parallel: int = 16,
    task: str | None = None,
    image_size: int = 128,
    render_size: int = 320,
    record: int = 0,
    frames: int = 1,
    frame_stride: int = 1,
    cameras: Sequence[str] = (),
    card: RobotCard | None = None,
    patience: int = 1,
    read: Callable[[np.ndarray, str], str] | None = None,
    max_steps: int | None = None,
    execution_noise: float = 0.0,
    progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """Plays the episodes `seeds` of a suite.

    Args:
        decide: see `Decide`.
        suite: as for `world.find_suite`: WORLD/NAME, or NAME for one of the tabletop.
        seeds: which episodes; each is played once.
        parallel: how many are under way at a time. The result doesn't depend on it.
        task: only this kind of task; None leaves it to the seed.
        image_size: height and width of the frames that the policy is given, pixels.
        render_size: height and width of the recorded frames, pixels.
        record: of how many episodes, the first of `seeds`, to keep the frames.
        frames: how many frames the policy sees; the first stands in for those before it.
        frame_stride: steps from one of them to the next.
        cameras: names of the world's cameras that the policy sees; its first one if empty.
        card: of the robot that the policy learnt from; where the world's gripper wants a position, a
            relative one is turned to it (`Robot.to_absolute_gripper`).
        patience: how many actions in a row must end an episode, see `Robot`.
        read: an episode's first frame uint8 [H, W, 3] and its instruction to what the policy reads
            instead, all through the episode; None for the instruction.
        max_steps: an episode's longest length; None for the world's own.
        execution_noise: see `world.Make`.
        progress: called with a line now and then.

    Raises:
        ValueError: no seeds, or no such suite.
    """
    if not seeds:
        raise ValueError('No episodes to run: give at least one seed.')
    world, name = find_suite(suite)
    begin = time.perf_counter()
    recorded = set(seeds[:record])
    waiting = list(reversed(seeds))
    if not (world.card.gripper and world.card.gripper.kind == 'absolute'):
        card = None
    games = [
        _Game(
            world.make(
                name,
                image_size=image_size,
                render_size=render_size,
                execution_noise=execution_noise,
            ),
            world.card,
            world.max_steps if max_steps is None else max_steps,
            task,
            recorded,
            Robot(frames, frame_stride, card, patience, cameras),
            cameras,
            read,
        )
        for _ in range(min(parallel, len(seeds)))
    ]
    finished: list[Rollout] = []
    seconds: list[float] = []
    sizes: list[int] = []
    try:
        while True:
            for game in games:
                if game.rollout is None and waiting:
                    game.start(waiting.pop())
            playing = [game for game in games if game.rollout is not None]
            if not playing:
                break
            before = time.perf_counter()
            moves = decide([game.observation for game in playing], [g.env for g in playing])
            seconds.append(time.perf_counter() - before)
            sizes.append(len(playing))
            for game, move in zip(playing, moves, strict=True):
                if (rollout := game.play(move)) is not None:
                    finished.append(rollout)
                    if len(finished) % max(1, len(seeds) // 5) == 0:
                        won = sum(r.success for r in finished)
                        progress(
                            f'{suite}: {len(finished)} of {len(seeds)} episodes, {won} successes'
                        )
    finally:
        for game in games:
            game.env.close()
    finished.sort(key=lambda rollout: rollout.seed)
    return Run(suite, finished, seconds, sizes, time.perf_counter() - begin)


class _Game:
    """One environment, and the episode under way in it if there is one."""

    def __init__(
        self,
        env: Environment,
        card: RobotCard,
        max_steps: int,
        task: str | None,
        recorded: set[int],
        robot: Robot,
        cameras: Sequence[str],
        read: Callable[[np.ndarray, str], str] | None,
    ) -> None:
        self.env, self._card, self._max_steps = env, card, max_steps
        self._task, self._recorded, self._robot = task, recorded, robot
        self._cameras, self._read, self._reading = cameras, read, ''
        self.rollout: Rollout | None = None
        self.observation: dict[str, Any] = {}

    def start(self, seed: int) -> None:
        observation, task, group = self.env.reset(seed, self._task)
        self._robot.reset()
        self._reading = observation.instruction
        self.rollout = Rollout(seed, task, group, observation.instruction)
        if self._read:
            frame = next(iter(_shown(observation, self._cameras).values()))
            self._reading = self._read(frame, observation.instruction)
        self._observe(observation, is_first=True)
        self._film()

    def play(self, move: Move) -> Rollout | None:
        """One step; the rollout when it ended the episode."""
        assert self.rollout is not None
        rollout = self.rollout
        rollout.plans.append(move.plan)
        rollout.steps += 1
        action = self._robot.to_absolute_gripper(move.action)
        rollout.terminated = self._card.action_space.terminate and self._robot.ends(move.action)
        if not rollout.terminated:
            self._observe(self.env.step(self._card.command_values(action)), is_first=False)
        self._film()
        if not (rollout.terminated or self.env.over or rollout.steps >= self._max_steps):
            return None
        self.rollout = None
        rollout.success, rollout.over = self.env.success, self.env.over
        rollout.clipped, rollout.out_of_reach = self.env.clipped, self.env.out_of_reach
        if seen := self.env.recognition():
            rollout.tiles = seen.objects
            rollout.first_tile, rollout.recognised = seen.first, seen.first_is_x
            rollout.brought_to, rollout.brought_to_y = seen.brought_to, seen.brought_to_y
        return rollout

    def _observe(self, observation: Observation, is_first: bool) -> None:
        shown = _shown(observation, self._cameras)
        self.observation = {
            'image': self._robot.see(shown if self._cameras else next(iter(shown.values()))),
            'state': observation.state,
            'instruction': self._reading,
            'is_first': is_first,
        }

    def _film(self) -> None:
        assert self.rollout is not None
        if self.rollout.seed in self._recorded:
            self.rollout.frames.append(self.env.render())


def _shown(observation: Observation, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """The frames of the cameras that a policy sees, uint8 [H, W, 3], by name; the first if it names none.

    Raises:
        ObservationError: the world has no such camera; names those that it has.
    """
    names = cameras or list(observation.images)[:1]
    for name in names:
        if name not in observation.images:
            raise ObservationError(
                f'the policy sees the camera {name!r}, which the world does not show'
                f'{nearest(name, observation.images)}'
            )
    return {name: observation.images[name] for name in names}


def gather_run(run: Run) -> Run:
    """The parts of a suite that several processes played, as one run; frames stay where they are."""
    own = {rollout.seed: rollout for rollout in run.rollouts}
    parts = distributed.gather(
        {
            'rollouts': [rollout.to_json() for rollout in run.rollouts],
            'decision_seconds': run.decision_seconds,
            'decisions_a_call': run.decisions_a_call,
            'seconds': run.seconds,
        }
    )
    rollouts = [own.get(r['seed'], Rollout(**r)) for part in parts for r in part['rollouts']]
    return Run(
        run.suite,
        sorted(rollouts, key=lambda rollout: rollout.seed),
        [x for part in parts for x in part['decision_seconds']],
        [x for part in parts for x in part['decisions_a_call']],
        max(part['seconds'] for part in parts),
    )


def learnt(policy: Policy, **settings: Any) -> Decide:
    """Actions of a model; `settings` as for `Policy.act_batch`."""

    def decide(observations: Sequence[dict[str, Any]], envs: Sequence[Environment]) -> list[Move]:
        del envs
        pictures, words, states = (
            [o[name] for o in observations] for name in ('image', 'instruction', 'state')
        )
        felt = states if policy.settings.state_space else None
        if felt and any(state is None for state in felt):
            raise ObservationError(
                'the policy acts by the state of the robot, and the world has none'
            )
        answers = policy.act_batch(pictures, words, felt, **settings)
        return [Move(answer.action, answer.plan) for answer in answers]

    return decide


def scripted(rounding: ActionTokenizer | None = None) -> Decide:
    """The actions of the world's expert, rounded to the bins of an action tokenizer if there is one."""

    def decide(observations: Sequence[dict[str, Any]], envs: Sequence[Environment]) -> list[Move]:
        del observations
        actions = [env.expert() for env in envs]
        if rounding:
            actions = list(rounding.decode(rounding.encode(np.stack(actions))))
        return [Move(action) for action in actions]

    return decide


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run, ready for JSON: overall, by task, and by group where there are several.

    Where the world knows its objects' places, `recognition` is the share of episodes that went to X first,
    with the share that going to any object would have (`by_chance`); `execution` is the share of successes
    among these. `recovered` counts successes after going elsewhere first. Where X was pushed, `goal` is the
    share that ended nearest to Y.
    """
    rollouts = run.rollouts
    result = _figures(rollouts)
    result['tasks'] = _by(rollouts, 'task')
    if len({rollout.group for rollout in rollouts}) > 1:
        result['groups'] = _by(rollouts, 'group')
    result['clipped'] = sum(rollout.clipped for rollout in rollouts)
    result['out_of_reach'] = sum(rollout.out_of_reach for rollout in rollouts)
    # Every robot of a call waits for the whole call.
    waits = np.repeat(run.decision_seconds, run.decisions_a_call) * 1000
    result['decision_ms'] = report.percentiles(waits.tolist()) | {
        'robots_a_call': max(run.decisions_a_call),
        'decisions': len(waits),
        'actions_per_second': len(waits) / sum(run.decision_seconds),
    }
    result['seconds'] = round(run.seconds, 1)
    result['rollouts'] = [rollout.to_json() for rollout in rollouts]
    return result


def _figures(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    number = len(rollouts)
    successes = sum(r.success for r in rollouts)
    figures = report.proportion(successes, number) | {
        'mean_steps': round(math.fsum(r.steps for r in rollouts) / number, 2),
        'terminated_by_policy': round(sum(r.terminated for r in rollouts) / number, 4),
    }
    if any(r.tiles for r in rollouts):
        recognised = [r.success for r in rollouts if r.recognised]
        by_chance = math.fsum(1 / r.tiles for r in rollouts if r.tiles) / number
        figures |= {
            'recognition': report.share(len(recognised), number)
            | {'by_chance': round(by_chance, 4)},
            'execution': report.share(sum(recognised), len(recognised)),
            'recovered': successes - sum(recognised),
        }
    if pushed := [r for r in rollouts if r.brought_to]:
        by_chance = math.fsum(1 / (r.tiles - 1) for r in pushed) / len(pushed)
        figures['goal'] = report.share(sum(r.brought_to_y for r in pushed), len(pushed))
        figures['goal']['by_chance'] = round(by_chance, 4)
    return figures


def _by(rollouts: Sequence[Rollout], field: str) -> dict[str, dict[str, Any]]:
    names = sorted({getattr(rollout, field) for rollout in rollouts})
    return {name: _figures([r for r in rollouts if getattr(r, field) == name]) for name in names}
