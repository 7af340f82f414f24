"""Hugging Face's tokenizer.json through the `tokenizers` library (the extra `convert`).

The JSON does not say which token pads and which ends a sequence; files beside it do. A checkpoint keeps
one file, so the two tokens get a field of their own in it, which the library ignores:
`{"id": 1, "content": "</s>", "role": "eos", ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any

from etils import epath

from rt2_jax import records
from rt2_jax.errors import MissingPackage
from rt2_jax.nearest import nearest

_BESIDE = ('special_tokens_map.json', 'tokenizer_config.json')
_USUAL = {'pad': ('<pad>',), 'eos': ('</s>', '<eos>')}  # names, where nothing is marked


def is_json(model_bytes: bytes) -> bool:
    """Whether this is a tokenizer.json. A SentencePiece model begins with the tag of its first piece."""
    return model_bytes.startswith(b'{')


def with_roles(model_bytes: bytes, folder: epath.Path) -> bytes:
    """A tokenizer.json with the roles that the files beside it give its tokens.

    Raises:
        ValueError: they name a token that it does not have.
    """
    roles: dict[str, Any] = {}
    for name in _BESIDE:
        if (folder / name).exists():
            roles |= records.read(folder / name)
    if not roles:
        return model_bytes
    model = records.parse(model_bytes, folder / 'tokenizer.json')
    added = {token['content']: token for token in model['added_tokens']}
    for role in _USUAL:
        if token := roles.get(f'{role}_token'):
            name = token['content'] if isinstance(token, dict) else token
            if name not in added:
                raise ValueError(
                    f'{folder}: {role}_token is {name!r}, which is not among the added_tokens of '
                    f'tokenizer.json{nearest(name, added)}'
                )
            added[name]['role'] = role
    return json.dumps(model, ensure_ascii=False).encode()


class Model:
    """A tokenizer.json that treats special tokens in a text as text, and adds none.

    Attributes:
        vocab_size: the highest id and one; there may be ids without a token.
        pad_id, eos_id: ids that pad and that end a sequence.

    Raises:
        ValueError: it cannot be read, or has no token that pads or none that ends a sequence.
        MissingPackage: the `tokenizers` library is not installed.
    """

    def __init__(self, model_bytes: bytes) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingPackage('a tokenizer.json', 'tokenizers', 'convert') from error
        text = records.parse(model_bytes, 'the tokenizer.json')
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
        except Exception as error:  # The library raises no narrower one.
            raise ValueError(f'The tokenizer.json cannot be read: {error}') from error
        # The file may hold the padding and truncation of somebody's batches.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._keep_special_tokens_out(text)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.pad_id, self.eos_id = (_id_of_role(x, text['added_tokens']) for x in ('pad', 'eos'))

    def _keep_special_tokens_out(self, text: Mapping[str, Any]) -> None:
        """Encodes '</s>' in an instruction as text, as SentencePiece does."""
        from tokenizers import Regex, pre_tokenizers

        self._tokenizer.encode_special_tokens = True
        names = [token['content'] for token in text['added_tokens'] if token['special']]
        if names and text['model'].get('type') == 'Unigram':
            # They are among its pieces; a cut behind the first letter hides them.
            cuts = '|'.join(f'{re.escape(name[0])}(?={re.escape(name[1:])})' for name in names)
            cut = pre_tokenizers.Split(Regex(cuts), 'merged_with_previous')
            before = self._tokenizer.pre_tokenizer
            self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([x for x in (before, cut) if x])

    def id_of(self, piece: str) -> int | None:
        """The id of a piece, None if it is none."""
        return self._tokenizer.token_to_id(piece)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._tokenizer.decode(ids)


def _id_of_role(role: str, added: Sequence[Mapping[str, Any]]) -> int:
    marked = [token['id'] for token in added if token.get('role') == role]
    usual = [token['id'] for name in _USUAL[role] for token in added if token['content'] == name]
    if not marked + usual:
        raise ValueError(
            f'The tokenizer.json has no added token {" or ".join(_USUAL[role])}, and none is named '
            f'by {role}_token in {" or ".join(_BESIDE)} beside it; it has '
            f'{", ".join(token["content"] for token in added[:20])}'
        )
    return (marked + usual)[0]
