"""T5 v1.1, Flan-T5, mT5 and UL2 as T5X checkpoints.

Layouts: github.com/google-research/t5x, examples/t5/network.py: `layers_{i}`, heads joined, one table
of relative positions a stack. With scanned layers (examples/scalable_t5, and flaxformer's
t5_architecture.py, which joins heads) they are on axis 1, and there is a table a layer. What the
hidden layers' activation is, only the `config.gin` that T5X writes says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import math
import re
from typing import Any

from absl import logging
from etils import epath

from rt2_jax import paths
from rt2_jax.weights.rules import LAYER, Rule
from rt2_jax.weights.tensors import SourceError, Tensor

# Of each stack's layers: ours -> (our norm, theirs, their norm).
_PARTS = {
    'encoder': {
        'attention': ('attention_norm', 'attention', 'pre_attention_layer_norm'),
        'mlp': ('mlp_norm', 'mlp', 'pre_mlp_layer_norm'),
    },
    'decoder': {
        'self_attention': ('self_norm', 'self_attention', 'pre_self_attention_layer_norm'),
        'cross_attention': (
            'cross_norm',
            'encoder_decoder_attention',
            'pre_cross_attention_layer_norm',
        ),
        'mlp_block': ('mlp_norm', 'mlp', 'pre_mlp_layer_norm'),
    },
}
_ATTENTION = dict.fromkeys(('query', 'key', 'value'), 'width {heads}') | {'out': '{heads} width'}
_HIDDEN = {'wi_0': 'width hidden', 'wi_1': 'width hidden', 'wo': 'hidden width'}
# Their pair of the gate and the product beside it -> our activation.
_ACTIVATIONS = {('gelu', 'linear'): 'gelu', ('silu', 'linear'): 'silu', ('swish', 'linear'): 'silu'}
# Values that config.gin may have for the network, beside activation and sizes; the rest of it is of data,
# training and decoding.
_FIXED = {
    'num_buckets': ('32',), 'max_distance': ('128',), 'LayerNorm.epsilon': ('1e-6', '1e-06', '0.000001'),
    'logits_via_embedding': ('False',), 'rescale_logits': ('False',),
}  # fmt: skip
_HEAD = 'target/decoder/logits_dense/kernel'
_LAST_NORM = 'target/decoder/decoder_norm/scale'


def rules(source: Mapping[str, Tensor]) -> tuple[Rule, ...]:
    """The table of a checkpoint, by the layout of its arrays."""
    return (
        Rule('embedding/embedding', 'target/token_embedder/embedding'),
        *_stack('encoder', source),
        Rule('text_encoder/norm/scale', 'target/encoder/encoder_norm/scale'),
        *_stack('decoder', source),
        # UL2's has no scale, which is one of ones.
        Rule('text_decoder/norm/scale', _LAST_NORM, constant=1.0),
        Rule('head/kernel', _HEAD),
    )


def _stack(stack: str, source: Mapping[str, Tensor]) -> Iterator[Rule]:
    scan, layers = scanned(source), _layers(stack, source)
    joined = len(_query(stack, source)) - scan == 2
    heads = '(heads head_dim)' if joined else 'heads head_dim'
    for part, (norm, their, their_norm) in _PARTS[stack].items():
        ours = f'text_{stack}/layers'
        for name, axes in (_HIDDEN if their == 'mlp' else _ATTENTION).items():
            layout = _layout(axes.format(heads=heads), scan)
            yield Rule(f'{ours}/{part}/{name}/kernel', f'{layers}/{their}/{name}/kernel', layout)
        yield Rule(f'{ours}/{norm}/scale', f'{layers}/{their_norm}/scale', _layout('width', scan))
    table = _table(stack, source)
    yield Rule(
        f'text_{stack}/relative_bias/table',
        table,
        'heads buckets -> buckets heads',
        part=(1, 0, source[table].shape[1]) if scan else None,
    )


def _layout(axes: str, scan: bool) -> str:
    """How an array of theirs with these axes becomes ours: heads apart, layers first."""
    first, *others = re.findall(r'\([^)]*\)|\S+', axes)
    ours = axes.translate(str.maketrans('', '', '()'))
    if not scan:
        return f'{axes} -> {ours}'
    return f'{" ".join([first, "layers", *others])} -> layers {ours}'


def scanned(source: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has all layers of a stack in one array."""
    return any(name.startswith('target/encoder/encoder/') for name in source)


def _layers(stack: str, source: Mapping[str, Tensor]) -> str:
    return f'target/{stack}/' + (stack if scanned(source) else f'layers_{LAYER}')


def _table(stack: str, source: Mapping[str, Tensor]) -> str:
    """Name of the relative positions' table."""
    layers = _layers(stack, source) if scanned(source) else f'target/{stack}'
    return f'{layers}/relpos_bias/rel_embedding'


def _first(stack: str, source: Mapping[str, Tensor]) -> str:
    """Where the arrays of a stack's first layer are, or those of all."""
    return _layers(stack, source).replace(LAYER, '0')


def _query(stack: str, source: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Shape of a query kernel there."""
    part = next(iter(_PARTS[stack].values()))[1]
    return source[f'{_first(stack, source)}/{part}/query/kernel'].shape


def config(path: epath.PathLike) -> dict[str, Any]:
    """Reads `config.gin` in a checkpoint's directory or its parent.

    Returns:
        `where` it is, or would be; `activations` if it has them.

    Raises:
        SourceError: it has several.
    """
    folder = paths.of(path)
    file = next(
        (f for f in (folder / 'config.gin', folder.parent / 'config.gin') if f.exists()), None
    )
    if file is None:
        return dict(where=str(folder / 'config.gin'))
    text = file.read_text()
    for name, known in _FIXED.items():
        for value in re.findall(rf'(?m)^[^#\n]*{re.escape(name)}\s*=\s*([^\s#]+)', text):
            if value not in known:
                raise SourceError(
                    f'{file}: {name} is {value}; the model here computes with {known[0]}'
                )
    # Of T5X's own networks `T5Config.mlp_activations`, of flaxformer's `MlpBlock.activations`.
    values = re.findall(r'(?im)^[^#\n]*activations\s*=[\s\\]*(\([^)]*\))', text)
    kinds = {tuple(re.findall(r'\w+', value)) for value in values}
    if len(kinds) > 1:
        raise SourceError(f'{file} has several activations: {", ".join(map(str, sorted(kinds)))}')
    return dict(where=str(file)) | ({'activations': kinds.pop()} if kinds else {})


def model(record: Mapping[str, Any], source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of the text parts.

    Args:
        record: what `config` returns.
        source: the checkpoint's tensors, by name.

    Raises:
        SourceError: a model that is not supported.
    """
    vocab, width = source['target/token_embedder/embedding'].shape
    if (ungated := f'{_first("encoder", source)}/mlp/wi/kernel') in source:
        raise SourceError(
            f'{source[ungated].where}: {ungated} is of T5 v1.0, whose hidden layers have no gate; v1.1 '
            'and later are known'
        )
    if _HEAD not in source:
        where = next(iter(source.values())).where
        raise SourceError(
            f'{where}: there is no {_HEAD}, so the head is the word table and the output scaled, as in '
            'T5 v1.0; v1.1 and later are known'
        )
    activation = _activation(record, source)
    parts = {
        stack: dict(width=width, activation=activation, **_sizes(stack, source)) for stack in _PARTS
    }
    return dict(vocab=vocab, **parts)


def _activation(record: Mapping[str, Any], source: Mapping[str, Tensor]) -> str:
    if 'activations' in record:
        if record['activations'] not in _ACTIVATIONS:
            raise SourceError(
                f'{record["where"]} has activations {record["activations"]}; known are '
                f'{", ".join(map(str, _ACTIVATIONS))}'
            )
        return _ACTIVATIONS[record['activations']]
    if _LAST_NORM not in source:
        raise SourceError(
            f'there is no {_LAST_NORM}, as in UL2, whose activation is not gelu: {record["where"]} must '
            "be there and name it, as UL2's does"
        )
    logging.warning(
        '%s is not there or names no activation: gelu is taken, as in T5 v1.1, Flan-T5 and mT5',
        record['where'],
    )
    return 'gelu'


def _sizes(stack: str, source: Mapping[str, Tensor]) -> dict[str, int]:
    scan, query, table = scanned(source), _query(stack, source), source[_table(stack, source)]
    if scan:
        depth, tables = query[1], table.read()
        if (tables != tables[:, :1]).any():
            raise SourceError(
                f'{table.where}: {table.name} of {table.shape} has another table for each layer, as '
                'umT5 has; here the layers of a stack share one'
            )
    else:
        numbers = map(re.compile(rf'target/{stack}/layers_(\d+)/').match, source)
        depth = 1 + max(int(number[1]) for number in numbers if number)
    heads = table.shape[0]
    return dict(
        depth=depth,
        heads=heads,
        head_dim=math.prod(query[1 + scan :]) // heads,
        mlp=source[f'{_first(stack, source)}/mlp/wi_0/kernel'].shape[-1],
    )
