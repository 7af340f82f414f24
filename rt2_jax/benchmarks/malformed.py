"""Malformed messages for a server, and how it answers each.

A case is drawn by its number, so that a failure can be reproduced. What is wrong: truncated bytes,
wrong types, arrays whose sizes don't fit, object arrays with a pickle in them, NaN, invalid UTF-8,
pictures that decompress to gigabytes, invalid frames and requests, headers and messages that never
end, and clients that leave in the middle.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
import dataclasses
import json
import pickle
from typing import Any

import msgpack
import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from rt2_jax.data import images
from rt2_jax.serving import codec

_HANDSHAKE = (
    b'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    b'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)
# One case in so many is slow: each takes as long as the server's patience.
_SLOW = 50


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that a client may do wrong.

    Attributes:
        name: what is wrong.
        way: 'openpi' (a binary message), 'text' (a text frame), 'raw' (bytes on an open websocket) or
            'http' (bytes on a new connection).
        data: what is sent.
        then: 'wait' for the server's answer, or 'leave' at once.
    """

    name: str
    way: str
    data: bytes
    then: str = 'wait'


def case(number: int, seed: int, message_bytes: int) -> Case:
    """The case of this number, for a server that takes messages of `message_bytes`."""
    rng = np.random.default_rng([seed, number])
    picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
    good = {'observation/image': picture, 'prompt': 'pick banana'}
    if number % _SLOW == 0:
        return _slow(rng, good)
    ways = (_openpi, _openpi, _array, _raw, _http, _http)
    return ways[number % len(ways)](rng, good, message_bytes)


def _openpi(rng: np.random.Generator, good: dict[str, Any], message_bytes: int) -> Case:
    """A binary message that is wrong."""
    whole, picture = codec.packb(good), good['observation/image']
    change = lambda **fields: codec.packb(good | fields)
    image = lambda value: codec.packb(good | {'observation/image': value})
    jpeg = images.encode_jpeg(picture)
    png = images.PNG_MAGIC + b'\0\0\0\rIHDR' + (60_000).to_bytes(4) * 2 + b'\x08\x02\0\0\0'
    cases = {
        'cut off': whole[: rng.integers(len(whole))],
        'random bytes': rng.bytes(int(rng.integers(1, 400))),
        'nothing': b'',
        'not a map': msgpack.packb([1, 'two', None]),
        'too large': bytes(message_bytes + 1),
        'nested': b'\x91' * 5000 + b'\xc0',
        'claims more than there is': b'\xdf\xff\xff\xff\xff',
        'an extension': msgpack.packb({'prompt': msgpack.ExtType(4, b'x' * 9)}),
        'invalid UTF-8 in text': msgpack.packb({'prompt': 'pick'}).replace(b'pick', b'\xff\xfe\0\x80'),
        'a missing key': codec.packb({'prompt': 'pick banana'}),
        'an unknown key': change(actoin=1),
        'a key that is bytes': msgpack.packb({b'prompt': 'x', b'observation/image': b''}),
        'a prompt that is a number': change(prompt=7),
        'a prompt that is empty': change(prompt=' '),
        'a prompt that is long': change(prompt='banana ' * 5000),
        'a prompt that is an array': change(prompt=np.zeros([3])),
        'a picture that is nothing': image(None),
        'a picture that is a list': image([[1, 2], [3]]),
        'a picture with NaN': image(np.full([8, 8, 3], np.nan, np.float32)),
        'a picture of floats': image(np.zeros([8, 8, 3])),
        'a picture of another shape': image(np.zeros([*rng.integers(0, 4, rng.integers(6)), 4], np.uint8)),
        'a picture that is wide': image(np.zeros([1, 20_000, 3], np.uint8)),
        'a damaged JPEG': image(jpeg[: rng.integers(1, 200)]),
        'a PNG of gigabytes': image(png + b'\0' * 40),
        'many pictures': image([picture] * 50),
        'a state with NaN': codec.packb(good | {'observation/state': np.array([np.nan])}),
        'an invalid deadline': change(deadline_ms='soon'),
    }  # fmt: skip
    name = list(cases)[rng.integers(len(cases))]
    if name == 'nothing' and rng.random() < 0.5:
        return Case('a text frame', 'text', b'{"prompt": "pick banana"}')
    then = 'leave' if rng.random() < 0.05 else 'wait'
    return Case(name, 'openpi', cases[name], then)


def _array(rng: np.random.Generator, good: dict[str, Any], _: int) -> Case:
    """A map that claims to be an array."""
    fields = {
        b'__ndarray__': True, b'data': bytes(12), b'dtype': '|u1', b'shape': [2, 2, 3]
    }  # fmt: skip
    changes: dict[str, dict[bytes, Any]] = {
        'an object array': {b'dtype': '|O', b'data': pickle.dumps(print)},
        'a record array': {b'dtype': '|V12'},
        'complex numbers': {b'dtype': '<c8'},
        'an invalid type': {b'dtype': rng.choice(['|x9', 'u1,u1', '', 'O', '<f3', 'S999999999'])},
        'a type that is a number': {b'dtype': 5},
        'a shape too large': {b'shape': [2 ** int(rng.integers(20, 60)), 3]},
        'a shape too small': {b'shape': [1]},
        'a negative shape': {b'shape': [-2, -2, 3]},
        'a shape of floats': {b'shape': [2.0, 2, 3]},
        'an invalid shape': {b'shape': None},
        'data that are a text': {b'data': 'x' * 12},
        'no data': {b'data': None},
    }
    name = list(changes)[rng.integers(len(changes))]
    change = {key: str(x) if isinstance(x, np.str_) else x for key, x in changes[name].items()}
    message = {'prompt': 'pick banana', 'observation/image': fields | change}
    return Case(name, 'openpi', msgpack.packb(message))


def _raw(rng: np.random.Generator, good: dict[str, Any], message_bytes: int) -> Case:
    """Bytes that are not a valid websocket frame."""
    mask = rng.bytes(4)
    cases = {
        'a frame without a mask': b'\x82\x04abcd',
        'reserved bits': b'\xf2\x84' + mask + b'abcd',
        'an unknown kind of frame': b'\x83\x84' + mask + b'abcd',
        'a long ping': b'\x89\xfe\x01\x00' + mask + bytes(256),
        'a frame that claims exabytes': b'\x82\xff' + b'\x7f' + b'\xff' * 7 + mask,
        'a continuation of nothing': b'\x80\x84' + mask + b'abcd',
        'invalid UTF-8 in a text frame': b'\x81\x82\0\0\0\0\xff\xfe',
        'an invalid close code': b'\x88\x82\0\0\0\0\x00\x01',
        'noise': b'\xff' + rng.bytes(int(rng.integers(20, 400))),
    }
    name = list(cases)[rng.integers(len(cases))]
    if rng.random() < 0.2:
        whole = codec.packb(good)
        part = (
            b'\x82\xfe' + len(whole).to_bytes(2) + b'\0\0\0\0' + whole[: rng.integers(len(whole))]
        )
        return Case('left in the middle of a message', 'raw', part, 'leave')
    return Case(name, 'raw', cases[name])


def _http(rng: np.random.Generator, good: dict[str, Any], message_bytes: int) -> Case:
    """Requests whose head or body is wrong."""
    message = {'image': good['observation/image'], 'instruction': 'pick banana'}
    body = codec.dumps(message).encode()
    array = json.loads(body)['image']
    other = lambda **fields: json.dumps({'image': array, 'instruction': 'x'} | fields).encode()
    bodies = {
        'JSON cut off': body[: rng.integers(len(body))],
        'invalid UTF-8 in JSON': b'{"instruction": "\xff\xfe"}',
        'nested JSON': b'[' * 50_000,
        'NaN in JSON': b'{"image": NaN, "instruction": "x"}',
        'JSON that is a list': b'[]',
        'an unknown key in JSON': other(instructions='x'),
        'a missing key in JSON': json.dumps({'image': array}).encode(),
        'an instruction that is a list': other(instruction=['pick']),
        'invalid base64': other(image=array | {'__numpy__': '*' * len(array['__numpy__'])}),
        'a shape in JSON that does not fit': other(image=array | {'shape': [4, 4]}),
        'a shape in JSON of terabytes': other(image=array | {'shape': [2**20, 2**20, 3]}),
        'an object array in JSON': other(
            image={'__numpy__': base64.b64encode(b'12345678').decode(), 'dtype': '|O', 'shape': [1]}
        ),
        'a wrong unnorm_key': other(unnorm_key='bridge_orig'),
        'encoded twice, wrongly': json.dumps({'encoded': '{"image": '}).encode(),
        'a body too large': bytes(message_bytes + 1),
        'a picture in base64 that is none': other(image='bm8gcGljdHVyZQ=='),
    }
    heads = {
        'no request line': b'\x16\x03\x01' + rng.bytes(100) + b'\r\n\r\n',
        'an invalid method': b'FLY /act HTTP/1.1\r\nHost: x\r\n\r\n',
        'an invalid path': b'GET /%ff/../etc HTTP/1.1\r\nHost: x\r\n\r\n',
        'a header without end': b'GET / HTTP/1.1\r\nX: ' + b'y' * 200_000,
        'a negative length': b'POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n',
        'two lengths': b'POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n',
        'invalid chunks': (
            b'POST /act HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n'
        ),
        'a handshake without a key': _HANDSHAKE.replace(b'Sec-WebSocket-Key', b'X-Key'),
    }
    if rng.random() < 0.25:
        name = list(heads)[rng.integers(len(heads))]
        return Case(name, 'http', heads[name])
    name = list(bodies)[rng.integers(len(bodies))]
    request = _post(len(bodies[name])) + bodies[name]
    if rng.random() < 0.1:
        return Case('left in the middle of a request', 'http', request[:-1], 'leave')
    return Case(name, 'http', request)


def _post(length: int) -> bytes:
    return b'POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % length


def _slow(rng: np.random.Generator, good: dict[str, Any]) -> Case:
    """A message that never ends."""
    part = codec.packb(good)[:500]
    cases = [
        Case('headers that never end', 'http', b'POST /act HTTP/1.1\r\nHost: x\r\n'),
        Case('no headers at all', 'http', b''),
        Case('a body that never ends', 'http', _post(5000) + b'{"image": '),
        Case('a message that never ends', 'raw', b'\x82\xfe\x10\0\0\0\0\0' + part),
        Case(
            'fragments that never end', 'raw', b'\x02\xfe' + len(part).to_bytes(2) + bytes(4) + part
        ),
    ]
    return cases[rng.integers(len(cases))]


async def attempt(case: Case, port: int, seconds: float) -> str:
    """Sends a case; returns how it ended: 'refused', 'closed' or 'left'.

    Raises:
        AssertionError: it was answered as if nothing were wrong, or not at all within `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            if case.way in ('openpi', 'text'):
                return await _by_websocket(case, port)
            return await _by_socket(case, port)
    except TimeoutError:
        raise AssertionError(f'{case.name}: nothing came within {seconds} s') from None
    except ConnectionError:
        return 'closed'


async def _by_websocket(case: Case, port: int) -> str:
    async with connect(f'ws://127.0.0.1:{port}', compression=None, close_timeout=5) as robot:
        await robot.recv()
        try:
            await robot.send(case.data.decode() if case.way == 'text' else case.data)
            if case.then == 'leave':
                robot.transport.abort()
                return 'left'
            reply = await robot.recv()
            assert isinstance(reply, str), f'{case.name}: answered by {reply[:200]!r}'
            await robot.recv()
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            assert code in (1009, 1011, None), f'{case.name}: closed with {code}'
            return 'refused' if code else 'closed'
    raise AssertionError(f'{case.name}: refused, but the connection went on')


async def _by_socket(case: Case, port: int) -> str:
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        if case.way == 'raw':
            writer.write(_HANDSHAKE)
            await reader.readuntil(b'\r\n\r\n')
            # The metadata, whose length the frame says.
            head = await reader.readexactly(4)
            await reader.readexactly(int.from_bytes(head[2:4]))
        writer.write(case.data)
        await writer.drain()
        if case.then == 'leave':
            writer.transport.abort()
            return 'left'
        answer = await reader.read(4096)
        if case.way == 'raw':
            assert not answer or answer[0] in (0x88, 0x81), f'{case.name}: {answer[:200]!r}'
            return 'refused' if answer else 'closed'
        status = int(answer.split(b' ', 2)[1]) if answer else 0
        assert not answer or 400 <= status < 600, f'{case.name}: {answer[:200]!r}'
        assert status != 500, f'{case.name}: {answer[:200]!r}'
        return 'refused' if answer else 'closed'
    finally:
        writer.close()


async def storm(
    port: int, numbers: range, *, seed: int, message_bytes: int, patience: float, abreast: int = 16
) -> Counter[str]:
    """Sends cases, several at a time.

    Args:
        port: of the server on this machine.
        numbers: which cases.
        seed: of them.
        message_bytes: the server's limit.
        patience: the server's limit, seconds.
        abreast: how many at a time.

    Returns:
        The number of cases by how they ended.
    """
    todo, ends = iter(numbers), Counter[str]()

    async def send_cases() -> None:
        for number in todo:
            drawn = case(number, seed, message_bytes)
            ends[await attempt(drawn, port, patience + 20)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(abreast):
            group.create_task(send_cases())
    return ends
