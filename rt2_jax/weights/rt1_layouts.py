"""RT-1 and RT-1-X as their public checkpoints have them: in JAX and in TensorFlow.

JAX: github.com/google-deepmind/open_x_embodiment, models/rt1.py, whose checkpoint is what flax's
`restore_checkpoint` reads: a msgpack, or a directory of Orbax, with `params` and `batch_stats`.
TensorFlow: github.com/google-research/robotics_transformer, whose variables are read from a file of NumPy's:

    reader = tf.train.load_checkpoint('trained_checkpoints/rt1main')
    np.savez('rt1main.npz', **{n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()})

The tokens of an action keep the order of the checkpoint. A convolution of one place is a product here, and
running statistics are parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from flax import serialization, traverse_util
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rt2_jax import paths
from rt2_jax.models.efficientnet import RUNNING, EfficientNetConfig
from rt2_jax.nearest import beside
from rt2_jax.weights import tensors as tensors_lib
from rt2_jax.weights.rules import LAYER, Rule
from rt2_jax.weights.tensors import SourceError, Tensor, of_array

SLOTS = 11
_POINT = '1 1 inputs outputs -> inputs outputs'  # the layout of a convolution of one place
_ATTENTION = ('query', 'key', 'value', 'out')

# JAX's names.
_PARAMS, _STATISTICS = 'params/', 'batch_stats/'
_IMAGES, _TRANSFORMER = 'image_tokenizer/', 'params/Transformer_0/'
_TOWER = f'{_IMAGES}EfficientNetWithFilm_0/'
_LEARNER = f'{_PARAMS}{_IMAGES}TokenLearnerModuleV11_0/'
_JAX_BLOCK = f'{_TRANSFORMER}TransformerBlock_{LAYER}/'

# TensorFlow's.
_NET = '_image_tokenizer/_tokenizer/net/layer_with_weights-'
_TF_LAYER = f'_transformer/_layers/{LAYER}/'
_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
_FIRST = '_image_tokenizer/'  # what is before it in a variable's name depends on who saved it


def jax_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """JAX's table for our `config.model`."""
    linear = config['decoder']['hidden'] == 'linear'
    return (
        Rule('tower/stem', f'{_PARAMS}{_TOWER}Stem_0/conv2d/kernel'),
        *_jax_norm('tower/stem_norm', 'Stem_0/batch_normalization'),
        *_jax_blocks(config),
        Rule('tower/head/kernel', f'{_PARAMS}{_TOWER}Head_0/conv2d/kernel', _POINT),
        *_jax_norm('tower/head_norm', 'Head_0/batch_normalization'),
        Rule('projection/kernel', f'{_PARAMS}{_IMAGES}Conv_0/kernel', _POINT),
        *_jax_film('film', f'{_PARAMS}{_IMAGES}FilmConditioning_0'),
        *_pair('token_learner/norm/norm', f'{_LEARNER}LayerNorm_0', 'scale'),
        *_pair('token_learner/wi', f'{_LEARNER}token_masking/Dense_0'),
        *_pair('token_learner/wo', f'{_LEARNER}token_masking/Dense_1'),
        *_pair('token_projection', f'{_TRANSFORMER}Dense_0'),
        *_pair('positions', f'{_TRANSFORMER}Dense_1'),
        *_pair('layers/attention_norm/norm', f'{_JAX_BLOCK}LayerNorm_0', 'scale'),
        *_pair('layers/mlp_norm/norm', f'{_JAX_BLOCK}LayerNorm_1', 'scale'),
        *(
            rule
            for name in _ATTENTION
            for rule in _pair(
                f'layers/attention/{name}', f'{_JAX_BLOCK}MultiHeadDotProductAttention_0/{name}'
            )
        ),
        *(_jax_linear() if linear else _jax_gated()),
        *_pair('head', f'{_TRANSFORMER}Dense_2'),
    )


def _jax_blocks(config: Mapping[str, Any]) -> Iterator[Rule]:
    for i, block in enumerate(_tower(config).blocks()):
        ours, theirs = f'tower/block_{i}', f'MBConvBlock_{i}'
        inside, squeeze = f'{_PARAMS}{_TOWER}{theirs}', f'{_PARAMS}{_TOWER}{theirs}/SqueezeExcite_0'
        norms = ['depthwise_norm', 'project_norm']
        if block.expand > 1:
            norms.insert(0, 'expand_norm')
            yield Rule(f'{ours}/expand/kernel', f'{inside}/expand_conv2d_0/kernel', _POINT)
        for number, norm in enumerate(norms):
            yield from _jax_norm(f'{ours}/{norm}', f'{theirs}/batch_normalization_{number}')
        yield Rule(f'{ours}/depthwise/kernel', f'{inside}/depthwise_conv2d/depthwise_kernel')
        yield from _pair(f'{ours}/squeeze', f'{squeeze}/reduce_conv2d_0', layout=_POINT)
        yield from _pair(f'{ours}/excite', f'{squeeze}/expand_conv2d_0', layout=_POINT)
        yield Rule(f'{ours}/project/kernel', f'{inside}/project_conv2d_0/kernel', _POINT)
        yield from _jax_film(f'tower/film_{i}', f'{_PARAMS}{_TOWER}FilmConditioning_{i}')


def _jax_norm(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _pair(ours, f'{_PARAMS}{_TOWER}{theirs}', 'scale')
    for our, their in zip(RUNNING, ('mean', 'var')):
        yield Rule(f'{ours}/{our}', f'{_STATISTICS}{_TOWER}{theirs}/{their}')


def _jax_film(ours: str, theirs: str) -> Iterator[Rule]:
    for number, name in enumerate(('add', 'multiply')):
        yield from _pair(f'{ours}/{name}', f'{theirs}/Dense_{number}')


def _jax_linear() -> Iterator[Rule]:
    yield Rule('layers/mlp/kernel', f'{_JAX_BLOCK}Dense_0/kernel')
    yield Rule('layers/mlp/bias', f'{_JAX_BLOCK}Dense_0/bias', constant=0.0)


def _jax_gated() -> Iterator[Rule]:
    for number, name in enumerate(('wi_0', 'wi_1', 'wo')):
        yield Rule(f'layers/mlp/{name}/kernel', f'{_JAX_BLOCK}Dense_{number}/kernel')


def tf_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """TensorFlow's table for our `config.model`."""
    learner, tokenizer = '_image_tokenizer/_token_learner/', '_image_tokenizer/_tokenizer/'
    products = {name: f'{_TF_LAYER}mha1/_{name}_dense' for name in ('query', 'key', 'value')}
    products['out'] = f'{_TF_LAYER}mha1/_output_dense'
    return (
        *(Rule('', f'{_NET}0/{name}') for name in ('mean', 'variance', 'count')),
        *_tf_net(config),
        Rule('projection/kernel', f'{tokenizer}conv1x1/kernel', _POINT),
        *_tf_film('film', f'{tokenizer}film_layer'),
        *_tf_layer_norm('token_learner/norm', f'{learner}layernorm'),
        *_pair('token_learner/wi', f'{learner}mlp/_hidden_layer'),
        *_pair('token_learner/wo', f'{learner}mlp/_output_layer'),
        *_pair('token_projection', '_transformer/_token_emb'),
        *_pair('positions', '_transformer/_position_emb'),
        *_tf_layer_norm('layers/attention_norm', f'{_TF_LAYER}layernorm1'),
        *_tf_layer_norm('layers/mlp_norm', f'{_TF_LAYER}layernorm2'),
        *(
            rule
            for name, theirs in products.items()
            for rule in _pair(f'layers/attention/{name}', theirs)
        ),
        *_pair('layers/mlp', f'{_TF_LAYER}ff'),
        *_pair('head', '_transformer/_output_tokens'),
        *(
            _pair('action_embedding', '_action_token_emb')
            if config.get('dead_embedding')
            else [Rule('', '_action_token_emb/*')]
        ),
    )


def _tf_net(config: Mapping[str, Any]) -> Iterator[Rule]:
    """The tower's rules: its layers are numbered as they are called."""
    yield Rule('tower/stem', f'{_NET}1/kernel')
    yield from _tf_norm('tower/stem_norm', 2)
    number = 3
    for i, block in enumerate(_tower(config).blocks()):
        ours = f'tower/block_{i}'
        if block.expand > 1:
            yield Rule(f'{ours}/expand/kernel', f'{_NET}{number}/kernel', _POINT)
            yield from _tf_norm(f'{ours}/expand_norm', number + 1)
            number += 2
        yield Rule(f'{ours}/depthwise/kernel', f'{_NET}{number}/depthwise_kernel')
        yield from _tf_norm(f'{ours}/depthwise_norm', number + 1)
        yield from _pair(f'{ours}/squeeze', f'{_NET}{number + 2}', layout=_POINT)
        yield from _pair(f'{ours}/excite', f'{_NET}{number + 3}', layout=_POINT)
        yield Rule(f'{ours}/project/kernel', f'{_NET}{number + 4}/kernel', _POINT)
        yield from _tf_norm(f'{ours}/project_norm', number + 5)
        yield from _tf_film(f'tower/film_{i}', f'{_NET}{number + 6}')
        number += 7
    yield Rule('tower/head/kernel', f'{_NET}{number}/kernel', _POINT)
    yield from _tf_norm('tower/head_norm', number + 1)


def _tf_norm(ours: str, number: int) -> Iterator[Rule]:
    names = dict(
        zip(('scale', 'bias', *RUNNING), ('gamma', 'beta', 'moving_mean', 'moving_variance'))
    )
    for our, their in names.items():
        yield Rule(f'{ours}/{our}', f'{_NET}{number}/{their}')


def _tf_layer_norm(ours: str, theirs: str) -> Iterator[Rule]:
    yield Rule(f'{ours}/norm/scale', f'{theirs}/gamma')
    yield Rule(f'{ours}/norm/bias', f'{theirs}/beta')


def _tf_film(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _pair(f'{ours}/add', f'{theirs}/_projection_add')
    yield from _pair(f'{ours}/multiply', f'{theirs}/_projection_mult')


def _pair(ours: str, theirs: str, first: str = 'kernel', layout: str = '') -> Iterator[Rule]:
    """A kernel, or a scale, and a bias."""
    yield Rule(f'{ours}/{first}', f'{theirs}/{first}', layout)
    yield Rule(f'{ours}/bias', f'{theirs}/bias')


def _tower(config: Mapping[str, Any]) -> EfficientNetConfig:
    where = 'config.model.vision'
    return EfficientNetConfig.parse(config['vision'], where, dtype=jnp.dtype('float32'))


def jax_model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of a JAX checkpoint, from the shapes of its tensors."""
    block = _JAX_BLOCK.replace(LAYER, '0')
    hidden = 'swiglu' if f'{block}Dense_1/kernel' in source else 'linear'
    return _model(
        query=source[f'{block}MultiHeadDotProductAttention_0/query/kernel'].shape,
        mlp=source[f'{block}Dense_0/kernel'].shape[1],
        depth=_count(source, _JAX_BLOCK),
        places=source[f'{_TRANSFORMER}Dense_1/kernel'].shape[0],
        tokens=source[f'{_LEARNER}token_masking/Dense_1/kernel'].shape,
        bins=source[f'{_TRANSFORMER}Dense_2/kernel'].shape[1],
        hidden=hidden,
    ) | dict(mask='images', vision=dict(padding='same'))


def tf_model(source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our `config.model` of TensorFlow's variables, from their shapes."""
    block = _TF_LAYER.replace(LAYER, '0')
    model = _model(
        query=source[f'{block}mha1/_query_dense/kernel'].shape,
        mlp=source[f'{block}ff/kernel'].shape[1],
        depth=_count(source, _TF_LAYER),
        places=source['_transformer/_position_emb/kernel'].shape[0],
        tokens=source['_image_tokenizer/_token_learner/mlp/_output_layer/kernel'].shape,
        bins=source['_transformer/_output_tokens/kernel'].shape[1],
        hidden='linear',
    )
    dead = '_action_token_emb/kernel' in source
    return model | dict(mask='images_and_slots', vision=dict(padding='even'), dead_embedding=dead)


def _model(
    query: tuple[int, ...],
    mlp: int,
    depth: int,
    places: int,
    tokens: tuple[int, ...],
    bins: int,
    hidden: str,
) -> dict[str, Any]:
    width, heads, head_dim = query
    learner, image_tokens = tokens
    frames, rest = divmod(places, image_tokens + SLOTS)
    if rest:
        raise SourceError(
            f'a sequence of {places} tokens is no whole number of frames of {image_tokens} image '
            f'tokens and {SLOTS} of an action'
        )
    return dict(
        name='rt1',
        frames=frames,
        slots=SLOTS,
        bins=bins,
        image_tokens=image_tokens,
        learner=learner,
        decoder=dict(
            width=width, depth=depth, heads=heads, head_dim=head_dim, mlp=mlp, hidden=hidden
        ),
    )


def _count(source: Mapping[str, Tensor], layer: str) -> int:
    """How many layers have names that begin so."""
    start = layer.partition(LAYER)[0]
    return len({name[len(start) :].split('/')[0] for name in source if name.startswith(start)})


def open_jax(source: epath.PathLike) -> dict[str, Tensor]:
    """The tensors of a JAX checkpoint by name, 'params/...' and 'batch_stats/...'; read at once.

    Args:
        source: a msgpack of flax (or a directory in which it is named `checkpoint`), or a directory
            of Orbax.

    Raises:
        SourceError: there is no such file, or it is neither.
    """
    path = paths.of(source)
    if not path.exists():
        raise SourceError(f'there is no {path}{beside(path)}')
    state = path / 'checkpoint' if path.is_dir() else path
    try:
        if state.exists() and not (path.is_dir() and _is_orbax(path)):
            contents = serialization.msgpack_restore(state.read_bytes())
        else:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                contents = checkpointer.restore(path)
    except Exception as error:
        raise SourceError(
            f'{path} is no msgpack of flax and no Orbax checkpoint: {error}'
        ) from error
    if not isinstance(contents, Mapping) or not {'params', 'batch_stats'} <= contents.keys():
        raise SourceError(f'{path} has no params and batch_stats: it is no RT-1 of JAX')
    arrays = {part: contents[part] for part in ('params', 'batch_stats')}
    return {
        name: of_array(name, np.asarray(x), str(path))
        for name, x in traverse_util.flatten_dict(arrays, sep='/').items()
    }


def _is_orbax(path: epath.Path) -> bool:
    return any((path / name).exists() for name in ('_METADATA', '_CHECKPOINT_METADATA'))


def open_tf(source: epath.PathLike) -> dict[str, Tensor]:
    """TensorFlow's variables of the model by name, from a file of NumPy's.

    Slots of the optimizer and counters are left.

    Args:
        source: as for `tensors.open_tensors`.

    Raises:
        SourceError: as `tensors.open_tensors`.
    """
    parts = ('_image_tokenizer/', '_transformer/', '_action_token_emb/')
    stored = tensors_lib.open_tensors(source)
    variables = [name for name in stored if '.OPTIMIZER_SLOT' not in name]
    before = (name.partition(_FIRST)[0] for name in variables if _FIRST in name)
    prefix = min(before, key=len, default='')
    short = {name.removeprefix(prefix).removesuffix(_SUFFIX): name for name in variables}
    return {name: stored[full] for name, full in short.items() if name.startswith(parts)}
