"""What can be wrong with a data set as a whole; single records are tfrecord.CorruptRecord's."""

from rt2_jax.errors import UserError

# What to do about a record that can't be read: raise its error, or leave it out.
ON_CORRUPT = ('raise', 'skip')


class DataSetError(UserError, ValueError):
    """A data set that isn't whole, or lacks what a setting needs."""


class IndexMismatch(UserError, ValueError):
    """An index that doesn't belong to the data, the card or this version of the code."""


class CardError(UserError, ValueError):
    """A robot card that doesn't exist, or a file that holds none."""


# How the files begin that git-lfs puts in the place of large ones (git-lfs/docs/spec.md).
GIT_LFS = b'version https://git-lfs'


def lfs_remedy(start: bytes) -> str:
    """What to do about a file whose first 12 bytes or more are these; '' if it is no git-lfs pointer."""
    is_pointer = len(start) >= 12 and start.startswith(GIT_LFS[: len(start)])
    remedy = 'it is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository'
    return remedy if is_pointer else ''
