"""Episodes of an evaluation that has not ended yet, kept beside its output.

The same command takes them from there and plays the others. The file is OUTPUT.episodes; its first line says
what the episodes depend on, each further one is an episode. It goes when the results are written.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from rt2_jax import paths
from rt2_jax.evaluation.closed_loop import Rollout
from rt2_jax.policy.from_flags import FlagError


class KeptEpisodes:
    """The file of one process.

    Args:
        output: where the results will be.
        process: number of the process, of a job of several; each has a file.
        about: what the episodes depend on, plain values.

    Raises:
        FlagError: the file has episodes that depend on something else.
    """

    def __init__(self, output: epath.PathLike, process: int, about: Mapping[str, Any]) -> None:
        output = paths.of(output)
        number = f'-{process}' if process else ''
        self._path = output.with_name(f'{output.name}.episodes{number}')
        about = json.loads(json.dumps(about))
        self._lines = [json.dumps(about)]
        if not self._path.exists():
            return
        lines = paths.read(self._path).decode().splitlines()
        before = json.loads(lines[0])
        if differing := sorted(k for k in {*before, *about} if before.get(k) != about.get(k)):
            raise FlagError(
                f'{self._path} has episodes of an evaluation that was interrupted, with another '
                f'{", ".join(differing)}. The same command as then goes on with it; delete it to start '
                'afresh, or choose another --output.'
            )
        self._lines = lines

    def of(self, suite: str) -> list[Rollout]:
        """The episodes of a suite that are there."""
        lines = map(json.loads, self._lines[1:])
        rollouts = [Rollout(**line['rollout']) for line in lines if line['suite'] == suite]
        # One that was played again for a video is there twice, and may have gone another way.
        return list({rollout.seed: rollout for rollout in rollouts}.values())

    def add(self, suite: str, rollout: Rollout) -> None:
        """Keeps an episode; of one that is there already, the video's frames alone were missing."""
        line = json.dumps({'suite': suite, 'rollout': rollout.to_json()})
        if line not in self._lines:
            self._lines.append(line)
            paths.write(self._path, '\n'.join(self._lines).encode())

    def remove(self) -> None:
        """Removes the file, as the results are written."""
        if self._path.exists():
            self._path.unlink()
