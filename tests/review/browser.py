"""Headless Chromium over its debugging pipe: clicks and keys as a person makes them, with no other package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of 1300 x 760 pixels."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; a shell puts the pipes there.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={profile}", "about:blank"]
        wrapped = ["bash", "-c", f'exec 3<&{ends[0]} 4>&{ends[1]}; exec "$@"', "bash", *command]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(wrapped, pass_fds=ends, start_new_session=True, **quiet)
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._sent, self._waiting, self._session = 0, b"", None
        page = next(found for found in self._call("Target.getTargets")["targetInfos"] if found["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        size = {"width": 1300, "height": 760, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def go(self, address: str) -> None:
        self._call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def comes(self, expression: str, seconds: float) -> bool:
        """Whether an expression comes true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.value(f"!!(document.body && ({expression}))"):
                return True
            time.sleep(0.1)
        return False

    def wait(self, expression: str) -> None:
        """Wait a minute for an expression to come true."""
        assert self.comes(expression, 60), f"{expression} did not come true; the page says: {self.text()}"

    def text(self) -> str:
        return str(self.value("document.body ? document.body.innerText : ''"))

    def click(self, element: str) -> None:
        """Click into the middle of the element that an expression gives, once it is there."""
        self.wait(f"{element} && !{element}.disabled")
        middle = f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); "
        middle += "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        x, y = self.value(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if b"\0" not in self._waiting:
                if select.select([self._in], [], [], 1)[0]:
                    self._waiting += os.read(self._in, 1 << 20)
                continue
            raw, _, self._waiting = self._waiting.partition(b"\0")
            answer = json.loads(raw)
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return dict(answer["result"])
        raise AssertionError(f"{method} was not answered within a minute")
