"""Whole records of an indexed data set, which the package itself never reads again."""

from rt2_jax.data.readers import tf_example, tfrecord


def features(source, episode):
    """Every feature of an episode's record, by flat path: numbers as arrays, else lists of bytes."""
    arrays = source.index.arrays
    start = int(arrays['episode_offset'][episode]) + tfrecord.HEADER_BYTES
    length = int(arrays['episode_length'][episode])
    number = int(arrays['episode_file'][episode])
    (payload,) = source._pictures.files.read(number, [(start, length)])
    return {
        path: (
            [payload[a:b] for a, b in feature.values.tolist()]
            if feature.kind == tf_example.BYTES_LIST
            else feature.values
        )
        for path, feature in tf_example.parse(payload).items()
    }
