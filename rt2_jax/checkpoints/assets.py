"""What a run's directory holds beside its steps: what its use needs, and no more than that.

config.json        the run's config
tokenizer.model    the tokenizer: a SentencePiece model, or the text of a tokenizer.json
embodiment.json    action spaces and cards by source, those of the robot that is acted on, and the
                   token ids of the integers that actions are written in
versions.json      versions of the libraries that wrote it
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import ml_collections

from rt2_jax import configuration, paths, records
from rt2_jax.checkpoints.acting_robot import acted_on, cards_of
from rt2_jax.data import cards as robot_cards
from rt2_jax.errors import UserError
from rt2_jax.manifest import versions
from rt2_jax.nearest import beside
from rt2_jax.text.actions import BINS, ActionSpace
from rt2_jax.text.tokenizer import Tokenizer


class CheckpointError(UserError, ValueError):
    """A directory is no usable checkpoint, or one of something else."""


def write_assets(
    workdir: epath.PathLike,
    config: Any,
    tokenizer: Tokenizer,
    action_spaces: dict[str, ActionSpace],
) -> None:
    """Writes what does not change in a run; each file appears whole or not at all.

    Args:
        workdir: the run's directory.
        config: the run's config; `config.embodiment` names the card that is acted on.
        tokenizer: whose model is kept.
        action_spaces: source name -> action space, for the robot sources.

    Raises:
        ValueError: as `acting.acted_on`.
    """
    workdir = paths.of(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    card = robot_cards.find(config.embodiment)
    cards = cards_of(config, action_spaces)
    spaces = {name: json.loads(space.to_json()) for name, space in action_spaces.items()}
    embodiment = {
        'embodiment': dataclasses.asdict(card),
        'sources': spaces,
        'cards': {name: dataclasses.asdict(card) for name, card in cards.items()},
        'action_space': json.loads(acted_on(config, card, action_spaces).to_json()),
        'action_tokens': tokenizer.integer_ids[:BINS].tolist(),
    }
    paths.write(workdir / 'tokenizer.model', tokenizer.model_bytes)
    paths.write(workdir / 'embodiment.json', json.dumps(embodiment, indent=2).encode())
    paths.write(workdir / 'versions.json', json.dumps(versions(), indent=2).encode())
    # Last, because a config.json says that the others are there.
    paths.write(workdir / 'config.json', configuration.to_json(config).encode())


def check_action_tokens(workdir: epath.Path, recorded: Sequence[int], tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer whose integers are other tokens than those that were trained.

    Raises:
        CheckpointError: says which integers.
    """
    found = tokenizer.integer_ids[: len(recorded)].tolist()
    differing = [k for k, (a, b) in enumerate(zip(recorded, found, strict=True)) if a != b]
    if differing:
        k = differing[0]
        raise CheckpointError(
            f'{workdir}: {k} is token {recorded[k]} by embodiment.json and {found[k]} by '
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
    return configuration.recorded(record, path, CheckpointError, version)


def check_not_inside(workdir: epath.Path) -> None:
    """Refuses RUN/checkpoints and RUN/checkpoints/STEP, where RUN is the directory of a run.

    Raises:
        CheckpointError: names the directory to give.
    """
    below = next((x for x in (workdir, workdir.parent) if x.name == 'checkpoints'), None)
    if below is None or not (below.parent / 'config.json').exists():
        return
    step = f' and step {workdir.name}' if below == workdir.parent else ''
    raise CheckpointError(
        f'{workdir} is a folder inside a run: give the directory of the run, {below.parent}{step}'
    )


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
