"""One jitted call from images and prompt to an answer that the grammar allows.

The encoder runs once (prefill), then the decoder token by token over a cache of static size. In
an action only the ids of its bins are allowed, so only their columns of the output matrix are
multiplied: 256 x D numbers read where a full step of a multilingual vocabulary reads 250,000 x D.
The distribution is the same, since what is masked has no share in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.decoding import compact, draw
from rt2_jax.decoding.draw import MASKED, choose, log_softmax, spread
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.models.backbone import Backbone, is_one_pass
from rt2_jax.models.decode_state import DecodeState


@struct.dataclass
class Samples:
    """N answers to each of B questions, at most T tokens each.

    Attributes:
        tokens: int32 [B, N, T], pad_id after the end. EOS is there where it was sampled (texts).
        log_probs: float32 [B, N, T], of each token under the model's distribution restricted to what
            the grammar allowed there (at temperature 1 whatever the token was drawn with); 0 after
            the end. Their sum is the answer's log-probability.
        entropies: float32 [B, N, T], nats, of that same distribution; 0 after the end.
        lengths: int32 [B, N], tokens before the end.
        top_k: None, or, where `alternatives` K are asked for, ids int32 [B, N, T, K] and
            log-probabilities float32 [B, N, T, K] of the likeliest tokens of that distribution, from the
            likeliest on; pad_id and -inf where fewer are allowed.
    """

    tokens: jax.Array
    log_probs: jax.Array
    entropies: jax.Array
    lengths: jax.Array
    top_k: tuple[jax.Array, jax.Array] | None = None


@struct.dataclass
class _Call:
    """What one call of the sampler gets for B rows of at most T tokens.

    Attributes:
        params: the model's parameters.
        images: uint8 [B, F, H, W, 3].
        prompt: int32 [B, P].
        kinds: int32 [B], of `Kind`.
        rng: a key.
        temperature: float32 [B]; 0 takes the likeliest token.
        forced: int32 [B, T], pad_id where nothing is forced.
    """

    params: Any
    images: Any
    prompt: Any
    kinds: Any
    rng: Any
    temperature: Any
    forced: Any


@struct.dataclass
class _Loop:
    """What a step passes to the next."""

    step: jax.Array  # int32 []
    grammar_state: jax.Array  # int32 [B, 3]
    token: jax.Array  # int32 [B], what the decoder reads next: the last one, or a slot
    decode_state: DecodeState | None  # None where an action is decided at once
    tokens: jax.Array  # int32 [B, T]
    log_probs: jax.Array  # float32 [B, T]
    entropies: jax.Array  # float32 [B, T]
    top_k: draw.TopK | None


_Advance = Callable[[np.ndarray | None], Callable[[_Loop], _Loop]]  # by columns


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Samples answers. Frozen: every attribute is a static setting of the jitted call.

    Keep one and call it often: each Sampler compiles for itself, once for each batch size.

    Attributes:
        model: the backbone.
        grammar: what may come next.
        top_p: draw only from the fewest tokens that together have at least this probability (of the
            restricted distribution, after the temperature). 1 draws from all.
        smoothing: bins. Where the likeliest number of an action is taken, probabilities are spread over
            near bins first, by a Gaussian of this standard deviation: many near bins can outweigh a
            single one, such as that of no movement. 0 takes the likeliest bin by itself.
        terminate_threshold: where the likeliest number of an action is taken, it ends the episode if the
            probability of that is above this.
        restrict: multiply only the allowed columns where they are few; False multiplies all of them
            and masks (the same answers, slower; for tests and benchmarks).
    """

    model: Backbone
    grammar: Grammar
    top_p: float = 1.0
    smoothing: float = 0.0
    terminate_threshold: float = 0.5
    restrict: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f'top_p is {self.top_p}; it must lie in (0, 1].')
        if not self.smoothing >= 0:
            raise ValueError(f'smoothing is {self.smoothing}; it must be 0 or more bins.')
        if not 0 < self.terminate_threshold < 1:
            raise ValueError(
                f'terminate_threshold is {self.terminate_threshold}; it must lie in (0, 1).'
            )

    def __call__(
        self,
        params: Any,
        images: Any,
        prompt: Any,
        kinds: Kind | Iterable[int],
        *,
        rng: jax.Array | None = None,
        temperature: float | Any = 0.0,
        num_samples: int = 1,
        forced: Any | None = None,
        alternatives: int = 0,
    ) -> Samples:
        """Samples `num_samples` answers a row.

        A row's answers depend on its own inputs, its number and `rng`, not on the rows beside it.

        Args:
            params: the model's parameter tree (without the 'params' level).
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right with pad_id.
            kinds: the kind of answer, one for all rows or one a row.
            rng: a key; needed where a temperature is above 0.
            temperature: float, one for all or [B]; 0 takes the likeliest token.
            num_samples: N.
            forced: int32 [B, K] or None: the first tokens of each answer where they are already
                decided (a plan written by a user, say); pad_id where they are not.
            alternatives: K, of `Samples.top_k`. Each K compiles for itself.

        Raises:
            ValueError: for a temperature that is negative or NaN, or above 0 without `rng`, fewer than
                one sample, or fewer than no alternatives.
        """
        batch = images.shape[0]
        kinds = np.broadcast_to(np.asarray(kinds, np.int32), [batch])
        temperature = np.broadcast_to(np.asarray(temperature, np.float32), [batch])
        if not (temperature >= 0).all():
            raise ValueError(f'Temperatures must be 0 or more, got {temperature.tolist()}.')
        if rng is None:
            if (temperature > 0).any():
                raise ValueError('A temperature above 0 needs `rng`, e.g. jax.random.key(0).')
            rng = jax.random.key(0)
        if num_samples < 1:
            raise ValueError(f'num_samples is {num_samples}; at least 1 is needed.')
        if alternatives < 0:
            raise ValueError(f'alternatives is {alternatives}; it must be 0 or more.')
        possible = frozenset(Kind(kind) for kind in np.unique(kinds))
        if is_one_pass(self.model) and possible != {Kind.ACTION}:
            raise ValueError('This model writes actions alone, neither plans nor answers.')
        # Always of full length, so that what is forced changes no shape and nothing compiles anew.
        decided = np.full([batch, self.grammar.max_length(possible)], self.grammar.pad_id, np.int32)
        if forced is not None:
            forced = np.asarray(forced)[:, : decided.shape[1]]
            decided[:, : forced.shape[1]] = forced
        call = _Call(params, images, prompt, kinds, rng, temperature, decided)
        static = {'num_samples': num_samples, 'alternatives': alternatives}
        return self._sample(call, possible=possible, **static)

    def trace(self, params: Any, images: Any, prompt: Any, kind: Kind) -> Any:
        """The traced call for one answer of `kind` a row, from shapes alone: `.lower().compile()`.

        Args:
            params: tree of `jax.ShapeDtypeStruct`.
            images: uint8 [B, F, H, W, 3], a `jax.ShapeDtypeStruct`.
            prompt: int32 [B, P], likewise.
            kind: of the answers.
        """
        sharding = {'sharding': prompt.sharding} if prompt.sharding else {}
        batch, length = prompt.shape[0], self.grammar.max_length(frozenset({kind}))
        call = _Call(
            params,
            images,
            prompt,
            kinds=jax.ShapeDtypeStruct((batch,), jnp.int32, **sharding),
            rng=jax.eval_shape(lambda: jax.random.key(0)),
            temperature=jax.ShapeDtypeStruct((batch,), jnp.float32, **sharding),
            forced=jax.ShapeDtypeStruct((batch, length), jnp.int32, **sharding),
        )
        static = {'possible': frozenset({kind}), 'num_samples': 1, 'alternatives': 0}
        return self._sample.trace(self, call, **static)

    def greedy(self, params: Any, images: Any, prompt: Any, kind: Kind) -> Samples:
        """The likeliest answer of `kind` a row, within a function that is being traced.

        The number of rows may be unknown yet (a symbolic dimension of `jax.export`).

        Args:
            params: as in a call.
            images: as in a call.
            prompt: as in a call.
            kind: of the answers.
        """
        batch, length = prompt.shape[0], self.grammar.max_length(frozenset({kind}))
        call = _Call(
            params,
            images,
            prompt,
            kinds=jnp.full([batch], int(kind), jnp.int32),
            rng=jax.random.key(0),
            temperature=jnp.zeros([batch]),
            forced=jnp.full([batch, length], self.grammar.pad_id, jnp.int32),
        )
        return self._sample(call, possible=frozenset({kind}), num_samples=1, alternatives=0)

    @functools.partial(jax.jit, static_argnames=('self', 'possible', 'num_samples', 'alternatives'))
    def _sample(
        self, call: _Call, *, possible: frozenset[Kind], num_samples: int, alternatives: int
    ) -> Samples:
        length = self.grammar.max_length(possible)
        batch = call.prompt.shape[0]
        variables = {'params': call.params}
        logits = state = None
        if self.grammar.one_pass and possible == {Kind.ACTION}:
            logits = self._act(call)
        else:
            state = self.model.apply(variables, call.images, call.prompt, length, method='prefill')
        pad = jnp.int32(self.grammar.pad_id)
        # A key a row and sample: the batch's size and the other rows leave a row's draws alone.
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys = jax.vmap(fold, in_axes=(0, None))(
            fold(call.rng, jnp.arange(batch)), jnp.arange(num_samples)
        )
        loop = _Loop(
            step=jnp.int32(0),
            grammar_state=self.grammar.start(call.kinds),
            token=jnp.full([batch], pad),
            decode_state=state,
            tokens=jnp.full([batch, length], pad),
            log_probs=jnp.zeros([batch, length]),
            entropies=jnp.zeros([batch, length]),
            top_k=draw.no_top_k([batch, length, alternatives], pad),
        )

        def decode(keys: jax.Array) -> Samples:
            def advance(columns: np.ndarray | None) -> Callable[[_Loop], _Loop]:
                step = self._model_step(call.params, columns)
                return lambda loop: self._advance(loop, call, keys, step, columns)

            if logits is not None:
                return self._finish(self._read_action(loop, call, keys, logits))
            if possible == {Kind.ACTION}:
                return self._finish(self._decode_actions(loop, advance))
            return self._finish(self._decode_any(loop, advance, length))

        if num_samples == 1:
            return jax.tree.map(lambda x: x[:, None], decode(keys[:, 0]))
        # The samples share the encoder's part of the cache: vmap copies only what they write.
        return jax.vmap(decode, in_axes=1, out_axes=1)(keys)

    def _act(self, call: _Call) -> jax.Array:
        """All numbers of an action in one pass: logits float32 [B, S, C] of `bin_columns`, or [B, S, V]."""
        shape = call.prompt.shape[0], self.grammar.action_length
        slots = jnp.broadcast_to(self.grammar.slots, shape)
        columns = self.grammar.bin_columns if self.restrict else None
        model = self._model_step(call.params, columns, '__call__')
        return model(call.images, call.prompt, slots)

    def _read_action(self, loop: _Loop, call: _Call, keys: jax.Array, logits: jax.Array) -> _Loop:
        """Decides number by number from the logits of `_act`."""
        columns = self.grammar.bin_columns if self.restrict else None

        def advance(loop: _Loop, number: jax.Array) -> tuple[_Loop, None]:
            read = lambda state, token: (number, state)
            return self._advance(loop, call, keys, read, columns), None

        return jax.lax.scan(advance, loop, jnp.moveaxis(logits, 1, 0))[0]

    def _model_step(
        self, params: Any, columns: np.ndarray | None, method: str = 'step'
    ) -> Callable[..., Any]:
        """The model's step for the logits of some columns, as a function of state and token."""
        few = None if columns is None else compact.restricted(params, columns)
        return functools.partial(
            self.model.apply,
            {'params': params if few is None else few},
            columns=columns if few is None else None,
            method=method,
        )

    def _decode_actions(self, loop: _Loop, advance: _Advance) -> _Loop:
        """All rows are at the same place of an action, so each step's columns are known."""
        first, bins = self.grammar.first_columns, self.grammar.bin_columns
        loop = advance(first if self.restrict else None)(loop)
        rest = self.grammar.action_length - 1
        advance_bins = advance(bins if self.restrict else None)
        return jax.lax.scan(lambda loop, _: (advance_bins(loop), None), loop, length=rest)[0]

    def _decode_any(self, loop: _Loop, advance: _Advance, length: int) -> _Loop:
        """Rows may be anywhere; few columns do once all that are left write actions."""
        grammar, advance_all = self.grammar, advance(None)
        advance_bins = advance(grammar.bin_columns) if self.restrict else advance_all

        def body(loop: _Loop) -> _Loop:
            if not self.restrict:
                return advance_all(loop)
            state = loop.grammar_state
            only_bins = jnp.all(grammar.in_action(state) | grammar.done(state))
            return jax.lax.cond(only_bins, advance_bins, advance_all, loop)

        def unfinished(loop: _Loop) -> jax.Array:
            return (loop.step < length) & ~jnp.all(grammar.done(loop.grammar_state))

        return jax.lax.while_loop(unfinished, body, loop)

    def _advance(
        self,
        loop: _Loop,
        call: _Call,
        keys: jax.Array,
        model_step: Callable[..., Any],
        columns: np.ndarray | None,
    ) -> _Loop:
        """One token for every row; `model_step` gives the logits of `columns`."""
        logits, decode_state = model_step(loop.decode_state, loop.token)
        grammar, step = self.grammar, loop.step
        done = grammar.done(loop.grammar_state)
        allowed = grammar.allowed(loop.grammar_state, columns, logits.shape[-1])
        log_p = log_softmax(logits, allowed | done[:, None])
        uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step)))(keys)
        scores = self._scores(log_p, loop.grammar_state, columns)
        chosen = choose(log_p, uniform, call.temperature, self.top_p, scores)
        ids = jnp.arange(logits.shape[-1]) if columns is None else jnp.asarray(columns)
        forced = call.forced[:, step]
        is_forced = forced != grammar.pad_id
        # `columns` ascend; a forced token that is not among them has log-probability -inf below.
        place = jnp.minimum(jnp.searchsorted(ids, forced), len(ids) - 1)
        chosen = jnp.where(is_forced, place, chosen)
        token = jnp.where(is_forced, forced, ids[chosen].astype(jnp.int32))
        log_prob = jnp.take_along_axis(log_p, chosen[:, None], axis=-1)[:, 0]
        log_prob = jnp.where((ids[chosen] != token) | (log_prob <= MASKED / 2), -jnp.inf, log_prob)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        token = jnp.where(done, grammar.pad_id, token)
        grammar_state = grammar.advance(loop.grammar_state, token)
        return _Loop(
            step=step + 1,
            grammar_state=grammar_state,
            token=grammar.next_input(grammar_state, token),
            decode_state=decode_state,
            tokens=loop.tokens.at[:, step].set(token),
            log_probs=loop.log_probs.at[:, step].set(jnp.where(done, 0, log_prob)),
            entropies=loop.entropies.at[:, step].set(jnp.where(done, 0, entropy)),
            top_k=loop.top_k
            and draw.write_top_k(step, loop.top_k, log_p, ids, done, grammar.pad_id),
        )

    def _scores(
        self, log_p: jax.Array, grammar_state: jax.Array, columns: np.ndarray | None
    ) -> jax.Array:
        """What the likeliest token is chosen by: `log_p`, the flag's weighed and the numbers' smoothed."""
        log_p = self._weigh_flag(log_p, grammar_state, columns)
        bins = np.asarray(self.grammar.bin_ids)  # in the order of their numbers
        if not self.smoothing or (columns is not None and len(columns) < len(bins)):
            return log_p
        places = bins if columns is None else np.searchsorted(columns, bins)
        plain = log_p[:, places]
        numbers = self.grammar.in_number(grammar_state)[:, None]
        return log_p.at[:, places].set(jnp.where(numbers, spread(plain, self.smoothing), plain))

    def _weigh_flag(
        self, log_p: jax.Array, grammar_state: jax.Array, columns: np.ndarray | None
    ) -> jax.Array:
        """`log_p`, with that of ending the episode changed so that it wins above the threshold alone."""
        if self.terminate_threshold == 0.5:
            return log_p
        end = self.grammar.bin_ids[0]
        place = end if columns is None else int(np.searchsorted(columns, end))
        odds = np.log(1 / self.terminate_threshold - 1)
        at_flag = self.grammar.at_flag(grammar_state)
        return log_p.at[:, place].add(jnp.where(at_flag, odds, 0.0))

    def _finish(self, loop: _Loop) -> Samples:
        lengths = jnp.sum(loop.tokens != self.grammar.pad_id, axis=-1)
        return Samples(loop.tokens, loop.log_probs, loop.entropies, lengths, loop.top_k)
