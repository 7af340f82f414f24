"""Runs a policy that rt2_jax exported, without rt2_jax.

This file lies beside the policy and needs jax, numpy, and flatbuffers, with which jax reads its files.

    python exported_policy.py       # checks the files and repeats the example

    from exported_policy import ExportedPolicy
    policy = ExportedPolicy('.')    # or ExportedPolicy('.', kind='text')
    answer = policy(images, prompt)
    answer['actions']               # float32 [B, L], the robot's own numbers; policy.json says which

images are uint8 [B, F, S, S, 3], prompt int32 [B, P]; policy.json has the sizes, the wording of prompts
and how to tokenise them. Where a prompt has the robot's {state}, policy.state_text(numbers) writes it.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

POLICY, WEIGHTS, EXAMPLE = 'policy.json', 'weights.safetensors', 'example.npz'
_TYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16,
    'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip


class ExportedPolicy:
    """A policy in a directory.

    Args:
        directory: where policy.json is.
        kind: of the answers: 'action', 'plan' (some words, then an action) or 'text', if it was exported;
            by default the kind that the policy acts by.
        check: whether the files' fingerprints are compared with those in policy.json, which reads all
            of the weights once more.

    Attributes:
        card: what policy.json says.

    Raises:
        ValueError: a file is missing or another one than was exported, there is no such kind of answer,
            or the function was not made for this machine or this version of jax.
    """

    def __init__(self, directory: Any = '.', kind: str = '', check: bool = True) -> None:
        self._directory = pathlib.Path(directory)
        self.card = read_card(self._directory)
        kind = kind or self.card['acts_by']
        if kind not in self.card['functions']:
            raise ValueError(
                f'{self._directory} has no function for {kind!r}; it has '
                f'{", ".join(self.card["functions"])}'
            )
        self._kind = kind
        self._check_platform()
        self._calls = {
            function['batch']: self._function(function, check)
            for function in self.card['functions'][kind]
        }
        path = self._file(WEIGHTS)
        if check:
            self._check(path, self.card['weights']['sha256'])
        self._weights = {name: jax.device_put(x) for name, x in read_weights(path).items()}

    def __call__(self, images: Any, prompt: Any) -> dict[str, np.ndarray]:
        """The answers to B observations and prompts; see policy.json for what is in them.

        Raises:
            ValueError: inputs of another shape or type, or more of them than the largest batch.
        """
        images, prompt = np.asarray(images), np.asarray(prompt)
        self._check_input('images', images)
        self._check_input('prompt', prompt)
        if len(images) != len(prompt):
            raise ValueError(f'{len(images)} observations for {len(prompt)} prompts')
        count = size = len(images)
        if 'any' in self._calls:
            call = self._calls['any']
        else:
            size = min((n for n in self._calls if n >= count), default=0)
            if not size:
                raise ValueError(f'{count} rows; the exported batches are {sorted(self._calls)}')
            call = self._calls[size]
        # The function takes `size` rows; the answers to the added ones are dropped.
        fill = lambda x: np.concatenate([x, np.repeat(x[:1], size - count, axis=0)])
        answer = jax.device_get(call(self._weights, fill(images), fill(prompt)))
        return {name: x[:count] for name, x in answer.items()}

    def state_text(self, state: Any) -> str:
        """The robot's state, float [K] in its own units, as prompts have it; see `state_text` below."""
        return state_text(self.card, state)

    def _check_input(self, name: str, array: np.ndarray) -> None:
        expected = self.card['inputs'][name]
        if not len(array) or array.shape[1:] != tuple(expected['shape'][1:]):
            raise ValueError(
                f'{name} must be {expected["shape"]}, B at least 1; got {list(array.shape)}'
            )
        if array.dtype != expected['dtype']:
            raise ValueError(f'{name} must be {expected["dtype"]}; got {array.dtype}')

    def _check_platform(self) -> None:
        here, made_for = jax.export.default_export_platform(), self.card['platforms']
        if here not in made_for:
            raise ValueError(
                f'{self._directory} was exported for {", ".join(made_for)}, and jax runs on {here!r} '
                'here: export it with --platforms, or set JAX_PLATFORMS to one of these'
            )

    def _function(self, function: dict[str, Any], check: bool) -> Any:
        path = self._file(function['file'])
        if check:
            self._check(path, function['sha256'])
        try:
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
        except ImportError:
            raise  # says that flatbuffers is missing
        except Exception as error:  # jax has no narrower one
            raise ValueError(
                f'{path} cannot be read by jax {jax.__version__}: {error}. It was written by jax '
                f'{self.card["versions"]["jax"]}; jax reads what was written up to six months earlier'
            ) from error
        return jax.jit(exported.call)

    def _file(self, name: str) -> pathlib.Path:
        return _present(self._directory / name)

    def _check(self, path: pathlib.Path, expected: str) -> None:
        actual = fingerprint(path)
        if actual != expected:
            raise ValueError(
                f'{path} is not the file that {POLICY} was written with (sha256 {actual[:16]}..., not '
                f'{expected[:16]}...): it is damaged, or of another export'
            )

    def example(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The example's images and prompt, and the answers that they got where it was exported."""
        with np.load(self._file(EXAMPLE)) as arrays:
            inputs = {name: arrays[f'{self._kind}/{name}'] for name in ('images', 'prompt')}
            rest = [n for n in arrays.files if n.startswith(f'{self._kind}/')]
            names = [n.split('/')[1] for n in rest]
            answers = {n: arrays[f'{self._kind}/{n}'] for n in names if n not in inputs}
        return inputs, answers

    def difference(self) -> str:
        """What differs when the example is repeated here; '' if nothing does.

        Tokens may differ on other kinds of devices where two were nearly as likely.
        """
        inputs, expected = self.example()
        answers = self(**inputs)
        if not np.array_equal(answers['tokens'], expected['tokens']):
            return f'tokens are {answers["tokens"].tolist()}, not {expected["tokens"].tolist()}'
        for name, value in expected.items():
            if not np.allclose(answers[name], value, atol=self.card['example']['tolerance']):
                return f'{name} are {answers[name].tolist()}, not {value.tolist()}'
        return ''


def read_card(directory: Any) -> dict[str, Any]:
    """What policy.json says.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = _present(pathlib.Path(directory) / POLICY)
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is damaged: {error}') from error


def state_text(card: dict[str, Any], state: Any) -> str:
    """The robot's state as prompts have it: integers of bins. What is outside of a range is clipped to it.

    Args:
        card: what policy.json says.
        state: float [K], in the robot's own units.

    Raises:
        ValueError: the policy learnt without a state, or with another number of numbers.
    """
    if 'state' not in card:
        raise ValueError('this policy learnt without a state; its prompts have none')
    bins = {name: np.array(value) for name, value in card['state'].items()}
    state = np.asarray(state, np.float64)
    if state.shape != bins['low'].shape or not np.isfinite(state).all():
        names = ', '.join(card['state']['names'])
        raise ValueError(f'the state must be finite numbers {names}; got {state.tolist()}')
    state = np.clip(state, bins['low'], bins['high'])
    integers = np.floor((state - bins['origin']) / bins['width'] + bins['half']) + bins['middle']
    return ' '.join(str(int(x)) for x in np.clip(integers, bins['first'], bins['last']))


def _present(path: pathlib.Path) -> pathlib.Path:
    if path.parts[:1] in (('gs:',), ('s3:',)):
        raise ValueError(
            f'an exported policy runs from a folder; copy {path.parent} to this machine'
        )
    if not path.exists():
        raise ValueError(f'{path} is missing: an exported policy is a directory with all its files')
    return path


def read_weights(path: Any) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file by name, mapped and not read yet.

    Raises:
        ValueError: the file is truncated, or none.
    """
    raw = np.memmap(path, np.uint8, 'r')
    start = 8 + int(raw[:8].view('<u8')[0]) if raw.size >= 8 else raw.size + 1
    if start > raw.size:
        raise ValueError(f'{path} is truncated or no safetensors file: {raw.size:,} bytes')
    header = json.loads(raw[8:start].tobytes())
    arrays = {}
    for name, entry in header.items():
        if name != '__metadata__':
            begin, end = (start + offset for offset in entry['data_offsets'])
            if end > raw.size:
                raise ValueError(
                    f'{path} is truncated: {name} ends at byte {end:,} of {raw.size:,}'
                )
            arrays[name] = raw[begin:end].view(_TYPES[entry['dtype']]).reshape(entry['shape'])
    return arrays


def fingerprint(path: Any) -> str:
    """The file's SHA-256."""
    with pathlib.Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def main() -> None:
    """Repeats the example of each kind of answer; exits with 1 where one differs."""
    directory = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    failed = False
    try:
        for number, kind in enumerate(read_card(directory)['functions']):
            # The weights are the same for all: they are checked once.
            difference = ExportedPolicy(directory, kind, check=not number).difference()
            print(f'{kind}: {difference or "the example is repeated to the token"}')
            failed |= bool(difference)
    except ValueError as error:
        sys.exit(f'exported_policy: {error}')
    sys.exit(failed)


if __name__ == '__main__':
    main()
