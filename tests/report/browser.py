"""A real headless Chromium for tests: what it shows, what it says in its console, and what it asks the network for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

__all__ = ["MISSING", "Browser", "Keys"]

MISSING = next((f"needs {name}" for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)
"""Why no browser can be opened; None where one can."""


class Browser:
    """One window.

    Args:
        profile: An empty folder.
    """

    def __init__(self, profile: Path) -> None:
        options = Options()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument("--window-size=1280,900")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def open(self, page: Path) -> None:
        """Load a local file, after forgetting what earlier pages said."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(page.as_uri())

    def prefer(self, scheme: str) -> None:
        """Tell pages that `light` or `dark` is preferred."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def allow_scripts(self, allowed: bool) -> None:
        """Let pages that are opened from now on run their own scripts, or not."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

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
