"""A real browser for tests: Chromium without a window, driven through its debugging pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One page. Messages are JSON, each ended by a zero byte, on the descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        path = chromium_path()
        if path is None:
            pytest.skip("no Chromium on this machine: the page cannot be tried in a browser")
        to_browser, from_us = os.pipe()
        to_us, from_browser = os.pipe()
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--autoplay-policy=no-user-gesture-required", "--mute-audio", "--no-first-run",
            "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--window-size=900,760",
        ]  # fmt: skip

        def take_pipes() -> None:
            os.dup2(to_browser, 3)
            os.dup2(from_browser, 4)

        self._process = subprocess.Popen(
            [path, *flags, "about:blank"],
            preexec_fn=take_pipes,
            close_fds=False,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._send_to, self._read_from = from_us, to_us
        self._waiting = b""
        self._number = 0
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        self.call("Page.enable", in_page=True)

    def call(self, method: str, parameters: Any = None, *, in_page: bool = False) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if in_page:
            message["sessionId"] = self._session
        os.write(self._send_to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._waiting:
                data = os.read(self._read_from, 1 << 16)
                assert data, "the browser is gone"
                self._waiting += data
            text, _, self._waiting = self._waiting.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", {"url": url}, in_page=True)

    def run(self, script: str) -> Any:
        result = self.call(
            "Runtime.evaluate",
            {"expression": script, "returnByValue": True, "awaitPromise": True},
            in_page=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """Runs a script until it gives something true; a page that still loads gives nothing."""
        careful = f"(() => {{ try {{ return {script}; }} catch (error) {{ return false; }} }})()"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(careful)
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(
            f"never true: {script}; the page is {self.run('document.body?.innerText')}"
        )

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", {"format": "png"}, in_page=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._send_to)
        os.close(self._read_from)
