"""What happens to frames: crops, colours, their seeds, and the crop that a policy acts on."""

import colorsys

import numpy as np
import pytest

from rt2_jax.data import augmentation, images
from rt2_jax.data.augmentation import RECIPES, Augmentation
from rt2_jax.data.example import Example

# A pixel's red says its column, its green its row.
ROWS, COLUMNS = np.mgrid[0:100, 0:200].astype(np.uint8)
PLACES = np.stack([COLUMNS, ROWS, np.full_like(ROWS, 77)], axis=-1)
ACTION = np.zeros(8, np.float32)
OCTO = Augmentation(**RECIPES['octo'])


def example(frames=2, **fields):
    return Example(np.stack([PLACES] * frames), 'pick', **{'action': ACTION, **fields})


def test_nothing_by_default():
    frames = Augmentation().training(example(), 32, seed=0, number=5)
    np.testing.assert_array_equal(frames, images.resize(example().frames, 32))
    assert Augmentation().to_json() == '' and OCTO.to_json()


def test_crops_keep_their_share_of_the_area_and_lie_anywhere_in_the_frame():
    boxes = np.array([OCTO.box(np.random.default_rng(n).random(6)) for n in range(4000)])
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-9).all()
    whole = (height == 1) | (width == 1)  # too long a side is cut to the frame's
    area, ratio = (height * width)[~whole], (width / height)[~whole]
    assert 0.8 <= area.min() < 0.805 and ratio.min() < 0.91 and ratio.max() > 1.09
    assert area.max() > 0.98 and 0 < whole.mean() < 0.4
    assert abs((top + height / 2).mean() - 0.5) < 0.01 and np.ptp(left) > 0.1


def test_a_crop_is_that_part_of_the_frame_in_every_frame():
    part = augmentation.crop(example().frames, (0.1, 0.25, 0.5, 0.5))
    np.testing.assert_array_equal(part, np.stack([PLACES[10:60, 50:150]] * 2))
    beyond = augmentation.crop(example().frames, (-0.1, 0.5, 1.0, 1.0))
    assert beyond.shape == (2, 100, 200, 3)
    assert not beyond[:, :10].any() and not beyond[:, :, 100:].any()
    np.testing.assert_array_equal(beyond[0, 10:, :100], PLACES[:90, 100:])
    seen = Augmentation(scale=(0.5, 0.5)).training(example(), 50, seed=1, number=2)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert 95 < np.ptp(seen[..., 0].astype(int)) * 2**0.5 / 200 * 100 < 105


def test_what_speaks_of_places_and_what_has_no_action_is_shown_whole():
    whole = images.resize(example().frames, 32)
    crops = Augmentation(scale=(0.3, 0.3))
    for kept in (example(places=True), example(action=None)):
        np.testing.assert_array_equal(crops.training(kept, 32, 0, 0), whole)
        assert not np.array_equal(OCTO.training(kept, 32, 0, 0), whole)
    assert not np.array_equal(crops.training(example(), 32, 0, 0), whole)


def test_draws_depend_on_seed_and_number_alone():
    frames = {(s, n): OCTO.training(example(), 32, s, n) for s in (0, 1) for n in (0, 1, 2**40)}
    np.testing.assert_array_equal(frames[1, 2**40], OCTO.training(example(), 32, 1, 2**40))
    assert len({f.tobytes() for f in frames.values()}) == len(frames)


def test_acting_sees_the_centre_of_what_training_crops():
    openvla = Augmentation(**RECIPES['openvla'])
    seen = openvla.evaluation(example().frames, 64, cropped=True)
    inside = PLACES[3:98, 5:195]  # sides of 0.9 ** 0.5
    np.testing.assert_array_equal(seen[0], images.resize(inside[None], 64)[0])
    whole = images.resize(example().frames, 64)
    np.testing.assert_array_equal(openvla.evaluation(example().frames, 64, cropped=False), whole)
    # RT-1 shifts in training, and acts on whole frames.
    shifted = Augmentation(**RECIPES['rt1'])
    np.testing.assert_array_equal(shifted.evaluation(example().frames, 64, cropped=True), whole)


def colours_of(draws, frames, **changes):
    augment = Augmentation(**changes)
    return augmentation.recolour(frames, *augment.colours(np.asarray(draws), frames))


def test_colours():
    frames = np.random.default_rng(0).integers(60, 190, [2, 8, 8, 3]).astype(np.uint8)
    np.testing.assert_array_equal(
        colours_of([1, 0.5, 0.5, 0.5], frames, brightness=0.2), frames + 51
    )
    dark = np.maximum(frames.astype(int) - 102, 0)
    np.testing.assert_array_equal(colours_of([0, 0.5, 0.5, 0.5], frames, brightness=0.4), dark)
    mean = frames.mean(axis=(0, 1, 2))
    flat = colours_of([0.5, 0, 0.5, 0.5], frames, contrast=(0.0, 2.0))
    assert np.abs(flat - mean).max() <= 0.51
    grey = colours_of([0.5, 0.5, 0, 0.5], frames, saturation=(0.0, 2.0))
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1
    luma = frames @ [0.299, 0.587, 0.114]
    assert np.abs(grey[..., 0] - luma).max() <= 1


def test_hue_turns_as_on_the_wheel_of_hsv():
    frames = np.random.default_rng(1).integers(60, 190, [1, 40, 40, 3]).astype(np.uint8)
    turned = colours_of([0.5, 0.5, 0.5, 1.0], frames, hue=0.05)
    hues = [
        [colorsys.rgb_to_hsv(*(pixel / 255))[0] for pixel in f.reshape(-1, 3)]
        for f in (frames, turned)
    ]
    moved = (np.array(hues[1]) - hues[0] + 0.5) % 1 - 0.5
    assert 0.03 < abs(np.median(moved)) < 0.07
    assert np.abs(turned @ [0.299, 0.587, 0.114] - frames @ [0.299, 0.587, 0.114]).max() <= 1.5


def test_bad_settings():
    message = 'config.data.augment.crop: there is no such field.*Valid: brightness, contrast'
    with pytest.raises(ValueError, match=message):
        Augmentation.from_config({'crop': 0.9})
    with pytest.raises(ValueError, match='augment.scale is 0.9 to 0.8'):
        Augmentation(scale=(0.9, 0.8))
    with pytest.raises(ValueError, match='augment.scale is 0.0 to 0.8'):
        Augmentation(scale=(0, 0.8))
    with pytest.raises(ValueError, match='augment.hue is 0.7; 0 to 0.5'):
        Augmentation(hue=0.7)
