"""The peer of benchmarks/decode.py: the same model in transformers, decoding by `generate`.

A SiglipVisionModel, our projection, and T5ForConditionalGeneration, as PaLI joins them; with a cache, and
greedily, where `prefix_allowed_tokens_fn` allows but one token at each place: the tokens that ours says.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from rt2_jax.pretrained import tensors

IMPORTED = time.time()
FLAGS = flags.FLAGS


class PaLI:
    """The model, on a device and in a type.

    Args:
      directory: with `ours`, `t5` and `siglip`.
      dtype: float32 or bfloat16.
    """

    def __init__(self, directory: epath.Path, dtype: torch.dtype, device: str):
        options = dict(dtype=dtype, attn_implementation='sdpa')
        t5 = transformers.T5ForConditionalGeneration
        self.text = t5.from_pretrained(directory / 't5', dtype=dtype).to(device).eval()
        tower = transformers.SiglipVisionModel.from_pretrained(directory / 'siglip', **options)
        self.tower = tower.to(device).eval()
        kernel = tensors.open_tensors(directory / 'ours')['projection/kernel'].read()
        self.projection = torch.tensor(kernel.astype(np.float32)).to(device, dtype)
        self.dtype, self.device = dtype, device

    @torch.inference_mode()
    def encode(self, images: np.ndarray, prompt: np.ndarray) -> tuple[Any, torch.Tensor]:
        """States of the encoder, and which of them there are."""
        pixels = torch.tensor(images[:, 0]).to(self.device).permute(0, 3, 1, 2)
        seen = self.tower(pixel_values=pixels.to(self.dtype) / 127.5 - 1).last_hidden_state
        ids = torch.tensor(prompt).to(self.device)
        embedded = torch.cat([seen @ self.projection, self.text.shared(ids)], dim=1)
        mask = torch.cat([torch.ones(seen.shape[:2], dtype=torch.long).to(ids), ids.ne(0)], dim=1)
        encoder = self.text.get_encoder()
        return encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, mask

    @torch.inference_mode()
    def say(self, images: np.ndarray, prompt: np.ndarray, said: np.ndarray) -> np.ndarray:
        """The tokens said, int [B, L]."""
        states, mask = self.encode(images, prompt)
        allowed = lambda row, ids: [int(said[row, len(ids) - 1])]
        found = self.text.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
            max_new_tokens=said.shape[1], min_new_tokens=said.shape[1], do_sample=False,
            use_cache=True, prefix_allowed_tokens_fn=allowed,
        )  # fmt: skip
        return found[:, 1:].cpu().numpy()

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


def actions(model: PaLI, vocab: int, batch: int, prefill: bool) -> Iterator[list[Any]]:
    """Decodes for ever; yields a row for each action. `prefill` alone encodes."""
    images, prompt, said = decode_model.inputs(batch, vocab)
    while True:
        if prefill:
            model.encode(images, prompt)[0].flatten()[0].item()
        else:
            found = model.say(images, prompt, said)
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
    model = PaLI(epath.Path(FLAGS.directory), getattr(torch, FLAGS.dtype), device)
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
