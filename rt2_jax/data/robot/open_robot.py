"""The sources around one robot data set: its steps, plans before them, tasks and questions."""

from __future__ import annotations

import dataclasses

from absl import logging
from etils import epath

from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.mixture import Sources, Weighted
from rt2_jax.data.robot import action_statistics, plan_files, plans, rlds, robot_state
from rt2_jax.data.robot.frame_questions import FrameQuestions
from rt2_jax.data.robot.prediction_tasks import PredictionTasks
from rt2_jax.data.robot.progress import Progress
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.schedules import Schedule
from rt2_jax.nearest import check

PLANNERS: dict[str, type[plans.Planner]] = {
    'grounded': plans.Grounded,
    'instruction': plans.Instruction,
}
MUCH_CLIPPED = 0.02  # more than what lies outside of q01..q99


def open_robot(
    robot_set: RobotSet,
    part: str = 'train',
    per_step: bool = False,
    indexes: epath.PathLike | None = None,
) -> Sources:
    """Opens a robot set and what its settings ask for around it.

    Args:
        robot_set: the set.
        part: 'train', or 'validation' for the episodes in `holdout`.
        per_step: whether `weight` is that of each step, not of the set.
        indexes: as for `rlds.open_index`.

    Returns:
        NAME, its steps, NAME_plans and NAME_tasks on the robot's side of the mixture, and NAME_frames
        on the web's, as far as they have a weight: a set whose own is 0 is only asked about. Of what
        shows 'progress', NAME alone.
    """
    if part == 'validation':
        # `episodes` is how many are trained on.
        robot_set = dataclasses.replace(robot_set, episodes=None)
    steps = rlds.open_set(robot_set, part, indexes)
    if part == 'train':
        _log_ranges(steps)
    name = robot_set.name
    weight = robot_set.weight.times(len(steps)) if per_step else robot_set.weight
    opened = Sources({}, {})
    if robot_set.shows == 'progress':
        opened.robot[name] = Weighted(Progress(steps, name), weight)
        return opened
    if weight.most > 0:
        opened.robot.update(_acting(steps, robot_set, weight))
    if robot_set.questions.most > 0:
        planner = make_planner(robot_set.plans)
        questions = FrameQuestions(steps, planner, name=f'{name}_frames')
        opened.web[questions.name] = Weighted(questions, robot_set.questions)
    return opened


def _acting(steps: StepSource, robot_set: RobotSet, weight: Schedule) -> dict[str, Weighted]:
    """The sources whose answers are actions, or tasks beside them, by name."""
    name, plan_share = robot_set.name, robot_set.plan_share
    opened: dict[str, Weighted] = {}
    if plan_share < 1:
        opened[name] = Weighted(steps, weight.times(1 - plan_share))
    if plan_share > 0:
        planner = make_planner(robot_set.plans)
        planned = plans.Planned(steps, planner, robot_set.plans_missing, f'{name}_plans')
        opened[planned.name] = Weighted(planned, weight.times(plan_share))
    if robot_set.tasks:
        tasks = PredictionTasks(steps, robot_set.tasks, f'{name}_tasks')
        opened[tasks.name] = Weighted(tasks, weight.times(sum(tasks.weights.values())))
    return opened


def make_planner(name: str) -> plans.Planner:
    """The planner that a config names; ValueError with the nearest name otherwise."""
    if name.startswith('column:'):
        return plans.Column(name.removeprefix('column:'))
    if name.endswith(('.json', '.jsonl')):
        return plan_files.PlanFile.read(name)
    return PLANNERS[check('plans', name, (*PLANNERS, 'column:PATH', 'FILE.json', 'FILE.jsonl'))]()


def _log_ranges(steps: StepSource) -> None:
    """Logs how many of a set's steps have actions beyond their ranges, and what is odd of a gripper."""
    index = steps.index
    beyond = action_statistics.clipped(index.arrays['action'], steps.action_space)
    shares = ', '.join(f'{name} {share:.2%}' for name, share in beyond.items())
    log = logging.warning if max(beyond.values()) > MUCH_CLIPPED else logging.info
    log('%s: share of the steps beyond the range, which are clipped: %s', steps.name, shares)
    if steps.state_space:
        states = robot_state.values(index)
        beyond = action_statistics.clipped(states, steps.state_space)
        shares = ', '.join(f'{name} {share:.2%}' for name, share in beyond.items())
        log = logging.warning if max(beyond.values()) > MUCH_CLIPPED else logging.info
        log('%s: share of the states beyond the range, which are clipped: %s', steps.name, shares)
    if (
        index.card.gripper
        and 'gripper' in index.about
        and (odd := action_statistics.gripper_warning(index.card.gripper, index.about['gripper']))
    ):
        logging.warning('%s: %s', steps.name, odd)
