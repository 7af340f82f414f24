"""Parameters that a run starts from: `config.init_from`."""

from collections.abc import Sequence
from typing import Any

from absl import logging
import flax

from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.checkpoints.loading import MODEL, locate, open_for_inference, read_model
from rt2_jax.nearest import nearest
from rt2_jax.text.tokenizer import INTEGERS, Tokenizer
from rt2_jax.weights import tensors

WORDS = {'embedding', 'head'}  # top-level parts of a model with a row for each token


def initial_params(init_from: str, parts: Sequence[str], tokenizer: Tokenizer) -> Any:
    """The parameters that a run starts from; nothing is read before `state.place`.

    Args:
        init_from: directories by comma, each a run's, a converted one or 'package:NAME'; each fills
            other top-level parts; '' for none. Of 'DIR#PART' nothing but this part is taken.
        parts: top-level parts that are taken ('tower', ...); all if empty.
        tokenizer: of the run that starts.

    Raises:
        CheckpointError: as `load_for_inference`, a part that no directory has or several have, or one
            with words (`WORDS`) of another vocabulary, or converted with other tokens for integers.
    """
    if not init_from:
        return {}
    merged: dict[str, Any] = {}
    for directory in init_from.split(','):
        directory, _, only = directory.partition('#')
        params, vocabulary = _parts_of(directory)
        if only and only not in params:
            raise CheckpointError(
                f'config.init_from names {only!r} of {directory}, which does not have it'
                f'{nearest(only, params)}'
            )
        wanted = (only,) if only else parts
        params = {part: x for part, x in params.items() if not wanted or part in wanted}
        if WORDS & set(params):
            _check_integers(directory, tokenizer)
            if vocabulary and vocabulary != tokenizer.model_bytes:
                raise CheckpointError(
                    f'config.init_from={directory} was trained with another vocabulary than this run '
                    'has; set config.tokenizer to its tokenizer.model, or leave '
                    f'{" and ".join(sorted(WORDS & set(params)))} out of config.init_parts'
                )
        if twice := set(merged) & set(params):
            raise CheckpointError(
                f'config.init_from: {directory} has {", ".join(sorted(twice))}, which another has '
                'too; name the parts to take in config.init_parts, or give one directory'
            )
        merged |= params
    for part in parts:
        if part not in merged:
            raise CheckpointError(
                f'config.init_parts names {part!r}, which {init_from} does not have'
                f'{nearest(part, merged)}'
            )
    return merged


def _parts_of(directory: str) -> tuple[dict[str, Any], bytes]:
    """Top-level parts of a directory's parameters, and a run's vocabulary (b'' for a converted one)."""
    path = locate(directory)
    if (path / MODEL).exists():
        named = {tuple(n.split('/')): t for n, t in tensors.open_tensors(path).items()}
        return flax.traverse_util.unflatten_dict(named), b''
    loaded = open_for_inference(directory)
    logging.info('starting from %s, step %d', loaded.directory, loaded.step)
    return loaded.params, loaded.tokenizer.model_bytes


def _check_integers(directory: str, tokenizer: Tokenizer) -> None:
    """Refuses a converted directory that has other tokens for integers than the run."""
    path = locate(directory) / MODEL
    integers = read_model(path.parent).get('integers') if path.exists() else None
    if not integers:  # a run's, or without a vocabulary of its own
        return
    ours = set(tokenizer.integer_ids.tolist())
    if not ours.issuperset(integers['ids']) or (
        integers['way'] == 'append' and len(ours) < INTEGERS
    ):
        raise CheckpointError(
            f'config.init_from={directory} has tokens for integers by {integers["way"]!r} ({path}), and '
            "they are others than those of this run's tokenizer; set config.tokenizer to "
            f'{path.parent / "tokenizer.model"}, or convert again'
        )
