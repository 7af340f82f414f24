"""Episodes of any world, several side by side, so that one call of the policy serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.envs.world import (
    Environment,
    Observation,
    check_episode,
    check_observation,
    find_suite,
    make_environment,
)
from rt2_jax.errors import UserError
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
    done: Sequence[Rollout] = (),
    keep: Callable[[Rollout], None] = lambda rollout: None,
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
        done: episodes that were played before; they are not played again, unless they are to be recorded.
        keep: called with each episode as it ends.

    Raises:
        ValueError: no seeds, or no such suite.
        world.WorldError: the world is not as `world.Environment` has it.
        ObservationError: the world lacks what the policy sees or feels.
    """
    if not seeds:
        raise ValueError('No episodes to run: give at least one seed.')
    world, name = find_suite(suite)
    begin = time.perf_counter()
    recorded = set(seeds[:record])
    finished = [r for r in done if r.seed in set(seeds) - recorded]
    waiting = sorted(set(seeds) - {rollout.seed for rollout in finished}, reverse=True)
    if not (world.card.gripper and world.card.gripper.kind == 'absolute'):
        card = None
    games = [
        _Game(
            make_environment(
                world,
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
        for _ in range(min(parallel, len(waiting)))
    ]
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
                    keep(rollout)
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
        observation, task, group = check_episode(self.env, self.env.reset(seed, self._task))
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
            after = self.env.step(self._card.command_values(action))
            self._observe(check_observation(self.env, 'step', after), is_first=False)
        self._film()
        if not (rollout.terminated or self.env.over or rollout.steps >= self._max_steps):
            return None
        self.rollout = None
        # Worlds may count in numbers of NumPy, which JSON does not know.
        rollout.success, rollout.over = bool(self.env.success), bool(self.env.over)
        rollout.clipped, rollout.out_of_reach = int(self.env.clipped), int(self.env.out_of_reach)
        if seen := self.env.recognition():
            rollout.tiles = int(seen.objects)
            rollout.first_tile, rollout.recognised = seen.first, bool(seen.first_is_x)
            rollout.brought_to, rollout.brought_to_y = seen.brought_to, bool(seen.brought_to_y)
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
