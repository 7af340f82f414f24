"""Writes and reads the records of a run, which lie in its directory beside its steps.

config.json        the run's config
tokenizer.model    the tokenizer: a SentencePiece model, or the text of a tokenizer.json
embodiment.json    action spaces, state spaces and cards by source, those of the robot that it acts for,
                   and the token ids of the integers that actions are written in
versions.json      versions of the libraries that wrote it
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import ml_collections

from rt2_jax import configuration, paths, records
from rt2_jax.checkpoints.acting_robot import run_action_space, source_cards
from rt2_jax.data import cards as robot_cards
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.errors import UserError
from rt2_jax.manifest import versions
from rt2_jax.nearest import beside
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import BINS, Tokenizer


class CheckpointError(UserError, ValueError):
    """A directory is no usable checkpoint, or one of something else."""


def write_assets(
    workdir: epath.PathLike,
    config: Any,
    tokenizer: Tokenizer,
    action_spaces: dict[str, ActionSpace],
    state_spaces: Mapping[str, ActionSpace] | None = None,
) -> None:
    """Writes the records of a run; each file appears whole or not at all.

    Args:
        workdir: the run's directory.
        config: the run's config; `config.embodiment` names the card of the robot that it acts for.
        tokenizer: the run's.
        action_spaces: source name -> action space, for the robot sources.
        state_spaces: likewise, of the sources whose prompts have a state.

    Raises:
        ValueError: as `acting_robot.run_action_space`.
    """
    workdir = paths.of(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    card = robot_cards.find(config.embodiment)
    cards = source_cards(config, action_spaces)
    spaces = {name: json.loads(space.to_json()) for name, space in action_spaces.items()}
    embodiment = {
        'embodiment': dataclasses.asdict(card),
        'sources': spaces,
        'cards': {name: dataclasses.asdict(card) for name, card in cards.items()},
        'action_space': json.loads(run_action_space(config, card, action_spaces).to_json()),
        'action_tokens': tokenizer.integer_ids[:BINS].tolist(),
    }
    if state_spaces:  # else the record is as older versions read it
        states = {name: json.loads(space.to_json()) for name, space in state_spaces.items()}
        embodiment['states'] = states
    paths.write(workdir / 'tokenizer.model', tokenizer.model_bytes)
    paths.write(workdir / 'embodiment.json', json.dumps(embodiment, indent=2).encode())
    paths.write(workdir / 'versions.json', json.dumps(versions(), indent=2).encode())
    # Last, because a config.json says that the others are there.
    paths.write(workdir / 'config.json', configuration.to_json(config).encode())


def recorded_card(recorded: dict[str, Any]) -> RobotCard | None:
    """The card of embodiment.json; None for an older run's that this version does not have.

    Raises:
        ValueError: it is no card, or one of a newer version.
    """
    # Older runs described the gripper in words; today's card of the name says the same in numbers.
    if isinstance(recorded.get('gripper'), str):
        return robot_cards.CARDS.get(recorded.get('name', ''))
    return RobotCard.from_json(recorded)


def read_embodiment(path: epath.Path) -> dict[str, Any]:
    """Reads embodiment.json: card, action and state spaces and cards by source, action tokens.

    Args:
        path: of the file.

    Returns:
        Its record, with the defaults of fields that its version did not have.

    Raises:
        CheckpointError: it is damaged, lacks a field that every version wrote, or has one of a newer
            version.
    """
    version = records.written_by(path.parent, CheckpointError)
    record = records.read(path, CheckpointError)
    records.check_fields(
        record,
        required=('embodiment', 'sources', 'action_space'),
        optional=('cards', 'action_tokens', 'states'),
        where=path,
        error=CheckpointError,
        written_by=version,
    )

    def complete(field: str, part: Any, parse: Callable[[Any], Any]) -> Any:
        try:
            value = parse(part)
        except (ValueError, TypeError, AttributeError) as error:
            writer = f'rt2_jax {version}' if version else 'another version of rt2_jax'
            raise CheckpointError(f'{path}, {field}: {error} (written by {writer})') from error
        return part if value is None else json.loads(json.dumps(dataclasses.asdict(value)))

    def by_source(field: str, parse: Callable[[Any], Any]) -> dict[str, Any]:
        parts = record.get(field, {})
        if not isinstance(parts, dict):
            raise CheckpointError(f'{path}, {field}: must hold an object by source')
        return {
            source: complete(f'{field}.{source}', part, parse) for source, part in parts.items()
        }

    return record | {
        'embodiment': complete('embodiment', record['embodiment'], recorded_card),
        'action_space': complete('action_space', record['action_space'], ActionSpace.from_json),
        'sources': by_source('sources', ActionSpace.from_json),
        'cards': by_source('cards', RobotCard.from_json),
        'states': by_source('states', ActionSpace.from_json),
    }


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """The tokenizer of a run; CheckpointError where its file is damaged."""
    path = workdir / 'tokenizer.model'
    try:
        return Tokenizer(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f'{path} is damaged: {error}') from error


def check_action_tokens(workdir: epath.Path, recorded: Sequence[int], tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer whose integers are other tokens than the run was trained with.

    Args:
        workdir: the run's directory.
        recorded: token ids of the integers 0, 1, ..., by embodiment.json.
        tokenizer: of the directory.

    Raises:
        CheckpointError: says which integers.
    """
    ids = tokenizer.integer_ids[: len(recorded)].tolist()
    differing = [k for k, (a, b) in enumerate(zip(recorded, ids, strict=True)) if a != b]
    if differing:
        k = differing[0]
        raise CheckpointError(
            f'{workdir}: {k} is token {recorded[k]} by embodiment.json and {ids[k]} by '
            f'tokenizer.model, and so {len(differing)} of the integers 0..{len(recorded) - 1} differ: '
            'the run was trained with another tokenizer.model; put that one back'
        )


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The config of a run.

    Raises:
        CheckpointError: there is no such directory, it is empty, or half-written.
    """
    workdir = paths.of(workdir)
    check_not_inside(workdir)
    if not workdir.exists():
        raise CheckpointError(f'there is no directory {workdir}{beside(workdir)}')
    if not workdir.is_dir():
        raise CheckpointError(f'{workdir} is a file; a run is a directory')
    present = sorted(path.name for path in workdir.iterdir())
    if not present:
        raise CheckpointError(
            f'{workdir} is empty: nothing has been trained there; run rt2_jax.train with '
            f'--workdir={workdir}'
        )
    missing = [
        name
        for name in ('config.json', 'tokenizer.model', 'embodiment.json')
        if name not in present
    ]
    if missing:
        raise CheckpointError(
            f'{workdir} is no checkpoint directory, or a half-written one: it lacks '
            f'{", ".join(missing)} and has {", ".join(present)}'
        )
    path = workdir / 'config.json'
    record = records.read(path, CheckpointError)
    version = records.written_by(workdir, CheckpointError)
    return configuration.from_record(record, path, CheckpointError, version)


def check_not_inside(workdir: epath.Path) -> None:
    """Refuses a folder among the checkpoints of a run as the directory of a run.

    Raises:
        CheckpointError: names the directory to give.
    """
    if checkpoints := _checkpoints_around(workdir):
        inside = workdir.parts[len(checkpoints.parts) :]
        step = f' and step {inside[0]}' if inside else ''
        raise CheckpointError(
            f'{workdir} is a folder inside a run: give the directory of the run, '
            f'{checkpoints.parent}{step}'
        )


def check_output(output: epath.Path) -> None:
    """Refuses to write among the checkpoints of a run.

    Raises:
        CheckpointError: names them.
    """
    if checkpoints := _checkpoints_around(output):
        raise CheckpointError(
            f'{output} lies among the checkpoints of a run, {checkpoints}; take another directory'
        )


def _checkpoints_around(path: epath.Path) -> epath.Path | None:
    """The RUN/checkpoints that a path is or lies in."""
    for folder in (path, *path.parents):
        if folder.name == 'checkpoints' and (folder.parent / 'config.json').exists():
            return folder
    return None


def check_same_config(workdir: epath.PathLike, config: Any) -> None:
    """Refuses to go on under another config, but for `configuration.MAY_CHANGE`.

    Raises:
        CheckpointError: lists the fields that differ.
    """
    lines = configuration.differing(read_config(workdir), config)
    if lines:
        raise CheckpointError(
            f'{workdir} holds a run of another config:\n  '
            + '\n  '.join(lines)
            + '.\nTake another --workdir, or give '
            f'these fields their old values. Only these may change on resume: '
            f'{", ".join(configuration.MAY_CHANGE)}'
        )
