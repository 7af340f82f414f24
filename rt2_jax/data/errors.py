"""What can be wrong with a data set as a whole; single records are tfrecord.CorruptRecord's."""

from rt2_jax.errors import UserError


class DataSetError(UserError, ValueError):
    """A data set that isn't whole, or doesn't hold what is asked of it."""


class IndexMismatch(UserError, ValueError):
    """An index that doesn't belong to the data, the card or this version of the code."""


class CardError(UserError, ValueError):
    """An embodiment card that does not exist."""
