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

from collections.abc import Iterator, Sequence
import contextlib
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

from rt2_jax import __version__, configuration, paths, records
from rt2_jax.data import embodiments
from rt2_jax.errors import UserError
from rt2_jax.nearest import beside
from rt2_jax.parallel import distributed
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import BINS, Tokenizer
from rt2_jax.training import saved_files, state as state_lib
from rt2_jax.training.acting import acted_on, cards_of
from rt2_jax.training.save_failures import explain

# Else a device's part of a parameter is one chunk, and whoever looks into it has to read all of it.
_IN_CHUNKS = ocp.SaveArgs(chunk_byte_size=16 << 20)
_PACKAGES = 'jax jaxlib flax optax orbax-checkpoint grain numpy sentencepiece tokenizers'.split()


class CheckpointError(UserError, ValueError):
    """A directory is no usable checkpoint, or one of something else."""


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries whose change could change a result."""
    found = {'rt2_jax': __version__, 'python': platform.python_version()}
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
    workdir = paths.of(workdir)
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
    return whole_config(records.read(path, CheckpointError), path, written_by(workdir))


def whole_config(
    record: Any, where: epath.PathLike, version: str = ''
) -> ml_collections.ConfigDict:
    """A recorded config, locked, in which fields that its version did not have are at their defaults.

    Args:
        record: what the JSON says.
        where: the file that says it.
        version: of rt2_jax that wrote it, if known.

    Raises:
        CheckpointError: it lacks what every version wrote, or has fields of a newer version.
    """
    required = ('model', 'data', 'embodiment')
    records.check_fields(record, required, record, where, CheckpointError, version)
    unknown = configuration.unknown_fields(record)
    records.refuse_unknown(unknown, where, CheckpointError, version)
    return configuration.complete(record)


def read_tokenizer(workdir: epath.Path) -> Tokenizer:
    """The tokenizer of a run; CheckpointError where its file is damaged."""
    path = workdir / 'tokenizer.model'
    try:
        return Tokenizer(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f'{path} is damaged: {error}') from error


def written_by(workdir: epath.Path) -> str:
    """The version of rt2_jax that wrote a directory; '' of before it was recorded."""
    path = workdir / 'versions.json'
    if not path.exists():
        return ''
    versions_there = records.read(path, CheckpointError)
    return versions_there.get('rt2_jax', '') if isinstance(versions_there, dict) else ''


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


def complete_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of a run's directory that were saved completely, in order."""
    folder = paths.of(workdir) / 'checkpoints'
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


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

    Attributes:
        directory: where they are.
        good: the last step that is known to be written completely, None if there is none.

    Args:
        workdir: the run's directory.
        keep: how many of the latest steps are kept.
        read_only: for inference beside a run that may be writing; nothing is made, cleaned up or
            deleted.

    Raises:
        paths.PathError: the directory is on s3://, which Orbax cannot write to.
    """

    def __init__(self, workdir: epath.PathLike, keep: int | None = None, read_only: bool = False):
        self.directory = paths.of(workdir) / 'checkpoints'
        paths.refuse(
            workdir,
            's3',
            'Orbax has no s3://; keep runs in a folder or on gs://, or mount the bucket. A packed '
            'checkpoint may lie on s3://',
        )
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        self._saving: int | None = None
        self._failed = False
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
        self.good = self.latest()

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

        Raises:
            SaveFailed: this save or the one before cannot be written.
        """
        self.wait()  # one save at a time
        self._saving = step
        with self._explained():
            self._orbax.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(
                        state.params, jax.tree.map(lambda _: _IN_CHUNKS, state.params)
                    ),
                    state=ocp.args.StandardSave(state_lib.without_none(_rest(state, accumulated))),
                    data=ocp.args.JsonSave(data),
                ),
            )

    def check(self) -> None:
        """Raises SaveFailed if the save in the background failed; costs nothing, for every step."""
        with self._explained():
            self._orbax.check_for_errors()
        if self._saving is not None and not self._orbax.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when everything saved so far is written.

        Raises:
            SaveFailed: the last save could not be written.
        """
        with self._explained():
            self._orbax.wait_until_finished()
        if self._saving is not None:
            self.good, self._saving = self._saving, None

    def close(self) -> None:
        """Waits, then ends the background threads; raises as `wait`, once."""
        if self._failed:
            return
        self.wait()
        self._orbax.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of a save as SaveFailed."""
        try:
            yield
        except Exception as error:
            self._failed = True
            raise explain(error, self._saving, self.directory, self.good) from error

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
                    state=ocp.args.StandardRestore(state_lib.without_none(rest)),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:
            raise CheckpointError(
                f'{self.directory / str(step)} cannot be restored: {error}'
            ) from error
        # Fields that are None are not written; they are None still.
        rest = flax.serialization.from_state_dict(
            rest, state_lib.with_none(flax.serialization.to_state_dict(rest), found['state'])
        )
        accumulated = rest.pop('accumulated')
        return state_lib.TrainState(params=found['params'], **rest), accumulated, found['data']

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
            paths.write(
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


def _rest(state: state_lib.TrainState, accumulated: Any) -> dict[str, Any]:
    return {
        'opt_state': state.opt_state,
        'step': state.step,
        'rng': state.rng,
        'accumulated': accumulated,
    }
