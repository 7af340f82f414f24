"""Does it fit, how fast can it go, and what is in the way: a job on a slice that isn't here.

    python -m rt2_jax.plan --config=FILE[:ARG] --topology=v5p:8x8x8 [--mode=train|decode] \\
        [--output=FILE.json]

Compiles the training step (or the sampler) that `train` (or `policy`) runs, for a slice of TPUs
without a TPU (the `tpu` extra), for GPUs or CPU devices where they are here, and reads the result:
memory by chip, FLOPs, collectives, and a roofline. Nothing is allocated.
"""

from collections.abc import Sequence
import json
import os
import re
import sys
import time
from typing import Any

from absl import app, flags
from etils import epath
import jax

from rt2_jax import command, configuration
from rt2_jax.data import embodiments
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.evaluation import report
from rt2_jax.models import cost, vla
from rt2_jax.nearest import check
from rt2_jax.parallel import chips, compiled, mesh as mesh_lib, roofline, sharding, topology
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import (
    metrics,
    program as program_lib,
    state as state_lib,
    weights as weights_lib,
)

FLAGS = flags.FLAGS
_STACKS = ('vision', 'encoder', 'decoder', 'text')  # parts of a model that have layers


def plan(
    config: Any, name: str, mode: str, batch_size: int = 1, weights: str = compact.STORED
) -> tuple[dict[str, Any], str]:
    """Compiles a job for a slice and reads what came out.

    Args:
        config: of the run.
        name: of the slice, as `topology.devices` takes it.
        mode: 'train' for the training step, 'decode' for one action.
        batch_size: of a decoded batch.
        weights: of `compact.KINDS`, what decoding reads.

    Returns:
        The report (see `_report`), and the program as text ('' where it does not compile).

    Raises:
        topology.TopologyError: there is no such slice.
        ValueError: something in the config that cannot be on it.
    """
    devices = topology.devices(name)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else Tokenizer.load_default()
    begin = time.perf_counter()
    traced, parameters, rows = JOBS[mode](config, mesh, tokenizer, batch_size, weights)
    job = {
        'mode': mode,
        'topology': name,
        'mesh': {axis: int(size) for axis, size in mesh.shape.items()},
        'chips': roofline.chips_in(devices),
        'parameters': parameters,
        'batch_size': rows,
        'weights': weights,
    }
    try:
        with topology.quiet():
            done = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return job | _does_not_fit(error, devices), ''
    job['compile_seconds'] = round(time.perf_counter() - begin, 1)
    text = done.as_text()
    vocab = config.model.get('vocab', 0) or tokenizer.vocab_size
    space = _acted_on(config)
    analytic = (
        cost.train_flops(config.model, vocab, config.data, rows)
        if mode == 'train'
        else cost.decode_flops(config.model, config.data, rows, space.length, space.bins)
    )
    executed = metrics.count_flops(traced.jaxpr)
    found = _report(done, text, list(mesh.devices.flat), executed, analytic)
    if seconds := found.get('step_seconds'):
        frames = config.data.frames * (config.data.image_size // config.model.vision.patch) ** 2
        length = config.data.target_length if mode == 'train' else space.length
        tokens = rows * (frames + config.data.prompt_length + length)
        found['tokens_per_second'] = tokens / seconds
        found['per_second'] = 1 / seconds
    return job | found, text


def _train_job(config: Any, mesh: Any, tokenizer: Tokenizer, batch_size: int, kind: str) -> tuple:
    """The training step that `train` runs: traced, number of parameters, rows of a batch."""
    del batch_size
    if kind != compact.STORED:
        raise ValueError(f'--weights={kind} is for --mode=decode')
    sources = [*config.data.robot, *config.data.web]
    program = program_lib.build(config, mesh, tokenizer, sources, sources, _spaces(config))
    parameters = state_lib.count_parameters(program.state.params)
    return program.trace(), parameters, int(config.batch_size)


def _decode_job(config: Any, mesh: Any, tokenizer: Tokenizer, batch_size: int, kind: str) -> tuple:
    """The sampler's call for one action a row, with weights in the type that they are used in."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if batch_size % parts:
        raise ValueError(
            f'--batch_size={batch_size} does not split over data x fsdp = {parts} of config.mesh; '
            'take a multiple, or give the devices to config.mesh.tensor'
        )
    with config.copy_and_resolve_references().unlocked() as config:
        config.batch_size, config.accumulate = batch_size, 1
    batch = program_lib.batch_shapes(config, mesh)
    params = weights_lib.shapes(config, tokenizer, mesh)
    parameters = state_lib.count_parameters(params)
    model = vla.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids)
    if kind != compact.STORED:
        model = compact.apart(model, mesh.devices.flat[0].platform)
        params = compact.shapes(model, kind, weights_lib.inputs(config), mesh)
    coder = ActionTokenizer(_acted_on(config), tokenizer)
    sampler = Sampler(model, Grammar.create(tokenizer, coder))
    with sharding.rules(mesh):
        traced = sampler.trace(params, batch['images'], batch['prompt'], Kind.ACTION)
    return traced, parameters, batch_size


JOBS = {'train': _train_job, 'decode': _decode_job}


def _spaces(config: Any) -> dict[str, ActionSpace]:
    cards = {name: embodiments.known(fields.card) for name, fields in config.data.robot.items()}
    return {name: card.action_space for name, card in cards.items() if card}


def _acted_on(config: Any) -> ActionSpace:
    card = embodiments.known(config.embodiment)
    return card.action_space if card else ActionSpace.rt1_bounds()


def _report(
    done: Any, text: str, devices: Sequence[Any], executed: float, analytic: float
) -> dict[str, Any]:
    """What a compiled program says; the roofline only where the chip is in the table."""
    chip = topology.chip_of(devices[0])
    program = compiled.Program(text)
    share = len(devices) // roofline.chips_in(devices)
    memory = _memory(done.memory_analysis(), share)
    found = {
        'compiles': True,
        'hbm_bytes_per_chip': memory,
        'hbm_limit_bytes': chip.hbm_bytes if chip else None,
        'fits': memory['total'] <= chip.hbm_bytes if chip else None,
        'flops_per_step': executed,
        'flops_analytic': analytic,
        'flops_ratio': round(executed / analytic, 3),
        'collectives': _collectives(program, devices, chip),
    }
    if not chip:
        return found
    bounds = roofline.roofline(program, executed, devices, chip)
    peak = chip.device_flops * len(devices)
    return found | {
        'roofline': {
            'compute_seconds': bounds.compute,
            'memory_seconds': bounds.memory,
            'interconnect_seconds': bounds.interconnect,
            'bound': bounds.bound,
        },
        'step_seconds': bounds.seconds,
        'mfu': analytic / bounds.seconds / peak,
        'mfu_without_overlap': analytic / bounds.without_overlap / peak,
    }


def _memory(stats: Any, share: int) -> dict[str, int]:
    """Bytes a chip; what is given back in the place of what was taken counts once."""
    sizes = {
        'arguments': stats.argument_size_in_bytes,
        'temporaries': stats.temp_size_in_bytes,
        'output': stats.output_size_in_bytes - stats.alias_size_in_bytes,
        'program': stats.generated_code_size_in_bytes,
    }
    sizes = {part: share * int(size) for part, size in sizes.items()}
    return sizes | {'total': sum(sizes.values())}


def _collectives(
    program: compiled.Program, devices: Sequence[Any], chip: chips.Chip | None
) -> dict[str, dict[str, float]]:
    """By kind: how many runs a step, bytes of the arrays, seconds by bandwidth alone."""
    kinds: dict[str, dict[str, float]] = {}
    for collective in program.collectives():
        total = kinds.setdefault(collective.kind, {'count': 0, 'bytes': 0.0, 'seconds': 0.0})
        total['count'] += collective.times
        total['bytes'] += collective.times * collective.bytes
        if chip:
            total['seconds'] += roofline.collective_seconds(collective, devices, chip)
    return kinds


def _does_not_fit(error: Exception, devices: Sequence[Any]) -> dict[str, Any]:
    """The report where the compiler gave up; any other reason than memory is raised again."""
    used = re.search(r'Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm', str(error))
    if not used:
        raise error
    unit = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
    share = len(devices) // roofline.chips_in(devices)
    return {
        'compiles': False,
        'fits': False,
        'hbm_bytes_per_chip': {'total': int(share * float(used[1]) * unit[used[2]])},
        'hbm_limit_bytes': int(share * float(used[3]) * unit[used[4]]),
    }


def advice(found: dict[str, Any], config: Any) -> list[str]:
    """What to turn where a job does not fit, and what each turn is expected to save, in words."""
    if found['fits'] is not False:
        return []
    memory = found['hbm_bytes_per_chip']
    lines = []
    stacks = [part for part in _STACKS if part in config.model]
    kept = [part for part in stacks if config.model[part].get('remat', 'none') != 'full']
    if found['mode'] == 'train' and kept:
        lines.append(
            f'recompute in the backward pass ({", ".join(f"--config.model.{p}.remat=full" for p in kept)}): '
            'keeps one activation a layer in place of about ten'
        )
    if found['mode'] == 'train':
        half = f', about {gib(memory["temporaries"] / 2)}' if 'temporaries' in memory else ''
        lines.append(
            f'--config.accumulate={2 * config.accumulate}: half of the activations{half} a chip'
        )
    axis = 'fsdp' if found['mode'] == 'train' else 'tensor'
    half = f', about {gib(memory["arguments"] / 2)}' if 'arguments' in memory else ''
    lines.append(
        f'--config.mesh.{axis}={2 * found["mesh"][axis]} on as many chips or more: half of the '
        f'parameters and the optimizer{half} a chip'
    )
    return lines


def table(found: dict[str, Any]) -> str:
    """The report for people, a line a figure."""
    memory, limit = found['hbm_bytes_per_chip'], found['hbm_limit_bytes']
    parts = ', '.join(f'{part} {gib(size)}' for part, size in memory.items() if part != 'total')
    verdict = {True: 'fits', False: 'DOES NOT FIT', None: 'limit not known'}[found['fits']]
    rows = {
        'job': f'{found["mode"]}, {found["parameters"] / 1e9:.2f} B parameters, batch {found["batch_size"]}'
        + (f', weights {found["weights"]}' if found['mode'] == 'decode' else ''),
        'slice': f'{found["topology"]}, {found["chips"]} chips, mesh {found["mesh"]}',
        'memory a chip': f'{gib(memory["total"])}'
        + (f' of {gib(limit)}' if limit else '')
        + f': {verdict}'
        + (f' ({parts})' if parts else ''),
    }
    if found['compiles']:
        rows['compiled in'] = f'{found["compile_seconds"]:.0f} s'
        rows['FLOPs a step'] = (
            f'{found["flops_per_step"]:.3g} run, {found["flops_analytic"]:.3g} by the formula '
            f'(ratio {found["flops_ratio"]})'
        )
        for kind, total in found['collectives'].items():
            rows[kind] = (
                f'{total["count"]} a step, {total["bytes"] / 1e9:.2f} GB, {1e3 * total["seconds"]:.1f} ms'
            )
    if 'roofline' in found:
        bounds = found['roofline']
        rows['at best'] = (
            ', '.join(
                f'{part} {1e3 * bounds[part + "_seconds"]:.1f} ms'
                for part in ('compute', 'memory', 'interconnect')
            )
            + f': bound by {bounds["bound"]}'
        )
        rows['so'] = (
            f'{1e3 * found["step_seconds"]:.1f} ms a step, MFU {100 * found["mfu"]:.0f} % '
            f'({100 * found["mfu_without_overlap"]:.0f} % if collectives hide behind nothing), '
            f'{found["tokens_per_second"]:,.0f} tokens/s'
            + (f', {found["per_second"]:.1f} Hz' if found['mode'] == 'decode' else '')
        )
    return '\n'.join(f'{name:>15}  {value}' for name, value in rows.items())


def gib(size: float) -> str:
    """Bytes for people."""
    return f'{size / (1 << 30):.2f} GiB'


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('topology', None, "The slice: 'v5p:8x8x8', '2xv5e:16x16', 'cpu:8'.")
    flags.DEFINE_string('mode', 'train', f'What to compile, one of {", ".join(JOBS)}.')
    flags.DEFINE_integer('batch_size', 1, 'Rows of a batch to decode.', lower_bound=1)
    flags.DEFINE_enum(
        'weights', compact.STORED, compact.KINDS, 'What decoding reads; see decoding/compact.py.'
    )
    flags.DEFINE_string('output', None, 'JSON file for the report.')
    flags.DEFINE_string('program', None, 'Text file for the compiled program.')
    flags.mark_flags_as_required(['config', 'topology'])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    check('mode', FLAGS.mode, JOBS)
    if not FLAGS.topology.startswith('gpu'):
        # The TPU's compiler would look for a TPU here.
        jax.config.update('jax_platforms', 'cpu')
    try:
        found, text = plan(
            FLAGS.config, FLAGS.topology, FLAGS.mode, FLAGS.batch_size, FLAGS.weights
        )
    except topology.TopologyError as error:
        sys.exit(f'plan: {error}')
    print(table(found))
    for line in advice(found, FLAGS.config):
        print(f'{"to fit":>15}  {line}')
    found['manifest'] = report.manifest(config=FLAGS.config.to_dict())
    if FLAGS.output:
        epath.Path(FLAGS.output).write_text(json.dumps(found, indent=2))
    if FLAGS.program:
        epath.Path(FLAGS.program).write_text(text)


if __name__ == '__main__':
    define_flags()
    os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '3')
    os.environ.setdefault('TPU_MIN_LOG_LEVEL', '3')
    command.run('plan', main, flags_parser=configuration.parse_flags)
