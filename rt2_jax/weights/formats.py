"""Public formats by name: how each one's config and tensors are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath

from rt2_jax import paths, records
from rt2_jax.nearest import check
from rt2_jax.weights import (
    big_vision,
    config_fields,
    paligemma,
    paligemma_npz,
    r3m,
    rt1_layouts,
    siglip,
    t5,
    t5gemma2,
    t5x,
    t5x_checkpoint,
    tensors as tensors_lib,
    vc1,
    vit,
)
from rt2_jax.weights.rules import Rule
from rt2_jax.weights.tensors import SourceError, Tensor

Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Format:
    """A public format.

    Attributes:
        what: for people.
        model: (their config.json, their tensors) -> our `config.model`, or parts of it.
        rules: (our `config.model`, their tensors) -> the table; {} gives the layout for writing.
        theirs: our `config.model` -> their config.json; None if the format has none.
        model_types: of their config.json.
        integers: how its vocabulary gets a token for each integer (`text.integers`).
        tensors: path -> their tensors.
        config: path -> a config in place of config.json; None if the format has none.
        renamed: prefixes of names in some files -> those in the others.
    """

    what: str
    model: Callable[[Mapping[str, Any], Tensors], dict[str, Any]]
    rules: Callable[[Mapping[str, Any], Tensors], Sequence[Rule]]
    theirs: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    model_types: tuple[str, ...] = ()
    integers: str = 'overwrite'
    tensors: Callable[[epath.PathLike], Tensors] = tensors_lib.open_tensors
    config: Callable[[epath.PathLike], dict[str, Any]] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _prefix(source: Tensors, options: Sequence[str]) -> str:
    """The option that their tower's names begin with; the last if none."""
    for option in options[:-1]:
        if any(name.startswith(option) for name in source):
            return option
    return options[-1]


def _canonical(name: str, renamed: Mapping[str, str]) -> str:
    """A tensor's name as the tables have it."""
    for other, usual in renamed.items():
        if name.startswith(other):
            return usual + name.removeprefix(other)
    return name


FORMATS = {
    't5': Format(
        'T5 v1.1, Flan-T5, mT5, UL2: Hugging Face safetensors',
        t5.model,
        lambda *_: t5.RULES,
        t5.theirs,
        t5.MODEL_TYPES,
        integers='append',
    ),
    't5x': Format(
        'T5 v1.1, Flan-T5, mT5, UL2: a T5X checkpoint_STEP, with config.gin in it or beside it',
        t5x.model,
        lambda _, source: t5x.rules(source),
        integers='append',
        tensors=t5x_checkpoint.open_tensors,
        config=t5x.config,
    ),
    'siglip': Format(
        'SigLIP, SigLIP 2 (fixed resolution): Hugging Face safetensors',
        lambda config, _: siglip.model(config),
        lambda model, source: siglip.rules(model, _prefix(source, ('vision_model.', ''))),
        siglip.theirs,
        siglip.MODEL_TYPES,
        renamed=siglip.RENAMED,
    ),
    'big_vision': Format(
        'ViT or SigLIP tower: big_vision npz, or the older of vision_transformer (FILE.npz:img of a '
        'whole SigLIP)',
        lambda _, source: big_vision.model(source),
        lambda model, source: big_vision.rules(model, big_vision.layout(source)),
    ),
    'vit': Format(
        'plain ViT: Hugging Face safetensors',
        lambda config, _: vit.model(config),
        lambda model, source: vit.rules(model, _prefix(source, ('vit.', ''))),
        vit.theirs,
        vit.MODEL_TYPES,
    ),
    't5gemma2': Format(
        'T5Gemma 2: Hugging Face safetensors',
        lambda config, _: t5gemma2.model(config),
        lambda model, source: t5gemma2.rules(
            model,
            _prefix(
                source, ('model.encoder.vision_tower.vision_model.', 'model.encoder.vision_tower.')
            ),
        ),
        t5gemma2.theirs,
        t5gemma2.MODEL_TYPES,
        renamed=t5gemma2.RENAMED,
    ),
    'paligemma': Format(
        'PaliGemma 1 and 2: Hugging Face safetensors',
        lambda config, _: paligemma.model(config),
        lambda model, source: paligemma.rules(
            model, _prefix(source, ('vision_tower.vision_model.', 'vision_tower.'))
        ),
        paligemma.theirs,
        paligemma.MODEL_TYPES,
        renamed=paligemma.RENAMED,
    ),
    'paligemma_npz': Format(
        'PaliGemma 1 and 2: big_vision npz',
        lambda _, source: paligemma_npz.model(source),
        lambda model, source: paligemma_npz.rules(model, paligemma_npz.fused(source)),
    ),
    'rt1_jax': Format(
        'RT-1, RT-1-X: a checkpoint of flax (msgpack or Orbax) of open_x_embodiment',
        lambda _, source: rt1_layouts.jax_model(source),
        lambda model, _: rt1_layouts.jax_rules(model),
        tensors=rt1_layouts.open_jax,
    ),
    'rt1_tf': Format(
        'RT-1: the variables of robotics_transformer as npz',
        lambda _, source: rt1_layouts.tf_model(source),
        lambda model, _: rt1_layouts.tf_rules(model),
        tensors=rt1_layouts.open_tf,
    ),
    'vc1': Format(
        'VC-1 (CC-BY-NC) and other masked autoencoders: their torch names as safetensors',
        lambda _, source: vc1.model(source),
        lambda model, _: vc1.rules(model),
    ),
    'r3m': Format(
        'R3M (MIT), or a ResNet of torchvision: their torch names as safetensors',
        lambda _, source: r3m.model(source, _prefix(source, r3m.PREFIXES)),
        lambda model, source: r3m.rules(model, _prefix(source, r3m.PREFIXES)),
    ),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint in a public format, not read yet.

    Attributes:
        model: our `config.model`, or parts of it.
        rules: the table.
        tensors: theirs, by name.
    """

    model: dict[str, Any]
    rules: Sequence[Rule]
    tensors: Tensors


def open_source(source: epath.PathLike, name: str) -> Source:
    """Opens a checkpoint.

    Args:
        source: as for `tensors.open_tensors`; of T5X as for `t5x_checkpoint.open_tensors`.
        name: of `FORMATS`.

    Raises:
        SourceError: it cannot be read, or is of another family.
        ValueError: no such format.
    """
    form = FORMATS[check('format', name, FORMATS)]
    tensors: dict[str, Tensor] = {}
    for stored, tensor in form.tensors(source).items():
        canonical = _canonical(stored, form.renamed)
        if canonical in tensors:
            raise SourceError(f'{source} has {stored} under the name {canonical} too')
        tensors[canonical] = tensor
    config: dict[str, Any] = form.config(source) if form.config else {}
    if form.model_types:
        path = paths.of(source)
        path = (path if path.is_dir() else path.parent) / 'config.json'
        if not path.exists():
            raise SourceError(f'{path} is missing: --format={name} needs it beside the tensors')
        config = records.read(path, SourceError)
        if not isinstance(config, dict):
            raise SourceError(f'{path} must hold an object')
        config_fields.check_preprocessing(path.parent)
        kind = config.get('model_type')
        if kind not in form.model_types:
            other = [n for n, f in FORMATS.items() if kind in f.model_types]
            raise SourceError(
                f'{path} is of a {kind!r}, --format={name} is for {", ".join(form.model_types)}'
                + (f'; take --format={other[0]}' if other else '')
            )
    try:
        model = form.model(config, tensors)
    except SourceError as error:
        raise SourceError(f'{path}: {error}' if form.model_types else str(error)) from None
    except KeyError as error:
        where = next(iter(tensors.values())).where if tensors else source
        raise SourceError(f'{where} is no {form.what}: {error} is missing') from error
    return Source(model, form.rules(model, tensors), tensors)
