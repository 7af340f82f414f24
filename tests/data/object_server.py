"""A store of objects on this machine that fails on purpose.

It speaks what gs:// (the XML interface), s3:// (path style) and http:// have in common for reading:
GET and HEAD with Range, If-Match and ETag; and the lists of folders that gs:// and s3:// have.
"""

from collections.abc import Callable
import contextlib
import hashlib
import pathlib
import re
import socket
import threading
import time
import urllib.parse
import xml.sax.saxutils

from bucket import LocalHandler, LocalServer

from rt2_jax.data import remote_files

FAULTS = ('drop', '503', '429', 'truncate', 'stall')
STALL_SECONDS = 1.0
# Of a reader that is tested: it tries as often as a user's, and waits less.
LIMITS = remote_files.Limits(
    tries=4, seconds=20, request_seconds=5, stall_seconds=0.2, first_pause=0.01, longest_pause=0.05
)


class ObjectServer(LocalServer):
    """Serves the files under `root`.

    Attributes:
        fault: called with the number of the request, says what goes wrong with it, or ''.
        served: (method, name, first byte, end) of each request that was answered whole.
        requests: how many came.
        touched: names whose ETag is another than it was, to change while the server runs.
        conditional: whether If-Match is heeded.
        weak: whether ETags are weak ones, which match nothing.
        latency: seconds before each answer.
    """

    def __init__(self, root: pathlib.Path):
        super().__init__(_Handler)
        self.root = root
        self.fault: Callable[[int], str] = lambda number: ''
        self.served: list[tuple[str, str, int, int]] = []
        self.touched: set[str] = set()
        self.conditional, self.weak, self.latency = True, False, 0.0
        self.requests = 0
        self.lock = threading.Lock()

    def bytes_served(self) -> int:
        """Bytes of the bodies that were sent."""
        return sum(end - start for method, _, start, end in list(self.served) if method == 'GET')


class _Handler(LocalHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        with server.lock:
            number = server.requests
            server.requests += 1
        time.sleep(server.latency)
        path, _, query = self.path.partition('?')
        fault, name = server.fault(number), urllib.parse.unquote(path).lstrip('/')
        if fault == 'drop':
            self.hang_up()
        elif fault in ('403', '429', '503'):
            self.answer(int(fault))
        elif 'list-type=2' in query:
            self.send_list(name, urllib.parse.parse_qs(query)['prefix'][0])
        elif not (server.root / name).is_file():
            self.answer(404)
        else:
            self.send(name, (server.root / name).read_bytes(), fault)

    def send(self, name: str, data: bytes, fault: str):
        again = '-again' if name in self.server.touched else ''
        tag = ('W/' if self.server.weak else '') + f'"{hashlib.md5(data).hexdigest()}{again}"'
        wanted = self.headers.get('If-Match')
        if wanted and self.server.conditional and (wanted != tag or self.server.weak):
            self.answer(412)
            return
        asked = re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers.get('Range', ''))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked else (0, len(data))
        partial = asked and fault != 'no ranges'
        body = data[start:end] if partial else data
        self.send_response(206 if partial else 200)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('ETag', tag)
        self.send_header('Last-Modified', 'Sun, 22 Nov 2026 00:00:00 GMT')
        if partial:
            self.send_header('Content-Range', f'bytes {start}-{end - 1}/{len(data)}')
        self.end_headers()
        if self.command == 'GET':
            if fault in ('truncate', 'stall'):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(STALL_SECONDS if fault == 'stall' else 0)
                self.hang_up()
                return
            self.wfile.write(body)
        self.wfile.flush()
        self.server.served.append((self.command, name, start, end))

    def send_list(self, bucket: str, prefix: str):
        """What is in a folder of a bucket, as ListObjectsV2 says it."""
        lines = []
        for path in sorted((self.server.root / bucket / prefix).glob('*')):
            key = xml.sax.saxutils.escape(prefix + path.name)
            if path.is_dir():
                lines.append(f'<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>')
                continue
            lines.append(
                f'<Contents><Key>{key}</Key><Size>{path.stat().st_size}</Size><ETag>"x"</ETag>'
                '<LastModified>2026-11-22T00:00:00.000Z</LastModified></Contents>'
            )
        body = (
            f'<ListBucketResult><Name>{bucket}</Name><Prefix>{prefix}</Prefix>{"".join(lines)}'
            '<IsTruncated>false</IsTruncated></ListBucketResult>'
        ).encode()
        self.answer(200, body)
        self.server.served.append(('LIST', f'{bucket}/{prefix}', 0, len(body)))

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serve(root: pathlib.Path):
    """A running ObjectServer."""
    with ObjectServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
