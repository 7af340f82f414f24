r"""How much memory a process takes to make, save and restore its part of a model.

    python launch/local_pod.py --processes=4 -- python -m rt2_jax.benchmarks.host_memory \
        --config=FILE[:ARG] --config.mesh.fsdp=4 --workdir=DIR --output=FILE.json

`whole` is the training state in bytes, `share` what lies on one process's devices. For each phase: the
highest resident memory of a process, above what it had before there was a state, and how many bytes it
read from files, without those that it mapped into memory. `ours` is that memory in restoring, `limit` the
share. On CPU devices the share itself is part of the memory, and with --config.init_from so are the mapped
pages of the files. The largest of all processes counts. A run can start from the directory: give it as
the --config.init_from of another call. Linux only.
"""

from __future__ import annotations

import gc
import pathlib
import time
from typing import Any

from absl import flags, logging
from etils import epath
import jax
import numpy as np

from rt2_jax import command, configuration, paths
from rt2_jax.benchmarks import harness
from rt2_jax.checkpoints import assets, checkpoint, init_from
from rt2_jax.parallel import distributed, mesh as mesh_lib
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program as program_lib

FLAGS = flags.FLAGS


class Peak:
    """What happens inside a `with`.

    Attributes:
        bytes: highest resident memory.
        read_bytes: read from files (and sockets) by system calls.
        seconds: how long it took.
    """

    def __enter__(self) -> Peak:
        gc.collect()
        harness.fresh_memory()
        self._read_before = _read_bytes()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        self.bytes = harness.memory()['VmHWM']
        self.read_bytes = _read_bytes() - self._read_before


def _read_bytes() -> int:
    """Bytes that this process has read so far, proc(5)."""
    return int(pathlib.Path('/proc/self/io').read_text().split()[1])  # rchar


def measure(config: Any, workdir: epath.Path) -> dict[str, Any]:
    """Makes, saves and restores the state of a config; see the module's text for the figures."""
    mesh = mesh_lib.make_mesh(config.mesh)
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else Tokenizer.load_default()
    sources = [*config.data.robot, *config.data.web]
    program = program_lib.build(config, mesh, tokenizer, sources, sources, (), {})
    with Peak() as before:
        pass
    with Peak() as made:
        params = None
        if config.init_from:
            params = init_from.initial_params(config.init_from, config.init_parts, tokenizer)
        state = jax.block_until_ready(program.init(params))
    share = sum(shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards)
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    checkpoints = checkpoint.Checkpoints(workdir, keep=1)
    with Peak() as saved:
        checkpoints.save(state, {}, 1)
        checkpoints.wait()
    if distributed.is_leader():
        assets.write_assets(workdir, config, tokenizer, {})
    expected = [_sum(x) for x in jax.tree.leaves(state)]
    del params
    jax.tree.map(lambda x: x.delete(), state)
    with Peak() as restored:
        state, _ = checkpoints.restore(1, program.state)
        jax.block_until_ready(state)
    assert expected == [_sum(x) for x in jax.tree.leaves(state)], 'another state came back'
    checkpoints.close()
    phases = {'made': made, 'saved': saved, 'restored': restored}
    by_process = distributed.gather(
        {name: (p.bytes - before.bytes, p.read_bytes, p.seconds) for name, p in phases.items()}
    )
    result: dict[str, Any] = {
        'whole_bytes': whole,
        'share_bytes': share,
        'processes': jax.process_count(),
    }
    for name in phases:
        peak, read, seconds = (max(column) for column in zip(*(p[name] for p in by_process)))
        result[name] = {
            'peak_bytes': peak,
            'of_share': round(peak / share, 2),
            'of_whole': round(peak / whole, 2),
            'read_bytes': read,
            'seconds': round(seconds, 1),
        }
    ours = result['restored']['peak_bytes']
    return result | {
        'ours': ours,
        'limit': share,
        'ratio_limit': round(share / ours, 3),
        'unit': 'bytes',
    }


def _sum(x: jax.Array) -> float:
    """Of this process's part."""
    return float(sum(np.asarray(shard.data, np.float64).sum() for shard in x.addressable_shards))


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('workdir', None, 'Directory for the checkpoint.')
    flags.DEFINE_string('output', None, 'JSON file to write.')
    flags.mark_flags_as_required(['config', 'workdir', 'output'])


def main(_: list[str]) -> None:
    """Measures the processes of a pod; its leader writes the figures."""
    logging.set_verbosity(logging.WARNING)
    distributed.initialize()
    result = measure(FLAGS.config, paths.of(FLAGS.workdir))
    if distributed.is_leader():
        harness.publish(result, FLAGS.output, config=FLAGS.config.to_dict())


if __name__ == '__main__':
    define_flags()
    command.run('host_memory', main, flags_parser=configuration.parse_flags)
