# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The site of the documentation, as docs/site/build.py makes it, from disk in a browser."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import Browser, find_browser

ROOT = Path(__file__).resolve().parent.parent
LOADED = "document.readyState === 'complete' && location.protocol === 'file:'"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None,
        reason="no Chromium is installed; on Debian: apt-get install chromium",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one in $NBP_SITE, or one that is built now."""
    if built := os.environ.get("NBP_SITE"):
        return Path(built).resolve()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs/site/build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def browser():
    with Browser() as opened:
        yield opened
        assert not opened.errors, "also says which address of the network was asked for"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "page,text",
    [
        ("index.html", "nbp.load("),
        ("start.html", "pip install -r requirements.txt"),
        ("examples/quickstart.html", "nbp.train.main("),
        ("api/run.html", "guidance: float | None"),
        ("api/config.html", "validation: float['[0, 1)'] = 0.1"),
        ("api/nn.html", "'b n k d'"),
        ("docs/layout.html", "k_end"),
        ("files/launch/gke.sh.html", "kubectl"),
    ],
)
def test_pages_open_from_disk_and_fit(
    site: Path, browser: Browser, page: str, text: str, width: int
) -> None:
    browser.resize(width, 900)
    browser.open(site / page, ready=LOADED)
    assert browser.run(f"document.querySelector('article').innerText.includes({json.dumps(text)})")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].every(i => i.naturalWidth || i.loading === 'lazy')")


def test_the_search_finds_from_disk(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html", ready=LOADED)
    browser.run("""(() => { const box = document.querySelector('.sidebar-search');
        box.value = 'halton'; box.form.submit(); })()""")
    found = "#search-results a[href*='docs/layout.html']"
    browser.wait(f'document.querySelector("{found}") !== null')


def test_docstrings_are_lists_and_links(site: Path, browser: Browser) -> None:
    browser.open(site / "api/run.html", ready=LOADED)
    items = """[...document.querySelectorAll('[id="nbp.run.Run.sample"] + dd li')]
        .map(item => item.querySelector('strong').innerText)"""
    assert browser.run(items) == [
        *("labels", "num", "seed", "frames", "num_frames", "temperature", "top_k", "top_p"),
        *("guidance", "options"),
    ]
    named = """[...document.querySelectorAll('[id="nbp.run.Run.sample"] + dd a')]
        .map(link => link.getAttribute('href'))"""
    assert {"#nbp.run.SampleOptions", "#nbp.run.Run.labels"} <= set(browser.run(named))
    assert "sampling.html#module-nbp.sampling.long_video" in browser.run(named)
    kept = "document.getElementById('nbp.run.SampleOptions.keep_frames').innerText"
    assert "int | None" in browser.run(kept)


class Links(HTMLParser):
    """Ids of a page, and what it links to or shows."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def test_every_link_within_the_site_leads_to_something(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 30
    dead = []
    for page, read in pages.items():
        for link in read.links:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if parts.scheme in ("http", "https"):
                continue
            known = target.is_file() and (target not in pages or not parts.fragment)
            if not known and parts.fragment not in pages.get(target, read).ids:
                dead.append(f"{page.relative_to(site)}: {link}")
    assert not dead
