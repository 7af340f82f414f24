"""Imports and exports public checkpoints.

    python -m rt2_jax.convert --source=FILE_OR_DIR --format=NAME --output=DIR [--image_size=224]

From a checkpoint in a public format, writes a directory that a run starts from
(`--config.init_from=DIR`): params.safetensors; model.json, the part of `config.model` that it fills; and,
if there is a tokenizer beside it (a SentencePiece model, else tokenizer.json), tokenizer.model with a
token for each integer.
From a directory of ours (a run's, a packed or a converted one), writes the public format, so that
others can load it. Tensors are read and written one at a time.
"""

import json
import math
import os
import time
from typing import Any

from absl import app, flags, logging
from etils import epath

from rt2_jax import command, paths
from rt2_jax.checkpoints import loading, param_shapes
from rt2_jax.nearest import check
from rt2_jax.text import integers, tokenizer
from rt2_jax.weights import formats, rules, tensors

FLAGS = flags.FLAGS
_TOKENIZERS = ('spiece.model', 'tokenizer.model', 'tokenizer.json')  # the first that is there


def import_(source: epath.PathLike, name: str, output: epath.Path, image_size: int | None) -> int:
    """Writes a public checkpoint as a directory of ours; returns the number of parameters.

    Args:
        source: the checkpoint, as for `formats.open_source`.
        name: of its format.
        output: the directory to write.
        image_size: side of the model's frames, pixels; the checkpoint's by default.

    Raises:
        tensors.SourceError: it cannot be read, or does not fit the format.
    """
    opened = formats.open_source(source, name)
    words = _words(source, formats.FORMATS[name].integers)
    size = image_size or _image_size(opened)
    shapes = param_shapes.named_shapes(opened.model, size)
    params = rules.imported(opened.rules, opened.tensors, shapes)
    tensors.write_safetensors(output, params, stem=loading.PARAMS)
    model = opened.model | {'image_size': size} if size else opened.model
    record: dict[str, Any] = {'format': name, 'model': model}
    if words:
        paths.write(output / 'tokenizer.model', words.model_bytes)
        record['integers'] = {
            'way': formats.FORMATS[name].integers,
            'ids': words.ids,
            'instead_of': words.instead_of,
        }
    paths.write(output / loading.MODEL, json.dumps(record, indent=2).encode())
    return sum(tensor.count for tensor in params.values())


def _words(source: epath.PathLike, way: str) -> integers.Changed | None:
    """The tokenizer beside a checkpoint, with a token for each integer added; None without one."""
    folder = paths.of(str(source).partition('.npz:')[0])
    for file in _TOKENIZERS:
        if (folder / file).exists():
            return integers.with_integers(tokenizer.read(folder / file), way)
    return None


def _image_size(opened: formats.Source) -> int | None:
    """Side of the frames of a checkpoint, from its positions; None without positions."""
    rule = next((rule for rule in opened.rules if rule.ours == 'tower/positions'), None)
    if rule is None or rule.theirs not in opened.tensors:
        return None
    tokens = opened.tensors[rule.theirs].shape[-2]
    return math.isqrt(tokens) * opened.model['vision']['patch']


def export(source: epath.PathLike, name: str, output: epath.Path) -> tuple[int, list[str]]:
    """Writes parameters of ours in a public format.

    Args:
        source: a run's directory, a packed or a converted one.
        name: of the format.
        output: the directory to write.

    Returns:
        The number of parameters, and the parts of the model that the format does not have.

    Raises:
        tensors.SourceError: the format does not fit the model.
    """
    form = formats.FORMATS[check('format', name, formats.FORMATS)]
    if form.theirs is None:
        raise tensors.SourceError(f'{name} is read and not written: its files have no config.json')
    model, params = loading.open_params(source)
    try:
        table = form.rules(model, {})
    except KeyError as error:
        raise tensors.SourceError(
            f'{source} is a {model["name"]!r} model, and {name} is not for these: it lacks {error}'
        ) from error
    written = rules.exported(table, params)
    parts = {rule.ours.split('/')[0] for rule in table}
    left = sorted({n.split('/')[0] for n in params} - parts)
    tensors.write_safetensors(output, written)
    paths.write(output / 'config.json', json.dumps(form.theirs(model), indent=2).encode())
    return sum(tensor.count for tensor in written.values()), left


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    known = '; '.join(f'{name}: {form.what}' for name, form in formats.FORMATS.items())
    flags.DEFINE_string('source', None, 'A checkpoint: a file or a directory.')
    flags.DEFINE_string('format', None, f'The public format. {known}.')
    flags.DEFINE_string('output', None, 'The directory to write.')
    flags.DEFINE_integer(
        'image_size', None, "Side of the model's frames, pixels; the checkpoint's by default.", 1
    )
    flags.mark_flags_as_required(['source', 'format', 'output'])


def main(argv: list[str]) -> None:
    """Imports or exports, by what the source is."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.WARNING)
    output, begin = paths.of(FLAGS.output), time.perf_counter()
    ours = loading.is_ours(FLAGS.source)
    if ours:
        count, left = export(FLAGS.source, FLAGS.format, output)
        if left:
            print(f'{FLAGS.format} has no place for {", ".join(left)}: not written')
    else:
        count = import_(FLAGS.source, FLAGS.format, output, FLAGS.image_size)
    size = sum(paths.files(output).values())
    seconds = time.perf_counter() - begin
    print(
        f'{count / 1e6:.2f} M parameters {"written as" if ours else "read from"} {FLAGS.format}: '
        f'{output}, {size / 1e6:.1f} MB in {seconds:.1f} s ({size / 1e6 / seconds:.0f} MB/s)'
    )


if __name__ == '__main__':
    define_flags()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # Shapes alone are asked of JAX.
    command.run('convert', main)
