"""Metrics and example numbers of a run, written and read: JSONL, TensorBoard, W&B."""

from collections.abc import Mapping
import json
import sys
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from rt2_jax import paths
from rt2_jax.training import tracking

FILE = 'metrics.jsonl'
UPLOAD_SECONDS = 15.0  # between two uploads of a log in a bucket, which is written whole
DROPPED = '.dropped.jsonl'


class Writer:
    """Writes scalars by step. Only process 0 makes one.

    On resume, lines of steps after the checkpoint and a half-written last line move to
    `metrics.dropped.jsonl`, so that the curve has one line a step and nothing is lost.

    Args:
        workdir: where the files go.
        resume_step: the step of the restored checkpoint; 0 for a new run.
        wandb_project: a Weights & Biases project to log to as well; '' for none.

    Raises:
        ImportError: a project was given and W&B is not installed.
    """

    def __init__(
        self, workdir: epath.PathLike, resume_step: int = 0, wandb_project: str = ''
    ) -> None:
        tensorboardX = _tensorboard()
        workdir = paths.of(workdir)
        _drop_after(workdir / FILE, resume_step)
        self._mirror = paths.Mirror(workdir, fetch=[FILE])
        self._file = open(self._mirror.local / FILE, 'a', encoding='utf-8')
        self._board = tensorboardX.SummaryWriter(
            str(self._mirror.local / 'tensorboard'),
            purge_step=resume_step + 1 if resume_step else None,
        )
        self._wandb = tracking.WandbRun(wandb_project, workdir) if wandb_project else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of one step, and flushes."""
        self._file.write(json.dumps({'step': step, **values}) + '\n')
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, values)
        self._mirror.upload(after_seconds=UPLOAD_SECONDS)

    def flush(self) -> None:
        """Writes out what is buffered; raises PathError where that fails."""
        self._board.flush()
        self._mirror.upload()

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._board.close()
        self._mirror.close()
        if self._wandb is not None:
            self._wandb.close()


def _tensorboard() -> Any:
    """tensorboardX, without PyTorch: where that is installed, it would import it for a second or two."""
    hidden = 'torch' not in sys.modules and 'tensorboardX' not in sys.modules
    if hidden:
        sys.modules['torch'] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules['torch']
    return tensorboardX


class ExampleLog:
    """Which examples each step saw: one JSON line a step, one file a process.

    On resume, lines of steps after the checkpoint are moved aside as those of `Writer`.

    Args:
        workdir: the run's directory; the files go to its folder `examples`.
        resume_step: the step of the restored checkpoint; 0 for a new run.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int = 0) -> None:
        folder = paths.of(workdir) / 'examples'
        folder.mkdir(parents=True, exist_ok=True)
        name = f'{jax.process_count()}_{jax.process_index()}.jsonl'
        if jax.process_index() == 0:
            for other in _example_files(folder):
                _drop_after(other, resume_step)
        multihost_utils.sync_global_devices('examples')
        self._mirror = paths.Mirror(folder, fetch=[name])
        self._file = open(self._mirror.local / name, 'a', encoding='utf-8')

    def write(self, step: int, index: jax.Array) -> None:
        """Appends the example numbers of this process's rows.

        A row that several devices hold, as along the mesh axis `tensor`, is written once.

        Args:
            step: of the batch.
            index: [B] int32, over all processes.
        """
        rows = {
            shard.index[0].start or 0: np.asarray(shard.data).tolist()
            for shard in index.addressable_shards
            if shard.replica_id == 0
        }
        mine = [number for start in sorted(rows) for number in rows[start]]
        self._file.write(json.dumps({'step': step, 'examples': mine}) + '\n')
        self._file.flush()
        self._mirror.upload(after_seconds=UPLOAD_SECONDS)

    def flush(self) -> None:
        """Writes out what is buffered; raises PathError where that fails."""
        self._mirror.upload()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        self._mirror.close()


def _example_files(folder: epath.Path) -> list[epath.Path]:
    return [path for path in folder.glob('*.jsonl') if not path.name.endswith(DROPPED)]


def read_examples(workdir: epath.PathLike) -> dict[int, list[int]]:
    """The examples of every step, sorted, over all processes."""
    steps: dict[int, list[int]] = {}
    for path in _example_files(paths.of(workdir) / 'examples'):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            steps.setdefault(row['step'], []).extend(row['examples'])
    return {step: sorted(examples) for step, examples in sorted(steps.items())}


def _drop_after(path: epath.Path, step: int) -> None:
    if not path.exists():
        return
    kept: list[str] = []
    dropped: list[str] = []
    for line in path.read_text().splitlines():
        try:
            (kept if json.loads(line)['step'] <= step else dropped).append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            dropped.append(line)
    if dropped:
        aside = path.parent / f'{path.stem}{DROPPED}'
        before = paths.read(aside) if aside.exists() else b''
        paths.write(aside, before + _lines(dropped))
        paths.write(path, _lines(kept))
        logging.info(
            '%d lines of %s are past step %d and moved to %s', len(dropped), path, step, aside
        )


def _lines(lines: list[str]) -> bytes:
    return ''.join(line + '\n' for line in lines).encode()


def read(workdir: epath.PathLike) -> list[dict[str, float]]:
    """The metrics of a run, one dict a logged step, without a half-written last line."""
    path = paths.of(workdir) / FILE
    lines = path.read_text().splitlines()
    rows = {}
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise ValueError(f'{path}, line {number + 1} is not JSON: {line[:80]!r}') from None
            break
        rows[row['step']] = row
    return [rows[step] for step in sorted(rows)]


def span(seconds: float) -> str:
    """A length of time for people: '2 h 05 min', '3 min 20 s', '12 s'."""
    seconds = int(round(seconds))
    if seconds >= 3600:
        return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'
    return f'{seconds // 60} min {seconds % 60:02d} s' if seconds >= 60 else f'{seconds} s'
