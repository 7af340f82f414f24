"""Other words for instructions, from a file: {"pick banana": ["get the banana", ...], ...}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import json

from absl import logging
from etils import epath
import numpy as np

from rt2_jax import paths, records
from rt2_jax.nearest import closest

_SALT = 5  # tells these draws from others with the same seed


@dataclasses.dataclass(frozen=True)
class Paraphrases:
    """Draws the words of an instruction; a pure function of (seed, step).

    Attributes:
        texts: instruction -> its paraphrases.
        keep: share of the steps that keep the instruction as it is.
        seed: another seed draws others.
    """

    texts: Mapping[str, tuple[str, ...]]
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(
                f'the share of instructions that are kept must be 0 to 1, not {self.keep}'
            )

    @classmethod
    def read(cls, path: epath.PathLike, keep: float = 0.5, seed: int = 0) -> Paraphrases:
        """From a JSON file.

        Raises:
            ValueError: the file is missing, no JSON, or no mapping of instructions to lists of
                texts.
        """
        return cls(_read(paths.of(path)), keep, seed)

    @property
    def fingerprint(self) -> str:
        """Changes with the file, the share or the seed."""
        content = json.dumps([dict(sorted(self.texts.items())), self.keep, self.seed])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def draw(self, instruction: str, step: int) -> str:
        """The instruction or one of its paraphrases, for a step by its number in the data set."""
        others = self.texts.get(instruction, ())
        rng = np.random.default_rng([_SALT, self.seed, step])
        if not others or rng.random() < self.keep:
            return instruction
        return others[int(rng.integers(len(others)))]

    def check(self, instructions: Iterable[str], where: str) -> tuple[int, int]:
        """Compares with the instructions that there are, and logs what doesn't fit.

        Args:
            instructions: the different instructions of a data set.
            where: names the data set and the file.

        Returns:
            How many instructions have no paraphrase, and how many of the file aren't there.

        Raises:
            ValueError: none of the file's instructions is there.
        """
        instructions = set(instructions)
        bare, unknown = instructions - set(self.texts), sorted(set(self.texts) - instructions)
        example = f'{unknown[0]!r}{closest(unknown[0], instructions)}' if unknown else ''
        if len(unknown) == len(self.texts):
            raise ValueError(
                f'{where}: none of the {len(unknown)} instructions is one of the data: {example}'
            )
        if unknown:
            logging.warning(
                "%s: %d of %d instructions aren't in the data, the first is %s",
                where,
                len(unknown),
                len(self.texts),
                example,
            )
        if bare:
            logging.warning(
                '%s: %d of %d instructions of the data have no paraphrase, such as %r',
                where,
                len(bare),
                len(instructions),
                min(bare),
            )
        return len(bare), len(unknown)


def _read(path: epath.Path) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        present = [str(other) for other in path.parent.glob('*.json*')]
        raise ValueError(f'there is no file {path}{closest(str(path), present)}')
    content = records.read(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f'{path} must hold a mapping of instructions to lists of paraphrases, at least one'
        )
    for instruction, others in content.items():
        if not (
            isinstance(others, list)
            and others
            and all(isinstance(other, str) and other.strip() for other in others)
        ):
            raise ValueError(
                f'{path}: {instruction!r} needs a list of texts that are not empty; got {others!r}'
            )
    return {instruction: tuple(others) for instruction, others in content.items()}
