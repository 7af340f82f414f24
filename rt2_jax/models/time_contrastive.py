"""R3M's three losses on frames of episodes (arXiv 2203.12601, section 3.2).

Time contrast: frames of an episode that are near in time are more alike than far ones and than those of other
episodes. Language: from the first frame to a later one, what the instruction says has come further than to
an earlier one, and further than in another episode. L1 and L2: vectors are short and sparse. As in the public
trainer (github.com/facebookresearch/r3m, r3m/trainer.py, MIT), but for its sentence encoder, DistilBERT,
in whose place is the mean of a frozen table's words.

Axes: B episodes, F = 5 frames (an episode's first and last, then three between, in order), H and W pixels,
P prompt, T target, E width of a frame's vector, W width of a word, X negatives.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, layers, sentence, towers
from rt2_jax.nearest import check

FRAMES = 5
_NEGATIVES = 3  # other episodes that each is compared with


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Minus the distance of vectors [..., E], [...]."""
    # The gradient of a root at 0, which an episode compared with itself has, is no number.
    return -jnp.sqrt(jnp.square(a - b).sum(-1) + 1e-12)


def rather(right: jax.Array, wrong: jax.Array) -> jax.Array:
    """Cross-entropy of one score [B] among others [B, X] (InfoNCE, arXiv 1807.03748): [B]."""
    scores = jnp.concatenate([right[:, None], wrong], axis=1)
    return jax.nn.logsumexp(scores, axis=1) - right


def time_loss(early: jax.Array, middle: jax.Array, late: jax.Array, others: jax.Array) -> jax.Array:
    """Time contrast of three frames in order, each [B, E].

    Args:
        early: the first of them.
        middle: the second.
        late: the third.
        others: int32 [X, B], of each episode others to compare with.

    Returns:
        [B].
    """
    far = similarity(late, early)[:, None]
    strange = lambda x: similarity(x[None], x[others]).T
    near_the_end = rather(similarity(late, middle), jnp.concatenate([far, strange(late)], axis=1))
    near_the_start = rather(
        similarity(middle, early), jnp.concatenate([far, strange(early)], axis=1)
    )
    return (near_the_end + near_the_start) / 2


class TimeContrastive(nn.Module):
    """A `backbone.OwnLoss` of an image tower, whose mean over places is a frame's vector.

    Attributes:
        vision: fields of the tower's config.
        vocab: V.
        tower: of `towers.ALONE`.
        words: W.
        reward: width of the two hidden layers of what scores progress.
        time_weight: of the time contrast in the loss.
        language_weight: of the language alignment.
        norm_weight: of a vector's L1 norm, and of its L2 norm.
        dtype: of matrix products.
    """

    vision: Mapping
    vocab: int
    tower: str = 'resnet'
    words: int = 128
    reward: int = 1024
    time_weight: float = 1.0
    language_weight: float = 1.0
    norm_weight: float = 1e-5
    dtype: layers.Dtype = jnp.float32

    @property
    def untrained(self) -> tuple[str, ...]:
        """Patterns of names: the table of words, and statistics."""
        return '^embedding/', *towers.untrained(self.tower)

    @nn.compact
    def __call__(
        self, images: jax.Array, prompt: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `losses`."""
        check('config.model.tower', self.tower, towers.ALONE)
        b, frames = images.shape[:2]
        if frames != FRAMES:
            raise ValueError(
                f'{frames} frames an example; time contrast needs {FRAMES}, which '
                "config.data.robot.NAME.shows='progress' draws: set config.data.frames"
            )
        tower = towers.make(self.tower, self.vision, self.dtype)
        x = towers.features(tower, images.reshape(b * frames, *images.shape[2:]))
        vectors = x.astype(jnp.float32).mean(1).reshape(b, frames, -1)
        first, last, early, middle, late = jnp.moveaxis(vectors, 1, 0)
        others = self._others(b)
        in_time = time_loss(early, middle, late, others)

        table = embedding.Embedding(self.vocab, self.words, self.dtype, name='embedding')
        words = sentence.of_words(table, prompt, prompt != 0, ordered=True)
        score = Reward(self.reward, self.dtype, name='reward')
        progress = [
            self._progress(score, first, later, before, words, others)
            for later, before in ((last, first), (middle, early), (late, middle))
        ]
        norms = jnp.abs(vectors).sum(-1) + jnp.sqrt(jnp.square(vectors).sum(-1) + 1e-12)
        loss = (
            self.time_weight * in_time
            + self.language_weight * sum(progress) / len(progress)
            + self.norm_weight * norms.mean(1)
        )
        far = similarity(late, early)
        ordered = (similarity(late, middle) > far) & (similarity(middle, early) > far)
        return loss, ordered.astype(jnp.float32), jnp.ones(b)

    def losses(
        self, images: jax.Array, prompt: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `backbone.OwnLoss`; right is an episode whose near frames are more alike than its far ones."""
        return self(images, prompt, target)

    @nn.nowrap
    def _progress(
        self,
        score: nn.Module,
        first: jax.Array,
        later: jax.Array,
        before: jax.Array,
        words: jax.Array,
        others: jax.Array,
    ) -> jax.Array:
        """That the instruction scores `later` above `before`, and above others' `later`: [B]."""
        wrong = [score(first, before, words)]
        wrong += [score(first[other], later[other], words) for other in others]
        return rather(score(first, later, words), jnp.stack(wrong, axis=1))

    @nn.nowrap
    def _others(self, episodes: int) -> jax.Array:
        """Other episodes of the batch, int32 [X, B]; the same one where there is no other."""
        key = self.make_rng('dropout') if self.has_rng('dropout') else jax.random.key(0)
        apart = jax.random.randint(key, (_NEGATIVES, episodes), 1, max(episodes, 2))
        return (jnp.arange(episodes) + apart) % episodes


class Reward(nn.Module):
    """How far an episode has come with what its instruction says (R3M, section 3.2, "video-language").

    Attributes:
        hidden: width of its hidden layers.
        dtype: of matrix products.
    """

    hidden: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, first: jax.Array, now: jax.Array, words: jax.Array) -> jax.Array:
        """Maps two frames' vectors [B, E] and a sentence [B, W] to a score [B]."""
        x = jnp.concatenate([first, now, words], axis=-1)
        for name in ('hidden_0', 'hidden_1'):
            x = layers.Linear(
                (self.hidden,), ('vision', 'embed'), self.dtype, bias=True, name=name
            )(x)
            x = nn.relu(x)
        out = layers.Linear((1,), ('embed', 'vector'), jnp.float32, bias=True, name='score')
        return out(x.astype(jnp.float32))[:, 0]
