"""Starting JAX in several processes, when the environment says that there are several."""

from collections.abc import Callable, Sequence
import itertools
import json
import os
import sys
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from rt2_jax.errors import UserError

_LOCAL_POD = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
_CLUSTER = (
    'SLURM_STEP_NUM_TASKS',
    'OMPI_COMM_WORLD_SIZE',
    'TPU_WORKER_HOSTNAMES',
    'MEGASCALE_NUM_SLICES',
)
_FORCE = 'RT2_JAX_CLUSTER'
_PATIENCE = 24 * 3600  # seconds that a process waits for the others
_gathered = itertools.count()


class OtherProcessFailed(UserError, RuntimeError):
    """Another process of the job failed, and this one cannot go on without it."""


def initialize() -> None:
    """Joins the other processes of the job; does nothing where this process is alone.

    Several processes are recognised by JAX_COORDINATOR_ADDRESS + JAX_NUM_PROCESSES + JAX_PROCESS_ID
    (set by launch/local_pod.py), or by what srun, Open MPI and TPU pods on GKE set, which JAX reads
    by itself. A process in a Slurm job of several tasks that srun did not start runs alone, and says
    so. Only a metadata server knows the hosts of a TPU VM slice; JAX asks it with
    RT2_JAX_CLUSTER=1 (launch/tpu_vm.sh). Must run before anything touches a device.

    Raises:
        ValueError: only some of the three JAX_ variables are set.
    """
    present = [name for name in _LOCAL_POD if os.environ.get(name)]
    if present and len(present) < len(_LOCAL_POD):
        missing = sorted(set(_LOCAL_POD) - set(present))
        raise ValueError(
            f'{", ".join(present)} set, but not {", ".join(missing)}: set all three or none'
        )
    if present:
        jax.distributed.initialize(
            coordinator_address=os.environ[_LOCAL_POD[0]],
            num_processes=int(os.environ[_LOCAL_POD[1]]),
            process_id=int(os.environ[_LOCAL_POD[2]]),
        )
    elif os.environ.get(_FORCE) == '1' or any(
        _processes(os.environ.get(name, '')) > 1 for name in _CLUSTER
    ):
        jax.distributed.initialize()
    else:
        _warn_without_srun()
        return
    logging.info(
        'process %d of %d, %d local devices',
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
    )


def _warn_without_srun() -> None:
    tasks = os.environ.get('SLURM_NTASKS', '')
    # srun sets both; sbatch and salloc set this one alone, in the script that they run once.
    if _processes(tasks) > 1 and 'SLURM_STEP_NUM_TASKS' not in os.environ:
        print(
            f'Slurm gave this job {tasks} tasks, but srun did not start this process: it runs alone. '
            'Start it by srun, or by launch/slurm.sh, to use them all.',
            file=sys.stderr,
            flush=True,
        )


def _processes(value: str) -> int:
    return int(value) if value.isdigit() else len([name for name in value.split(',') if name])


def is_leader() -> bool:
    """True in the one process that logs and writes the files that are not per-process."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line, on process 0."""
    if is_leader():
        print(line, flush=True)


def share(work: Sequence[Any]) -> Sequence[Any]:
    """This process's part of work that all processes could do; the parts differ by one at most."""
    return work[jax.process_index() :: jax.process_count()]


def gather(value: Any) -> list[Any]:
    """Gathers a value of each process, in their order; every process gets all.

    Args:
        value: anything that JSON can hold.
    """
    if jax.process_count() == 1:
        return [value]
    import orbax.checkpoint as ocp  # a quarter of a second, which most commands need not wait

    # Collectives give up after half a minute; a share of the work may take longer than another.
    barrier = ocp.multihost.get_barrier_sync_fn()
    barrier(key=f'gather {next(_gathered)}', timeout_ms=1000 * _PATIENCE)
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(encoded)))
    rows = multihost_utils.process_allgather(np.pad(encoded, (0, lengths.max() - len(encoded))))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths)]


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """Concatenates the arrays of all processes along the first axis; every process gets it."""
    return np.concatenate([np.array(part, rows.dtype) for part in gather(rows.tolist())])


def together(work: Callable[[], Any]) -> list[Any]:
    """Does work in every process; where it fails in one, it fails in all.

    Args:
        work: returns something that JSON can hold.

    Returns:
        What it returned in each process, in their order.

    Raises:
        OtherProcessFailed: in the processes whose own work went well.
    """
    if jax.process_count() == 1:
        return [work()]
    result, error = None, None
    try:
        result = work()
    except Exception as raised:
        error = raised
    outcomes = gather([result, error and f'{type(error).__name__}: {error}'])
    if error:
        raise error
    for number, (_, failure) in enumerate(outcomes):
        if failure:
            raise OtherProcessFailed(f'process {number} of {len(outcomes)} failed: {failure}')
    return [outcome for outcome, _ in outcomes]


def by_leader(work: Callable[[], Any]) -> Any:
    """Does work in the leader; every process gets its result. Otherwise as `together`."""
    return together(lambda: work() if is_leader() else None)[0]
