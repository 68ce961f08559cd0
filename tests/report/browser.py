"""A real headless Chromium for tests: what it shows, what it says in its console, and what it asks the network for."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

MISSING = next((f"needs {name}" for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)
"""Why no browser can be opened; None where one can."""


class Browser:
    """One window.

    Args:
        profile: An empty folder.
        script: Whether pages may run JavaScript.
        dark: Whether pages are told that dark is preferred.
    """

    def __init__(self, profile: Path, script: bool = True, dark: bool = False) -> None:
        options = Options()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument("--window-size=1280,900")
        if dark:
            options.add_argument("--force-dark-mode")
        if not script:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def open(self, page: Path) -> None:
        """Load a local file, after forgetting what earlier pages said."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(page.as_uri())

    def run(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def press(self, *keys: str) -> None:
        """Type into whatever has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        """Click the first element that a selector finds."""
        self.driver.find_element("css selector", selector).click()

    def choose(self, control: str, value: str) -> None:
        """Choose an option of a select by its value."""
        self.driver.find_element("css selector", f'#{control} option[value="{value}"]').click()

    def texts(self, selector: str) -> list[str]:
        """What the elements that a selector finds say, as it is seen."""
        return [element.text for element in self.driver.find_elements("css selector", selector)]

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for something that happens a moment later."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, refusals by the page's own policy among them."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, but for data: and blob: ones, which ask nobody."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith(("data:", "blob:"))]

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
