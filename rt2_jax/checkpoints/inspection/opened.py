"""A checkpoint directory of any kind, opened: its tensors by name, not read, and the files beside them.

| kind | tensors |
|---|---|
| a run | `checkpoints/STEP/params`, by Orbax |
| packed (`packing.pack`; 'package:NAME') | `params.npz` |
| converted (`rt2_jax.convert`) | `params.safetensors`, whole or in shards |
| an exported policy (`rt2_jax.export`) | `weights.safetensors` |
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import Any

from etils import epath
import numpy as np

from rt2_jax import configuration, paths, records
from rt2_jax.checkpoints import assets, checkpoint, loading
from rt2_jax.checkpoints.assets import CheckpointError, check_action_tokens, read_config
from rt2_jax.checkpoints.checkpoint import Checkpoints, complete_steps
from rt2_jax.checkpoints.inspection import orbax_arrays
from rt2_jax.checkpoints.inspection.orbax_arrays import Placement
from rt2_jax.text import fast_tokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.weights.tensors import Tensor, open_tensors

POLICY, WEIGHTS = 'policy.json', 'weights.safetensors'  # what rt2_jax.export writes


@dataclasses.dataclass
class Opened:
    """A checkpoint.

    Attributes:
        directory: where it is.
        kind: 'run', 'packed', 'converted' or 'exported policy'.
        step: which step.
        steps: all steps of a run.
        arrays: the parameters by name.
        placements: how a run's parameters lay on a mesh when they were saved, by name.
        config: the run's; of a converted directory {'model': ...}; None without one.
        tokenizer: None without one.
        embodiment: card, action spaces by source and action tokens; None without one.
        versions: of the libraries that wrote it, by name.
        position: the state of a run's data iterator.
        disk: bytes on disk, by item.
        warnings: problems that do not keep it from being read.
    """

    directory: epath.Path
    kind: str
    step: int | None = None
    steps: list[int] = dataclasses.field(default_factory=list)
    arrays: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    placements: dict[str, Placement] = dataclasses.field(default_factory=dict)
    config: Any = None
    tokenizer: Tokenizer | None = None
    embodiment: dict[str, Any] | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    position: dict[str, Any] | None = None
    disk: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)


def open_checkpoint(directory: epath.PathLike, step: int | None = None) -> Opened:
    """Opens a directory of any of the kinds above.

    Raises:
        CheckpointError: no such directory, empty, half-written, no such step, or a file of it is
            missing, truncated or damaged.
        SourceError: the same, of the file that the arrays are in.
    """
    path = loading.locate(directory)
    if (path / loading.MODEL).exists():
        opened = _converted(path)
    elif (path / POLICY).exists():
        opened = _exported(path)
    else:
        opened = Opened(path, 'run', config=read_config(path))
        _assets(opened)
        (_packed if (path / loading.PACKED).exists() else _run)(opened, step)
    if opened.kind != 'run' and step is not None and step != opened.step:
        raise CheckpointError(f'{path} holds step {opened.step}, not {step}')
    return opened


def _assets(opened: Opened) -> None:
    path = opened.directory
    opened.embodiment = assets.read_embodiment(path / 'embodiment.json')
    opened.tokenizer = assets.read_tokenizer(path)
    if (path / 'versions.json').exists():
        opened.versions = _json(path / 'versions.json')
    else:
        opened.warnings.append(f'{path / "versions.json"} is missing')
    try:
        tokens = opened.embodiment.get('action_tokens', ())
        check_action_tokens(path, tokens, opened.tokenizer)
    except CheckpointError as error:
        opened.warnings.append(str(error))


def _run(opened: Opened, step: int | None) -> None:
    path = opened.directory
    opened.step = step = loading.choose_step(path, step)
    folder = path / 'checkpoints'
    opened.steps = complete_steps(path)
    with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
        opened.arrays, opened.placements = orbax_arrays.open_arrays(checkpoints, step)
        opened.warnings += [
            f'{folder / str(step)}: {file}' for file in checkpoint.damaged_files(folder / str(step))
        ]
    items = [item for item in sorted((folder / str(step)).iterdir()) if item.is_dir()]
    opened.disk = {item.name: _size(item) for item in items}
    others = sum(_size(folder / str(other)) for other in opened.steps if other != step)
    opened.disk |= {'other steps': others} if others else {}
    opened.disk['beside the steps'] = _size(path) - sum(opened.disk.values())
    position = folder / str(step) / 'data' / 'metadata'
    opened.position = _json(position) if position.exists() else None


def _packed(opened: Opened, step: int | None) -> None:
    path = opened.directory / loading.PACKED
    arrays = open_tensors(path)
    for name in ('step', 'dtype'):
        if name not in arrays:
            raise CheckpointError(f'{path} has no {name}: it is no packed checkpoint')
    dtype = np.dtype(str(arrays.pop('dtype').read()))
    opened.kind, opened.step = 'packed', int(arrays.pop('step').read())
    opened.arrays = {name.removeprefix('params/'): x.view(dtype) for name, x in arrays.items()}
    _count_files(opened)


def _converted(path: epath.Path) -> Opened:
    opened = Opened(path, 'converted', config={'model': loading.read_model(path)['model']})
    opened.arrays = open_tensors(path)
    if (path / 'tokenizer.model').exists():
        opened.tokenizer = Tokenizer.load(path / 'tokenizer.model')
    _count_files(opened)
    return opened


def _exported(path: epath.Path) -> Opened:
    record = _json(path / POLICY)
    required = ('config', 'step', 'versions', 'tokenizer', 'action')
    records.check_fields(record, required, record, path / POLICY, CheckpointError)
    versions = record['versions']
    config = configuration.from_record(
        record['config'], path / POLICY, CheckpointError, versions.get('rt2_jax', '')
    )
    opened = Opened(path, 'exported policy', record['step'], config=config, versions=versions)
    opened.arrays = open_tensors(path / WEIGHTS)
    opened.tokenizer = Tokenizer((path / record['tokenizer']['file']).read_bytes())
    opened.embodiment = {'action_space': record['action']['space']}
    _count_files(opened)
    return opened


def _count_files(opened: Opened) -> None:
    opened.disk = {
        file.name: file.stat().length
        for file in sorted(opened.directory.iterdir())
        if file.is_file()
    }


def _size(folder: epath.Path) -> int:
    return sum(paths.files(folder).values())


def _json(path: epath.Path) -> Any:
    return records.read(path, CheckpointError)


def of_tokenizer(tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """A tokenizer's kind, size and special ids."""
    if tokenizer is None:
        return None
    ids = np.asarray(tokenizer.integer_ids)
    return {
        'kind': 'tokenizer.json'
        if fast_tokenizer.is_json(tokenizer.model_bytes)
        else 'SentencePiece',
        'tokens': tokenizer.vocab_size,
        'pad': tokenizer.pad_id,
        'eos': tokenizer.eos_id,
        'integers': len(ids),
        'integer_ids': [int(ids.min()), int(ids.max())],
        'sha256': hashlib.sha256(tokenizer.model_bytes).hexdigest(),
    }
