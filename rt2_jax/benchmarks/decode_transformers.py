"""The peer of benchmarks/decode.py: the same model in transformers, decoding by `generate`.

A SiglipVisionModel, our projection, and T5ForConditionalGeneration, as PaLI joins them; with a cache, and
greedily. In decode.py `prefix_allowed_tokens_fn` allows one token at each place: that which ours says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import itertools
import os
import time
from typing import Any

from absl import flags
from etils import epath
import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from rt2_jax import command
from rt2_jax.benchmarks import decode_model, turns
from rt2_jax.weights import siglip, t5, tensors

IMPORTED = time.time()
FLAGS = flags.FLAGS


class PaLI:
    """The model, on a device and in a type.

    Attributes:
      text: T5's; tower: SigLIP's; projection: from the tower's width to the text's, [vision, width].
      dtype, device: of all of them.
    """

    def __init__(self, text: Any, tower: Any, projection: torch.Tensor):
        self.text, self.tower, self.projection = text.eval(), tower.eval(), projection
        self.dtype, self.device = projection.dtype, projection.device

    @classmethod
    def load(cls, directory: epath.Path, dtype: torch.dtype, device: str) -> PaLI:
        """Reads the weights of a directory with `ours`, `t5` and `siglip`."""
        kind = transformers.T5ForConditionalGeneration
        text = kind.from_pretrained(directory / 't5', dtype=dtype).to(device)
        options = dict(dtype=dtype, attn_implementation='sdpa')
        tower = transformers.SiglipVisionModel.from_pretrained(directory / 'siglip', **options)
        kernel = tensors.open_tensors(directory / 'ours')['projection/kernel'].read()
        projection = torch.tensor(kernel.astype(np.float32)).to(device, dtype)
        return cls(text, tower.to(device), projection)

    @classmethod
    def random(cls, model: Mapping[str, Any], dtype: torch.dtype, device: str) -> PaLI:
        """Random weights for a `config.model` of ours, made on the device."""
        model = dict(model) | {'image_size': decode_model.IMAGE_SIZE}
        text, vision = t5.theirs(model), siglip.theirs(model)
        with torch.device(device), _default_dtype(dtype):
            text = transformers.T5ForConditionalGeneration(transformers.T5Config(**text))
            tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision))
            projection = torch.randn(model['vision']['width'], model['encoder']['width']) / 30
        return cls(text, tower, projection)

    @torch.inference_mode()
    def encode(self, images: np.ndarray, prompt: np.ndarray) -> tuple[Any, torch.Tensor]:
        """States of the encoder, and which of them there are."""
        pixels = torch.tensor(images[:, 0]).to(self.device).permute(0, 3, 1, 2)
        seen = self.tower(
            pixel_values=(pixels.float() / 127.5 - 1).to(self.dtype)
        ).last_hidden_state
        ids = torch.tensor(prompt).to(self.device)
        embedded = torch.cat([seen @ self.projection, self.text.shared(ids)], dim=1)
        mask = torch.cat([torch.ones(seen.shape[:2], dtype=torch.long).to(ids), ids.ne(0)], dim=1)
        encoder = self.text.get_encoder()
        return encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, mask

    @torch.inference_mode()
    def say(
        self, images: np.ndarray, prompt: np.ndarray, length: int, said: np.ndarray | None = None
    ) -> np.ndarray:
        """The `length` tokens said, int [B, L]: the likeliest, or those of `said` where it is given."""
        states, mask = self.encode(images, prompt)
        options = {}
        if said is not None:
            allowed = lambda row, ids: [int(said[row, len(ids) - 1])]
            options['prefix_allowed_tokens_fn'] = allowed
        tokens = self.text.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
            max_new_tokens=length, min_new_tokens=length, do_sample=False, use_cache=True, **options,
        )  # fmt: skip
        return tokens[:, 1:].cpu().numpy()

    @torch.inference_mode()
    def log_probs(
        self, images: np.ndarray, prompt: np.ndarray, said: np.ndarray, columns: list[np.ndarray]
    ) -> np.ndarray:
        """Log-probabilities [B, L] of what is said, among the columns that may be said at each place."""
        states, mask = self.encode(images, prompt)
        before = np.pad(said[:, :-1], [(0, 0), (1, 0)])
        logits = self.text(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
            decoder_input_ids=torch.tensor(before).to(self.device, torch.long),
        ).logits.float().cpu()  # fmt: skip
        found = np.zeros(said.shape, np.float32)
        for row, place in np.ndindex(said.shape):
            own = logits[row, place, torch.tensor(columns[place])].log_softmax(-1).numpy()
            found[row, place] = own[list(columns[place]).index(said[row, place])]
        return found


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def actions(model: PaLI, vocab: int, batch: int, prefill: bool) -> Iterator[list[Any]]:
    """Decodes for ever; yields a row for each action. `prefill` alone encodes."""
    images, prompt, said = decode_model.inputs(batch, vocab)
    while True:
        if prefill:
            model.encode(images, prompt)[0].flatten()[0].item()
        else:
            found = model.say(images, prompt, decode_model.LENGTH, said)
            assert np.array_equal(found, said), (found, said)
        yield list(range(batch))


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_enum('dtype', 'float32', ('float32', 'bfloat16'), 'Of all weights and states.')
    flags.DEFINE_string('directory', None, 'The weights, by benchmarks/decode.py.')
    flags.DEFINE_integer('batch_size', 1, 'Rows a call.')
    flags.DEFINE_bool('prefill', False, 'Only encodes.')
    flags.mark_flags_as_required(['directory'])


def main(_: list[str]) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = PaLI.load(epath.Path(FLAGS.directory), getattr(torch, FLAGS.dtype), device)
    vocab = model.text.config.vocab_size
    rows = actions(model, vocab, FLAGS.batch_size, FLAGS.prefill)
    first = next(rows)
    turns.serve(
        itertools.chain([first], rows),
        labels=lambda labels: labels,
        state_bytes=lambda: 0,
        imported=IMPORTED,
    )


if __name__ == '__main__':
    define_flags()
    command.run('decode_transformers', main)
