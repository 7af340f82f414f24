"""Inspects a checkpoint, or compares two.

    python -m rt2_jax.checkpoints.inspect --checkpoint=runs/cofinetune [--against=package:tabletop_pretrained]

prints the parameters by module (shape, type, size, mesh axes, norm, extremes, NaN), the config, the
action space, the tokenizer, the versions, the data position and the size on disk; --output writes all of
it as JSON. A checkpoint is a run's directory, a packed one ('package:NAME' too), what rt2_jax.convert
wrote, or an exported policy. Arrays are read from disk block by block, so that it may be larger than
memory; --novalues reads none of them.

--against_step compares with another step: of --against, or of the same run.
"""

from __future__ import annotations

import os
import time

from absl import app, flags, logging

from rt2_jax import command, paths
from rt2_jax.checkpoints.inspection import inspection_text, opened, survey
from rt2_jax.manifest import as_json, make_manifest

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('checkpoint', None, "A checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_integer('step', None, 'Which step of a run; the latest by default.')
    flags.DEFINE_string('against', None, 'A checkpoint to compare with, taken as the earlier one.')
    flags.DEFINE_integer('against_step', None, 'Which step of it; the latest by default.')
    flags.DEFINE_string('output', None, 'Where the report goes as JSON.')
    flags.DEFINE_integer('depth', 2, "Parts of a parameter's name that make its module.", 0)
    flags.DEFINE_bool('values', True, 'Whether arrays are read; --novalues prints shapes alone.')
    flags.mark_flag_as_required('checkpoint')


def main(argv: list[str]) -> None:
    """Prints the report and writes it."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.ERROR)  # what Orbax says of directories that it only reads
    begin = time.perf_counter()
    other = FLAGS.against or (FLAGS.checkpoint if FLAGS.against_step is not None else None)
    output = paths.of(FLAGS.output) if FLAGS.output else None
    this = opened.open_checkpoint(FLAGS.checkpoint, FLAGS.step)
    against = opened.open_checkpoint(other, FLAGS.against_step) if other else None
    inspected = survey.survey(this, against, values=FLAGS.values, depth=FLAGS.depth)
    print(inspection_text.as_text(inspected, FLAGS.depth))
    if output:
        seconds = round(time.perf_counter() - begin, 2)
        content = inspected | {'seconds': seconds, 'manifest': make_manifest()}
        output.parent.mkdir(parents=True, exist_ok=True)
        paths.write(output, as_json(content).encode())
        print(f'\nWritten to {output}')


if __name__ == '__main__':
    define_flags()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # shapes alone are asked of JAX
    command.run('inspect', main)
