"""The peer of benchmarks/decode.py: the same model in transformers, decoding by `generate`.

A SiglipVisionModel, our projection, and T5ForConditionalGeneration, as PaLI joins them; with a cache, and
greedily. In decode.py `prefix_allowed_tokens_fn` allows one token at each position: that of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
from typing import Any

from etils import epath
import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from rt2_jax.benchmarks import decode_model, harness
from rt2_jax.weights import siglip, t5, tensors


class PaLI:
    """The model, on a device and in a type.

    Args:
        text: T5.
        tower: SigLIP's.
        projection: from the tower's width to the text's, [vision, width].
    """

    def __init__(self, text: Any, tower: Any, projection: torch.Tensor) -> None:
        self.text, self.tower, self.projection = text.eval(), tower.eval(), projection
        self.dtype, self.device = projection.dtype, projection.device

    @classmethod
    def load(cls, directory: epath.Path, dtype: torch.dtype, device: str) -> PaLI:
        """Reads the weights of a directory with `ours`, `t5` and `siglip`."""
        kind: Any = transformers.T5ForConditionalGeneration
        text = kind.from_pretrained(directory / 't5', dtype=dtype).to(device)
        kind = transformers.SiglipVisionModel
        tower = kind.from_pretrained(
            directory / 'siglip', dtype=dtype, attn_implementation='sdpa'
        ).to(device)
        kernel = tensors.open_tensors(directory / 'ours')['projection/kernel'].read()
        projection = torch.tensor(kernel.astype(np.float32)).to(device, dtype)
        return cls(text, tower, projection)

    @classmethod
    def random(cls, model: Mapping[str, Any], dtype: torch.dtype, device: str) -> PaLI:
        """Random weights for a `config.model` of ours, made on the device."""
        model = dict(model) | {'image_size': decode_model.IMAGE_SIZE}
        configs = t5.theirs(model), siglip.theirs(model)
        with torch.device(device), _default_dtype(dtype):
            text = transformers.T5ForConditionalGeneration(transformers.T5Config(**configs[0]))
            tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**configs[1]))
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
    def generate(
        self, images: np.ndarray, prompt: np.ndarray, length: int, forced: np.ndarray | None = None
    ) -> np.ndarray:
        """Decodes `length` tokens, int [B, L]: the likeliest, or those of `forced`."""
        states, mask = self.encode(images, prompt)
        options = {}
        if forced is not None:
            allowed = lambda row, ids: [int(forced[row, len(ids) - 1])]
            options['prefix_allowed_tokens_fn'] = allowed
        tokens = self.text.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
            max_new_tokens=length, min_new_tokens=length, do_sample=False, use_cache=True, **options,
        )  # fmt: skip
        return tokens[:, 1:].cpu().numpy()

    @torch.inference_mode()
    def log_probs(
        self, images: np.ndarray, prompt: np.ndarray, tokens: np.ndarray, columns: list[np.ndarray]
    ) -> np.ndarray:
        """Log-probabilities [B, L] of tokens [B, L] among the columns allowed at each position."""
        states, mask = self.encode(images, prompt)
        before = np.pad(tokens[:, :-1], [(0, 0), (1, 0)])
        logits = self.text(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
            decoder_input_ids=torch.tensor(before).to(self.device, torch.long),
        ).logits.float().cpu()  # fmt: skip
        result = np.zeros(tokens.shape, np.float32)
        for row, t in np.ndindex(tokens.shape):
            allowed = logits[row, t, torch.tensor(columns[t])].log_softmax(-1).numpy()
            result[row, t] = allowed[list(columns[t]).index(tokens[row, t])]
        return result


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
    images, prompt, tokens = decode_model.inputs(batch, vocab)
    while True:
        if prefill:
            model.encode(images, prompt)[0].flatten()[0].item()
        else:
            decoded = model.generate(images, prompt, decode_model.LENGTH, tokens)
            assert np.array_equal(decoded, tokens), (decoded, tokens)
        yield list(range(batch))


def stream(directory: str, dtype: str, batch: int, prefill: bool) -> harness.Stream:
    """A worker: `actions` with weights of a directory that decode.py wrote."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = PaLI.load(epath.Path(directory), getattr(torch, dtype), device)
    return harness.Stream(actions(model, model.text.config.vocab_size, batch, prefill))
