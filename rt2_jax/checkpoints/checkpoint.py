"""The steps that a run has saved, with Orbax.

checkpoints/STEP/ in the run's directory holds params, state (the optimizer's, and the step) and data (the
position); files.json says how large each file is. `state` of older runs has more, which is not read.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
from typing import Any

from etils import epath
import flax
import jax
import orbax.checkpoint as ocp

from rt2_jax import paths
from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.checkpoints.save_failures import explain
from rt2_jax.parallel import distributed
from rt2_jax.training import train_state as state_lib

# Without it, a device's part of a parameter is one chunk, which is only read as a whole.
_IN_CHUNKS = ocp.SaveArgs(chunk_byte_size=16 << 20)


FILES = 'files.json'  # in a step's folder


def complete_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of a run's directory that were saved completely, in order."""
    folder = paths.of(workdir) / 'checkpoints'
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


def check_workdir(workdir: epath.PathLike) -> None:
    """Raises PathError for a directory on s3://, which Orbax cannot write to."""
    paths.refuse(
        workdir,
        's3',
        'Orbax has no s3://; keep runs in a folder or on gs://, or mount the bucket. A packed '
        'checkpoint may lie on s3://',
    )


def file_sizes(folder: epath.Path) -> dict[str, int]:
    """Bytes of every file in the items of a step's folder, by its path there."""
    return {name: size for name, size in paths.files(folder).items() if '/' in name}


def damaged_files(folder: epath.Path, prefix: str = '') -> list[str]:
    """A line for each file of a step's folder that is missing or has another size than was saved.

    Args:
        folder: the step's; without files.json, as older versions left it, nothing is checked.
        prefix: only files whose path begins with it.
    """
    if not (folder / FILES).exists():
        return []
    try:
        saved = json.loads((folder / FILES).read_text())
    except json.JSONDecodeError as error:
        return [f'{FILES} is damaged: {error}']
    sizes = file_sizes(folder)
    return [
        f'{name} is missing'
        if name not in sizes
        else f'{name} has {sizes[name]:,} of {size:,} bytes'
        for name, size in saved.items()
        if name.startswith(prefix) and sizes.get(name) != size
    ]


class Checkpoints:
    """The steps saved in one run's directory.

    Attributes:
        directory: where they are.
        good: the last step that is known to be written completely, None if there is none.

    Args:
        workdir: the run's directory.
        keep: how many of the latest steps are kept.
        read_only: for inference beside a run that may be writing; nothing is written or deleted.

    Raises:
        paths.PathError: the directory is on s3://, which Orbax cannot write to.
    """

    def __init__(
        self, workdir: epath.PathLike, keep: int | None = None, read_only: bool = False
    ) -> None:
        self.directory = paths.of(workdir) / 'checkpoints'
        check_workdir(workdir)
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

    def save(self, state: state_lib.TrainState, data: dict[str, Any], step: int) -> None:
        """Saves in the background; returns when the arrays have been copied and may be donated.

        Args:
            state: the state after `step` steps.
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
                    state=ocp.args.StandardSave(_without_params(state)),
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
        self, step: int, state: state_lib.TrainState
    ) -> tuple[state_lib.TrainState, dict[str, Any]]:
        """Restores a step.

        Args:
            step: which.
            state: of `ShapeDtypeStruct`s with shardings, onto which it is restored.

        Returns:
            The state, and the data iterator's.

        Raises:
            CheckpointError: a file is missing or damaged, or parameters differ in name or shape.
        """
        self._check_files(step)
        folder = self.directory / str(step)
        try:
            state_lib.check_params(self.parameter_shapes(step), state.params, str(folder))
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        params = restore_arrays(folder / 'params', state.params)
        saved = restore_arrays(folder / 'state', _without_params(state))
        saved['params'] = None
        state = flax.serialization.from_state_dict(dataclasses.replace(state, params=None), saved)
        try:
            data = self._orbax.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
        except Exception as error:
            raise CheckpointError(f'{folder} cannot be restored: {error}') from error
        return dataclasses.replace(state, params=params), data['data']

    def _list_files(self) -> None:
        # Runs before the step gets its name, so that it has its list from the first moment.
        if distributed.is_leader():
            unfinished = list(self.directory.glob(f'{self._saving}.orbax-checkpoint-tmp*'))
            folder = unfinished[0] if unfinished else self.directory / str(self._saving)
            paths.write(folder / FILES, json.dumps(file_sizes(folder), indent=1).encode())

    def parameter_shapes(self, step: int) -> Any:
        """Shapes and dtypes of a step's parameters: a tree of Orbax's `ArrayMetadata`.

        Raises:
            CheckpointError: a file is missing or truncated, or they cannot be listed.
        """
        self._check_files(step, 'params/')
        try:
            # Of this item alone: the optimizer's state may be damaged.
            folder = self.directory / str(step) / 'params'
            return ocp.StandardCheckpointHandler().metadata(folder).tree
        except Exception as error:
            raise CheckpointError(
                f'{self.directory / str(step)} is damaged, its parameters cannot be listed: {error}'
            ) from error

    def _check_files(self, step: int, prefix: str = '') -> None:
        folder = self.directory / str(step)
        if damaged := damaged_files(folder, prefix):
            others = sorted(other for other in self._orbax.all_steps() if other != step)
            raise CheckpointError(
                f'{folder} is damaged:\n  '
                + '\n  '.join(damaged)
                + '\n'
                + (
                    f'there are the steps {", ".join(map(str, others))}: move {step} away to take the '
                    'last of them'
                    if others
                    else 'there is no other step'
                )
            )


def _without_params(state: state_lib.TrainState) -> dict[str, Any]:
    """The rest of the state as nested dicts."""
    rest = flax.serialization.to_state_dict(dataclasses.replace(state, params=None))
    del rest['params']
    return rest


def restore_arrays(folder: epath.Path, targets: Any) -> Any:
    """Restores arrays of one item of a step.

    Args:
        folder: of the item.
        targets: tree of `ShapeDtypeStruct` with shardings; what else is saved is not read.

    Raises:
        CheckpointError: an array is missing or damaged.
    """
    arguments = ocp.args.PyTreeRestore(
        targets,
        restore_args=ocp.checkpoint_utils.construct_restore_args(targets),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(folder, args=arguments)
    except Exception as error:
        raise CheckpointError(f'{folder.parent} cannot be restored: {error}') from error
