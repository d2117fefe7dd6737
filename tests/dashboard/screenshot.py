"""Write a picture of a running dashboard: `python -m tests.dashboard.screenshot URL OUT.png [--dark] [--width N]`.

Waits until the page's charts are drawn, and keeps the file under 300 kB by fewer colours if need be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.dashboard.server import chromium, find_chromium

LIMIT_BYTES = 300_000


def open_page(
    browser: Browser, url: str, *, width: int = 1400, height: int = 900, dark: bool = False
) -> Page:
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        timezone_id="UTC",
    )
    page.goto(url)
    page.wait_for_selector(".sg-brand", timeout=60_000)
    return page


def wait_until_drawn(page: Page) -> None:
    """The overview has its last panel and all charts their axes, or the page has none to draw."""
    page.wait_for_selector(".sg-cards, .sg-box, .sg-facts", timeout=60_000)
    if page.locator(".sg-cards").count():
        page.wait_for_selector(
            ".st-key-panel_policy .sg-table, .st-key-panel_policy .sg-muted", timeout=60_000
        )
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .xaxislayer-above').length >= 4")
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")


def shoot(page: Page, out: Path, *, whole: bool = True) -> int:
    """The size of the file in bytes. The page's own scrolling area is stretched to be seen whole."""
    if whole:
        height = page.evaluate("document.querySelector('.stMainBlockContainer').scrollHeight + 40")
        page.set_viewport_size({"width": page.viewport_size["width"], "height": int(height)})  # type: ignore[index]
        page.wait_for_timeout(700)  # charts are laid out anew
    out.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(out))
    colours = 256
    while out.stat().st_size > LIMIT_BYTES and colours >= 32:
        Image.open(out).convert("RGB").quantize(colours).save(out, optimize=True)
        colours //= 2
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard.screenshot")
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, help="cut the page at this height; default: the whole page")
    arguments = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        sys.exit("No Chromium was found; install the package chromium.")
    with chromium(executable) as browser:
        page = open_page(
            browser, arguments.url, width=arguments.width, height=arguments.height or 900, dark=arguments.dark
        )
        wait_until_drawn(page)
        size = shoot(page, arguments.out, whole=arguments.height is None)
    print(f"{arguments.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
