r"""What a job needs of a slice that isn't here: does it fit, how fast at best, and what it costs.

    python -m rt2_jax.estimate --config=FILE[:ARG] --topology=v5p:8x8x8 [--mode=train|decode] \
        [--price_per_chip_hour=4.2] [--output=FILE.json]

Compiles the training step (or the sampler) that `train` (or `policy`) runs, for a slice of TPUs
without a TPU (the `tpu` extra), for GPUs or CPU devices where they are here, and reads the result.
Nothing is allocated. `--topology` takes 'v5p:8x8x8' or 'v5p-1024', '2x' before it for two slices.

Fields of the JSON; bytes, seconds and FLOPs throughout:
    mode, topology, mesh, chips, parameters, largest_parameter (numbers, layers left out), batch_size,
        weights: the job
    slice: accelerator_type (gcloud), gke_accelerator and gke_topology (GKE's node labels), machine,
        hosts, chips_per_host; null for cpu and gpu
    tokenizer_stand_in: the tokenizer file that is not here and not needed, or ''
    compiles, fits: whether the compiler accepted the program, and whether its memory is enough; null
        where that is not known
    compiler_message: first line of what the compiler said; only where it refused
    advice: settings to change where it does not fit
    hbm_bytes_per_chip: arguments (parameters, optimizer, batch), temporaries, output, program, total
    hbm_limit_bytes: memory of a chip
    compile_seconds: of this machine
    flops_per_step, flops_analytic, flops_ratio: of the program, of the model alone
        (estimation/model_flops.py), and their ratio; recomputation is what is above 1
    collectives: by kind: count a step, bytes of the arrays, seconds by bandwidth
    roofline: compute_seconds, memory_seconds, interconnect_seconds, each by itself, and `bound`
    step_seconds, mfu, tokens_per_second, per_second: where the longest hides the others
    step_seconds_without_overlap, mfu_without_overlap: where collectives hide behind nothing
    run: only for 'train', on chips of the table:
        steps; at_best and without_overlap: days, chip_hours, cost (null without a price)
        checkpoint: bytes (before compression), every_steps, every_seconds, kept, kept_bytes,
            write_seconds, read_seconds
        crash: expected loss of one: steps (half of every_steps) and their seconds, restart_seconds
            (compiling and reading), chip_hours, cost
        input: examples_per_second, and of each host examples_per_second_per_host and
            bytes_per_second_per_host; bytes_per_example; by set its share, bytes_per_example and
            known_from ('index' or 'assumed')
        host: memory_bytes that each needs (state_peak_bytes while restoring, batches_bytes read
            ahead, process_bytes), state_bytes of its devices, ram_bytes it has (0: not known), hosts
        assumptions: the flags that the above rests on
    manifest: command, date, versions, config
"""

import dataclasses
import json
import os
import signal
import sys
from typing import Any, TextIO

from absl import app, flags
from etils import epath
import jax

from rt2_jax import command, configuration, paths
from rt2_jax.decoding import compact
from rt2_jax.estimation import advice, compiled_job, estimate_text, job as job_lib, run
from rt2_jax.manifest import make_manifest
from rt2_jax.nearest import check
from rt2_jax.parallel import compilation, mesh as mesh_lib, roofline, slices, topology
from rt2_jax.training import flops

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options beside the config.

    Attributes:
        topology: of the slice, as `topology.devices` takes it.
        mode: 'train' for the training step, 'decode' for one action.
        batch_size: rows to decode at once.
        weights: of `compact.WEIGHTS`, what decoding reads.
        assumptions: of the whole run.
    """

    topology: str
    mode: str = 'train'
    batch_size: int = 1
    weights: str = compact.STORED
    assumptions: run.Assumptions = run.Assumptions()


def estimate(
    config: Any, options: Options, progress: TextIO | None = None
) -> tuple[dict[str, Any], str]:
    """Compiles a job for a slice and says what it needs.

    Args:
        config: of the run.
        options: of the command.
        progress: where lines go while it compiles; stderr by default.

    Returns:
        The report, with the fields above but for `manifest`, and the program's HLO ('' where it does
        not compile).

    Raises:
        ValueError: no such slice, or something in the config that cannot be on it.
    """
    devices = topology.devices(options.topology)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    job = job_lib.build(config, mesh, options.mode, options.batch_size, options.weights)
    size = f'{job.parameters / 1e6:.2f} M parameters'
    print(
        f'{size}, {options.topology}: tracing and compiling',
        file=progress or sys.stderr,
        flush=True,
    )
    with topology.quiet() as stderr:
        traced, compiled, seconds = compilation.trace_and_compile(job.trace, progress or stderr)
    fields = _job_fields(job, options, devices) | {'compile_seconds': round(seconds, 1)}
    ordered = list(mesh.devices.flat)
    if isinstance(compiled, compilation.Failure):
        fields |= compiled_job.refusal(compiled, job, ordered)
        return fields | {'advice': advice.advice(fields, config)}, ''
    hlo = compiled.as_text()
    executed = flops.count_flops(traced.jaxpr)
    fields |= compiled_job.report(compiled, hlo, executed, job, ordered)
    fields['advice'] = advice.advice(fields, config)
    if options.mode == 'train' and 'step_seconds' in fields:
        hosts = _hosts(options.topology, devices)
        fields['run'] = run.whole_run(config, job, fields, hosts, options.assumptions)
    return fields, hlo


def _job_fields(job: job_lib.Job, options: Options, devices: list[Any]) -> dict[str, Any]:
    return {
        'mode': job.mode,
        'topology': options.topology,
        'slice': _slice_fields(options.topology),
        'mesh': {axis: int(size) for axis, size in job.mesh.shape.items()},
        'chips': roofline.chips_in(devices),
        'parameters': job.parameters,
        'largest_parameter': job.largest_parameter,
        'batch_size': job.batch_size,
        'weights': options.weights,
        'tokenizer_stand_in': job.stand_in,
    }


def _slice_fields(name: str) -> dict[str, Any] | None:
    if topology.is_here(name):
        return None
    slice_ = slices.parse(name)
    return {
        'name': slice_.name,
        'accelerator_type': slice_.accelerator_type,
        'gke_accelerator': slice_.family.gke_label,
        'gke_topology': slice_.topology,
        'machine': slice_.family.machine,
        'hosts': slice_.hosts,
        'chips_per_host': slice_.chips_per_host,
    }


def _hosts(name: str, devices: list[Any]) -> run.Hosts:
    chips = roofline.chips_in(devices)
    if topology.is_here(name):
        return run.Hosts(count=1, devices=len(devices), chips=chips, ram=0)
    slice_ = slices.parse(name)
    return run.Hosts(
        count=slice_.hosts,
        devices=len(devices) // slice_.hosts,
        chips=chips,
        ram=slice_.family.machine_ram * slice_.chips_per_host // 4,
    )


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    assumed = run.Assumptions()
    configuration.define_flag()
    flags.DEFINE_string(
        'topology', None, "The slice: 'v5p:8x8x8', 'v5p-1024', '2xv5e:16x16', 'cpu:8'."
    )
    flags.DEFINE_string('mode', 'train', f'What to compile, one of {", ".join(job_lib.MODES)}.')
    flags.DEFINE_integer('batch_size', 1, 'Rows of a batch to decode.', lower_bound=1)
    flags.DEFINE_enum(
        'weights', compact.STORED, compact.WEIGHTS, 'What decoding reads; see decoding/compact.py.'
    )
    flags.DEFINE_float('price_per_chip_hour', None, 'Of one chip, in any currency.', 0.0)
    flags.DEFINE_float(
        'storage_gb_per_second',
        assumed.storage_gb_per_second,
        "1e9 bytes/s between one host and the workdir's storage; an assumption, so measure yours.",
        lower_bound=1e-3,
    )
    flags.DEFINE_integer(
        'example_bytes',
        assumed.example_bytes,
        'Bytes that are read for a frame of a set that is not indexed here; an assumption: JPEGs of 256 '
        'to 480 pixels take 20 to 80 kB.',
        lower_bound=0,
    )
    flags.DEFINE_string('output', None, 'JSON file for the report.')
    flags.DEFINE_string('program', None, 'Text file for the compiled program.')
    flags.mark_flags_as_required(['config', 'topology'])


def _options() -> Options:
    return Options(
        topology=FLAGS.topology,
        mode=check('mode', FLAGS.mode, job_lib.MODES),
        batch_size=FLAGS.batch_size,
        weights=FLAGS.weights,
        assumptions=run.Assumptions(
            FLAGS.price_per_chip_hour, FLAGS.storage_gb_per_second, FLAGS.example_bytes
        ),
    )


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    options = _options()
    outputs = [_writable(path) for path in (FLAGS.output, FLAGS.program)]
    if not options.topology.startswith('gpu'):
        # The TPU's compiler would look for a TPU here.
        jax.config.update('jax_platforms', 'cpu')
    terminal = os.dup(2)  # the compiler's messages are sent elsewhere meanwhile

    def end_at_once(*_: Any) -> None:
        # An exception can be lost in a callback of jax's, and Python would wait for the compiler.
        os.write(terminal, b'\nestimate: interrupted\n')
        os._exit(command.INTERRUPTED)

    signal.signal(signal.SIGINT, end_at_once)
    fields, hlo = estimate(FLAGS.config, options)
    print(estimate_text.table(fields))
    fields['manifest'] = make_manifest(config=FLAGS.config.to_dict())
    for path, content in zip(outputs, (json.dumps(fields, indent=2), hlo), strict=True):
        if path:
            paths.write(path, content.encode())


def _writable(name: str | None) -> epath.Path | None:
    """The path of an output, after writing a probe beside it: known before minutes of compiling."""
    if not name:
        return None
    path = paths.of(name)
    paths.probe(path.parent)
    return path


if __name__ == '__main__':
    define_flags()
    os.environ.setdefault('TPU_STDERR_LOG_LEVEL', '3')
    os.environ.setdefault('TPU_MIN_LOG_LEVEL', '3')
    command.run('estimate', main, flags_parser=configuration.parse_flags)
