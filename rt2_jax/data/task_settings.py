"""What else than its action is asked about a robot's frames."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from rt2_jax.nearest import check_fields


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """`config.data.robot.NAME.tasks`: what else is asked about a robot's frames (prediction_tasks).

    Attributes:
        weights: task -> weight relative to the set's own, which is the action's; None for 1 each.
        arm: path of the column that holds the arm's position [D].
        arm_low: least values [D] of the grid of answers, in the column's unit; empty for the least of
            the data. Values outside are logged, and written as the grid's edge.
        arm_high: greatest values [D]; likewise.
        arm_order: numbers of the column's dimensions in the order in which they are written; empty for
            all as they are. Other places are written to the right first, then down.
        success: 'flag': the data's flag says which episodes succeeded. 'always': each did what its
            instruction says, as demonstrations and hindsight labels have it.
        most_steps: the greatest number of time steps that is asked for.
        seed: another seed asks other questions.
    """

    weights: Mapping[str, float] | None = None
    arm: str = ''
    arm_low: tuple[float, ...] = ()
    arm_high: tuple[float, ...] = ()
    arm_order: tuple[int, ...] = ()
    success: str = 'flag'
    most_steps: int = 100
    seed: int = 0

    @classmethod
    def from_config(cls, path: str, fields: Mapping[str, Any]) -> TaskSettings:
        """From the fields of `path`; an unknown one is a ValueError that names the nearest."""
        fields = check_fields(path, fields, [field.name for field in dataclasses.fields(cls)])
        if 'weights' in fields:
            fields['weights'] = dict(fields['weights'])
        return cls(**fields)
