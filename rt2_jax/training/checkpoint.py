"""Checkpoints that carry all that their use needs.

What is where in a run's directory:
    config.json        the run's config
    tokenizer.model    the tokenizer: a SentencePiece model, or the text of a tokenizer.json
    embodiment.json    action spaces and cards by source, those of the robot that is acted on, and the
                       token ids of the integers that actions are written in
    versions.json      versions of the libraries that wrote it
    checkpoints/STEP/  params, state (optimizer, step, key, running sums) and data position; files.json
                       says how large each file is
"""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import json
import platform
from typing import Any

from etils import epath
import flax
import jax
import ml_collections
import orbax.checkpoint as ocp

import rt2_jax
from rt2_jax import configuration, records
from rt2_jax.data import embodiments
from rt2_jax.errors import UserError
from rt2_jax.nearest import beside
from rt2_jax.parallel import distributed
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import BINS, Tokenizer
from rt2_jax.training import saved_files, state as state_lib
from rt2_jax.training.acting import acted_on, cards_of

# Else a device's part of a parameter is one chunk, and whoever looks into it has to read all of it.
_IN_CHUNKS = ocp.SaveArgs(chunk_byte_size=16 << 20)
_PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'grain',
    'numpy',
    'sentencepiece',
    'tokenizers',
)


class CheckpointError(UserError, ValueError):
    """A directory is no usable checkpoint, or one of something else."""


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries whose change could change a result."""
    found = {'rt2_jax': rt2_jax.__version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'missing'
    return found


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
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    card = embodiments.find(config.embodiment)
    cards = cards_of(config, action_spaces)
    spaces = {name: json.loads(space.to_json()) for name, space in action_spaces.items()}
    embodiment = {
        'embodiment': dataclasses.asdict(card),
        'sources': spaces,
        'cards': {name: dataclasses.asdict(card) for name, card in cards.items()},
        'action_space': json.loads(acted_on(config, card, action_spaces).to_json()),
        'action_tokens': tokenizer.integer_ids[:BINS].tolist(),
    }
    write(workdir / 'tokenizer.model', tokenizer.model_bytes)
    write(workdir / 'embodiment.json', json.dumps(embodiment, indent=2).encode())
    write(workdir / 'versions.json', json.dumps(versions(), indent=2).encode())
    # Last, because a config.json says that the others are there.
    write(workdir / 'config.json', configuration.to_json(config).encode())


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


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file so that it appears whole or not at all."""
    temporary = path.parent / (path.name + '.new')
    temporary.write_bytes(content)
    temporary.replace(path)


def read_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The config of a run.

    Raises:
        CheckpointError: there is no such directory, it is empty, or half-written.
    """
    workdir = epath.Path(workdir)
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
            + '\nTake another --workdir, or give '
            f'these fields their old values. Only these may change on resume: '
            f'{", ".join(configuration.MAY_CHANGE)}'
        )


class Checkpoints:
    """The steps saved in one run's directory.

    Args:
        workdir: the run's directory.
        keep: how many of the latest steps are kept.
        read_only: for inference beside a run that may be writing; nothing is made, cleaned up or
            deleted.
    """

    def __init__(self, workdir: epath.PathLike, keep: int | None = None, read_only: bool = False):
        self.directory = epath.Path(workdir).resolve() / 'checkpoints'
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        self._saving: int | None = None
        self._orbax = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._list_files),
            ),
            item_handlers={
                'params': ocp.StandardCheckpointHandler(),
                'state': ocp.StandardCheckpointHandler(),
                'data': ocp.JsonCheckpointHandler(),
            },
        )

    def latest(self) -> int | None:
        """The last step that was saved completely, None if there is none."""
        return self._orbax.latest_step()

    def save(
        self, state: state_lib.TrainState, accumulated: Any, data: dict[str, Any], step: int
    ) -> None:
        """Saves in the background; returns when the arrays have been copied and may be donated.

        Args:
            state: the state after `step` steps.
            accumulated: sums since the last log point, so that a resumed run logs the same.
            data: the data iterator's state, as JSON.
            step: the number of steps made.
        """
        # One save at a time: what is under way is finished first.
        self._orbax.wait_until_finished()
        self._saving = step
        self._orbax.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(
                    state.params, jax.tree.map(lambda _: _IN_CHUNKS, state.params)
                ),
                state=ocp.args.StandardSave(_plain(_rest(state, accumulated))),
                data=ocp.args.JsonSave(data),
            ),
        )

    def restore(
        self, step: int, state: Any, accumulated: Any
    ) -> tuple[state_lib.TrainState, Any, dict[str, Any]]:
        """Restores onto the shardings of `state` and `accumulated` (trees of `ShapeDtypeStruct`).

        Raises:
            CheckpointError: a file is missing or damaged, or parameters differ in name or shape.
        """
        self._check_files(step)
        self._check(step, state.params)
        rest = _rest(state, accumulated)
        try:
            found = self._orbax.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(state.params),
                    state=ocp.args.StandardRestore(_plain(rest)),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:
            raise CheckpointError(
                f'{self.directory / str(step)} cannot be restored: {error}'
            ) from error
        # Fields that are None are not written; they are None still.
        rest = flax.serialization.from_state_dict(
            rest, _filled(flax.serialization.to_state_dict(rest), found['state'])
        )
        accumulated = rest.pop('accumulated')
        return state_lib.TrainState(params=found['params'], **rest), accumulated, found['data']

    def restore_params(self, step: int, shapes: Any = None) -> Any:
        """Restores the parameters alone.

        Args:
            step: which one.
            shapes: tree of `ShapeDtypeStruct` with the types and shardings that they shall have; by
                default as they were saved, on the first local device.

        Raises:
            CheckpointError: a file is missing or damaged, or parameters differ in name or shape.
        """
        self._check_files(step, 'params/')
        if shapes is None:
            where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), self._shapes(step)
            )
        else:
            self._check(step, shapes)
        try:
            return self._orbax.restore(
                step, args=ocp.args.Composite(params=ocp.args.StandardRestore(shapes))
            )['params']
        except Exception as error:
            raise CheckpointError(
                f'{self.directory / str(step)} cannot be restored: {error}'
            ) from error

    def _shapes(self, step: int) -> Any:
        try:
            # Of this item alone: whatever befell the optimizer's state, the parameters can be had.
            folder = self.directory / str(step) / 'params'
            return ocp.StandardCheckpointHandler().metadata(folder).tree
        except Exception as error:
            raise CheckpointError(
                f'{self.directory / str(step)} is damaged, its parameters cannot be listed: {error}'
            ) from error

    def _list_files(self) -> None:
        # Runs before the step gets its name, so that it has its list from the first moment.
        if distributed.is_leader():
            unfinished = list(self.directory.glob(f'{self._saving}.orbax-checkpoint-tmp*'))
            folder = unfinished[0] if unfinished else self.directory / str(self._saving)
            write(
                folder / saved_files.FILES, json.dumps(saved_files.sizes(folder), indent=1).encode()
            )

    def listed(self, step: int) -> Any:
        """What is saved of the parameters: a tree of Orbax's `ArrayMetadata`, none of them read.

        Raises:
            CheckpointError: a file is missing or truncated, or they cannot be listed.
        """
        self._check_files(step, 'params/')
        return self._shapes(step)

    def _check_files(self, step: int, prefix: str = '') -> None:
        folder = self.directory / str(step)
        if wrong := saved_files.wrong(folder, prefix):
            others = sorted(other for other in self._orbax.all_steps() if other != step)
            raise CheckpointError(
                f'{folder} is damaged:\n  '
                + '\n  '.join(wrong)
                + '\n'
                + (
                    f'there are the steps {", ".join(map(str, others))}: move {step} away to take the '
                    'last of them'
                    if others
                    else 'there is no other step'
                )
            )

    def _check(self, step: int, params: Any) -> None:
        try:
            state_lib.check_params(self._shapes(step), params, str(self.directory / str(step)))
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._orbax.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        self._orbax.wait_until_finished()
        self._orbax.close()


def _rest(state: state_lib.TrainState, accumulated: Any) -> dict[str, Any]:
    return {
        'opt_state': state.opt_state,
        'step': state.step,
        'rng': state.rng,
        'accumulated': accumulated,
    }


def _plain(tree: Any) -> Any:
    def without_none(node):
        if not isinstance(node, dict):
            return node
        return {key: without_none(value) for key, value in node.items() if value is not None}

    return without_none(flax.serialization.to_state_dict(tree))


def _filled(expected: Any, found: Any) -> Any:
    if not isinstance(expected, dict):
        return found
    return {
        key: None if value is None else _filled(value, found.get(key, {}))
        for key, value in expected.items()
    }
