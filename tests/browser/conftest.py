"""A real browser (Debian's Chromium) on a site of its own. Not part of `make test`: see `.ci/run`."""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PASSWORD = "correct horse battery"
# Playwright runs an event loop in the tests' thread, which Django takes for asynchronous code.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """Opens pages, and remembers everything a page should not do."""

    def __init__(self, chromium: Browser, base: str, **options: Any) -> None:
        self.base = base
        self.complaints: list[str] = []
        self.context: BrowserContext = chromium.new_context(base_url=base, **options)
        self.context.set_default_timeout(10_000)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self._complain(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._complain(True, str(error)))
        self.page.on("request", lambda request: self._complain(self._is_foreign(request.url), request.url))

    def log_in(self) -> Page:
        self.page.goto("/")
        self.page.get_by_label("Username").fill("amina")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        return self.page

    def _is_foreign(self, url: str) -> bool:
        return urlsplit(url).scheme != "data" and not url.startswith(f"{self.base}/")

    def _complain(self, wrong: bool, what: str) -> None:
        if wrong:
            self.complaints.append(f"{self.page.url}: {what}")


@pytest.fixture
def visit(chromium: Browser, live_server: Any, account: Any) -> Iterator[Any]:
    """Makes visitors. At the end of the test none of their pages may have made an error, broken the
    Content-Security-Policy (which is an error on the console), or asked another host for anything.
    """
    account.user.set_password(PASSWORD)
    account.user.save()
    visitors: list[Visitor] = []

    def make(**options: Any) -> Visitor:
        visitors.append(Visitor(chromium, live_server.url, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []
