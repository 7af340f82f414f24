"""The sources around one robot data set: its steps, plans before them, tasks and questions."""

from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from rt2_jax.data.robot import (
    action_statistics,
    frame_questions,
    plan_files,
    plans,
    prediction_tasks,
    rlds,
    step_columns,
)
from rt2_jax.data.robot.paraphrases import Paraphrases
from rt2_jax.data.schedules import Schedule
from rt2_jax.nearest import check

PLANS = {'grounded': plans.Grounded, 'instruction': plans.Instruction}
MUCH_CLIPPED = 0.02  # more than what lies outside of q01..q99
Weighted = dict[str, tuple[Any, Schedule]]


def open_robot(
    name: str,
    given: Mapping[str, Any],
    data: Any,
    part: str = 'train',
    per_step: bool = False,
    indexes: epath.PathLike | None = None,
) -> tuple[Weighted, Weighted]:
    """Opens `config.data.robot.NAME`.

    Args:
      name: of the data set.
      given: its fields. `directory`, `card` (a name or FILE.json) and `weight` must be there. Those
        below may be, and what else there is goes to `rlds.open_source`.
          plan_share: share of the steps that are answered with a plan first.
          plans: where plans come from: 'grounded', 'instruction', 'column:PATH', or a .json or
            .jsonl file (`plan_files`).
          plans_missing: 'raise' or 'act', for steps without a plan.
          tasks: fields of `prediction_tasks.PredictionTasks`; its weights are relative to `weight`,
            which is the action's.
          paraphrases: a file of other words for instructions, and
          paraphrase_keep: the share of the steps that keep the instruction as it is.
          questions: weight of questions about the frames, on the web's side.
      data: the config's `data` part.
      part: 'train', or 'validation' for the episodes in `holdout`.
      per_step: whether `weight` is that of each step, not of the set.
      indexes: as for `rlds.open_source`.

    Returns:
      Two dicts, name -> (source, weight): the robot's side of the mixture and the web's.
    """
    given = dict(given)
    weight, plan_share = Schedule.from_config(given.pop('weight')), given.pop('plan_share', 0.0)
    planner, missing = given.pop('plans', 'grounded'), given.pop('plans_missing', 'raise')
    tasks = dict(given.pop('tasks', {}))
    questions = Schedule.from_config(given.pop('questions', 0.0))
    if not 0 <= plan_share <= 1:
        raise ValueError(f'config.data.robot.{name}.plan_share must be 0 to 1, not {plan_share}')
    if part == 'validation':
        given.pop('episodes', None)  # so many of those that are trained on
    steps = _open_steps(name, given | {'part': part, 'indexes': indexes}, data)
    weight = weight.times(len(steps)) if per_step else weight
    robot, others = {}, {}
    if plan_share < 1:
        robot[name] = steps, weight.times(1 - plan_share)
    if plan_share > 0:
        planned = plans.Planned(steps, make_planner(planner), missing, name=f'{name}_plans')
        robot[planned.name] = planned, weight.times(plan_share)
    if tasks:
        if 'weights' in tasks:
            tasks['weights'] = dict(tasks['weights'])
        asked = prediction_tasks.PredictionTasks(steps, name=f'{name}_tasks', **tasks)
        robot[asked.name] = asked, weight.times(sum(asked.weights.values()))
    if questions.most > 0:
        asked = frame_questions.FrameQuestions(steps, name=f'{name}_frames')
        others[asked.name] = asked, questions
    return robot, others


def make_planner(said: str) -> plans.Planner:
    """The planner that a config names; ValueError with the nearest name otherwise."""
    if said.startswith('column:'):
        return plans.Column(said.removeprefix('column:'))
    if said.endswith(('.json', '.jsonl')):
        return plan_files.PlanFile.read(said)
    return PLANS[check('plans', said, (*PLANS, 'column:PATH', 'FILE.json', 'FILE.jsonl'))]()


def _open_steps(name: str, given: dict[str, Any], data: Any) -> rlds.StepSource:
    history = {'frames': data.frames, 'frame_stride': data.get('frame_stride', 1)}
    for field, value in history.items():
        if given.get(field, value) != value:
            raise ValueError(
                f'config.data.robot.{name}.{field}={given[field]}, but config.data.{field}={value}, '
                'which the model and the policy go by; set that one'
            )
    file, keep = given.pop('paraphrases', ''), given.pop('paraphrase_keep', 0.5)
    paraphrases = Paraphrases.read(file, keep) if file else None
    steps = rlds.open_source(
        given.pop('directory'),
        given.pop('card'),
        name=name,
        on_corrupt=data.on_corrupt,
        paraphrases=paraphrases,
        **(given | history),
    )
    if given.get('part', 'train') == 'train':
        _log_ranges(steps)
    if paraphrases:
        paraphrases.check(step_columns.texts(steps)[1], f'{name}, {file}')
    return steps


def _log_ranges(steps: rlds.StepSource) -> None:
    """Says how many of a set's steps have actions beyond their ranges, and what is odd of a gripper."""
    index = steps.index
    beyond = action_statistics.clipped(index.arrays['action'], steps.action_space)
    shares = ', '.join(f'{name} {share:.2%}' for name, share in beyond.items())
    log = logging.warning if max(beyond.values()) > MUCH_CLIPPED else logging.info
    log('%s: share of the steps beyond the range, which are clipped: %s', steps.name, shares)
    if 'gripper' in index.about and (
        odd := action_statistics.gripper_warning(index.card.gripper, index.about['gripper'])
    ):
        logging.warning('%s: %s', steps.name, odd)
