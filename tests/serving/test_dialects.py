"""What other clients send: their keys, their arrays, and pictures that are none."""

import base64
import pathlib
import re

import cv2
import msgpack
import numpy as np
import pytest

from rt2_jax import serve
from rt2_jax.policy import from_flags
from rt2_jax.serving import codec, messages
from rt2_jax.serving.limits import Limits, Malformed

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
README = pathlib.Path(messages.__file__).with_name('README.md')
# {'a': np.array([0, 1], np.uint8), 'b': np.int16(-3)}, as msgpack-numpy 0.4.8 packs it.
MSGPACK_NUMPY = bytes.fromhex(
    '82a16185c4026e64c3c40474797065a37c7531c4046b696e64c400c40573686170659102c40464617461c4020001a16283c4026e64c2c40474797065a33c6932c40464617461c402fdff'
)


def read(message, protocol):
    if protocol == 'websocket':
        return messages.from_openpi(codec.packb(message), Limits())
    return messages.from_act(codec.dumps(message).encode(), Limits(), '', ())


CLIENTS = [('websocket', x) for x in messages.WEBSOCKET] + [('act', x) for x in messages.ACT]


@pytest.mark.parametrize('protocol, dialect', CLIENTS, ids=lambda x: getattr(x, 'name', x))
def test_the_keys_of_each_family_of_clients(protocol, dialect):
    text = 'prompt' if protocol == 'websocket' else 'instruction'
    picture = PICTURE.transpose(2, 0, 1) if dialect.channels_first else PICTURE
    message = {dialect.camera: picture, text: 'pick banana'}
    message |= {key: np.zeros([7]) for key in dialect.ignored}
    request = read(message, protocol)
    np.testing.assert_array_equal(request.frames, PICTURE[None])
    assert request.text == 'pick banana' and request.chunks == (dialect.name == 'OpenVLA-OFT')
    ignored = ', '.join(f'`{key}`' for key in dialect.ignored) or 'nothing'
    row = (
        f'| {dialect.name} | {protocol.replace("act", "`/act`")} | `{dialect.camera}` | {ignored} |'
    )
    assert row in README.read_text()
    # A hint names what is looked at, however near an ignored key is.
    for key in dialect.ignored:
        with pytest.raises(Malformed, match='Unknown key') as error:
            read({**message, f'{key}s': 0}, protocol)
        assert key not in str(error.value).partition(';')[2].split(', ')


def test_nested_observations_are_the_same_keys():
    nested = {'images': {'cam_high': PICTURE}, 'state': np.zeros([14]), 'prompt': 'pick banana'}
    np.testing.assert_array_equal(read(nested, 'websocket').frames, PICTURE[None])


def test_two_cameras_are_not_chosen_between():
    message = {'observation/image': PICTURE, 'images/cam_high': PICTURE, 'prompt': 'pick banana'}
    with pytest.raises(
        Malformed, match="'observation/image' and 'images/cam_high' are both cameras"
    ):
        read(message, 'websocket')


def test_arrays_of_msgpack_numpy():
    content, foreign = codec.unpack_any(MSGPACK_NUMPY)
    np.testing.assert_array_equal(content['a'], [0, 1])
    assert foreign and content['a'].dtype == np.uint8
    assert content['b'] == -3 and content['b'].dtype == np.int16
    assert codec.packb(content, msgpack_numpy=True) == MSGPACK_NUMPY
    for change in ({b'type': '|O'}, {b'shape': [3]}, {b'type': [['x', '<i8']]}, {b'data': None}):
        fields = {b'nd': True, b'type': '|u1', b'kind': b'', b'shape': [2], b'data': b'12'}
        with pytest.raises(ValueError, match='not msgpack as openpi-client'):
            codec.unpack_any(msgpack.packb(fields | change))


@pytest.mark.parametrize('protocol', ['websocket', 'act'])
def test_nested_lists_are_a_picture(protocol):
    camera, text = (
        ('observation/image', 'prompt') if protocol == 'websocket' else ('image', 'instruction')
    )
    ask = lambda picture: read({camera: picture, text: 'pick banana'}, protocol).frames
    np.testing.assert_array_equal(ask(PICTURE.tolist()), PICTURE[None])
    np.testing.assert_array_equal(ask([PICTURE.tolist()] * 2), [PICTURE] * 2)
    wrong = {
        'whole numbers 0..255': (PICTURE + np.int64(300)).tolist(),
        'list of float64': (PICTURE / 255).tolist(),
        'differ in length': [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]],
        'H, W, 3': [[1, 2, 3]],
    }
    for says, picture in wrong.items():
        with pytest.raises(Malformed, match=says):
            ask(picture)


def nested(levels):
    return b'[' * levels + b']' * levels


@pytest.mark.parametrize('levels', [13, 900, 100_000])
def test_deep_nesting_is_refused_in_one_line(levels):
    with pytest.raises(Malformed, match='nested') as error:
        body = b'{"instruction": "pick banana", "image": ' + nested(levels) + b'}'
        messages.from_act(body, Limits(), '', ())
    assert '\n' not in str(error.value) and len(str(error.value)) < 200
    with pytest.raises(Malformed, match='nested' if levels < 1000 else 'msgpack') as error:
        message = msgpack.packb({'prompt': 'x'})[1:]
        messages.from_openpi(
            b'\x82' + message + b'\xb1observation/image' + b'\x91' * levels + b'\xc0', Limits()
        )
    assert '\n' not in str(error.value)


def test_depth_is_no_picture():
    depth = np.full([6, 8], 1500, np.uint16)
    png = cv2.imencode('.png', depth)[1].tobytes()
    for picture in (png, base64.b64encode(png).decode()):
        protocol = 'act' if isinstance(picture, str) else 'websocket'
        camera, text = (
            ('image', 'instruction') if protocol == 'act' else ('observation/image', 'prompt')
        )
        with pytest.raises(Malformed, match='16 bits a channel .grey, as depth is stored'):
            read({camera: picture, text: 'pick banana'}, protocol)
    for array in (depth, depth[..., None], (depth / 1000).astype(np.float32)):
        with pytest.raises(Malformed, match='depth is no picture: send'):
            read({'observation/image': array, 'prompt': 'pick banana'}, 'websocket')


def test_the_flags_that_the_readme_names_exist():
    source = ''.join(pathlib.Path(file.__file__).read_text() for file in (serve, from_flags))
    named = set(re.findall(r'--(\w+)', README.read_text()))
    others = {'server', 'config', 'no', 'param'}  # of evaluate and of vla-eval (--no-docker)
    assert named and named <= {*re.findall(r'DEFINE_\w+\(\s*[\'"](\w+)', source), *others}
