"""Dumps what lerobot's own loader gives for a data set: every number and text, and every picture.

    LEROBOT_PYTHON tests/data/lerobot_frames.py DATASET FRAMES.npz

Run by tests in an environment of its own, see test_lerobot_package.
"""

import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset
import numpy as np


def main(root, output):
    dataset = LeRobotDataset('us/set', root=root, video_backend='pyav')
    items = [dataset[i] for i in range(len(dataset))]
    arrays = {}
    for name, value in items[0].items():
        values = [item[name] for item in items]
        arrays[name] = np.array(values) if isinstance(value, str) else np.stack(values)
        if name in dataset.meta.video_keys:
            arrays[name] = (arrays[name].transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    assert set(dataset.meta.stats['action']) >= {'min', 'max', 'mean', 'std', 'q01', 'q99'}
    np.savez(output, **arrays)


if __name__ == '__main__':
    main(*sys.argv[1:])
