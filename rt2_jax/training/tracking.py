"""Metrics to Weights & Biases: one run there for a run here, however often it is restarted."""

from collections.abc import Mapping
import json
import secrets
import tempfile

from etils import epath

from rt2_jax import paths, records

FILE = 'wandb.json'


class WandbRun:
    """Logs to the W&B run of a workdir.

    The workdir's `wandb.json` keeps the run's id and its last logged step. A restarted run repeats the
    steps since its last checkpoint; those that were logged before are left out, by W&B's server where
    that has the run, else (offline) by the file. The file is written before a step is logged, so no step
    is logged twice, but a killed process loses what W&B had not written (it writes blocks of 32 KiB).
    `metrics.jsonl` has all.

    Args:
        project: the W&B project. Another project than before starts a new W&B run.
        workdir: the run's directory; W&B's own files go there too if it is local.

    Raises:
        ImportError: W&B is not installed.
    """

    def __init__(self, project: str, workdir: epath.PathLike) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f'config.wandb_project is {project!r}, but W&B is missing: pip install wandb'
            ) from error
        self._path = paths.of(workdir) / FILE
        self._record = self._read(project)
        self._save()
        self._run = wandb.init(
            project=project,
            id=self._record['id'],
            resume='allow',
            dir=tempfile.mkdtemp(prefix='wandb-') if paths.is_remote(workdir) else str(workdir),
        )
        if self._run.resumed:
            self._record['step'] = self._run.step - 1

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step, unless that step was logged before."""
        if step <= self._record['step']:
            return
        self._record['step'] = step
        self._save()
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Sends what is buffered."""
        self._run.finish()

    def _read(self, project: str) -> dict:
        if self._path.exists():
            record = records.read(self._path)
            if record['project'] == project:
                return record
        return {'project': project, 'id': secrets.token_hex(4), 'step': 0}

    def _save(self) -> None:
        paths.write(self._path, json.dumps(self._record).encode())
