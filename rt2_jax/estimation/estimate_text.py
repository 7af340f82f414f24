"""The report for people."""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


def table(fields: Fields) -> str:
    """The report of rt2_jax/estimate.py, a line a figure."""
    rows = _job(fields) | _memory(fields)
    if fields['compiles']:
        rows |= _program(fields)
    if 'roofline' in fields:
        rows |= _roofline(fields)
    if 'run' in fields:
        rows |= _run(fields['run'])
    lines = [f'{name:>15}  {value}' for name, value in rows.items()]
    return '\n'.join(lines + [f'{"to fit":>15}  {line}' for line in fields['advice']])


def gib(size: float) -> str:
    """Bytes for people."""
    return f'{size / (1 << 30):.2f} GiB'


def duration(seconds: float) -> str:
    """Seconds for people: '0.74 s', '12 s', '5.3 min', '2.1 h', '3.4 days'."""
    for unit, size in (('days', 86_400), ('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s' if seconds >= 10 else f'{seconds:.2f} s'


def digits(number: float) -> str:
    """A number with three significant digits, large ones whole: '0.0996', '8,415'."""
    return f'{number:,.0f}' if number >= 100 else f'{number:.3g}'


def short(number: float) -> str:
    """A count with its unit: '2.26 M', '55.1 G'."""
    for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if number >= size:
            return f'{number / size:.3g} {unit}'
    return f'{number:.3g} '


def _job(fields: Fields) -> dict[str, str]:
    rows = {
        'job': f'{fields["mode"]}, {short(fields["parameters"])} parameters, batch '
        f'{fields["batch_size"]}'
        + (f', weights {fields["weights"]}' if fields['mode'] == 'decode' else '')
    }
    rows['slice'] = f'{fields["topology"]}, {fields["chips"]} chips, mesh {fields["mesh"]}'
    if names := fields['slice']:
        rows['also called'] = (
            f'{names["name"]} = {names["accelerator_type"]} (gcloud); on GKE {names["gke_accelerator"]}, '
            f'{names["gke_topology"]}; {names["hosts"]} machines of {names["chips_per_host"]} chips'
        )
    if fields['tokenizer_stand_in']:
        rows['tokenizer'] = (
            f"{fields['tokenizer_stand_in']} is not here; the project's own stands in, and "
            'config.model.vocab gives the sizes'
        )
    return rows


def _memory(fields: Fields) -> dict[str, str]:
    memory, limit = fields['hbm_bytes_per_chip'], fields['hbm_limit_bytes']
    verdict = {True: 'fits', False: 'DOES NOT FIT', None: 'limit not known'}[fields['fits']]
    if not fields['compiles'] and fields['fits'] is None:
        verdict = 'DOES NOT COMPILE'
    parts = ', '.join(f'{part} {gib(size)}' for part, size in memory.items() if part != 'total')
    total = gib(memory['total']) if 'total' in memory else 'not known'
    rows = {
        'memory a chip': total
        + (f' of {gib(limit)}' if limit else '')
        + f': {verdict}'
        + (f' ({parts})' if parts else '')
    }
    if 'compiler_message' in fields:
        rows['compiler'] = f'does not fit or does not compile: {fields["compiler_message"]}'
    return rows


def _program(fields: Fields) -> dict[str, str]:
    rows = {
        'compiled in': f'{fields["compile_seconds"]:.0f} s',
        'FLOPs a step': f'{fields["flops_per_step"]:.3g} run, {fields["flops_analytic"]:.3g} by the '
        f'formula (ratio {fields["flops_ratio"]})',
    }
    for kind, total in fields['collectives'].items():
        rows[kind] = (
            f'{total["count"]} a step, {total["bytes"] / 1e9:.2f} GB, {1e3 * total["seconds"]:.1f} ms'
        )
    return rows


def _roofline(fields: Fields) -> dict[str, str]:
    bounds = fields['roofline']
    times = ', '.join(
        f'{part} {1e3 * bounds[part + "_seconds"]:.1f} ms'
        for part in ('compute', 'memory', 'interconnect')
    )
    return {
        'at best': f'{times}: bound by {bounds["bound"]}',
        'so': f'{1e3 * fields["step_seconds"]:.1f} ms a step, MFU {100 * fields["mfu"]:.0f} % '
        f'({100 * fields["mfu_without_overlap"]:.0f} % if collectives hide behind nothing), '
        f'{fields["tokens_per_second"]:,.0f} tokens/s'
        + (f', {fields["per_second"]:.1f} Hz' if fields['mode'] == 'decode' else ''),
    }


def _run(run: Fields) -> dict[str, str]:
    saved, crash, host = run['checkpoint'], run['crash'], run['host']
    assumed, rate = run['assumptions'], run['input']
    read_from = sorted({entry['known_from'] for entry in rate['sets'].values()})
    return {
        'whole run': f'{run["steps"]:,} steps: at best {_price(run["at_best"])}; '
        f'{_price(run["without_overlap"])} if collectives hide behind nothing',
        'checkpoint': f'{short(saved["bytes"])}B every {saved["every_steps"]:,} steps '
        f'({duration(saved["every_seconds"])}), written in {duration(saved["write_seconds"])}; '
        f'{saved["kept"]} kept, {short(saved["kept_bytes"])}B',
        'a crash': f'loses {crash["steps"]:,.0f} steps on average '
        f'({duration(crash["steps_seconds"])}) and {duration(crash["restart_seconds"])} to compile and '
        f'restore: {digits(crash["chip_hours"])} chip-hours{_cost(crash["cost"])}',
        'a host reads': f'{rate["examples_per_second_per_host"]:,.1f} examples/s, '
        f'{rate["bytes_per_second_per_host"] / 1e6:,.2f} MB/s at most '
        f'({rate["bytes_per_example"] / 1e3:,.0f} kB an example; {", ".join(read_from)})',
        'a host needs': f'{gib(host["memory_bytes"])}'
        + (f' of {gib(host["ram_bytes"])}' if host['ram_bytes'] else '')
        + (': TOO MUCH' if 0 < host['ram_bytes'] < host['memory_bytes'] else '')
        + f' (state while restoring {gib(host["state_peak_bytes"])}, batches '
        f'{gib(host["batches_bytes"])}, process {gib(host["process_bytes"])})',
        'assumed': f'{assumed["storage_gb_per_second"]:g} GB/s of storage a host, '
        f'{assumed["example_bytes"] / 1e3:g} kB a frame of a set without an index here',
    }


def _price(price: Fields) -> str:
    return (
        f'{duration(86_400 * price["days"])}, {digits(price["chip_hours"])} chip-hours'
        f'{_cost(price["cost"])}'
    )


def _cost(cost: float | None) -> str:
    return '' if cost is None else f', cost {digits(cost)}'
