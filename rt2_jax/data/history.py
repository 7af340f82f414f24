"""Which frames an example shows: the step's own and some before it, in training and while acting.

history = History(frames=2, stride=3)
history.add(image)    # uint8 [2, H, W, 3]: the frame of three steps ago, and this one

Where several cameras are shown, a frame is a picture of each (see `views.py`).
"""

import collections

import numpy as np

from rt2_jax.data import images


def steps(
    now: np.ndarray | int, first: np.ndarray | int, frames: int, stride: int = 1
) -> np.ndarray:
    """The `frames` steps, `stride` apart and oldest first, that end with `now`.

    The episode's `first` step stands in for those before it.

    Args:
        now: a step, or several, int64 [...].
        first: the first step of the episode of each.
        frames: how many steps.
        stride: from one to the next.

    Returns:
        int64 [..., frames].
    """
    before = stride * np.arange(frames - 1, -1, -1)
    return np.maximum(np.asarray(first)[..., None], np.asarray(now)[..., None] - before)


def spread(first: int, last: int, frames: int) -> list[int]:
    """`frames` steps evenly from `first` to `last`; `last` alone for one frame."""
    return [last] if frames == 1 else np.linspace(first, last, frames).round().astype(int).tolist()


def check(name: str, value: int) -> int:
    """Returns a number of frames or of steps; ValueError if it is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} is {value!r}; a whole number of 1 or more is needed')
    return value


def of_still(pictures: np.ndarray, frames: int, cameras: int = 1) -> np.ndarray:
    """A still as one that stood still before all cameras; others as they are.

    Args:
        pictures: uint8 [1, H, W, 3], or of each of the cameras one, [cameras, H, W, 3].
        frames: how many frames an observation has.
        cameras: how many pictures a frame has.

    Returns:
        uint8 [frames * cameras, H, W, 3].
    """
    if len(pictures) not in (1, cameras):
        return pictures
    return np.tile(pictures, (frames * cameras // len(pictures), 1, 1, 1))


class History:
    """The frames of an episode under way, as a policy sees them.

    Args:
        frames: how many an observation has.
        stride: steps from one to the next.
    """

    def __init__(self, frames: int, stride: int = 1) -> None:
        self._frames, self._stride = check('frames', frames), check('stride', stride)
        self._past: collections.deque[np.ndarray] = collections.deque(
            maxlen=stride * (frames - 1) + 1
        )

    def copy(self) -> 'History':
        """Another history with the same frames so far."""
        other = History(self._frames, self._stride)
        other._past.extend(self._past)
        return other

    def add(self, picture: np.ndarray) -> np.ndarray:
        """Takes the next frame; returns the observation, oldest frame first.

        Frames of another size, as before a camera was set anew, are resized to this one's.

        Args:
            picture: uint8 [H, W, 3], or of V cameras [V, H, W, 3].

        Returns:
            uint8 [F, H, W, 3], or [F * V, H, W, 3].
        """
        self._past.append(picture if picture.ndim == 4 else picture[None])
        now = len(self._past) - 1
        shown = steps(now, 0, self._frames, self._stride)
        return images.of_one_size([view for i in shown for view in self._past[i]])
