"""A decision of a policy: its numbers, what else it could have been, where the policy looked."""

from collections.abc import Sequence

from IPython.display import HTML
from matplotlib.figure import Figure
import numpy as np

from rt2_jax.colab import colours, table
from rt2_jax.decoding.grammar import Kind
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer
from rt2_jax.policy.conventions import Convention
from rt2_jax.text.actions import ActionSpace


def show(policy: Policy, decision: Answer) -> HTML:
    """Every number of the action with its token, its probability and how undecided it was.

    The last column is what the robot is sent, in its own numbers; a line below says what the gripper's
    mean.
    """
    space = policy.action_tokenizer.space
    convention = policy.convention()
    sent = ['end' if x else 'go on' for x in decision.action[: space.terminate]]
    sent += [f'{x:g}' for x in convention.values(decision.action).astype(np.float32)]
    integers = policy.action_tokenizer.bin_of_id[decision.tokens]
    units = ('',) * space.terminate + space.units
    rows = [
        (name, unit, float(value), int(integer), float(np.exp(log_prob)), float(entropy), own)
        for name, unit, value, integer, log_prob, entropy, own in zip(
            space.number_names,
            units,
            decision.action,
            integers,
            decision.log_probs,
            decision.entropies,
            sent,
            strict=True,
        )
    ]
    header = ('number', 'unit', 'value', 'token', 'probability', 'entropy, nats', 'sent')
    plan = f'<p><b>Plan:</b> {decision.plan}</p>' if decision.plan else ''
    whole = f'<p>Log-probability of the whole answer: {decision.log_prob:.2f} nats.</p>'
    return HTML(plan + table.show(header, rows).data + _meaning(convention) + whole)


def _meaning(convention: Convention) -> str:
    """What the gripper's numbers mean, as the model writes them and as the robot is sent them."""
    gripper = convention.describe().get('gripper')
    if not gripper:
        return ''
    words = ('closes', 'opens') if gripper['kind'] == 'relative' else ('is closed', 'is open')
    return (
        f'<p>The gripper {words[0]} at the value +1 and {words[1]} at -1; the robot is sent '
        f'{gripper["closed"]:g} and {gripper["open"]:g} for these.</p>'
    )


def bars(policy: Policy, decision: Answer) -> Figure:
    """The likeliest values of every number, given the numbers before it."""
    space = policy.action_tokenizer.space
    figure, axes = colours.grid(space.length, 4, 3.1, 2.6)
    for name, label, found, chosen, axis in zip(
        space.number_names,
        _labels(space),
        decision.alternatives,
        decision.action,
        axes,
        strict=True,
    ):
        values, probabilities = zip(*found)
        shown = [_words(name, value) for value in values]
        shades = [colours.ORANGE if np.isclose(v, chosen) else colours.BLUE for v in values]
        axis.barh(shown, probabilities, color=shades)
        axis.invert_yaxis()
        axis.grid(axis='y', visible=False)
        axis.set(title=label, xlim=(0, 1))
        rest = 1 - sum(probabilities)
        axis.set_xlabel(f'others: {max(rest, 0):.0%}', fontsize=9, loc='right')
    figure.suptitle('Probability of the likeliest values of each number; orange was taken')
    return figure


def looks(policy: Policy, frames: Sequence[np.ndarray], instruction: str, decision: Answer):
    """Where the policy looked for each number of the action, on the newest frame: a figure.

    Args:
        policy: that decided.
        frames, instruction: that it was given.
        decision: what it decided.
    """
    kind = Kind.PLAN if len(decision.plan_tokens) else Kind.ACTION
    frame = policy.preprocess(frames, kind)[-1]
    attention = policy.attention(frames, instruction, decision)[:, -1]
    space = policy.action_tokenizer.space
    figure, axes = colours.grid(len(attention), 4, 2.9, 3.0)
    side = frame.shape[0]
    for name, look, value, axis in zip(
        space.number_names, attention, decision.action, axes, strict=True
    ):
        # Where it did not look, the picture shows through.
        light = 0.15 + 0.85 * look / look.max()
        axis.imshow(frame.mean(axis=2), cmap='gray', vmin=0, vmax=255)
        axis.imshow(
            look, extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap='inferno', vmin=0,
            alpha=0.65 * light, interpolation='bilinear',
        )  # fmt: skip
        axis.axis('off')
        axis.set_title(
            f'{name} = {_words(name, value)}\n{look.sum():.0%} on the image', fontsize=10
        )
    figure.suptitle('Attention of each number over the image, the brightest being the most of it')
    return figure


def _labels(space: ActionSpace) -> list[str]:
    units = ('1',) * space.terminate + space.units
    return [
        name if unit == '1' else f'{name}, {unit}'
        for name, unit in zip(space.number_names, units, strict=True)
    ]


def _words(name: str, value: float) -> str:
    if name == 'terminate':
        return 'end' if value >= 0.5 else 'go on'
    return f'{value:+.3f}'
