# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The page of several runs: what is on it, what is refused, and how it works in a browser."""

import json
import re
from pathlib import Path

import pytest

from nbp.errors import EXIT_CHECKPOINT, EXIT_DATA, EXIT_USAGE, run_main
from nbp.report import __main__
from nbp.report.comparison.page import POINTS, make_charts, write_comparison
from nbp.report.comparison.runs import read_runs
from nbp.report.svg import DASHES, SERIES, name_style
from tests.browser import Browser, needs_browser
from tests.report.comparison.runs_example import add_clips, add_report, make_run
from tests.report.page_example import EVIL
from tests.report.page_reader import Reader

MANY = 50


def make_two(folder: Path) -> list[Path]:
    """Two runs that differ in the seed; only one is scored by `folder`."""
    folders = [make_run(folder / name / "base", i) for i, name in enumerate("ab")]
    protocol = {"name": "folder", "version": 3, "clips": []}
    add_report(folders[0], "folder", protocol=protocol, scores={"psnr": 20.0})
    return folders


def read_page(folders: list[Path], out: Path) -> tuple[str, Reader]:
    text = write_comparison(folders, out)[0].read_text(encoding="utf8")
    return text, Reader(text)


def test_two_runs_on_one_page(tmp_path: Path) -> None:
    text, reader = read_page(make_two(tmp_path), tmp_path / "page.html")
    titles = [data for tag, data in reader.texts if tag == "h2"]
    assert titles == [
        *("Scores", "Curves", "The same condition", "What differs", "Speed", "Runs"),
    ]
    assert "2 runs side by side" in text
    names = [data for tag, data in reader.texts if tag == "span" and "/base" in data]
    assert set(names) == {"a/base", "b/base"}
    cells = [c for c in reader.find("td") if "none" in str(c.get("class"))]
    assert {str(c["title"])[:34] for c in cells} == {"not scored: python -m nbp.evaluate"}
    best = [c["data-value"] for c in reader.find("td") if "best" in str(c.get("class"))]
    assert best == ["30.0", "0.51"] * 2, "the highest of each column, in both tables"
    differences = text[text.index('id="differences"') :]
    keys = re.findall(r"<code>([\w.]+)</code>", differences[: differences.index("</table>")])
    assert keys == ["seed"]
    heads = [data for tag, data in reader.texts if tag == "button"]
    assert "seed" in heads, "few keys that differ stand beside the scores"
    clips = next(d for tag, d in reader.texts if tag == "script" and d.startswith("["))
    assert len(json.loads(clips)) == 6


def test_it_is_as_safe_as_the_page_of_one_run(tmp_path: Path) -> None:
    folder = tmp_path / EVIL.replace("/", "")
    folders = [make_run(folder, name=EVIL), make_run(tmp_path / "b", 1, name="b")]
    for place in folders:
        add_clips(place, {"media/g.mp4": {"label": EVIL}})
    add_report(folders[0], deviations=[EVIL], scores={EVIL: 1.0})
    text, reader = read_page(folders, tmp_path / "page.html")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert not [a for _, attributes in reader.tags for a in attributes if a.startswith("on")]
    for tag, attributes in reader.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)


def test_a_run_has_one_style_in_all_charts(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(i), i) for i in range(3)]
    (folders[1] / "generator" / "metrics.csv").unlink()
    runs, _ = read_runs(folders)
    learned, machine = make_charts(runs)
    assert [chart.title for chart in learned["generator"]] == [
        *("loss", "bits per token, validation"),
    ]
    assert [curve.run for curve in learned["generator"][0].curves] == [0, 2]
    assert [chart.title for chart in machine["tokenizer"]] == ["step time"]
    text, _ = read_page(folders, tmp_path / "page.html")
    styles = re.findall(r'<polyline class="(line series-\d)" data-run="(\d)"', text)
    assert set(styles) == {(f"line series-{i + 1}", str(i)) for i in range(3)}


def test_fifty_lines_can_be_told_apart() -> None:
    styles = {name_style(place) for place in range(SERIES * DASHES)}
    assert len(styles) == SERIES * DASHES >= MANY


def test_damage_gives_notes_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_run(tmp_path / str(i), i) for i in range(3)]
    (folders[0] / "config.json").write_text("{")
    (folders[1] / "generator" / "metrics.csv").write_bytes(b"\xff\xfe")
    (folders[1] / "samples" / "samples.npz").write_bytes(b"PK")
    (folders[1] / "report" / "clips.json").write_text("{}")
    (folders[2] / "report" / "moving-shapes.json").write_text("[")
    out = tmp_path / "page.html"
    arguments = [*map(str, folders), str(tmp_path / "gone"), "--out", str(out)]
    __main__.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"written to {out}"
    assert [line.split(": ")[0] for line in lines[:-1]] == ["note"] * 6
    notes = [
        a for a in Reader(out.read_text(encoding="utf8")).find("p") if a.get("class") == "note"
    ]
    assert len(notes) == 6 + 1, "and that of a page without its script"


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ((), EXIT_USAGE, "name runs, or one with --workdir DIR"),
        (("run", "--workdir", "run"), EXIT_USAGE, "name runs, or one with --workdir DIR"),
        (("run", "run2", "--gallery"), EXIT_USAGE, "--gallery is for one run"),
        (("run", "empty"), EXIT_CHECKPOINT, "empty is no workdir: it has no config.json"),
        (("run", "file"), EXIT_CHECKPOINT, "file is no workdir: it has no config.json"),
        (("gone", "gone2"), EXIT_CHECKPOINT, "there is no folder gone, gone2"),
        (("bare", "bare2"), EXIT_DATA, "none of these runs has curves or scores"),
        (("run", "run2", "--out", "empty"), EXIT_USAGE, "empty is a folder, a file is written"),
        (("bare", "--gallery"), EXIT_DATA, "bare has no generated clips to show"),
    ],
)
def test_refusals_change_nothing(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("run", "run2")):
        make_run(tmp_path / name, i)
    for name in ("bare", "bare2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((tmp_path / "run/config.json").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run_main(__main__.main, list(arguments))
    assert caught.value.code == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_one_run_is_the_page_of_the_workdir(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    pages = []
    for arguments in (["run"], ["--workdir", "run"]):
        __main__.main(arguments)
        assert capsys.readouterr().out == "written to run/report/index.html\n"
        pages.append(Path("run/report/index.html").read_bytes())
    assert pages[0] == pages[1]
    make_run(Path("run2"), 1)
    __main__.main(["run", "run2"])
    assert Path("comparison.html").is_file()


def test_the_gallery_shows_samples_in_their_order(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    __main__.main([str(folder), "--gallery"])
    reader = Reader((folder / "report" / "gallery.html").read_text(encoding="utf8"))
    assert [d for tag, d in reader.texts if tag == "figcaption"] == [
        *("red square right", "green disk left", "blue triangle up"),
    ]
    titles = [data for tag, data in reader.texts if tag == "h2"]
    assert titles == ["Generated clips", "Scores", "How they were drawn"]


def test_without_samples_the_gallery_shows_clips_that_none_chose(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "samples" / "samples.npz").unlink()
    rows = {
        "media/b.mp4": {"label": "best", "why": "best"},
        "media/s.mp4": {"label": "spread"},
        "media/r.mp4": {"label": "real", "kind": "real"},
    }
    add_clips(folder, rows)
    __main__.main(["--workdir", str(folder), "--gallery", "--out", str(tmp_path / "g.html")])
    reader = Reader((tmp_path / "g.html").read_text(encoding="utf8"))
    assert [d for tag, d in reader.texts if tag == "figcaption"] == ["spread"]


def test_the_page_of_many_runs_has_a_limit(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"run-{i:02d}", i) for i in range(MANY)]
    text, reader = read_page(folders, tmp_path / "page.html")
    for charts in make_charts(read_runs(folders)[0]):
        for chart in (chart for found in charts.values() for chart in found):
            assert len(chart.curves) == MANY
            assert sum(len(curve.points) for curve in chart.curves) <= POINTS
    assert len(text) < 6_000_000
    assert len([i for i in reader.find("label") if "data-pick" in i]) == MANY
    (legend,) = [d for d in reader.find("details") if d.get("class") == "legend"]
    assert "open" not in legend


# In a browser ------------------------------------------------------------------------------------

VISIBLE = "(e => e.getClientRects().length > 0)"
CURVES = f"""(() => {{ const chart = document.querySelector('#curves .chart');
    return [...chart.querySelectorAll('polyline')].filter({VISIBLE}).length }})()"""


def hover(browser: Browser, selector: str) -> None:
    spot = browser.run(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
        e.scrollIntoView({{block: 'center'}}); const box = e.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2]; }})()""")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])


def tick(browser: Browser, run: int) -> None:
    browser.run(f"""document.querySelector('[data-pick="{run}"] input').click()""")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_two_runs_in_a_browser(tmp_path: Path, width: int) -> None:
    page, _ = write_comparison(make_two(tmp_path), tmp_path / "page.html")
    with Browser(width=width) as browser:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") <= width
        drawn = "[...document.querySelectorAll('#conditions canvas')].map(c => c.dataset.frame)"
        browser.wait(f"{drawn}.every(frame => frame !== undefined)")
        assert browser.run(CURVES) == 2
        tick(browser, 0)
        assert browser.run(CURVES) == 1
        shown = "[...document.querySelectorAll('[data-run=\"{}\"]')].filter(" + VISIBLE + ").length"
        assert browser.run(shown.format(0)) == 0
        assert browser.run(shown.format(1)) > 10
        rows = f"[...document.querySelectorAll('#differences tbody tr')].filter({VISIBLE}).length"
        assert browser.run(rows) == 0, "one run does not differ from itself"
        tick(browser, 0)
        assert browser.run(rows) == 1
        assert not browser.errors


@needs_browser
@pytest.mark.slow
def test_fifty_runs_in_a_browser(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"run-{i:02d}", i) for i in range(MANY)]
    page, _ = write_comparison(folders, tmp_path / "page.html")
    with Browser() as browser:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") <= 1280
        assert browser.run(CURVES) == MANY
        opened = "document.querySelector('.sheet').checkVisibility()"
        assert not browser.run(opened), "the list of runs is folded"
        browser.run("document.querySelector('.legend summary').click()")
        assert browser.run(opened)
        hover(browser, '[data-pick="7"]')
        faded = """(run => getComputedStyle(document.querySelector(
            `#curves polyline[data-run="${run}"]`)).opacity)"""
        browser.wait(f"{faded}(8) === '0.12'")
        assert browser.run(f"{faded}(7)") == "1"
        browser.run("document.getElementById('no-runs').click()")
        assert browser.run(CURVES) == 0
        browser.run("""(() => { const box = document.getElementById('find-run'); box.value = '-1';
            box.dispatchEvent(new Event('input')); })()""")
        browser.run("document.getElementById('all-runs').click()")
        assert browser.run(CURVES) == 10, "all that are found: run-10 to run-19"
        told = browser.run("document.getElementById('runs-shown').textContent")
        assert told == "10 of 50 shown"
        browser.run("document.querySelector('.legend').open = false")
        hover(browser, "#curves .chart")
        browser.wait("!document.getElementById('tip').hidden")
        lines = browser.run("document.getElementById('tip').textContent").splitlines()
        assert len(lines) == 1 + 6 + 1
        assert lines[0].startswith("step ")
        assert all(line.startswith("run-1") for line in lines[1:7]), "none of those hidden"
        assert lines[-1] == "and 4 more"
        assert not browser.errors
