"""What can be wrong with a data set as a whole; single records are tfrecord.CorruptRecord's."""


class DataSetError(ValueError):
    """A data set that isn't whole, or doesn't hold what is asked of it."""


class IndexMismatch(ValueError):
    """An index that doesn't belong to the data, the card or this version of the code."""
