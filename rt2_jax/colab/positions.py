"""How a model tells places apart: position vectors of image tokens, and T5's bias by distance."""

from collections.abc import Mapping
import math

from matplotlib.figure import Figure
import numpy as np

from rt2_jax.weights.tensors import Tensor as Stored
from rt2_jax.checkpoints.inspection.opened import Opened
from rt2_jax.colab import colours
from rt2_jax.models import layers, vit

SHOWN = 4  # tokens a side of the picture at most
REACH = 40  # tokens that the bias is shown for, both ways


def of_tower(checkpoint: Opened) -> np.ndarray | None:
    """The tower's position vectors, float32 [rows, columns, D]; None where there is no ViT of ours."""
    config, learned = checkpoint.config, checkpoint.arrays.get('tower/positions')
    vision = config['model'].get('vision') if config else None
    if learned is None and (vision is None or vision.get('positions') != 'sincos'):
        return None
    if learned is not None:
        side = math.isqrt(learned.shape[0])
        found = _whole(learned)
    else:
        side = config['data']['image_size'] // vision['patch']
        found = np.asarray(vit.sincos_positions(side, side, vision['width']))
    return found.astype(np.float32).reshape(side, side, -1)


def _whole(stored: Stored) -> np.ndarray:
    return np.asarray(stored.reader()(tuple(slice(0, size) for size in stored.shape)))


def draw(found: np.ndarray) -> Figure:
    """For some image tokens, how alike every token's position is to theirs (cosine)."""
    rows = np.unique(np.linspace(0, len(found) - 1, min(SHOWN, len(found))).astype(int))
    unit = found / np.linalg.norm(found, axis=-1, keepdims=True)
    maps = [unit @ unit[row, column] for row in rows for column in rows]
    figure, axes = colours.grid(len(maps), len(rows), 1.2, 1.2)
    for similarity, axis in zip(maps, axes, strict=True):
        picture = axis.imshow(similarity, vmin=np.min(maps), vmax=1)
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f'Position of {len(maps)} tokens, and which are like it', fontsize=11)
    figure.colorbar(picture, ax=figure.axes, shrink=0.8, label='cosine')
    return figure


def bias_tables(checkpoint: Opened) -> dict[str, np.ndarray]:
    """The tables [buckets, heads] of T5's bias, by the part of the model that has one."""
    end = '/relative_bias/table'
    return {n[: -len(end)]: _whole(x) for n, x in checkpoint.arrays.items() if n.endswith(end)}


def draw_bias(tables: Mapping[str, np.ndarray]) -> Figure:
    """What attention adds for how far away a token is, one line a head."""
    figure, axes = colours.grid(len(tables), 2, 5.5, 3)
    distances = np.arange(-REACH, REACH + 1)
    for (part, table), axis in zip(tables.items(), axes, strict=True):
        both_ways = 'encoder' in part
        bias = layers.RelativeBias(table.shape[1], both_ways, buckets=len(table))
        values = bias.apply({'params': {'table': table}}, np.zeros([1], int), distances)[0, :, 0]
        kept = distances if both_ways else distances[distances <= 0]
        for head, line in enumerate(values):
            axis.plot(kept, line[: len(kept)], color=colours.CYCLE[head % 6], linewidth=1.2)
        axis.axvline(0, color=colours.GREY, linewidth=0.8)
        axis.set(title=part, xlabel='tokens ahead (below 0: behind)')
    figure.supylabel('added to the logit')
    return figure
