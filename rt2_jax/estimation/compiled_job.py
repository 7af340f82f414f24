"""What a compiled program says: memory by chip, FLOPs, collectives, and a roofline."""

from collections.abc import Sequence
from typing import Any

from rt2_jax.estimation import job as job_lib
from rt2_jax.parallel import chips, compilation, compiled, roofline, topology


def report(
    program: Any, text: str, executed: float, job: job_lib.Job, devices: Sequence[Any]
) -> dict[str, Any]:
    """What a program that compiled needs, and how fast it can be at best.

    Args:
        program: as the compiler gave it.
        text: its HLO.
        executed: FLOPs of all devices together in one step.
        job: what was compiled.
        devices: of the mesh, in its order.

    Returns:
        The fields of the report from `compiles` on (see rt2_jax/estimate.py); those of the roofline
        only where the chip is in the table.
    """
    chip = topology.chip_of(devices[0])
    hlo = compiled.Program(text)
    memory = _memory(program.memory_analysis(), _devices_per_chip(devices))
    fields = {
        'compiles': True,
        'hbm_bytes_per_chip': memory,
        'hbm_limit_bytes': chip.hbm_bytes if chip else None,
        'fits': memory['total'] <= chip.hbm_bytes if chip else None,
        'flops_per_step': executed,
        'flops_analytic': job.flops,
        'flops_ratio': round(executed / job.flops, 3),
        'collectives': _collectives(hlo, devices, chip),
    }
    if not chip:
        return fields
    bounds = roofline.roofline(hlo, executed, devices, chip)
    peak = chip.device_flops * len(devices)
    return fields | {
        'roofline': {
            'compute_seconds': bounds.compute,
            'memory_seconds': bounds.memory,
            'interconnect_seconds': bounds.interconnect,
            'bound': bounds.bound,
        },
        'step_seconds': bounds.seconds,
        'step_seconds_without_overlap': bounds.without_overlap,
        'mfu': job.flops / bounds.seconds / peak,
        'mfu_without_overlap': job.flops / bounds.without_overlap / peak,
        'tokens_per_second': job.tokens / bounds.seconds,
        'per_second': 1 / bounds.seconds,
    }


def refusal(
    failure: compilation.Failure, job: job_lib.Job, devices: Sequence[Any]
) -> dict[str, Any]:
    """The same for a program that the compiler refused.

    What the program takes in is known from shapes alone; the rest of what it needs is temporary.
    """
    chip = topology.chip_of(devices[0])
    share = _devices_per_chip(devices)
    memory = {'arguments': share * job_lib.bytes_per_device(job.inputs)}
    if failure.needed:
        memory['total'] = share * failure.needed
        memory['temporaries'] = max(0, memory['total'] - memory['arguments'])
    limit = share * failure.limit if failure.limit else chip and chip.hbm_bytes
    return {
        'compiles': False,
        'compiler_message': failure.message,
        'fits': False if failure.out_of_memory else None,
        'hbm_bytes_per_chip': memory,
        'hbm_limit_bytes': limit,
    }


def _devices_per_chip(devices: Sequence[Any]) -> int:
    return len(devices) // roofline.chips_in(devices)


def _memory(stats: Any, share: int) -> dict[str, int]:
    """Bytes a chip of `share` devices; an output in the place of a donated argument counts once."""
    sizes = {
        'arguments': stats.argument_size_in_bytes,
        'temporaries': stats.temp_size_in_bytes,
        'output': stats.output_size_in_bytes - stats.alias_size_in_bytes,
        'program': stats.generated_code_size_in_bytes,
    }
    sizes = {part: share * int(size) for part, size in sizes.items()}
    return sizes | {'total': sum(sizes.values())}


def _collectives(
    hlo: compiled.Program, devices: Sequence[Any], chip: chips.Chip | None
) -> dict[str, dict[str, float]]:
    """By kind: how many runs a step, bytes of the arrays, seconds by bandwidth alone."""
    kinds: dict[str, dict[str, float]] = {}
    for collective in hlo.collectives():
        total = kinds.setdefault(collective.kind, {'count': 0, 'bytes': 0.0, 'seconds': 0.0})
        total['count'] += collective.times
        total['bytes'] += collective.times * collective.bytes
        if chip:
            total['seconds'] += roofline.collective_seconds(collective, devices, chip)
    return kinds
