"""Random crops and colours of training frames, and the centre crop that a policy sees.

    config.data.augment.update(augmentation.RECIPES['openvla'])

An example's draws are a pure function of the run's seed and the example's number, so that any host
draws the same and a resumed run goes on as it would have; all frames of an example share them. Only
plain actions are cropped: a crop would make places that a prompt or answer names wrong, and
questions are about whole frames. A policy acts on the centre crop.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import cv2
import numpy as np

from rt2_jax.data import images
from rt2_jax.data.example import Example
from rt2_jax.nearest import check_fields

# RT-1: film_efficientnet/preprocessors.py of google-research/robotics_transformer, 4569641: frames of
# 256 x 320 are padded by 20 and 50 pixels a side, then cropped to their size; whole at inference.
# Octo: scripts/configs/octo_pretrain_config.py, 241fb35. OpenVLA: prismatic/vla/datasets/datasets.py,
# c8f03f4, with the centre crop of 0.9 of the area in experiments/robot/openvla_utils.py.
RECIPES = {
    'rt1': dict(shift=(20 / 256, 50 / 320)),
    'octo': dict(
        scale=(0.8, 1.0),
        ratio=(0.9, 1.1),
        brightness=0.1,
        contrast=(0.9, 1.1),
        saturation=(0.9, 1.1),
        hue=0.05,
    ),
    'openvla': dict(
        scale=(0.9, 0.9), brightness=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05
    ),
}

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a frame; nothing by default.

    Attributes:
        scale: smallest and largest share of the frame's area that a crop keeps.
        ratio: smallest and largest ratio of width to height of a crop, in units of the frame's own.
        shift: how far at most a crop may lie beyond where it would, down or up and left or right,
            in shares of the frame's height and width; black where there is no frame.
        brightness: most that is added or taken away, in shares of white.
        contrast: smallest and largest factor on the distance from the mean of each channel.
        saturation: smallest and largest factor on the distance from grey.
        hue: largest turn of the colours either way, in turns.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    saturation: tuple[float, float] = (1.0, 1.0)
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ('scale', 1.0),
            ('ratio', 10.0),
            ('contrast', 10.0),
            ('saturation', 10.0),
        ):
            low, high = (float(x) for x in getattr(self, name))
            object.__setattr__(self, name, (low, high))
            if not 0 <= low <= high <= most or (name in ('scale', 'ratio') and not low):
                raise ValueError(
                    f'config.data.augment.{name} is {low} to {high}; a range from low to high, at '
                    f'most {most}, is needed'
                )
        object.__setattr__(self, 'shift', tuple(float(x) for x in self.shift))
        limits = {'shift': (self.shift, 0.5), 'hue': ([self.hue], 0.5)}
        for name, (values, most) in (limits | {'brightness': ([self.brightness], 1.0)}).items():
            if not all(0 <= value <= most for value in values):
                raise ValueError(
                    f'config.data.augment.{name} is {getattr(self, name)}; 0 to {most} is needed'
                )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Augmentation:
        """From `config.data.augment`; ValueError for an unknown field, with the nearest valid one."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**check_fields('config.data.augment', config, names))

    @property
    def crops(self) -> bool:
        """Whether frames are cropped or shifted."""
        return self.scale != (1, 1) or self.ratio != (1, 1) or self.shift != (0, 0)

    @property
    def recolours(self) -> bool:
        """Whether colours are changed."""
        return bool(self.brightness or self.hue) or {self.contrast, self.saturation} != {(1.0, 1.0)}

    def to_json(self) -> str:
        """The fields as canonical JSON; '' where nothing happens."""
        return json.dumps(dataclasses.asdict(self)) if self.crops or self.recolours else ''

    def training(
        self, example: Example, size: int, seed: int, number: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The frames uint8 [F, size, size, 3] of the run's `number`-th example, written to `out`."""
        frames = example.frames
        if not (self.crops or self.recolours):
            return images.resize(frames, size, out)
        # As many draws whatever is switched on, so that one setting doesn't change the others'.
        draws = np.random.Generator(np.random.Philox(key=[seed, number])).random(10)
        if self.crops and is_cropped(example):
            frames = crop(frames, self.box(draws[:6]))
        if not self.recolours:
            return images.resize(frames, size, out)
        frames = images.resize(frames, size)
        return recolour(frames, *self.colours(draws[6:], frames), out)

    def evaluation(
        self, frames: np.ndarray, size: int, cropped: bool, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Frames uint8 [F, size, size, 3] as a policy sees them: where training crops, the centre."""
        side = self.side(cropped)
        if side < 1:
            frames = crop(frames, ((1 - side) / 2, (1 - side) / 2, side, side))
        return images.resize(frames, size, out)

    def side(self, cropped: bool) -> float:
        """Share of the frame's height and width that a policy sees.

        It keeps the mean of the shares of the area that training keeps.
        """
        return min(1.0, (sum(self.scale) / 2) ** 0.5) if cropped else 1.0

    def box(self, draws: np.ndarray) -> tuple[float, float, float, float]:
        """Top, left, height and width of a crop, in shares of the frame, from 6 draws in [0, 1)."""
        low, high = self.scale
        area = low + (high - low) * draws[0]
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * draws[1])
        height, width = min((area / ratio) ** 0.5, 1.0), min((area * ratio) ** 0.5, 1.0)
        down, right = (2 * draws[4:6] - 1) * self.shift
        return draws[2] * (1 - height) + down, draws[3] * (1 - width) + right, height, width

    def colours(self, draws: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map of colours, matrix [3, 3] and offset [3] in 0..255, from 4 draws in [0, 1).

        Brightness, contrast, saturation, hue, in this order. Hue turns in the plane of YIQ, saturation
        is the way from grey of the same luma, and one map does it all, so nothing is clipped between.
        """
        added = 255 * self.brightness * (2 * draws[0] - 1)
        contrast, saturation = (
            low + (high - low) * draw
            for (low, high), draw in zip((self.contrast, self.saturation), draws[1:3])
        )
        angle = 2 * np.pi * self.hue * (2 * draws[3] - 1)
        turn = np.array(
            [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
        )
        mean = np.array(cv2.mean(frames.reshape(-1, frames.shape[-2], 3))[:3])
        matrix = _FROM_YIQ @ turn @ _TO_YIQ
        matrix = matrix @ (saturation * np.eye(3) + (1 - saturation) * _LUMA)
        return matrix * contrast, matrix @ ((1 - contrast) * mean + added)


def is_cropped(example: Example) -> bool:
    """Whether an example's frames may be cropped: a plain action's, not what speaks of places."""
    return example.action is not None and not example.places


def crop(frames: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part `box` (top, left, height, width in shares of the frame) of uint8 [F, H, W, 3].

    Edges fall on whole pixels; what lies outside of the frame is black.
    """
    height, width = frames.shape[1:3]
    top, left = round(box[0] * height), round(box[1] * width)
    bottom = top + max(1, round(box[2] * height))
    right = left + max(1, round(box[3] * width))
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return frames[:, top:bottom, left:right]
    part = np.zeros([len(frames), bottom - top, right - left, 3], np.uint8)
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    part[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        frames[:, rows, columns]
    )
    return part


def recolour(
    frames: np.ndarray, matrix: np.ndarray, offset: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Each pixel of uint8 [F, H, W, 3] to matrix [3, 3] @ pixel + offset [3], rounded, 0..255."""
    out = np.empty_like(frames) if out is None else out
    flat = (-1, frames.shape[-2], 3)
    cv2.transform(frames.reshape(flat), np.column_stack([matrix, offset]), dst=out.reshape(flat))
    return out
