# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report page of a workdir, from whatever files lie there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.config import load_config
from nbp.data.video.encode import tile_clips, write_video
from nbp.errors import EXIT_CHECKPOINT, DataError, run_main
from nbp.evaluation.result import EvaluationResult
from nbp.report import __main__, clips
from nbp.report.collect import collect_page, write_page
from nbp.report.records import KINDS
from nbp.stages import adopt_config
from nbp.training.metrics import MetricsTable
from tests import tiny
from tests.report.page_example import EVIL
from tests.report.report_example import REPORT, make_report


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    adopt_config(load_config(tiny.CONFIG, tiny.OVERRIDES), folder, report=lambda text: None)
    return folder


def make_clip(seed: int) -> np.ndarray:
    """[5 16 16 3], smooth, so that it survives a codec."""
    t, y, x = np.mgrid[:5, :16, :16]
    wave = 127 + 90 * np.sin((x + y + 2 * t + 5 * seed) / 6)
    return np.repeat(wave[..., None], 3, axis=3).astype(np.uint8)


def add_metrics(workdir: Path) -> None:
    for stage in ("tokenizer", "generator"):
        (workdir / stage).mkdir()
        table = MetricsTable(workdir / stage / "metrics.csv")
        for step in range(1, 1001):
            table.add(step, {"loss": 10.0 / step, "step_time_s": 0.2 + (step > 900)})
            if step % 500 == 0:
                table.add(step, {"validation/loss": 12.0 / step})
        table.add(700, {"alarm/grad_norm": 1.0})


def add_report(workdir: Path, **changes: Any) -> None:
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    (folder / "moving-shapes.json").write_text(json.dumps(make_report(**changes)))


def add_clips(workdir: Path, count: int) -> list[dict[str, Any]]:
    """What an evaluation of generated clips leaves: see `nbp.evaluation.gallery`."""
    rows = []
    for number in range(count):
        for place, kind in enumerate(KINDS):
            file = f"media/moving-shapes/{kind}-{number}.mp4"
            clip = make_clip(3 * number + place).repeat(6, axis=1).repeat(6, axis=2)
            write_video(workdir / "report" / file, clip, fps=8.0)
            made = kind == "generated"
            rows.append(
                {
                    "protocol": "moving-shapes",
                    "id": number,
                    "kind": kind,
                    "file": file,
                    "label": EVIL if number == 0 else "red square",
                    "why": "worst" if number == 1 else "spread",
                    "paired": number != 2,
                    "given_frames": 2,
                    "feature_distance": 5 + number if made else None,
                    "psnr": float("inf") if kind == "reconstructed" else None,
                    "psnr_per_frame": [20, 21, 22, 23, 24] if made else None,
                    "seconds": 0.5 if made else None,
                }
            )
    (workdir / "report" / "clips.json").write_text(json.dumps(rows))
    return rows


def test_a_workdir_with_nothing_says_what_to_do(workdir: Path) -> None:
    with pytest.raises(DataError, match=r"python -m nbp.evaluate --workdir"):
        write_page(workdir)
    assert not (workdir / "report").exists()


def test_no_workdir_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(__main__.main, ["--workdir", str(tmp_path / "none")])
    assert caught.value.code == EXIT_CHECKPOINT
    assert "is no workdir" in capsys.readouterr().err


def test_metrics_alone_make_a_page(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_metrics(workdir)
    __main__.main(["--workdir", str(workdir)])
    assert "index.html" in capsys.readouterr().out
    text = (workdir / "report" / "index.html").read_text(encoding="utf8")
    assert 'id="training"' in text
    assert 'id="scores"' not in text
    page = collect_page(workdir)
    assert page.facts["generator"] == "1,000 updates"
    (loss,) = page.curves["tokenizer"]
    names = [curve.name for curve in loss.curves]
    assert names == ["training", "validation"]
    assert loss.logarithmic
    assert loss.events == ((700.0, "grad_norm"),)
    # 1,000 points become 250 means of 4.
    points = loss.curves[0].points
    assert len(points) == 250
    assert points[0] == (4.0, pytest.approx((10 + 5 + 10 / 3 + 2.5) / 4))
    (time,) = page.machine["tokenizer"]
    assert time.from_zero
    assert (time.title, time.unit) == ("step time", "seconds")
    assert not time.events
    speeds = {(s.what, s.source): s.value for s in page.speeds}
    assert speeds["one update", "tokenizer training"] == pytest.approx(0.2), "a median"


def test_an_evaluation_is_shown_with_all_its_parts(workdir: Path) -> None:
    add_report(workdir)
    (workdir / "report" / "broken.json").write_text("{")
    (workdir / "report" / "other.json").write_text("[1]")
    page = collect_page(workdir)
    assert page.left_out == ("broken.json is left out: it cannot be read",)
    (evaluation,) = page.evaluations
    assert (evaluation.name, evaluation.version, evaluation.stride) == ("moving-shapes", 1, 2)
    assert evaluation.scores == REPORT["scores"]
    assert evaluation.code_curves == {"real: 4 used": (0.5, 0.75, 1.0, 1.0)}
    assert evaluation.codes == 16
    assert evaluation.frame_curves == {"reconstructed": (30.0, 28.5, 29.0, 28.0, 27.5)}
    assert evaluation.conditions["seed"] == 3
    assert "scores" not in evaluation.conditions
    assert evaluation.notes == (
        "not the whole protocol: 8 of 256 clips",
        "leak: 1 names or videos are in both splits, the first: v_1",
        "leak: 2 real clips are copies of others, the first pair: a and b",
    )
    speeds = {speed.what: speed.value for speed in page.speeds}
    assert speeds == {
        "clips generated": 4.0,
        "frames generated": 40.0,
        "passes of the generator for a clip": 5.0,
        "time of draw": 2.5,
        "whole evaluation": 12.0,
    }
    text = write_page(workdir).read_text(encoding="utf8")
    assert EVIL not in text
    assert "29.50" in text


@pytest.mark.parametrize(
    "damage, reason",
    [
        ({"scores": {"psnr": "29.5"}}, "scores.psnr is a str"),
        ({"protocol": ["moving-shapes"]}, "protocol is a list"),
        ({"worst": None}, "worst is a NoneType"),
        ({"leaks": {"train_test_count": 1}}, "leaks.checked is missing"),
        ({"code_usage": {"real": {"codes": 16}}}, "code_usage.real.used is missing"),
    ],
)
def test_a_damaged_report_is_left_out_with_a_note(
    workdir: Path, damage: dict[str, Any], reason: str
) -> None:
    add_report(workdir)
    broken = make_report(**damage)
    (workdir / "report" / "broken.json").write_text(json.dumps(broken))
    page = collect_page(workdir)
    assert [evaluation.name for evaluation in page.evaluations] == ["moving-shapes"]
    note = f"broken.json is left out: it is damaged ({reason})"
    assert page.left_out == (note,)
    assert note in write_page(workdir).read_text(encoding="utf8")


def test_clips_that_were_kept_are_shown_in_groups(workdir: Path) -> None:
    add_report(workdir)
    add_clips(workdir, 3)
    page = collect_page(workdir)
    assert [clip.kind for clip in page.clips] == list(KINDS) * 3
    assert [clip.group for clip in page.clips[::3]] == [
        f"moving-shapes clip {number}" for number in (1, 0, 2)
    ], "the worst and the best come first: a page that grows too large loses others"
    real, reconstructed, generated = page.clips[:3]
    assert real.picture.width == real.picture.height == 16, "as the model made it"
    assert generated.feature_distance == 6.0
    assert reconstructed.psnr is None, "infinity has no place on an axis"
    assert generated.psnr_per_frame == (20.0, 21.0, 22.0, 23.0, 24.0)
    assert (real.given_frames, generated.given_frames) == (0, 2)
    assert [clip.paired for clip in page.clips] == [True] * 8 + [False]
    assert page.clips[3].label == EVIL
    assert page.facts["clips shown"] == "3 real, 3 reconstructed, 3 generated"
    assert EVIL not in write_page(workdir).read_text(encoding="utf8")


def test_only_enlarged_clips_are_shrunk() -> None:
    clip = make_clip(1)
    large = clip.repeat(6, axis=1).repeat(6, axis=2)
    np.testing.assert_array_equal(clips.shrink(large, 16), clip)
    for kept, size in ((clip, 16), (clip, 12), (large[:, :, :32], 16)):
        assert clips.shrink(kept, size) is kept


def test_clips_that_cannot_be_read_are_counted(workdir: Path) -> None:
    add_report(workdir)
    rows = add_clips(workdir, 1)
    (workdir / "report" / rows[0]["file"]).write_bytes(b"no video")
    outside = workdir / "secret.mp4"
    write_video(outside, make_clip(0), fps=8.0)
    rows[1]["file"] = "../secret.mp4"
    rows.append({"kind": "other", "file": rows[2]["file"]})
    (workdir / "report" / "clips.json").write_text(json.dumps(rows))
    page = collect_page(workdir)
    assert [clip.kind for clip in page.clips] == ["generated"]
    assert page.left_out == (f"2 clips are left out, the first: {rows[0]['file']}: not a video",)
    (workdir / "report" / "clips.json").write_text("{}")
    assert collect_page(workdir).left_out == ("clips.json is left out: it cannot be read",)


def test_without_kept_clips_the_worst_and_the_samples_are_shown(workdir: Path) -> None:
    """The pictures of the worst hold the original, the reconstruction and their difference."""
    original, output = make_clip(1), make_clip(2)
    triple = tile_clips(np.stack([original, output, np.zeros_like(output)]), columns=3)
    file = "worst/moving-shapes/00.mp4"
    large = triple.repeat(8, axis=1).repeat(8, axis=2)
    write_video(workdir / "report" / file, large, fps=8.0)
    worst = {"index": 7, "psnr": 21.5, "label": "red square", "file": file}
    add_report(workdir, worst=[worst, {**worst, "file": "worst/gone.mp4"}])
    (workdir / "samples").mkdir()
    np.savez_compressed(
        workdir / "samples" / "samples.npz", videos=np.stack([make_clip(4)]), tokens=np.zeros(1)
    )
    (workdir / "samples" / "0000-red-square-right.mp4").write_bytes(b"")
    config = load_config(tiny.CONFIG, tiny.OVERRIDES)
    report_json = json.loads((workdir / "report" / "moving-shapes.json").read_text())
    result = EvaluationResult.from_json(report_json)
    found = list(clips.split_worst(workdir / "report", result, config))
    for clip, pixels in zip(found, (original, output), strict=True):
        assert np.abs(clip.pixels.astype(int) - pixels).mean() < 4
    page = collect_page(workdir)
    shown = [(clip.kind, clip.group, clip.label, clip.psnr) for clip in page.clips]
    assert shown == [
        ("real", "moving-shapes held-out clip 7", "red square", None),
        ("reconstructed", "moving-shapes held-out clip 7", "red square", 21.5),
        ("generated", "sample 0", "red square right", None),
    ]


def test_a_page_has_a_limit(workdir: Path) -> None:
    """First the quality falls, then whole groups are left out, from the end."""
    rng = np.random.default_rng(0)
    found = [
        clips.FoundClip(
            rng.integers(0, 256, (5, 32, 32, 3), np.uint8), {"kind": kind, "group": str(group)}, 8.0
        )
        for group in range(4)
        for kind in KINDS
    ]
    exact, dropped = clips.pack(found)
    size = sum(len(clip.picture.uri) for clip in exact)
    assert (len(exact), dropped) == (12, 0)
    assert {clip.picture.width for clip in exact} == {32}
    lossy, dropped = clips.pack(found, limit=int(0.7 * size))
    assert (len(lossy), dropped) == (12, 0)
    assert sum(len(clip.picture.uri) for clip in lossy) <= 0.7 * size
    least = sum(len(clips._make(clip, 60, 4).uri) for clip in found)
    few, dropped = clips.pack(found, limit=int(0.6 * least))
    assert (len(few), dropped) == (6, 6)
    assert [clip.group for clip in few] == ["0"] * 3 + ["1"] * 3
    assert clips.pack([]) == ((), 0)
