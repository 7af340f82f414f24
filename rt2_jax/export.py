"""Exports a policy: a directory that runs with jax and numpy, without rt2_jax.

    python -m rt2_jax.export --workdir=runs/cofinetune --output=exported [--kind=action,text,plan]
    python exported/exported_policy.py     # anywhere: checks the files, repeats the example

It writes, of each kind of answer (by default the kind that the policy acts by: at once, or after a
plan), a function of weights, images and prompt (`jax.export`: action.jax);
the weights (weights.safetensors); policy.json, which tells sizes, units, wording and how to call; the
tokenizer; an example with its answer; and exported_policy.py, which reads all this.

A function takes any number of rows and compiles for each anew, or, with --batch_sizes=1,4,16, those
alone. It runs on one device, of the platforms that --platforms names.

rt2_jax itself goes on from checkpoints: `rt2_jax.checkpoints.loading.pack` makes a small one, and
`rt2_jax.convert` writes the formats of others.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shutil
import time
from typing import Any

from absl import app, flags, logging
from etils import epath
import jax
import jax.export
import numpy as np

from rt2_jax import command, paths
from rt2_jax.checkpoints import assets
from rt2_jax.decoding.grammar import Kind
from rt2_jax.exported import description as description_lib, exported_policy, function
from rt2_jax.manifest import as_json, make_manifest, versions
from rt2_jax.nearest import check
from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import CONVENTIONS, Convention
from rt2_jax.weights import tensors

FLAGS = flags.FLAGS
SYMBOLIC = 'symbolic'
QUESTION = 'what is in the image'  # of the example
TOLERANCE = 1e-3  # of the example's numbers; nats for probabilities


def export(
    policy: Policy,
    output: Any,
    *,
    kinds: Sequence[Kind] = (),
    platforms: Sequence[str] = ('cpu', 'tpu', 'cuda'),
    batch_sizes: Sequence[int] | None = None,
    convention: str | None = None,
    instruction: str = 'pick banana',
    run: bool = True,
) -> dict[str, Any]:
    """Writes a policy as a directory that runs without this package.

    Args:
        policy: of a checkpoint, with weights as they were stored.
        output: the directory to write.
        kinds: of answers, a function each; by default the kind that the policy acts by.
        platforms: on which it shall run: 'cpu', 'tpu', 'cuda', 'rocm'.
        batch_sizes: numbers of rows, a function each; None for functions of any number.
        convention: of the actions, the robot's own by default (`rt2_jax/policy/conventions.py`).
        instruction: of the example.
        run: whether what was written is compiled and run, where this machine is of the platforms.

    Returns:
        The content of policy.json.

    Raises:
        ValueError: the directory holds something else, or the model or its weights can't be exported;
            the convention needs a robot's memory; or what was written doesn't repeat the policy's own
            answers.
    """
    kinds = tuple(kinds) or (Kind.PLAN if policy.plan else Kind.ACTION,)
    chosen = policy.convention(convention)
    chosen.centres()  # raises before anything is written
    if policy.pointer:
        raise ValueError(
            'this policy asks another model where things are (config.pointer), and an export holds one'
        )
    mirror = paths.Mirror(_emptied(paths.of(output)))
    folder = mirror.local
    try:
        functions = {
            kind.name.lower(): [
                _write_function(folder, kind, size, content)
                for size, content in function.export(
                    policy, kind, platforms, batch_sizes, chosen
                ).items()
            ]
            for kind in kinds
        }
        weights = _write_weights(policy, folder / exported_policy.WEIGHTS)
        (folder / description_lib.TOKENIZER).write_bytes(policy.tokenizer.model_bytes)
        shutil.copy(exported_policy.__file__, folder / 'exported_policy.py')
        example = _write_example(
            policy, kinds, chosen, instruction, min(batch_sizes or [2]), folder
        )
        description = description_lib.describe(
            policy,
            kinds,
            chosen,
            functions,
            platforms=list(platforms),
            weights=weights,
            example=example,
            versions=versions(),
            calling_convention_version=jax.export.maximum_supported_calling_convention_version,
            manifest=make_manifest(),
        )
        mirror.upload()
        # Last of all, because it says that the others are there.
        (folder / exported_policy.POLICY).write_text(as_json(description))
        if run and jax.export.default_export_platform() in platforms:
            _check(mirror, kinds)
        mirror.upload()
    finally:
        mirror.discard()
    return description


def _emptied(output: epath.Path) -> epath.Path:
    """The directory to write, without an earlier export; ValueError if it holds something else."""
    assets.check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    present = sorted(path.name for path in output.iterdir())
    if present and not {exported_policy.POLICY, exported_policy.WEIGHTS} & set(present):
        raise ValueError(f'{output} is not empty and holds no exported policy: {present[0]}')
    # First of all, because it says that the others are there.
    for path in (output / exported_policy.POLICY, *output.glob('*.jax')):
        path.unlink(missing_ok=True)
    return output


def _write_function(
    folder: pathlib.Path, kind: Kind, size: int | str, content: bytes
) -> dict[str, Any]:
    suffix = '' if size == function.ANY else f'-{size}'
    path = folder / f'{kind.name.lower()}{suffix}.jax'
    path.write_bytes(content)
    return {'file': path.name, 'batch': size, **_size_and_hash(path)}


def _size_and_hash(path: pathlib.Path) -> dict[str, Any]:
    return {'bytes': path.stat().st_size, 'sha256': exported_policy.fingerprint(path)}


def _write_weights(policy: Policy, path: pathlib.Path) -> dict[str, Any]:
    weights = function.weights_of(policy)
    arrays = {name: tensors.of_array(name, x) for name, x in weights.items()}
    # One file, however large: whoever reads it needs no index.
    tensors.write_safetensors(path.parent, arrays, stem=path.stem, shard_bytes=1 << 62)
    return {
        'file': path.name,
        **_size_and_hash(path),
        'parameters': sum(x.size for x in weights.values()),
        'types': sorted({x.dtype.name for x in weights.values()}),
    }


def _write_example(
    policy: Policy,
    kinds: Sequence[Kind],
    convention: Convention,
    instruction: str,
    rows: int,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes pictures, prompts and the answers of the policy's own sampler."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (rows, policy.settings.pictures, 8, 8, 3), np.uint8)
    pixels = np.arange(policy.image_size) * 8 // policy.image_size
    images = coarse[:, :, pixels][:, :, :, pixels]
    grid = policy.state_grid
    state = grid.text(np.add(grid.space.low, grid.space.high) / 2) if grid else ''
    arrays: dict[str, Any] = {}
    first_row: dict[str, Any] = {}
    for kind in kinds:
        template = description_lib.template(policy, kind)
        text = template.format(instruction=instruction, question=QUESTION, state=state)
        prompt = policy.prompt_array([text] * rows)
        samples = policy.sampler(policy.params, images, prompt, kind)
        answer = {name: np.asarray(getattr(samples, name))[:, 0] for name in function.SAMPLED}
        if kind != Kind.TEXT:
            length = policy.action_tokenizer.length
            ids = [row[:n][-length:] for row, n in zip(answer['tokens'], answer['lengths'])]
            flag = policy.action_tokenizer.space.terminate
            commands = [
                [*action[:flag], *convention.values(action)]
                for action in policy.action_tokenizer.decode(np.stack(ids))
            ]
            answer['actions'] = np.array(commands, np.float32)
        name = kind.name.lower()
        inputs = {'images': images, 'prompt': prompt}
        arrays |= {f'{name}/{key}': x for key, x in (inputs | answer).items()}
        first_row[name] = {'prompt': text, 'prompt_ids': prompt[0].tolist()} | {
            key: x[0].tolist() for key, x in answer.items()
        }
    np.savez(folder / exported_policy.EXAMPLE, **arrays)
    device = jax.devices()[0]
    return {
        'file': exported_policy.EXAMPLE,
        'made_on': f'{device.platform}: {device.device_kind}',
        'tolerance': TOLERANCE,
        'first_row': first_row,
    }


def _check(mirror: paths.Mirror, kinds: Sequence[Kind]) -> None:
    """Runs what was written; ValueError where its answers are not the policy's."""
    for number, kind in enumerate(kinds):
        name = kind.name.lower()
        exported = exported_policy.ExportedPolicy(mirror.local, name, check=not number)
        if difference := exported.difference():
            raise ValueError(
                f'{mirror.folder}: {name} differs from the policy itself: {difference}'
            )


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('workdir', None, "Checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_string('output', None, 'The directory to write.')
    flags.DEFINE_integer('step', None, 'Which step; the latest by default.')
    flags.DEFINE_string('source', '', 'The robot data set in whose action space to act.')
    flags.DEFINE_list('kind', [], 'Of answers: action, text, plan; by default what it acts by.')
    flags.DEFINE_list('platforms', ['cpu', 'tpu', 'cuda'], 'cpu, tpu, cuda, rocm.')
    flags.DEFINE_list('batch_sizes', [SYMBOLIC], "'symbolic' for any, or sizes: '1,4,16'.")
    flags.DEFINE_string(
        'convention',
        None,
        "In whose numbers the actions are: 'robot' (default), position or internal.",
    )
    flags.DEFINE_string('instruction', 'pick banana', 'What the example asks for.')
    flags.DEFINE_bool('run', True, 'Whether what was written is run, to see that it acts the same.')
    flags.mark_flags_as_required(['workdir', 'output'])


def settings() -> dict[str, Any]:
    """The arguments of `export` on the command line; ValueError for names and sizes that don't exist."""
    names = [kind.name.lower() for kind in Kind]
    for platform in FLAGS.platforms:
        check('platform', platform, function.PLATFORMS)
    check('convention', FLAGS.convention or 'robot', CONVENTIONS)
    sizes = None
    if FLAGS.batch_sizes != [SYMBOLIC]:
        if not all(size.isdigit() and int(size) for size in FLAGS.batch_sizes):
            raise ValueError(f"--batch_sizes are 'symbolic' or numbers: {FLAGS.batch_sizes}")
        sizes = sorted({int(size) for size in FLAGS.batch_sizes})
    return {
        'kinds': [Kind[check('kind', name, names).upper()] for name in FLAGS.kind],
        'platforms': FLAGS.platforms,
        'batch_sizes': sizes,
        'convention': FLAGS.convention,
        'instruction': FLAGS.instruction,
        'run': FLAGS.run,
    }


def main(argv: list[str]) -> None:
    """Exports the policy that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.ERROR)
    begin = time.perf_counter()
    policy = Policy.from_checkpoint(FLAGS.workdir, FLAGS.step, source=FLAGS.source)
    description = export(policy, FLAGS.output, **settings())
    weights = description['weights']
    print(
        f'{FLAGS.output}: {weights["parameters"]:,} parameters '
        f'({weights["bytes"] / 1e6:.1f} MB, {", ".join(weights["types"])}) of step '
        f'{description["step"]:,}, in {time.perf_counter() - begin:.1f} s'
    )
    for file in sum(description['functions'].values(), []):
        print(f'  {file["file"]}: {file["batch"]} rows, {file["bytes"] / 1e6:.2f} MB')
    how = f'python {FLAGS.output}/exported_policy.py checks it'
    if paths.is_remote(FLAGS.output):
        how = 'copy it to a folder, where python exported_policy.py checks it'
    print(f'  for {", ".join(description["platforms"])}; {how}')


if __name__ == '__main__':
    define_flags()
    command.run('export', main)
