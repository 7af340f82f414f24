"""What is in a checkpoint, read from disk piece by piece, and what differs between two."""
