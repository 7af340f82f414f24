"""Fast tokenizers of Hugging Face, which public models ship as a tokenizer.json, through the `tokenizers`
library (the `convert` extra).

Which of its tokens pads and which ends a sequence, the JSON does not say: that is in files beside it.
A checkpoint keeps one file, so the two tokens are marked in it, where the library reads over it:
`{"id": 1, "content": "</s>", "role": "eos", ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any

from etils import epath

from rt2_jax import records
from rt2_jax.nearest import nearest

_BESIDE = ('special_tokens_map.json', 'tokenizer_config.json')
_USUAL = {'pad': ('<pad>',), 'eos': ('</s>', '<eos>')}  # names, where nothing is marked


def is_json(model_bytes: bytes) -> bool:
    """Whether this is a tokenizer.json. A SentencePiece model begins with the tag of its first piece."""
    return model_bytes.startswith(b'{')


def with_roles(model_bytes: bytes, folder: epath.Path) -> bytes:
    """A tokenizer.json in which the tokens are marked that the files beside it tell of.

    Raises:
        ValueError: they name a token that it does not have.
    """
    told = {}
    for name in _BESIDE:
        if (folder / name).exists():
            told |= records.read(folder / name)
    if not told:
        return model_bytes
    model = records.parse(model_bytes, folder / 'tokenizer.json')
    added = {token['content']: token for token in model['added_tokens']}
    for role in _USUAL:
        if name := told.get(f'{role}_token'):
            name = name['content'] if isinstance(name, dict) else name
            if name not in added:
                raise ValueError(
                    f'{folder}: {role}_token is {name!r}, which is not among the added_tokens of '
                    f'tokenizer.json{nearest(name, added)}'
                )
            added[name]['role'] = role
    return json.dumps(model, ensure_ascii=False).encode()


class Model:
    """A tokenizer.json as a model of text and nothing else: no special token is added or found.

    Attributes:
        vocab_size: the highest id and one; there may be ids without a token.
        pad_id, eos_id: ids that pad and that end a sequence.

    Raises:
        ValueError: it cannot be read, or it does not tell what pads or what ends a sequence.
        ImportError: the `tokenizers` library is missing.
    """

    def __init__(self, model_bytes: bytes):
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                "a tokenizer.json needs the tokenizers library: pip install 'rt2_jax[convert]'"
            ) from error
        text = records.parse(model_bytes, 'the tokenizer.json')
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
        except Exception as error:  # The library raises no narrower one.
            raise ValueError(f'The tokenizer.json cannot be read: {error}') from error
        # The length of someone's batches may have been saved along.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._keep_special_tokens_out(text)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.pad_id, self.eos_id = (_id_of_role(x, text['added_tokens']) for x in ('pad', 'eos'))

    def _keep_special_tokens_out(self, text: Mapping[str, Any]) -> None:
        """Who writes '</s>' in an instruction ends nothing by it, as with SentencePiece."""
        from tokenizers import Regex, pre_tokenizers

        self._tokenizer.encode_special_tokens = True
        names = [token['content'] for token in text['added_tokens'] if token['special']]
        if names and text['model'].get('type') == 'Unigram':
            # They are among its pieces; cut behind the first letter, none is found.
            cuts = '|'.join(f'{re.escape(name[0])}(?={re.escape(name[1:])})' for name in names)
            cut = pre_tokenizers.Split(Regex(cuts), 'merged_with_previous')
            before = self._tokenizer.pre_tokenizer
            self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([x for x in (before, cut) if x])

    def id_of(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


def _id_of_role(role: str, added: Sequence[Mapping[str, Any]]) -> int:
    marked = [token['id'] for token in added if token.get('role') == role]
    usual = [token['id'] for name in _USUAL[role] for token in added if token['content'] == name]
    if not marked + usual:
        raise ValueError(
            f'The tokenizer.json has no added token {" or ".join(_USUAL[role])}, and none is told '
            f'by {role}_token in {" or ".join(_BESIDE)} beside it; it has '
            f'{", ".join(token["content"] for token in added[:20])}'
        )
    return (marked + usual)[0]
