"""Runs in an environment of its own, with the published clients: asks a server what it is told to.

    python published_client.py openpi|openvla PORT

Standard input: observations, each the length in 8 bytes and openpi_client's msgpack of {image, prompt,
more}; `more` are further keys. Standard output: in the same form, what the client's user gets:
{action, terminate}, or {error} where the client raises.
"""

import sys

from openpi_client import msgpack_numpy
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def by_openpi(port):
    policy = ActionChunkBroker(WebsocketClientPolicy('127.0.0.1', port), action_horizon=1)

    def ask(image, prompt, more):
        if more.pop('between_episodes', False):
            policy.reset()
        found = policy.infer({'observation/image': image, 'prompt': prompt, **more})
        return found['actions'], bool(found['terminate'])

    return ask


def by_openvla(port):
    import json_numpy
    import requests

    json_numpy.patch()  # as OpenVLA's own example does
    session = requests.Session()

    def ask(image, prompt, more):
        reply = session.post(
            f'http://127.0.0.1:{port}/act', json={'image': image, 'instruction': prompt}
        )
        return reply.json(), reply.headers['RT2-Terminate'] == '1'

    return ask


def main():
    ask = {'openpi': by_openpi, 'openvla': by_openvla}[sys.argv[1]](int(sys.argv[2]))
    while head := sys.stdin.buffer.read(8):
        asked = msgpack_numpy.unpackb(sys.stdin.buffer.read(int.from_bytes(head, 'big')))
        try:
            action, terminate = ask(asked['image'], asked['prompt'], asked.get('more', {}))
            reply = msgpack_numpy.packb({'action': action, 'terminate': terminate})
        except RuntimeError as error:
            reply = msgpack_numpy.packb({'error': str(error)})
        sys.stdout.buffer.write(len(reply).to_bytes(8, 'big') + reply)
        sys.stdout.buffer.flush()


if __name__ == '__main__':
    main()
