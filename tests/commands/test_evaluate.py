# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.evaluate` on workdirs with a tokenizer alone: scores, files, and what it refuses."""

import dataclasses
import functools
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from nbp import build, build_data, evaluate, weights
from nbp.data.video.decode import read_clip
from nbp.errors import EXIT_CHECKPOINT, EXIT_USAGE, run_main
from nbp.evaluation.during_training import Validation, tokenizer_evaluators
from nbp.evaluation.setup import EvaluationSetup
from nbp.interop.reading import open_tensors
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.psnr_ssim import gms_per_frame, psnr_per_clip, psnr_per_frame
from nbp.metrics.score_table import find_score
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.models.lpips import LpipsNetwork
from nbp.nn.conv3d import taps_conv
from nbp.protocols import PROTOCOLS
from nbp.protocols.protocol import FeatureRule
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.workdir import read_config
from tests.evaluated import (
    SMALL,
    SMALL_SETUP,
    SmallNetwork,
    make_features,
    make_prepared,
    make_workdir,
    save_params,
)
from tests.interop.torch_files import write_torch
from tests.metrics.features import frechet

SHAPES = {"data.frames": "9", "data.size": "32", "data.validation_clips": "11"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving shapes, 9x32x32."""
    return make_workdir(tmp_path_factory.mktemp("shapes") / "run", SHAPES)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five test clips of "UCF101", and one that trains."""
    return make_prepared(tmp_path_factory.mktemp("ucf") / "data", {"train": 1, "test": 5})


@pytest.fixture(scope="module")
def trained_on_videos(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """Clips of the size and length that nbp-rfvd asks for, read otherwise."""
    keys = {"data.kind": "records", "data.root": str(prepared), "data.frames": "17"}
    changes = {**keys, "data.size": "128", "data.fps": "8.0"}
    return make_workdir(tmp_path_factory.mktemp("videos") / "run", changes)


SMALL_I3D = SmallNetwork(SMALL, taps_conv)


def run(
    workdir: Path, protocol: str, *arguments: object, setup: EvaluationSetup = SMALL_SETUP
) -> dict[str, Any]:
    out = workdir.parent / "scores.json"
    flags = ("--workdir", workdir, "--protocol", protocol, "--out", out, *arguments)
    evaluate.main([str(flag) for flag in flags], setup=setup)
    found = json.loads(out.read_text())
    assert all(find_score(name).meaning for name in found["scores"])
    return found


def fail(
    capsys: pytest.CaptureFixture[str], workdir: Path, protocol: str, *arguments: object
) -> tuple[int, str]:
    """Exit code and the one line of a request that must be refused before anything is made."""
    before = sorted(workdir.rglob("*"))
    flags = ("--workdir", workdir, "--protocol", protocol, *arguments)
    main = functools.partial(evaluate.main, setup=SMALL_SETUP)
    with pytest.raises(SystemExit) as caught:
        run_main(main, [str(flag) for flag in flags])
    error = capsys.readouterr().err
    (line,) = error.splitlines()
    assert sorted(workdir.rglob("*")) == before
    assert isinstance(caught.value.code, int)
    return caught.value.code, line


def reconstruct(workdir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All held-out clips, their codes and what the tokenizer makes of them, in one batch."""
    config = read_config(workdir)
    _, data = build_data.make_data(config)
    clips = np.stack([data.source[i]["video"] for i in range(len(data.source))])
    network = build.make_tokenizer_network(config)
    params = build.load_tokenizer(config, workdir).params
    codes = jax.jit(network.encode)(params, clips)
    return clips, np.asarray(codes), np.asarray(jax.jit(network.decode)(params, codes))


def test_scores_of_a_tokenizer_alone_are_those_of_all_clips_at_once(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(workdir, "reconstruction", "--features", "random-i3d")
    clips, codes, outputs = reconstruct(workdir)
    scores = report["scores"]
    psnr = psnr_per_clip(clips, outputs)
    assert scores["psnr"] == pytest.approx(psnr.mean())
    assert scores["psnr_worst"] == pytest.approx(psnr.min())
    assert scores["gms"] == pytest.approx(gms_per_frame(clips, outputs)[0].mean())
    counts = np.bincount(codes.ravel(), minlength=16)
    share = counts[counts > 0] / counts.sum()
    assert scores["code_usage"] == (counts > 0).mean()
    assert scores["code_perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    np.testing.assert_allclose(
        report["psnr_per_frame"], psnr_per_frame(clips, outputs).mean(axis=0), atol=1e-4
    )
    network = SmallNetwork(SMALL, taps_conv)
    extract = FeatureExtractor(
        network, weights.draw_i3d(network), FeatureRule("any", "videogpt"), batch=11
    )
    want = frechet(extract(clips), extract(outputs))
    # The pass extracts from pixels that are not yet rounded to bytes, but cut off to them.
    assert scores["rfvd_random_features"] == pytest.approx(want, rel=0.02)
    assert "rfvd" not in scores
    assert not report["complete"]
    assert report["deviations"] == ["features of random-i3d"]
    assert report["held_out_clips"] == 11
    assert report["checkpoints"]["tokenizer_step"] == 3
    assert {"bits_per_token", "label_agreement"}.isdisjoint(scores)
    printed = capsys.readouterr().out
    assert all(name in printed for name in scores)
    assert "not the whole protocol: features of random-i3d" in printed


def test_the_worst_clips_are_found_and_shown(workdir: Path) -> None:
    report = run(workdir, "reconstruction")
    clips, _, outputs = reconstruct(workdir)
    psnr = psnr_per_clip(clips, outputs)
    folder = workdir / "report"
    assert [bad["index"] for bad in report["worst"]] == np.argsort(psnr)[:8].tolist()
    for bad in report["worst"]:
        assert bad["psnr"] == pytest.approx(psnr[bad["index"]], abs=1e-4)
        assert bad["label"].split()[0] in ("red", "green", "blue")
        shown = read_clip(folder / bad["file"], frames=9, start=0.0).astype(int)
        height, width = shown.shape[1:3]
        assert (height, width) == (160, 5 * (3 * 32 + 2 * 2))
        clip = clips[bad["index"]].astype(int)
        for column, pixels in enumerate((clip, outputs[bad["index"]])):
            left = 5 * 34 * column
            found = shown[:, :, left : left + 160].reshape(9, 32, 5, 32, 5, 3).mean(axis=(2, 4))
            assert np.abs(found - pixels).mean() < 12  # lossy
    assert len(list((folder / "worst" / "reconstruction").iterdir())) == 8
    with Image.open(folder / "frames-reconstruction.png") as image:
        assert image.width > 300
    assert (folder / "reconstructions.gif").is_file()
    run(workdir, "reconstruction", "--clips", "3")  # takes the place of the eight
    assert len(list((folder / "worst" / "reconstruction").iterdir())) == 3


def test_fewer_clips_make_another_score(workdir: Path, tmp_path: Path) -> None:
    features = make_features(
        tmp_path / "f", SmallNetwork(SMALL, taps_conv), kind="torch", known="videogpt-pt"
    )
    whole = run(workdir, "reconstruction", "--features", features)
    assert whole["complete"]
    assert whole["features"] == {
        "file": "i3d.pt",
        "sha256": "5" * 64,
        "format": "torch",
        "blob": "a867b87ac3a9097d200598b1d48a1b890d8ec744",
        "detector": "videogpt-pt",
        "source": "videogpt-pt (i3d_pretrained_400.pt of VideoGPT)",
        "published": True,
        "epsilon": 1e-5,
    }
    part = run(workdir, "reconstruction", "--features", features, "--clips", "4")
    assert "rfvd" in whole["scores"]
    assert "rfvd" not in part["scores"]
    assert "rfvd_4" in part["scores"]
    assert part["deviations"] == ["4 of 11 clips"]


def test_features_of_an_unknown_file_make_another_score_and_are_no_whole_protocol(
    workdir: Path, tmp_path: Path
) -> None:
    features = make_features(tmp_path / "f", SMALL_I3D, kind="torch")
    report = run(workdir, "reconstruction", "--features", features)
    assert "rfvd" not in report["scores"]
    assert report["scores"]["rfvd_other_features"] >= 0
    assert report["features"]["published"] is False
    assert not report["complete"]
    assert report["deviations"] == ["features of unknown (i3d.pt, git blob 000000000000)"]


@pytest.mark.parametrize("protocol", ["moving-shapes", "reconstruction"])
def test_without_a_generator_its_scores_are_left_out(
    workdir: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    scores = run(workdir, protocol, "--clips", "5")["scores"]
    assert {"psnr", "ssim", "gms", "gmsd", "code_usage"} <= set(scores)
    assert {"accuracy", "label_agreement", "lpips", "rfvd"}.isdisjoint(scores)
    printed = capsys.readouterr().out
    assert ("no trained generator" in printed) == (protocol == "moving-shapes")
    assert ("rFVD is left out" in printed) == (protocol == "reconstruction")


def test_lpips_with_given_weights(workdir: Path, tmp_path: Path) -> None:
    network = LpipsNetwork(((4,), (8,)))
    params = network.init(jax.random.key(1))
    save_params(tmp_path, "lpips", params)
    (tmp_path / "lpips" / "converted.json").write_text('{"file": "vgg.pth", "sha256": "ab"}')
    setup = EvaluationSetup(lpips=network)
    report = run(workdir, "reconstruction", "--lpips", tmp_path, setup=setup)
    clips, _, outputs = (rows.astype(np.float32) / 255 for rows in reconstruct(workdir))
    want = np.mean(network.distance(params, clips, outputs))
    assert report["scores"]["lpips"] == pytest.approx(float(want), rel=1e-4)
    assert report["lpips"] == {"file": "vgg.pth", "sha256": "ab"}


def test_training_measures_the_same_on_held_out_clips(workdir: Path, tmp_path: Path) -> None:
    """GMS always, LPIPS where its weights are configured."""
    network = LpipsNetwork(((4,), (8,)))
    params = network.init(jax.random.key(1))
    save_params(tmp_path, "lpips", params)
    (tmp_path / "lpips" / "converted.json").write_text("{}")
    config = read_config(workdir)
    changes = {"train": dataclasses.replace(config.train, evaluate_every=1)}
    changes |= {"losses": dataclasses.replace(config.losses, lpips_root=str(tmp_path))}
    config = dataclasses.replace(config, **changes)
    task = build.make_tokenizer_task(config)
    held_out = Validation(config, build_data.make_data(config)[1])
    writer = MetricsWriter(tmp_path / "metrics", console=False)
    (evaluator,) = tokenizer_evaluators(config, task, held_out, lpips=network).make(writer)
    trained = build.load_tokenizer(config, workdir).params
    found = evaluator.run(TrainState(np.int32(0), trained, ema={}, opt_state={}, extra={}))
    clips, _, outputs = reconstruct(workdir)
    assert found["gms"] == pytest.approx(gms_per_frame(clips, outputs)[0].mean())
    assert found["psnr"] == pytest.approx(psnr_per_clip(clips, outputs).mean())
    pixels = (rows.astype(np.float32) / 255 for rows in (clips, outputs))
    want = np.mean(network.distance(params, *pixels))
    assert found["lpips"] == pytest.approx(float(want), rel=1e-4)
    assert {"ssim", "gmsd", "code_usage", "code_perplexity"} <= set(found)


def test_a_published_protocol_reads_clips_as_it_says(
    trained_on_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = dataclasses.replace(SMALL_SETUP, shown=1)  # large GIFs take seconds
    features = make_features(
        tmp_path / "f", SmallNetwork(SMALL, taps_conv), kind="torch", known="videogpt-pt"
    )
    report = run(trained_on_videos, "nbp-rfvd", "--features", features, setup=setup)
    lost = "frames were stored as H.264, not read from the files"
    assert report["deviations"] == ["5 of 3783 clips", lost]
    assert report["scores"]["rfvd_5"] >= 0
    assert len(report["psnr_per_frame"]) == 17
    (rule,) = report["protocol"]["clips"]
    assert (rule["dataset"], rule["split"], rule["videos"]) == ("ucf101", "test", 3783)
    read = {key: report["data"][key] for key in ("frames", "size", "fps", "spatial")}
    assert read == {"frames": 17, "size": 128, "fps": 16.0, "spatial": "squash"}
    assert report["data"]["prepared"]["kind"] == "ucf101"
    assert report["worst"][0]["path"].startswith("test/")
    printed = capsys.readouterr().out
    assert printed.count(f"not the whole protocol: {lost}") == 2  # before it begins, and after
    assert "clips are read with fps 16.0; the workdir was trained with 8.0" in printed
    assert "clips are read with spatial squash; the workdir was trained with crop" in printed


def test_missing_features_name_the_file_and_the_command(
    trained_on_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fail(capsys, trained_on_videos, "nbp-rfvd")
    assert code == EXIT_USAGE
    assert "i3d_pretrained_400.pt of VideoGPT (JunyaoHu/common_metrics_on_video_quality" in line
    assert "python -m nbp.convert i3d --source i3d_pretrained_400.pt --out DIR" in line
    assert "--features random-i3d" in line
    code, line = fail(capsys, trained_on_videos, "nbp-rfvd", "--features", "/absent")
    assert code == EXIT_USAGE
    assert "/absent holds no converted I3D: get i3d_pretrained_400.pt" in line


def test_features_of_another_file_are_refused(
    trained_on_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = SmallNetwork(SMALL, taps_conv)
    features = make_features(tmp_path / "ts", network, kind="torchscript", known="styleganv-ts")
    code, line = fail(capsys, trained_on_videos, "nbp-rfvd", "--features", features)
    assert code == EXIT_USAGE
    assert "nbp-rfvd uses videogpt-pt, this is styleganv-ts (i3d.pt)" in line


@pytest.mark.parametrize(
    "protocol,arguments,message",
    [
        ("nbp-rfvd", (), "scores models of records data, not moving_shapes. Use moving-shapes or"),
        ("folder", (), "Use moving-shapes or reconstruction"),
        ("reconstruction", ("--clips", "0"), "--clips: 0 is not a whole number from 1"),
        ("reconstruction", ("--features", "random-i3d", "--clips", "1"), "at least 2 clips"),
        ("reconstruction", ("--statistics", "kid"), "--statistics kid: there is only kvd, prec"),
        ("reconstruction", ("--statistics", "kvd"), "these compare features of generated"),
        (
            "reconstruction",
            ("--features", "random-i3d", "--config.data.frames=5"),
            "I3D needs clips of 9 frames, these have 5",
        ),
    ],
)
def test_requests_that_do_not_fit(
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    code, line = fail(capsys, workdir, protocol, *arguments)
    assert code == EXIT_USAGE
    assert message in line


def test_what_the_workdir_lacks_is_named_at_once(
    trained_on_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = ("--features", "random-i3d")
    code, line = fail(capsys, trained_on_videos, "omni-rfvd", *features)
    assert code == EXIT_USAGE
    assert "omni-rfvd: it scores clips of 256 px, the workdir's have 128" in line
    arguments = ("--config.data.size=64", "--config.data.frames=5", "--config.data.fps=8")
    code, line = fail(capsys, trained_on_videos, "nbp-rfvd", *features, *arguments)
    assert code == EXIT_USAGE
    assert (
        "128 px, the workdir's have 64; it scores clips of 17 frames, the workdir's have 5" in line
    )
    assert "it fixes data.fps at 16.0, so --config.data.fps=8 cannot be" in line


@pytest.mark.parametrize(
    "options,splits,message",
    [
        ({"kind": "folder"}, {"train": 1, "test": 1}, "this is another data set"),
        ({"split": 2}, {"train": 1, "test": 1}, "it needs split 1 of UCF101, this is 2"),
        ({}, {"train": 1, "validation": 1}, "needs the split test,"),
        ({"fit": "short", "size": 64}, {"train": 1, "test": 1}, "stored at 64: nbp.prepare --size"),
    ],
)
def test_data_that_are_not_the_protocols(
    trained_on_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    splits: dict[str, int],
    message: str,
) -> None:
    data = make_prepared(tmp_path / "data", splits, **options)
    arguments = ("--data", data, "--features", "random-i3d")
    code, line = fail(capsys, trained_on_videos, "nbp-rfvd", *arguments)
    assert code == EXIT_USAGE
    assert message in line


def test_a_workdir_without_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes(
        (make_workdir(tmp_path / "other", SHAPES) / "config.json").read_bytes()
    )
    code, line = fail(capsys, tmp_path / "run", "reconstruction")
    assert code == EXIT_CHECKPOINT
    assert "holds no trained tokenizer" in line


def test_a_conversion_notes_the_format_that_tells_two_files_apart(tmp_path: Path) -> None:
    arrays = {"x": np.ones(3, np.float32)}
    write_torch(tmp_path / "torch", arrays)
    write_torch(tmp_path / "torchscript", arrays)
    with zipfile.ZipFile(tmp_path / "torchscript", "a") as archive:
        archive.writestr("archive/code/net.py", "")
    np.savez(tmp_path / "npz", allow_pickle=False, **arrays)
    (tmp_path / "npz.npz").rename(tmp_path / "npz")
    header = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    (tmp_path / "safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    for name in ("torch", "torchscript", "npz", "safetensors"):
        assert open_tensors(tmp_path / name).format == name


@pytest.mark.slow
def test_random_features_are_always_the_same_and_tell_clips_apart() -> None:
    """The one test that runs I3D itself, on two clips."""
    network = I3dNetwork(I3dSpec(), taps_conv)
    params = weights.draw_i3d(network)
    kernel = np.asarray(params["units"]["Conv3d_1a_7x7"]["kernel"])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (7 * 7 * 7 * 3)), rtol=0.01)
    pinned = (-0.0050278725, 0.01283558, 0.01683408)
    np.testing.assert_allclose(kernel[0, 0, 0, :, 0], pinned, rtol=1e-6)
    rule = PROTOCOLS["reconstruction"].features
    assert rule is not None
    clips = np.random.default_rng(0).integers(0, 256, (2, 9, 32, 32, 3), np.uint8)
    clips[1] //= 2
    features = FeatureExtractor(network, params, rule, batch=1)(clips)
    assert features.shape == (2, 400)
    assert 0.1 < features.std() < 10
    assert np.abs(features[0] - features[1]).mean() > 0.1
