"""A headless Chromium, driven by its own DevTools protocol over a websocket."""

from __future__ import annotations

import base64
from collections.abc import Iterator
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
WITHOUT = 'needs a browser: apt-get install chromium'
_KEYS = {'Enter': 13, 'Escape': 27, 'Tab': 9}


class Tab:
    """A page in a browser.

    Args:
        url: of its DevTools websocket.

    Attributes:
        complaints: what the page's console and its errors said.
    """

    def __init__(self, url: str) -> None:
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(url, max_size=None, ping_interval=None))
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result; RuntimeError where it fails."""
        number = next(self._numbers)
        self._socket.send(json.dumps({'id': number, 'method': method, 'params': params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get('id') == number:
                if 'error' in message:
                    raise RuntimeError(f'{method}: {message["error"]}')
                return message['result']
            if message.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
                self.complaints.append(json.dumps(message['params']))
            elif message.get('method') == 'Runtime.consoleAPICalled':
                self.complaints.append(json.dumps(message['params']['args']))

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; RuntimeError where it throws."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{expression}: {result}')
        return result['result'].get('value')

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Waits until an expression in the page is true, and gives its value; else TimeoutError."""
        end = time.monotonic() + seconds
        while not (value := self.run(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f'{expression}: not within {seconds} s; {self.text()}')
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
        field = f'document.querySelector({json.dumps(selector)})'
        self.run(f'(field => {{ field.focus(); field.select(); }})({field})')
        if text:
            self.call('Input.insertText', text=text)
        else:
            self.run(f'{field}.value = ""')

    def press(self, key: str) -> None:
        """Presses Enter, Escape or Tab."""
        event = {'key': key, 'code': key, 'windowsVirtualKeyCode': _KEYS[key]}
        text = {'text': '\r'} if key == 'Enter' else {}
        self.call('Input.dispatchKeyEvent', type='keyDown', **event, **text)
        self.call('Input.dispatchKeyEvent', type='keyUp', **event)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window, CSS pixels."""
        size = {'width': width, 'height': height}
        self.call(
            'Emulation.setDeviceMetricsOverride', **size, deviceScaleFactor=1, mobile=width < 600
        )
        time.sleep(0.3)

    def picture(self, path: pathlib.Path) -> None:
        """Writes a PNG of the whole page."""
        shot = self.call('Page.captureScreenshot', captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot['data']))

    def close(self) -> None:
        """Closes the page."""
        self.call('Page.close')
        self._open.close()


class Browser:
    """A running browser.

    Args:
        port: of its DevTools.
    """

    def __init__(self, port: str) -> None:
        self._port = port

    def tab(self) -> Tab:
        """A new tab, empty, in front of the others: pages behind are throttled."""
        request = urllib.request.Request(f'http://127.0.0.1:{self._port}/json/new', method='PUT')
        with urllib.request.urlopen(request) as answer:
            return Tab(json.load(answer)['webSocketDebuggerUrl'])


@contextlib.contextmanager
def browser(profile: pathlib.Path) -> Iterator[Browser]:
    """A headless Chromium with a profile of its own; RuntimeError if it does not start."""
    switches = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run']
    command = [
        PROGRAM,
        *switches,
        '--remote-debugging-port=0',
        f'--user-data-dir={profile}',
        'about:blank',
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if port := re.search(r'DevTools listening on ws://127\.0\.0\.1:(\d+)/', line):
                    yield Browser(port[1])
                    return
            raise RuntimeError(f'{PROGRAM} ended at once')
        finally:
            process.terminate()
            process.stderr.close()
            process.wait(20)
