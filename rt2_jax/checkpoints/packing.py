"""Packs a run into a small directory that loads anywhere: `params.npz` in place of `checkpoints/`."""

from typing import Any

from etils import epath
import jax.numpy as jnp
import numpy as np

from rt2_jax import configuration, paths
from rt2_jax.checkpoints import assets
from rt2_jax.checkpoints.loading import PACKED, load_for_inference
from rt2_jax.parallel.sharding import named_leaves


def pack(
    workdir: epath.PathLike,
    output: epath.PathLike,
    step: int | None = None,
    dtype: Any = jnp.bfloat16,
) -> int:
    """Writes the parameters and assets of a run into a small directory that loads anywhere.

    Args:
        workdir: the run's directory.
        output: the directory to write, with a `params.npz`.
        step: which step; the latest by default.
        dtype: bfloat16 or float32.

    Returns:
        The size of `params.npz` in bytes.
    """
    output = paths.of(output)
    assets.check_output(output)
    loaded = load_for_inference(workdir, step)
    output.mkdir(parents=True, exist_ok=True)
    for name in ('tokenizer.model', 'embodiment.json', 'versions.json'):
        paths.write(output / name, (loaded.directory / name).read_bytes())
    config = loaded.config.unlock()
    config.compile_cache = ''  # a path of the machine that trained it
    if 'adapters' in config:
        config.adapters.rank = 0  # they are in the weights
    paths.write(output / 'config.json', configuration.to_json(config).encode())
    arrays: dict[str, Any] = {
        'step': np.int64(loaded.step),
        'dtype': np.array(jnp.dtype(dtype).name),
    }
    for name, value in named_leaves(loaded.params).items():
        value = np.asarray(value.astype(dtype))
        # npz knows no bfloat16: its bits are kept as integers.
        arrays[f'params/{name}'] = value.view(np.uint16) if value.dtype.itemsize == 2 else value
    with paths.writing(output / PACKED) as local, local.open('wb') as file:
        np.savez_compressed(file, **arrays)
    return (output / PACKED).stat().length
