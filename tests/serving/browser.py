"""A real headless Chromium, driven by its own DevTools protocol over a websocket."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import time
from typing import Any
import urllib.request

from websockets.sync.client import connect

PROGRAM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
WITHOUT = (
    'needs a browser: apt-get install chromium, then bash launch/test.sh tests/serving/test_demo.py'
)


class Tab:
    """A page in a browser.

    Attributes:
        complaints: what the page's console and its errors said.
    """

    def __init__(self, url: str):
        self._socket = connect(url, max_size=None, ping_interval=None)
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({'id': number, 'method': method, 'params': params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get('id') == number:
                assert 'error' not in message, message
                return message['result']
            if message.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
                self.complaints.append(json.dumps(message['params']))
            elif message.get('method') == 'Runtime.consoleAPICalled':
                self.complaints.append(json.dumps(message['params']['args']))

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Waits until an expression in the page is true, and gives its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(expression)):
            assert time.monotonic() < end, f'{expression}: not within {seconds} s; ' + self.text()
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        """Goes to an address."""
        self.call('Page.navigate', url=url)
        self.wait('document.readyState === "complete"')

    def text(self, selector: str = 'body') -> str:
        """What a part of the page says."""
        return self.run(f'document.querySelector({json.dumps(selector)})?.innerText ?? ""')

    def type(self, selector: str, text: str) -> None:
        """Types into a field, as from a keyboard, in place of what it holds."""
        self.run(
            f'(e => {{ e.focus(); e.select(); }})(document.querySelector({json.dumps(selector)}))'
        )
        self.call('Input.insertText', text=text)

    def press(self, key: str) -> None:
        """Presses Enter, Escape or Tab."""
        code = {'Enter': 13, 'Escape': 27, 'Tab': 9}[key]
        event = {'key': key, 'code': key, 'windowsVirtualKeyCode': code}
        text = {'text': '\r'} if key == 'Enter' else {}
        self.call('Input.dispatchKeyEvent', type='keyDown', **event, **text)
        self.call('Input.dispatchKeyEvent', type='keyUp', **event)

    def picture(self, path: pathlib.Path, width: int, height: int) -> None:
        """Writes a PNG of the page at a size of the window."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        time.sleep(0.3)
        shot = self.call('Page.captureScreenshot', captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot['data']))

    def close(self) -> None:
        """Leaves the browser's side."""
        self._socket.close()


class Browser:
    """A running browser; `tab()` opens one more."""

    def __init__(self, port: str):
        self._port = port

    def tab(self) -> Tab:
        """A new tab, empty."""
        request = urllib.request.Request(f'http://127.0.0.1:{self._port}/json/new', method='PUT')
        with urllib.request.urlopen(request) as answer:
            return Tab(json.load(answer)['webSocketDebuggerUrl'])


@contextlib.contextmanager
def browser(profile: pathlib.Path):
    """A headless Chromium with a profile of its own."""
    command = [
        PROGRAM, '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
        '--remote-debugging-port=0', f'--user-data-dir={profile}', 'about:blank',
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if port := re.search(r'DevTools listening on ws://127\.0\.0\.1:(\d+)/', line):
                yield Browser(port[1])
                return
        raise AssertionError('Chromium ended at once')
    finally:
        process.terminate()
        process.wait(20)
