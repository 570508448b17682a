"""Draw attention.png, the README's picture, from the built site.

make book && .venv/bin/python book/_tools/assets.py readme
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "book" / "_tools"))
import setup  # noqa: E402

PAGE = ROOT / "_build" / "html" / "transformers" / "attention.html"
EXPLORER = "#fg-where"
PICTURE = Path(__file__).with_name("attention.png")


def main() -> None:
    with sync_playwright() as playwright:
        options = {"executable_path": setup.find_browser(), "args": ["--no-sandbox"]}
        browser = playwright.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1180, "height": 1600})
        page.goto(f"{PAGE.as_uri()}{EXPLORER}")
        page.wait_for_selector(f"{EXPLORER}[data-fg-ready]")
        page.locator(EXPLORER).screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
