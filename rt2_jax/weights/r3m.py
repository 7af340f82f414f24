"""R3M (arXiv 2203.12601): ResNet-18, -34 and -50 in torchvision's names.

github.com/facebookresearch/r3m, licence MIT: `model.pt`, whose part 'r3m' has names that begin with
`module.convnet.`; torchvision's own weights (BSD-3, for ImageNet) have nothing before them. They are pickles,
which nothing here opens; in an environment with torch that trusts them:

    state = torch.load('r3m_50/model.pt', map_location='cpu')['r3m']
    state = {name: x.contiguous() for name, x in state.items()}
    safetensors.torch.save_file(state, 'r3m_50.safetensors')

Its language encoder and what scores progress are left, and torchvision's classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rt2_jax.models.efficientnet import RUNNING
from rt2_jax.weights.rules import Rule
from rt2_jax.weights.tensors import Tensor

PREFIXES = ('module.convnet.', 'convnet.', '')
_KERNEL = 'outputs inputs rows columns -> rows columns inputs outputs'
_POINT = 'outputs inputs 1 1 -> inputs outputs'


def rules(config: Mapping[str, Any], theirs: str = PREFIXES[0]) -> tuple[Rule, ...]:
    """The tower's table for our `config.model`; `theirs` is what its names begin with."""
    return (
        Rule('tower/stem/kernel', f'{theirs}conv1.weight', _KERNEL),
        *_norm('tower/stem_norm', f'{theirs}bn1'),
        *_blocks(config['vision'], theirs),
        Rule('', f'{theirs}*num_batches_tracked'),
        Rule('', f'{theirs}fc.*'),
        Rule('', 'module.lang_*'),
        Rule('', 'lang_*'),
    )


def _blocks(vision: Mapping[str, Any], theirs: str) -> Iterator[Rule]:
    bottleneck = vision['bottleneck']
    for stage, blocks in enumerate(vision['stages']):
        for block in range(blocks):
            ours, inside = f'tower/stage_{stage}_block_{block}', f'{theirs}layer{stage + 1}.{block}'
            for i in range(3 if bottleneck else 2):
                point = bottleneck and i != 1
                name = f'{ours}/convolution_{i}/' + ('product/kernel' if point else 'kernel')
                yield Rule(name, f'{inside}.conv{i + 1}.weight', _POINT if point else _KERNEL)
                yield from _norm(f'{ours}/norm_{i}', f'{inside}.bn{i + 1}')
            # Where a block's output has the shape of its input, there is none.
            if block == 0 and (bottleneck or stage):
                kernel = f'{ours}/shortcut/product/kernel'
                yield Rule(kernel, f'{inside}.downsample.0.weight', _POINT)
                yield from _norm(f'{ours}/shortcut_norm', f'{inside}.downsample.1')


def _norm(ours: str, theirs: str) -> Iterator[Rule]:
    names = dict(
        zip(('scale', 'bias', *RUNNING), ('weight', 'bias', 'running_mean', 'running_var'))
    )
    for our, their in names.items():
        yield Rule(f'{ours}/{our}', f'{theirs}.{their}')


def model(source: Mapping[str, Tensor], theirs: str) -> dict[str, Any]:
    """Our `config.model` of the tower, from the names and shapes of its tensors."""
    stages = []
    for stage in range(1, 5):
        start = f'{theirs}layer{stage}.'
        stages.append(
            len({name[len(start) :].split('.')[0] for name in source if name.startswith(start)})
        )
    return dict(
        tower='resnet',
        vision=dict(
            stages=tuple(stages),
            width=source[f'{theirs}conv1.weight'].shape[0],
            bottleneck=f'{theirs}layer1.0.conv3.weight' in source,
        ),
    )
