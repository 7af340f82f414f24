"""Measures a policy: success on the tabletop's suites, or answers to held-out examples.

    python -m rt2_jax.evaluate --workdir=runs/cofinetune --suite=seen,unseen_objects --episodes=100 \
        --output=results.json --video=rollouts.mp4

Suites: those of rt2_jax.envs.tabletop.suites; `offline` (action error on held-out episodes of the
expert, then `web`) and `web` (questions about pictures of a small web never trained on).

Policies: `checkpoint`; `untrained` (the checkpoint's model with random weights); `expert` (needs no
--workdir) and `expert_rounded` (its actions rounded to the bins).

The output is {"policies": {POLICY: {SUITE: {"success": .., "episodes": .., "interval": [.., ..],
"tasks": .., ..}}}, "seconds": .., "manifest": ..}; intervals are Wilson's, 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import jax

from rt2_jax.data import web
from rt2_jax.decoding.grammar import Kind
from rt2_jax.envs.tabletop import suites
from rt2_jax.envs.tabletop import tasks
from rt2_jax.evaluation import closed_loop
from rt2_jax.evaluation import offline
from rt2_jax.evaluation import report
from rt2_jax.nearest import nearest
from rt2_jax.policy import Policy
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training.checkpoint import CheckpointError

_WORKDIR = flags.DEFINE_string("workdir", None, "Checkpoint directory, or 'package:NAME'.")
_STEP = flags.DEFINE_integer("step", None, "Which step; the latest by default.")
_SUITE = flags.DEFINE_list("suite", ["seen"], "One or more suites, by comma.")
_TASK = flags.DEFINE_string("task", None, "Only this kind of task: pick, push or turn.")
_EPISODES = flags.DEFINE_integer("episodes", 50, "Episodes a suite.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first_episode", 0, "Number of the first episode in its suite.", 0)
_QUESTIONS = flags.DEFINE_integer("questions", 1000, "Questions of the small web.", lower_bound=1)
_WEB_SEED = flags.DEFINE_integer("web_seed", 1_000_003, "Which small web the questions are from.")
_POLICY = flags.DEFINE_string("policy", "checkpoint", "checkpoint, untrained, expert, expert_rounded")
_PLAN = flags.DEFINE_bool("plan", None, "Plan before each action; by default as it was trained.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest action.", lower_bound=0)
_NOISE = flags.DEFINE_float("execution_noise", 0.0, "See TabletopEnv.", lower_bound=0)
_PARALLEL = flags.DEFINE_integer("parallel", 16, "Episodes under way at a time.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 128, "Of the frames observed, pixels.")
_OUTPUT = flags.DEFINE_string("output", None, "Where the results go (JSON).")
_VIDEO = flags.DEFINE_string("video", None, "Where a video of rollouts goes (.mp4).")
_VIDEO_EPISODES = flags.DEFINE_integer("video_episodes", 12, "Episodes a suite in the video.", 1)
flags.mark_flag_as_required("output")

POLICIES = ("checkpoint", "untrained", "expert", "expert_rounded")
OFFLINE = ("offline", "web")


def check_flags() -> None:
    """Raises UsageError for names that don't exist and for flags that don't go together."""
    for suite in _SUITE.value:
        if suite not in (*suites.SUITES, *OFFLINE):
            raise app.UsageError(
                f"Unknown suite {suite!r}{nearest(suite, [*suites.SUITES, *OFFLINE])}"
            )
    if _POLICY.value not in POLICIES:
        raise app.UsageError(f"Unknown policy {_POLICY.value!r}{nearest(_POLICY.value, POLICIES)}")
    if _TASK.value is not None and _TASK.value not in tasks.KINDS:
        raise app.UsageError(f"Unknown task {_TASK.value!r}{nearest(_TASK.value, tasks.KINDS)}")
    if _POLICY.value in ("checkpoint", "untrained") and not _WORKDIR.value:
        raise app.UsageError(f"--policy={_POLICY.value} needs --workdir.")
    if _POLICY.value.startswith("expert") and set(_SUITE.value) & set(OFFLINE):
        raise app.UsageError(f"The suites {', '.join(OFFLINE)} are for models, not for the expert.")
    if not set(_SUITE.value) - set(OFFLINE) and _VIDEO.value:
        raise app.UsageError("--video needs a suite that is played on the tabletop.")


def load_policy() -> Policy | None:
    """The model to be measured, compiled; None for the expert."""
    if _POLICY.value.startswith("expert"):
        return None
    cache = epath.Path(_WORKDIR.value) / "compile_cache"
    if cache.exists():
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        # One instruction that is too long shall not end a measurement; the manifest says how many.
        return Policy.from_checkpoint(
            _WORKDIR.value,
            _STEP.value,
            untrained=_POLICY.value == "untrained",
            batch_sizes=(_PARALLEL.value,),
            long_prompts="clip",
            **({} if _PLAN.value is None else {"plan": _PLAN.value}),
        )
    except CheckpointError as error:
        raise app.UsageError(f"--workdir={_WORKDIR.value}: {error}") from error


def make_decide(policy: Policy | None) -> closed_loop.Decide:
    """Observations to actions, for the policy that --policy names."""
    if policy is not None:
        policy.warm_up(kinds=(Kind.PLAN if policy.plan else Kind.ACTION,))
        return closed_loop.learnt(policy, temperature=_TEMPERATURE.value)
    if _POLICY.value == "expert":
        return closed_loop.scripted()
    coder = ActionTokenizer(ActionSpace.rt1_bounds(), Tokenizer.load_default())
    return closed_loop.scripted(rounding=coder)


def play(decide: closed_loop.Decide, suite: str, frames: int) -> closed_loop.Run:
    """Closed loop on one suite."""
    first = _FIRST.value
    return closed_loop.run(
        decide,
        suite,
        range(first, first + _EPISODES.value),
        parallel=_PARALLEL.value,
        task=_TASK.value,
        image_size=_IMAGE_SIZE.value,
        frames=frames,
        record=_VIDEO_EPISODES.value if _VIDEO.value else 0,
        execution_noise=_NOISE.value,
        progress=say,
    )


def answer(policy: Policy, suite: str) -> dict[str, Any]:
    """Offline measures: `web`, or those and the actions of held-out episodes."""
    source = web.SmallWeb(seed=_WEB_SEED.value, size=policy.image_size)
    result = {"web": offline.questions(policy, source, _QUESTIONS.value, progress=say)}
    if suite == "offline":
        seeds = range(_FIRST.value, _FIRST.value + _EPISODES.value)
        examples = offline.expert_steps("seen", seeds, _IMAGE_SIZE.value, policy.frames)
        result["actions"] = offline.actions(policy, examples)
    return result


def describe(suite: str, result: Mapping[str, Any]) -> str:
    """A line for the terminal."""
    if "success" in result:
        low, high = result["interval"]
        return (
            f"{suite}: {result['success']:.1%} of {result['episodes']} episodes succeeded "
            f"(95 % interval {low:.1%} to {high:.1%}), {result['mean_steps']:.1f} steps, "
            f"decision {result['decision_ms']['p50']:.1f} ms"
        )
    parts = [f"{suite}: {result['web']['accuracy']:.1%} of {result['web']['questions']} questions"]
    if "actions" in result:
        errors = [f"{n} {e['mean']:.4f} {e['unit']}" for n, e in result["actions"]["error"].items()]
        parts.append(f"tokens {result['actions']['token_accuracy']:.1%}; error {', '.join(errors)}")
    return "; ".join(parts)


def say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    check_flags()
    logging.set_verbosity(logging.WARNING)
    begin = time.perf_counter()
    policy = load_policy()
    decide = None
    results, rollouts = {}, []
    for suite in _SUITE.value:
        if suite in OFFLINE:
            results[suite] = answer(policy, suite)
        else:
            decide = decide or make_decide(policy)
            run = play(decide, suite, policy.frames if policy else 1)
            results[suite] = closed_loop.summary(run)
            rollouts += [rollout for rollout in run.rollouts if rollout.frames]
        say(describe(suite, results[suite]))
    if _VIDEO.value:
        # Only where a video is wanted, because it needs ffmpeg.
        from rt2_jax.evaluation import video

        epath.Path(_VIDEO.value).parent.mkdir(parents=True, exist_ok=True)
        video.write(_VIDEO.value, rollouts)
    output = epath.Path(_OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({
        "policies": {_POLICY.value: results},
        "seconds": round(time.perf_counter() - begin, 1),
        "manifest": make_manifest(policy),
    }, indent=2))  # fmt: skip
    say(f"Results in {output}" + (f", video in {_VIDEO.value}" if _VIDEO.value else ""))


def make_manifest(policy: Policy | None) -> dict[str, Any]:
    """What it takes to get the same results again."""
    model = {}
    if policy is not None:
        model = {
            "step": policy.step,
            "plan": policy.plan,
            "clipped_prompts": policy.clipped_prompts,
            "config": policy.config.to_dict(),
        }
    return report.manifest(
        workdir=_WORKDIR.value,
        **model,
        seeds={"first_episode": _FIRST.value, "episodes": _EPISODES.value, "web": _WEB_SEED.value},
        image_size=_IMAGE_SIZE.value,
        task=_TASK.value,
        temperature=_TEMPERATURE.value,
        execution_noise=_NOISE.value,
        parallel=_PARALLEL.value,
    )


if __name__ == "__main__":
    app.run(main)
