"""What to change where a job does not fit: settings that are expected to make it fit, with figures."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from rt2_jax.estimation.estimate_text import gib
from rt2_jax.parallel import slices

# Of a chip's memory: estimates are not exact, and the compiler fragments what it allocates.
MARGIN = 0.9
# What a compiler that gives up names is less than what the program needs: 24.3 GiB for 5B on v5e:4x4,
# about 39 by what the same step needs in 4 parts.
AFTER_REFUSAL = 2.0
_MOST_PARTS = 64  # of a batch: more of them leave too few rows to keep a chip busy
_STACKS = ('vision', 'encoder', 'decoder', 'text')  # parts of a model that have layers


@dataclasses.dataclass(frozen=True)
class Change:
    """Settings, and by which factors they shrink what lies in a chip's memory.

    Attributes:
        settings: what to type.
        state: of parameters, gradients and optimizer.
        activations: of what a step keeps for the backward pass.
    """

    settings: str
    state: int = 1
    activations: int = 1


def advice(fields: Mapping[str, Any], config: Any) -> list[str]:
    """Lines for people, the most promising first; none where the job fits.

    Args:
        fields: of the report, without `advice` and `run`.
        config: of the run.
    """
    if fields['fits'] is not False:
        return []
    if fields['mode'] == 'decode':
        return _decoding(fields)
    return [*_changes(fields, config), *_recompute(config)]


def _changes(fields: Mapping[str, Any], config: Any) -> list[str]:
    """The cheapest change that is expected to be enough; without figures, all that would help."""
    candidates = _candidates(fields, config)
    memory, limit = fields['hbm_bytes_per_chip'], fields['hbm_limit_bytes']
    if 'total' not in memory or not limit:
        return [f'{change.settings}: {_effect(change)}' for change in candidates[:3]]
    for change in candidates:
        total = memory_after(change, fields, config)
        if total <= MARGIN * limit:
            return [
                f'{change.settings}: {_effect(change)}; about {gib(total)} of {gib(limit)} a chip'
            ]
    return [
        'no split of the batch and no slice of this chip makes it fit: take a chip with more memory'
    ]


def memory_after(change: Change, fields: Mapping[str, Any], config: Any) -> float:
    """Bytes a chip that a training step is expected to need with a change.

    Temporaries are taken as three parts: gradients in float32, and one more copy of them where a batch
    is computed in parts; the word vectors and their gradient, gathered whole; and activations, which
    are proportional to the rows that a device computes at once.
    """
    memory, mesh = fields['hbm_bytes_per_chip'], fields['mesh']
    devices = mesh['data'] * mesh['fsdp'] * mesh['tensor'] // fields['chips']
    gradients = devices * 4 * fields['parameters'] / (mesh['fsdp'] * mesh['tensor'])
    gathered = devices * 2 * 4 * fields['largest_parameter'] / mesh['tensor']
    copies = 2 if config.accumulate > 1 else 1
    temporaries = memory['total'] - memory['arguments']
    activations = max(0.0, temporaries - copies * gradients - gathered)
    if not fields['compiles']:
        activations *= AFTER_REFUSAL
    in_parts = config.accumulate > 1 or 'accumulate' in change.settings
    state = memory['arguments'] + (2 if in_parts else 1) * gradients
    return state / change.state + gathered + activations / change.activations


def _candidates(fields: Mapping[str, Any], config: Any) -> list[Change]:
    """Changes of a training job: on as few chips as possible, and there in as few parts as possible."""
    mesh, slice_ = fields['mesh'], fields['slice']
    count = slices.parse(slice_['name']).count if slice_ else 1
    replicas = mesh['data'] // count  # inside a slice; between slices they stay
    whole = f'--config.mesh.data={count} --config.mesh.fsdp=-1'
    here = list(_in_parts(Change(''), fields, config))
    if replicas > 1:
        fewer = Change(whole, state=replicas)
        here += [fewer, *_in_parts(fewer, fields, config)]
    candidates = sorted(here, key=lambda change: change.activations)
    for factor, name in _larger(fields):
        larger = Change(f'--topology={name} {whole}', replicas * factor, factor)
        if config.batch_size % (mesh['data'] * mesh['fsdp'] * factor * config.accumulate) == 0:
            candidates += [larger, *_in_parts(larger, fields, config)]
    return candidates


def _in_parts(change: Change, fields: Mapping[str, Any], config: Any) -> Iterator[Change]:
    """A change together with a batch that is computed in 2, 4, ... times as many parts."""
    mesh = fields['mesh']
    replicas = mesh['data'] * mesh['fsdp'] * change.activations
    factor = 2
    while (
        config.batch_size % (replicas * config.accumulate * factor) == 0 and factor <= _MOST_PARTS
    ):
        settings = f'{change.settings} --config.accumulate={config.accumulate * factor}'.strip()
        yield Change(settings, change.state, change.activations * factor)
        factor *= 2


def _larger(fields: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Slices of the same chip with 2, 4, ... times the chips: the factor and the name."""
    if not fields['slice']:
        return
    slice_ = slices.parse(fields['slice']['name'])
    for shape in slice_.family.shapes:
        larger = dataclasses.replace(slice_, shape=shape)
        factor, rest = divmod(larger.chips, slice_.chips)
        if rest == 0 and factor > 1 and factor & (factor - 1) == 0:
            yield factor, larger.name


def _effect(change: Change) -> str:
    effects = []
    if change.state > 1:
        effects.append(f'parameters, gradients and optimizer split {change.state} times as finely')
    if change.activations > 1:
        effects.append(f'activations of 1/{change.activations} of the rows at once')
    return ', '.join(effects)


def _recompute(config: Any) -> list[str]:
    stacks = [part for part in _STACKS if part in config.model]
    kept = [part for part in stacks if config.model[part].get('remat', 'none') != 'full']
    if not kept:
        return []
    settings = ' '.join(f'--config.model.{part}.remat=full' for part in kept)
    return [
        f'or {settings}: layers are computed again in the backward pass, which keeps one activation a '
        'layer in place of about ten'
    ]


def _decoding(fields: Mapping[str, Any]) -> list[str]:
    lines = []
    if fields['weights'] == 'stored':
        lines.append('--weights=int8: a quarter of the bytes of float32, half of those of bfloat16')
    lines.append(
        f'--config.mesh.tensor={2 * fields["mesh"]["tensor"]} on twice the chips: half of the weights '
        'and of the cache a chip'
    )
    return lines
