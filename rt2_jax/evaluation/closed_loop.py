"""Episodes on the tabletop, several side by side, so that one call of the policy serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
import time
from typing import Any, NamedTuple

import numpy as np

from rt2_jax.data.robot_card import RobotCard
from rt2_jax.envs.tabletop import expert
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.evaluation import approach, report
from rt2_jax.parallel import distributed
from rt2_jax.policy import Policy
from rt2_jax.policy.robot import Robot
from rt2_jax.text.actions import ActionTokenizer


class Move(NamedTuple):
    """An action float [8], and the plan that the policy made for it, '' without one."""

    action: np.ndarray
    plan: str = ''


# Observations and environments to a move each. The `image` of an observation has a leading axis of
# frames, oldest first. The expert looks at the environments, policies at the observations.
Decide = Callable[[Sequence[dict[str, Any]], Sequence[TabletopEnv]], Sequence[Move]]


@dataclasses.dataclass(eq=False)
class Rollout:
    """The record of one episode.

    Attributes:
        seed: the episode's number in its suite.
        task: its kind of task, see `tasks.Task`; so are `group` and `instruction`.
        group: the part of the suite that it belongs to.
        instruction: what the policy was told to do.
        success: whether the goal held at the end.
        steps: number of actions.
        terminated: whether the policy ended the episode itself, and not the step limit.
        clipped: number of commands that the environment clipped.
        out_of_reach: number of commands that left the workspace.
        tiles: how many lay on the table.
        first_tile: the name of the tile that the first approach went to, see `approach`; '' for none.
        recognised: whether that is X.
        brought_to: of a push, the name of the tile that X ended nearest to; '' if it hardly moved.
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
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ('frames', 'plans')}


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
    card: RobotCard | None = None,
    patience: int = 1,
    read: Callable[[np.ndarray, str], str] | None = None,
    max_steps: int = 20,
    execution_noise: float = 0.0,
    progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """Plays the episodes `seeds` of a suite.

    Args:
        decide: see `Decide`.
        suite: a name of `suites.SUITES`.
        seeds: which episodes; each is played once.
        parallel: how many are under way at a time. The result doesn't depend on it.
        task: only this kind of task; None leaves it to the seed.
        image_size: height and width of the frames that the policy is given, pixels.
        render_size: height and width of the recorded frames, pixels.
        record: of how many episodes, the first of `seeds`, to keep the frames.
        frames: how many frames the policy sees; the first stands in for those before it.
        frame_stride: steps from one of them to the next.
        card: of the robot that the policy learnt from; the tabletop's gripper wants a position, to which
            a relative one is turned (`Robot.to_absolute_gripper`).
        patience: how many actions in a row must end an episode, see `Robot`.
        read: an episode's first frame uint8 [H, W, 3] and its instruction to what the policy reads
            instead, all through the episode; None for the instruction.
        max_steps: see `TabletopEnv`.
        execution_noise: see `TabletopEnv`.
        progress: called with a line now and then.

    Raises:
        ValueError: no seeds.
    """
    if not seeds:
        raise ValueError('No episodes to run: give at least one seed.')
    begin = time.perf_counter()
    recorded = set(seeds[:record])
    waiting = list(reversed(seeds))
    games = [
        _Game(
            TabletopEnv(
                suite,
                image_size=image_size,
                max_steps=max_steps,
                render_size=render_size,
                execution_noise=execution_noise,
            ),
            task,
            recorded,
            Robot(frames, frame_stride, card, patience),
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
        env: TabletopEnv,
        task: str | None,
        recorded: set[int],
        robot: Robot,
        read: Callable[[np.ndarray, str], str] | None,
    ) -> None:
        self.env, self._task, self._recorded, self._robot = env, task, recorded, robot
        self._read, self._reading = read, ''
        self.rollout: Rollout | None = None
        self.observation: dict[str, Any] = {}
        self._approach: approach.Approach

    def start(self, seed: int) -> None:
        self.observation, info = self.env.reset(seed=seed, options={'task': self._task})
        self._robot.reset()
        instruction = self.observation['instruction']
        self.rollout = Rollout(seed, info['task'], info['group'], instruction)
        self._reading = instruction
        if self._read:
            self._reading = self._read(self.observation['image'], instruction)
        self._observe()
        self.rollout.tiles = len(info['object_names'])
        self._approach = approach.Approach(self.env.state)
        self._film()

    def play(self, move: Move) -> Rollout | None:
        """One step; the rollout when it ended the episode."""
        assert self.rollout is not None
        self.rollout.plans.append(move.plan)
        action = self._robot.to_absolute_gripper(move.action)
        if not self._robot.ends(move.action):
            action = np.concatenate([[0.0], action[1:]])
        self.observation, _, terminated, truncated, info = self.env.step(action)
        self._observe()
        self._approach.step(self.env.state)
        self._film()
        if not (terminated or truncated):
            return None
        rollout, self.rollout = self.rollout, None
        rollout.success, rollout.steps, rollout.terminated = (
            info['success'],
            info['steps'],
            terminated,
        )
        rollout.clipped, rollout.out_of_reach = info['clipped'], info['out_of_reach']
        if (tile := self._approach.tile) is not None:
            rollout.first_tile, rollout.recognised = info['object_names'][tile], tile == 0
        if rollout.task == 'push':
            end = approach.brought_to(self.env.start, self.env.state)
            if end is not None:
                rollout.brought_to, rollout.brought_to_y = info['object_names'][end], end == 1
        return rollout

    def _observe(self) -> None:
        self.observation['image'] = self._robot.see(self.observation['image'])
        self.observation['instruction'] = self._reading

    def _film(self) -> None:
        assert self.rollout is not None
        if self.rollout.seed in self._recorded:
            frame = self.env.render()
            assert frame is not None
            self.rollout.frames.append(frame)


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

    def decide(observations: Sequence[dict[str, Any]], envs: Sequence[TabletopEnv]) -> list[Move]:
        del envs
        answers = policy.act_batch(
            [o['image'] for o in observations], [o['instruction'] for o in observations], **settings
        )
        return [Move(answer.action, answer.plan) for answer in answers]

    return decide


def scripted(rounding: ActionTokenizer | None = None) -> Decide:
    """The expert's actions, rounded to the bins of an action tokenizer if there is one."""

    def decide(observations: Sequence[dict[str, Any]], envs: Sequence[TabletopEnv]) -> list[Move]:
        del observations
        actions = [expert.act(env.state, env.start, env.task) for env in envs]
        if rounding:
            actions = list(rounding.decode(rounding.encode(np.stack(actions))))
        return [Move(action) for action in actions]

    return decide


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run, ready for JSON: overall, by task, and by group where there are several.

    `recognition` is the share of episodes whose first approach went to X, with the share that going to
    any tile would have (`by_chance`); `execution` is the share of successes among these. `recovered`
    counts successes after going elsewhere first. Where X was pushed, `goal` is the share that ended
    nearest to Y.
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
    recognised = [r.success for r in rollouts if r.recognised]
    successes = sum(r.success for r in rollouts)
    by_chance = math.fsum(1 / r.tiles for r in rollouts if r.tiles) / number
    figures = report.proportion(successes, number) | {
        'mean_steps': round(math.fsum(r.steps for r in rollouts) / number, 2),
        'terminated_by_policy': round(sum(r.terminated for r in rollouts) / number, 4),
        'recognition': report.share(len(recognised), number) | {'by_chance': round(by_chance, 4)},
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
