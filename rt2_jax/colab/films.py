"""Rollouts as a video in the notebook."""

from collections.abc import Mapping
from typing import Any

import imageio_ffmpeg
from IPython.display import HTML
import mediapy

from rt2_jax.evaluation import closed_loop, video
from rt2_jax.policy import Policy


def play(
    policy: Policy, suite: str, seed: int, max_steps: int = 20, **settings: Any
) -> closed_loop.Rollout:
    """One episode of a suite, recorded, decided by a policy; `settings` as for `Policy.act_batch`."""
    decide = closed_loop.learnt(policy, **settings)
    seen = dict(frames=policy.frames, frame_stride=policy.frame_stride, card=policy.embodiment)
    run = closed_loop.run(decide, suite, [seed], record=1, max_steps=max_steps, **seen)
    return run.rollouts[0]


def play_expert(suite: str, seed: int, max_steps: int = 20) -> closed_loop.Rollout:
    """The same, decided by the scripted expert, who knows the truth."""
    run = closed_loop.run(closed_loop.scripted(), suite, [seed], record=1, max_steps=max_steps)
    return run.rollouts[0]


def show(rollouts: Mapping[str, closed_loop.Rollout], fps: float = 3.0) -> HTML:
    """Films side by side, each under its title; 3 frames a second is real time."""
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    films = {title: video.film(rollout) for title, rollout in rollouts.items()}
    return HTML(mediapy.show_videos(films, fps=fps, codec='h264', return_html=True))
