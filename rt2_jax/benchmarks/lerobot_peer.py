"""The peer that benchmarks/lerobot.py measures: lerobot's own data set behind PyTorch's loader.

As lerobot trains (lerobot/scripts/lerobot_train.py): a DataLoader that shuffles, with processes of its own,
here one a core, over a LeRobotDataset; resizing is its `image_transforms`.

lerobot is in an interpreter of its own: nothing but this and harness.py of the project is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import tempfile
import time
from typing import Any

from rt2_jax.benchmarks import harness


def stream(directory: str, batch_size: int, size: int, backend: str) -> harness.Stream:
    """A worker; see harness.py.

    Args:
        directory: the data set.
        batch_size: steps a batch.
        size: side that pictures are resized to, pixels; 0 leaves them as they are.
        backend: lerobot's name of what decodes: 'pyav' or 'torchcodec'.
    """
    os.environ |= {'HF_HUB_OFFLINE': '1', 'HF_HOME': tempfile.mkdtemp(prefix='rt2_jax_peer_')}
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]
    import torch
    from torchvision.transforms import v2  # type: ignore[import-not-found]

    imported = time.time()
    resize = v2.Resize((size, size), antialias=True) if size else None
    dataset = LeRobotDataset(
        'us/set', root=directory, image_transforms=resize, video_backend=backend
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    return harness.Stream(endless(), lambda batch: batch['task'], imported=imported)
