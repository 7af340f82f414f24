"""Parts of a model from their fields of `config.model`."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn

from rt2_jax.nearest import check


def part(module: type[nn.Module], fields: Mapping[str, Any], whose: str, **more: Any) -> nn.Module:
    """A module with the fields of a config.

    Args:
        module: its class.
        fields: its attributes by name.
        whose: where in the config they are, e.g. 'config.model.vision'.
        **more: attributes that the config does not have.

    Raises:
        ValueError: names the field that the module does not have, and the nearest one that it has.
    """
    valid = {field.name for field in dataclasses.fields(module)} - {'parent', 'name', *more}
    for name in fields:
        check(f'field of {whose}:', name, valid)
    return module(**fields, **more)
