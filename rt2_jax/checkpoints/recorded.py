"""What a run records beside its config and parameters, read back from any version that wrote it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
from typing import Any

from etils import epath

from rt2_jax import records
from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.data.cards import CARDS
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import Tokenizer


def card_of(recorded: dict[str, Any]) -> RobotCard | None:
    """The card that embodiment.json holds; None if an older run had one that is no more.

    Raises:
        ValueError: it is no card, or one of a newer version.
    """
    # Older runs told of the gripper in words; today's card of the name says the same in numbers.
    if isinstance(recorded.get('gripper'), str):
        return CARDS.get(recorded.get('name', ''))
    return RobotCard.from_json(recorded)


def embodiment(path: epath.Path) -> dict[str, Any]:
    """The record of embodiment.json: card, action spaces and cards by source, action tokens.

    Args:
        path: of embodiment.json.

    Returns:
        What it says, and at their defaults the fields that its version did not have.

    Raises:
        CheckpointError: it is damaged, lacks what every version wrote, or has fields of a newer one.
    """
    version = records.written_by(path.parent, CheckpointError)
    record = records.read(path, CheckpointError)
    records.check_fields(
        record,
        required=('embodiment', 'sources', 'action_space'),
        optional=('cards', 'action_tokens'),
        where=path,
        error=CheckpointError,
        written_by=version,
    )

    def whole(field: str, part: Any, of: Callable[[Any], Any]) -> Any:
        try:
            value = of(part)
        except (ValueError, TypeError, AttributeError) as error:
            writer = f'rt2_jax {version}' if version else 'another version of rt2_jax'
            raise CheckpointError(f'{path}, {field}: {error} (written by {writer})') from error
        return part if value is None else json.loads(json.dumps(dataclasses.asdict(value)))

    def by_source(field: str, of: Callable[[Any], Any]) -> dict[str, Any]:
        parts = record.get(field, {})
        if not isinstance(parts, dict):
            raise CheckpointError(f'{path}, {field}: must hold an object by source')
        return {source: whole(f'{field}.{source}', part, of) for source, part in parts.items()}

    return record | {
        'embodiment': whole('embodiment', record['embodiment'], card_of),
        'action_space': whole('action_space', record['action_space'], ActionSpace.from_json),
        'sources': by_source('sources', ActionSpace.from_json),
        'cards': by_source('cards', RobotCard.from_json),
    }


def tokenizer(workdir: epath.Path) -> Tokenizer:
    """The tokenizer of a run; CheckpointError where its file is damaged."""
    path = workdir / 'tokenizer.model'
    try:
        return Tokenizer(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f'{path} is damaged: {error}') from error
