# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report page: what is in it, that nothing runs from a label, and how it works in a browser."""

import base64
import dataclasses
import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from nbp.metrics.score_table import find_score
from nbp.report.clip_cards import rank_groups
from nbp.report.page import build_page
from nbp.report.records import Evaluation, Page
from tests.browser import Browser, needs_browser
from tests.report.page_example import EVIL, FRAMES, LABELS, make_page
from tests.report.page_reader import Reader, luminance


@pytest.fixture(scope="module")
def text() -> str:
    return build_page(make_page())


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


def test_it_is_one_well_formed_document(reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {str(a["href"])[1:] for a in reader.find("a")}
    assert anchors <= set(ids)
    titles = [data for tag, data in reader.texts if tag == "h2"]
    assert titles == [
        *("Scores", "Clips", "Error per frame", "Classes", "Use of the codes"),
        *("Training", "Speed", "Configuration"),
    ]


def test_it_asks_nothing_of_the_network(text: str, reader: Reader) -> None:
    for tag, attributes in reader.tags:
        for name in ("src", "href", "action", "poster", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    allowed = "http://www.w3.org/2000/svg"  # a name, never fetched
    assert set(re.findall(r"\w+://[^\"'\s)]+", text)) <= {allowed}
    assert "@import" not in text
    assert "url(" not in text


def test_only_its_own_script_may_run(reader: Reader) -> None:
    scripts = reader.find("script")
    assert scripts == [{"type": "application/json", "id": "clip-data"}, {}]
    code = [data for tag, data in reader.texts if tag == "script"][-1]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = next(m["content"] for m in reader.find("meta") if m.get("http-equiv"))
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_names_from_outside_are_text(text: str, reader: Reader) -> None:
    assert EVIL not in text
    assert not reader.find("img")
    assert not [a for _, attributes in reader.tags for a in attributes if a.startswith("on")]
    shown = "".join(data for tag, data in reader.texts if tag in ("h1", "td", "th", "h4", "dd"))
    assert shown.count(EVIL) > 4


def test_every_clip_is_there_once(text: str, reader: Reader) -> None:
    block = next(data for tag, data in reader.texts if tag == "script" and data.startswith("["))
    clips = json.loads(block)
    assert len(clips) == 48
    assert {clip["frames"] for clip in clips} == {FRAMES}
    canvases = [int(str(c["data-clip"])) for c in reader.find("canvas")]
    assert sorted(canvases)[-1] == 47
    assert len(canvases) == 48 + 3 * 6  # and three groups each among the worst and the best
    assert len(text) < 200_000


def test_all_of_the_protocol_is_in_it(reader: Reader) -> None:
    fields = [data for tag, data in reader.texts if tag == "code"]
    assert {"clips[0].dataset", "limit", "seed", "data.root"} <= set(fields)


def test_what_is_missing_is_left_out() -> None:
    bare = Reader(build_page(Page(title="bare", facts={})))
    assert not bare.find("section")
    assert not bare.find("canvas")
    scored = Page("t", {}, evaluations=(Evaluation("folder", 1, {"psnr": 30.0}, {}),))
    titles = [data for tag, data in Reader(build_page(scored)).texts if tag == "h2"]
    assert titles == ["Scores"]
    page = make_page(2)
    real = tuple(clip for clip in page.clips if clip.kind == "real")
    only_real = Reader(build_page(dataclasses.replace(page, clips=real)))
    assert not [d for d in only_real.find("div") if "worst" in str(d.get("class"))]


def make_two_protocols() -> Page:
    """Groups of clips in turn of the protocols p0 and p1."""
    page = make_page(8)
    clips = tuple(
        dataclasses.replace(clip, protocol=f"p{int(clip.group[-1]) % 2}") for clip in page.clips
    )
    return dataclasses.replace(page, clips=clips)


def test_clips_of_two_protocols_are_not_ranked_together() -> None:
    """Distances of two protocols do not compare."""
    page = make_two_protocols()
    reader = Reader(build_page(page))
    titles = [data for tag, data in reader.texts if tag == "h3" and data.startswith("Worst")]
    assert titles == [f"Worst of all by distance of features, {name}" for name in ("p0", "p1")]
    groups = [list(range(3 * n, 3 * n + 3)) for n in range(8)]
    odd = [members for members in groups if page.clips[members[0]].protocol == "p1"]
    _, ranked = rank_groups(page, odd)
    assert [value for value, _ in ranked] == sorted(7.0 * n % 20 for n in (1, 3, 5, 7))


@pytest.mark.parametrize(
    "name,better",
    [("fvd", "lower"), ("rfvd_256", "lower"), ("psnr_worst", "higher"), ("unknown", "")],
)
def test_scores_say_which_direction_is_better(name: str, better: str) -> None:
    assert find_score(name).better == better


def test_parts_of_the_page_are_installed_with_the_package() -> None:
    import tomllib

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))
    listed = project["tool"]["setuptools"]["package-data"]["nbp"]
    parts = [
        f"report/{part.name}"
        for part in resources.files("nbp.report").iterdir()
        if part.name.endswith((".css", ".html", ".js"))
    ]
    assert len(parts) == 3
    assert set(parts) <= set(listed)


# Through a canvas of our own: reading back from the page's would make it slower.
BLUE = """(() => {
    const scratch = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    return [...document.querySelectorAll('#gallery canvas')].filter(c => c.offsetParent).map(c => {
        scratch.drawImage(c, 8, 8, 1, 1, 0, 0, 1, 1);
        return scratch.getImageData(0, 0, 1, 1).data[2]; }); })()"""
SHOWN = "[...document.querySelectorAll('#gallery .card')].filter(c => !c.hidden)"


def choose(browser: Browser, name: str, value: str) -> None:
    """What happens when a person chooses an option."""
    browser.run(f"""(() => {{ const box = document.getElementById({json.dumps(name)});
        box.value = {json.dumps(value)};
        box.dispatchEvent(new Event('input', {{bubbles: true}})); }})()""")


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(build_page(make_page()), encoding="utf8")
    with Browser() as opened:
        opened.open(path)
        opened.wait(f"{BLUE}.length === 36 && document.querySelector('canvas').dataset.frame")
        yield opened
        assert not opened.errors


@needs_browser
@pytest.mark.slow
def test_clips_play_and_step_together(browser: Browser) -> None:
    frame = "document.querySelector('#gallery canvas').dataset.frame"
    assert browser.run("document.getElementById('play').textContent") == "Pause", "plays by itself"
    before = browser.run(frame)
    browser.wait(f"{frame} !== '{before}'")
    click(browser, "#play")
    for expected in range(2 * FRAMES):
        browser.run(f"""(() => {{ const bar = document.getElementById('frame');
            bar.value = {expected % FRAMES};
            bar.dispatchEvent(new Event('input', {{bubbles: true}})); }})()""")
        assert browser.run(BLUE) == [50 * (expected % FRAMES)] * 36, "every clip, the same frame"
    click(browser, "#forward")
    assert set(browser.run(BLUE)) == {0}, "after the last comes the first"
    click(browser, "#back")
    assert set(browser.run(BLUE)) == {200}
    assert browser.run("document.getElementById('shown').textContent") == "5 / 5"
    paused = browser.run("new Promise(done => setTimeout(() => done(" + frame + "), 400))")
    assert paused == "4", "stays where it was stopped"


@needs_browser
@pytest.mark.slow
def test_speed_changes_how_fast_clips_play(browser: Browser) -> None:
    count = """new Promise(done => { let n = 0; const bar = document.getElementById('shown');
        const eye = new MutationObserver(() => n++); eye.observe(bar, {childList: true});
        document.getElementById('play').click();
        setTimeout(() => { document.getElementById('play').click(); eye.disconnect(); done(n) },
        1500); })"""
    counts = {}
    for rate in ("4", "0.25"):
        browser.run(f"document.getElementById('rate').value = '{rate}'")
        counts[rate] = browser.run(count)
    browser.run("document.getElementById('rate').value = '1'")
    assert counts["4"] > 2 * counts["0.25"] > 0  # 48 and 3 on an idle machine


@needs_browser
@pytest.mark.slow
def test_the_gallery_sorts_and_filters(browser: Browser) -> None:
    distances = f"""{SHOWN}.map(c => Number(c.querySelector('[data-kind=generated]')
        .dataset.distance))"""
    expected = [float(7 * n % 20) for n in range(16)]
    assert browser.run(distances) == expected[:12]
    choose(browser, "sort", "distance-down")
    assert browser.run(distances) == sorted(expected, reverse=True)[:12]
    choose(browser, "sort", "distance-up")
    assert browser.run(distances) == sorted(expected)[:12]
    click(browser, "#more")
    assert browser.run(distances) == sorted(expected)
    choose(browser, "label", EVIL)
    assert browser.run(distances) == sorted(expected[2::4])
    assert browser.run(f"{SHOWN}.map(c => c.dataset.label)") == [EVIL] * 4
    click(browser, "[name=kind][value=real]")
    kinds = f"{SHOWN}.flatMap(c => [...c.querySelectorAll('figure:not([hidden])')])"
    assert set(browser.run(f"{kinds}.map(f => f.dataset.kind)")) == {"reconstructed", "generated"}
    click(browser, "[name=kind][value=real]")
    choose(browser, "label", "")
    choose(browser, "sort", "psnr-down")
    psnr = f"{SHOWN}.map(c => Number(c.querySelector('[data-psnr]').dataset.psnr))"
    assert browser.run(psnr) == [35.0 - n for n in range(12)]
    choose(browser, "sort", "order")
    assert browser.run(distances) == expected[:12]


@needs_browser
@pytest.mark.slow
def test_the_gallery_shows_one_protocol_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(build_page(make_two_protocols()), encoding="utf8")
    with Browser() as opened:
        opened.open(path)
        names = f"[...new Set({SHOWN}.map(c => c.dataset.protocol))]"
        assert opened.run(names) == ["p0"]
        choose(opened, "protocol", "p1")
        assert opened.run(names) == ["p1"]
        assert opened.run("document.getElementById('count').textContent") == "4 of 8 shown"
        assert not opened.errors


@needs_browser
@pytest.mark.slow
def test_the_table_of_classes_sorts_and_filters(browser: Browser) -> None:
    names = """[...document.querySelectorAll('.classes tbody tr')].filter(r => !r.hidden)
        .map(r => r.children[0].textContent)"""
    assert browser.run(names) == list(LABELS)
    click(browser, ".classes thead th:nth-child(3) button")
    assert browser.run(names) == list(LABELS[::-1]), "by distance, smallest first"
    click(browser, ".classes thead th:nth-child(3) button")
    assert browser.run(names) == list(LABELS)
    head = "document.querySelector('.classes thead th:nth-child(3)').getAttribute('aria-sort')"
    assert browser.run(head) == "descending"
    browser.run("""(() => { const box = document.querySelector('.classes input');
        box.value = 'TRI'; box.dispatchEvent(new Event('input')); })()""")
    assert browser.run(names) == ["blue triangle up"]


@needs_browser
@pytest.mark.slow
def test_charts_show_values_under_the_pointer(browser: Browser) -> None:
    spot = browser.run("""(() => { const chart = document.querySelector('#training .chart');
        chart.scrollIntoView({block: 'center'}); const box = chart.getBoundingClientRect();
        return [box.left + box.width * 46.5 / 360, box.top + box.height / 2]; })()""")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])
    browser.wait("!document.getElementById('tip').hidden")
    shown = browser.run("document.getElementById('tip').textContent")
    assert shown.splitlines()[:2] == ["step 10", "training: 10 "]
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    browser.wait("document.getElementById('tip').hidden")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width,dark", [(1280, False), (390, False), (390, True)])
def test_it_fits_and_can_be_read(tmp_path: Path, width: int, dark: bool) -> None:
    """No sideways scrolling; text and its ground differ by 4.5 to 1 in light and dark."""
    path = tmp_path / "index.html"
    path.write_text(build_page(make_page()), encoding="utf8")
    with Browser(width=width, dark=dark) as opened:
        opened.open(path)
        assert opened.run("document.documentElement.scrollWidth") <= width
        assert opened.run("matchMedia('(prefers-color-scheme: dark)').matches") == dark
        for selector, ground in (("td", "body"), ("nav a", "body"), (".card figcaption", ".card")):
            read = f"getComputedStyle(document.querySelector('{selector}')).color"
            behind = f"getComputedStyle(document.querySelector('{ground}')).backgroundColor"
            lights = sorted(luminance(opened.run(colour)) for colour in (read, behind))
            assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, selector
        assert not opened.errors


@needs_browser
@pytest.mark.slow
def test_what_slips_through_cannot_run_or_load(tmp_path: Path) -> None:
    """Also that the tests above would notice an error or a request."""
    path = tmp_path / "index.html"
    slipped = "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x.png'><main id"
    path.write_text(build_page(make_page(1)).replace("<main id", slipped, 1), encoding="utf8")
    with Browser() as opened:
        opened.open(path)
        assert opened.run("window.ran === undefined")
        assert any("inline script" in error for error in opened.errors)
        assert any("x.png" in error for error in opened.errors)
        opened.errors.clear()
        opened.run("setTimeout(() => { throw new Error('thrown') })")
        opened.run("new Promise(done => setTimeout(done, 100))")
        assert any("thrown" in error for error in opened.errors)
