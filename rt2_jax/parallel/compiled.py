"""Reads a compiled program (XLA's HLO text): its collectives, and what it moves through memory.

XLA's own cost analysis counts the body of a loop once, whatever its length, and knows nothing of
collectives; so the text is read here, loops in full. The text is that of
`jax.stages.Compiled.as_text()`, whose grammar XLA's `hlo_parser` defines.
"""

from collections.abc import Iterator
import dataclasses
import re

import numpy as np

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')

# Operations that move nothing by themselves; loops and calls move what their bodies move.
_FREE = {
    *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota'),
    *('while', 'conditional', 'call', 'copy-done', 'slice-done', 'partition-id', 'replica-id'),
    *('async-start', 'async-update', 'async-done', 'opt-barrier', 'optimization-barrier'),
}
_SLICES = {'dynamic-slice', 'slice', 'gather'}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_NAME = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([a-z][\w\-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?')
_CALLED = re.compile(r'\b(calls|body|condition|to_apply)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHANNEL = re.compile(r'channel_id=\d+')
_BITS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result: its size in bytes, and whether it is in main memory."""

    bytes: float
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str

    def called(self, role: str) -> str:
        """The computation that this instruction runs as `role` ('body', 'calls', ...), '' for none."""
        return next((name for r, name in _CALLED.findall(self.text) if r == role), '')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
        kind: one of `COLLECTIVES`.
        bytes: size of the whole array that is gathered, reduced or exchanged, as one device of the
            group sees it: the output of an all-gather, the input of the others.
        group: devices of the first group, by their number in the mesh.
        times: how often a step runs it.
        where: name of the operation in the model that it belongs to.
    """

    kind: str
    bytes: float
    group: tuple[int, ...]
    times: int
    where: str


class Program:
    """A parsed program.

    Args:
        text: of the optimized module.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        self.entry = ''
        self._parse(text)

    def _parse(self, text: str) -> None:
        current = ''
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = header[2]
                self.computations[current] = {}
                self.entry = current if header[1] else self.entry
            elif current and (name := _NAME.match(line)):
                self.computations[current][name[1]] = _instruction(name[1], line[name.end() :])
                if line.lstrip().startswith('ROOT '):
                    self.roots[current] = name[1]

    def runs(self) -> Iterator[tuple[str, int, bool]]:
        """Every computation that a step runs: name, how often, whether it is inside a fusion."""
        yield from self._runs(self.entry, 1, False)

    def _runs(self, name: str, times: int, fused: bool) -> Iterator[tuple[str, int, bool]]:
        yield name, times, fused
        for instruction in self.computations[name].values():
            if instruction.opcode == 'while':
                trips = self._trips(instruction)
                yield from self._runs(instruction.called('body'), times * trips, fused)
            elif instruction.opcode == 'conditional':
                for branch in _branches(instruction.text):
                    yield from self._runs(branch, times, fused)
            elif inner := instruction.called('calls'):
                inside = fused or instruction.opcode == 'fusion'
                yield from self._runs(inner, times, inside)
            elif instruction.opcode == 'call':
                yield from self._runs(instruction.called('to_apply'), times, fused)

    def _trips(self, loop: Instruction) -> int:
        if known := _TRIPS.search(loop.text):
            return int(known[1])
        # A scan counts from 0 in ones up to a constant, which its condition compares with.
        condition = self.computations[loop.called('condition')]
        constants = [
            int(match[1])
            for i in condition.values()
            if i.opcode == 'constant' and (match := re.search(r'constant\((\d+)\)', i.text))
        ]
        return max(constants, default=1)

    def collectives(self) -> list[Collective]:
        """All collectives of a step, in the program's order."""
        collectives: list[Collective] = []
        channels: set[str] = set()
        for name, times, _ in self.runs():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = instruction.opcode.removesuffix('-start')
                if kind in COLLECTIVES:
                    # An asynchronous collective is written once for each of its parts.
                    channel = _CHANNEL.search(instruction.text)
                    if channel and channel[0] in channels:
                        continue
                    channels.add(channel[0] if channel else '')
                    operands = sum(
                        array.bytes
                        for operand in instruction.operands
                        for array in computation[operand].result
                    )
                    size = operands
                    if kind == 'all-gather':
                        size = sum(array.bytes for array in instruction.result)
                        size -= operands if instruction.opcode.endswith('-start') else 0
                    if kind == 'all-reduce' and 'all-reduce-scatter' in name:
                        kind = 'reduce-scatter'
                    where = _OP_NAME.search(instruction.text)
                    collectives.append(
                        Collective(
                            kind, size, _group(instruction.text), times, where[1] if where else ''
                        )
                    )
        return collectives

    def memory_traffic(self) -> float:
        """Bytes a step reads from and writes to the main memory of one device.

        Arrays that XLA keeps in on-chip memory are free; a slice costs what it takes, and an update
        in place what it writes.
        """
        return sum(
            times * sum(self._traffic(name, i) for i in self.computations[name].values())
            for name, times, fused in self.runs()
            if not fused
        )

    def _traffic(self, name: str, instruction: Instruction) -> float:
        if instruction.opcode in _FREE:
            return 0.0
        computation = self.computations[name]
        inputs = [computation[operand].result for operand in instruction.operands]
        if instruction.opcode == 'fusion':
            return self._fusion_traffic(instruction, inputs)
        if instruction.opcode == 'copy-start':
            # (destination, source, token)
            return _in_memory(instruction.result[:1]) + sum(map(_in_memory, inputs))
        if instruction.opcode == 'slice-start':
            # ((source), destination, token), of which only the slice moves.
            taken = instruction.result[len(inputs)]
            return taken.bytes * (any(a.in_memory for a in inputs[0]) + taken.in_memory)
        if instruction.opcode in _SLICES:
            return 2 * _in_memory(instruction.result)
        if instruction.opcode == 'dynamic-update-slice':
            return 2 * _in_memory(inputs[1])
        return _in_memory(instruction.result) + sum(map(_in_memory, inputs))

    def _fusion_traffic(self, fusion: Instruction, inputs: list[tuple[Array, ...]]) -> float:
        inside = fusion.called('calls')
        total = self._written(fusion, self.computations[inside])
        for number, arrays in enumerate(inputs):
            if whole := _in_memory(arrays):
                total += self._read(inside, self._parameter(inside, number), whole)
        return total

    def _parameter(self, computation: str, number: int) -> str:
        return next(
            i.name
            for i in self.computations[computation].values()
            if i.opcode == 'parameter' and i.text.startswith(f'parameter({number})')
        )

    def _read(self, computation: str, name: str, whole: float) -> float:
        """Bytes that a fused computation reads of an array of `whole` bytes.

        What is only sliced is read in slices, and what is updated in place is not read.
        """
        total = 0.0
        for user in self.computations[computation].values():
            if name not in user.operands or _updates(user, name):
                continue
            if user.opcode in _SLICES:
                total += sum(array.bytes for array in user.result)
            elif user.opcode == 'bitcast' or 'output_to_operand_aliasing' in user.text:
                # The same bytes by another name; its users say how many they read.
                total += self._read(computation, user.name, whole)
            elif user.opcode == 'fusion':
                inside = user.called('calls')
                parameter = self._parameter(inside, user.operands.index(name))
                total += self._read(inside, parameter, whole)
            else:
                return whole
        return min(total, whole)

    def _written(self, fusion: Instruction, inner: dict[str, Instruction]) -> float:
        root = inner[self.roots[fusion.called('calls')]]
        roots = [inner[o] for o in root.operands] if root.opcode == 'tuple' else [root]
        if len(roots) != len(fusion.result):  # one operation with several results
            return _in_memory(fusion.result)
        total = 0.0
        for array, made in zip(fusion.result, roots):
            while made.opcode == 'bitcast':
                made = inner[made.operands[0]]
            if made.opcode == 'dynamic-update-slice' and array.in_memory:
                total += 2 * sum(a.bytes for a in inner[made.operands[1]].result)
            elif array.in_memory:
                total += array.bytes
        return total


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    opcode = _OPCODE.match(rest, end)
    if not opcode:
        raise ValueError(f'no operation in a line of the compiled program: {rest[:200]}')
    stop = _closing(rest, opcode.end() - 1)
    operands = re.findall(r'%([\w.\-]+)', rest[opcode.end() : stop])
    text = rest[opcode.start() :].lstrip()
    return Instruction(name, opcode[1], _arrays(rest[:end]), tuple(operands), text)


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[at], 0)
        if not depth:
            return at
    raise ValueError(f'a parenthesis is not closed in the compiled program: {text[:200]}')


def _arrays(text: str) -> tuple[Array, ...]:
    arrays = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        bits = 1 if dtype == 'pred' else int((_BITS.search(dtype) or [0])[0])
        count = int(np.prod([int(size) for size in sizes.split(',') if size], dtype=np.int64))
        # A boolean takes a byte.
        arrays.append(Array(count * max(bits, 8 * (dtype == 'pred')) / 8, 'S(1)' not in layout))
    return tuple(arrays)


def _in_memory(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays if array.in_memory)


def _updates(user: Instruction, name: str) -> bool:
    return user.opcode == 'dynamic-update-slice' and user.operands[0] == name


def _branches(text: str) -> list[str]:
    if listed := _BRANCHES.search(text):
        return re.findall(r'%?([\w.\-]+)', listed[1])
    return re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', text)


def _group(text: str) -> tuple[int, ...]:
    """Members of the first replica group (for a permutation, of its first pair)."""
    if pairs := re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', text):
        return int(pairs[1]), int(pairs[2])
    if named := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', text):
        names = re.findall(r"'(\w+)'=(\d+)", named[1])
        used = set(re.findall(r"'(\w+)'", named[2]))
        ids = np.arange(np.prod([int(size) for _, size in names])).reshape(
            [int(size) for _, size in names]
        )
        index = tuple(slice(None) if name in used else 0 for name, _ in names)
        return tuple(ids[index].reshape(-1).tolist())
    if iota := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
        shape, source, order = (
            [int(n) for n in (part or '').split(',') if n] for part in iota.groups()
        )
        ids = np.arange(np.prod(source)).reshape(source)
        ids = np.transpose(ids, order or range(ids.ndim))
        return tuple(ids.reshape(shape)[0].tolist())
    if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
        return tuple(int(n) for n in listed[1].split(','))
    return ()
