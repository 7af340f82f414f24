"""Draws the README's pictures: rollouts.gif and results.png.

    python -m rt2_jax.evaluate --workdir=package:tabletop_policy --suite=unseen_objects --episodes=6 \
        --output=runs/gif.json --video=runs/gif.mp4
    python .github/draw.py runs/gif.mp4

Needs the extras `sim` and `colab`. The bars are those of results.json beside this file.
"""

import json
import pathlib
import subprocess
import sys

import imageio_ffmpeg
import matplotlib.pyplot as plt

from rt2_jax.evaluation.report import proportion

HERE = pathlib.Path(__file__).resolve().parent
COLOURS = '#2f6fdb', '#9aa0ab', '#d9731a'
WIDTH, FRAMES = 720, 4  # of the GIF: pixels, and a second


def draw_rollouts(video: str) -> None:
    """Writes the video as a GIF of few colours."""
    colours = 'split[a][b];[a]palettegen=max_colors=160[p];[b][p]paletteuse=dither=none'
    filters = f'fps={FRAMES},scale={WIDTH}:-1:flags=lanczos,{colours}'
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-loglevel', 'error', '-i', video]
    subprocess.run([*command, '-vf', filters, HERE / 'rollouts.gif'], check=True)


def draw_results() -> None:
    """Writes bars of success with 95 % intervals: a group a suite, a bar a recipe."""
    results = json.loads((HERE / 'results.json').read_text())
    suites = list(next(iter(results.values())))
    figure, axes = plt.subplots(figsize=(9, 2.9), layout='constrained')
    for number, (recipe, counts) in enumerate(results.items()):
        measured = [proportion(*counts[suite]) for suite in suites]
        heights = [100 * x['success'] for x in measured]
        ends = [
            [abs(100 * x['interval'][end] - y) for x, y in zip(measured, heights)] for end in (0, 1)
        ]
        places = [group + 0.27 * (number - 1) for group in range(len(suites))]
        bars = axes.bar(
            places, heights, 0.25, yerr=ends, capsize=3, color=COLOURS[number], label=recipe
        )
        axes.bar_label(bars, [f'{y:.0f}' for y in heights], label_type='center', color='white')
    axes.set_xticks(range(len(suites)), [suite.replace('_', ' ') for suite in suites])
    axes.set_ylabel('success, %')
    axes.set_ylim(0, 105)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / 'results.png', dpi=130)


if __name__ == '__main__':
    if len(sys.argv) > 1:
        draw_rollouts(sys.argv[1])
    draw_results()
