# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.convert` from files of the published structure to a workdir, and what it refuses."""

import contextlib
import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, convert, evaluate, sample
from nbp.convert import convert_c3d
from nbp.data.video.decode import read_clip
from nbp.data.video.encode import write_video
from nbp.errors import EXIT_CHECKPOINT, EXIT_USAGE, run_main
from nbp.interop.feature_networks import c3d_rules, lpips_rules
from nbp.interop.identity import KnownFile
from nbp.interop.infer_config import ConvertRequest
from nbp.interop.mapping import export_tensors
from nbp.layout import LatentGrid
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.models.lpips import LpipsNetwork
from nbp.nn.conv3d import taps_conv
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import read_config, read_labels
from tests.interop.official_files import (
    TINY_TOKENIZER,
    draw,
    generator_shapes,
    make_network,
    tokenizer_shapes,
    write_lightning,
)
from tests.interop.torch_files import write_torch

GRID = LatentGrid(3, 4, 4)
CLIPS = ("--frames", "5", "--size", "16", "--levels", "8,5")
TOKENIZER = {n: draw(n, s) for n, s in tokenizer_shapes(TINY_TOKENIZER).items()}


def make_generator(**network):
    return {n: draw(n, s) for n, s in generator_shapes(make_network(grid=GRID, **network)).items()}


def write_tokenizer(path, tensors=TOKENIZER):
    write_torch(path, {"model_state_dict": {f"module.{n}": v for n, v in tensors.items()}})


def write_generator(path, tensors, first_stage=None, **flags):
    state = {f"transformer.{n}": v for n, v in tensors.items()}
    state |= {f"first_stage_model.{n}": v for n, v in (first_stage or {}).items()}
    write_lightning(path, state, **flags)


def save_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def run(*arguments):
    convert.main([str(a) for a in arguments])


def fail(*arguments, capsys, code=EXIT_CHECKPOINT):
    """The one line on stderr of a conversion that must fail with `code`."""
    with pytest.raises(SystemExit) as stop:
        run_main(convert.main, [str(a) for a in arguments])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("nbp: ")]
    assert stop.value.code == code, error
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture
def files(tmp_path):
    """A tokenizer and a plain generator."""
    write_tokenizer(tmp_path / "magvit2.pt")
    write_generator(tmp_path / "nbp.ckpt", make_generator())
    return tmp_path


@pytest.mark.slow
def test_a_converted_pair_continues_a_video_and_is_scored(files):
    out, videos = files / "run", files / "videos" / "class"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_video(videos / "a.mp4", rng.integers(0, 255, (9, 32, 32, 3), np.uint8), fps=16.0)
    run("tokenizer", "--source", files / "magvit2.pt", "--out", out, *CLIPS)
    run(
        *("generator", "--source", files / "nbp.ckpt", "--out", out, *CLIPS, "--heads", 2),
        *("--videos", videos.parent),
    )
    config = read_config(out)
    assert (config.generator.layers, config.generator.width, config.generator.heads) == (2, 16, 2)
    assert config.generator.opening == "prefix"
    assert config.plan.passes(given=GRID.h * GRID.w) == 8
    drawn = files / "samples"
    video = str(videos / "a.mp4")
    sample.main(
        [
            *("--workdir", str(out), "--out", str(drawn), "--num", "2"),
            *("--frames", video, "--given_frames", "1"),
        ]
    )
    (first, *_) = sorted(drawn.glob("*.mp4"))
    assert read_clip(first, frames=5).shape == (5, 16, 16, 3)
    report_file = files / "report.json"
    evaluate.main(
        ["--workdir", str(out), "--protocol", "folder", "--clips", "1", "--out", str(report_file)]
    )
    report = json.loads(report_file.read_text())
    assert np.isfinite(report["scores"]["bits_per_token"])


def test_the_weights_arrive_where_they_belong(files):
    """The converted networks compute with the values of the file."""
    out = files / "run"
    run("tokenizer", "--source", files / "magvit2.pt", "--out", out, *CLIPS)
    run("generator", "--source", files / "nbp.ckpt", "--out", out, *CLIPS, "--heads", 2)
    config = read_config(out)
    network = build.make_generator_network(config, read_labels(out))
    params = build.load_trained(out, "generator", network=network, ema=False).params
    expected = make_generator()
    qkv = np.asarray(params["transformer"]["layers"]["qkv"]["kernel"][1])
    for part, name in enumerate(("query", "key", "value")):
        weight = expected[f"blocks.1.attn.{name}.weight"]
        np.testing.assert_array_equal(qkv[:, part], weight.T)
    np.testing.assert_array_equal(params["head"]["kernel"], expected["head.weight"].T)


def test_one_file_can_hold_both_and_labels_are_named(tmp_path):
    tensors = make_generator(opening="hybrid", prompt_length=1, prompts=3)
    write_generator(tmp_path / "x.ckpt", tensors, TOKENIZER, n_head=2, n_layer=2, n_embd=16)
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ncat\u2028dog\r\ncow\n", encoding="utf-16", newline="")
    run(
        *("generator", "--source", tmp_path / "x.ckpt", "--out", tmp_path / "run", *CLIPS),
        *("--first_stage", "--labels", tmp_path / "labels.txt"),
    )
    assert read_config(tmp_path / "run").generator.heads == 2  # from the file's own flags
    assert read_config(tmp_path / "run").generator.opening == "hybrid"
    assert read_labels(tmp_path / "run") == ("cat", "cat\u2028dog", "cow")
    quick = ["--guidance", "0", "--top_p", "1"]
    sample.main(["--workdir", str(tmp_path / "run"), "--num", "1", "--label", "cat", *quick])
    assert list((tmp_path / "run" / "samples").glob("*cat.mp4"))


def test_lpips_from_two_files_keeps_every_value(tmp_path):
    network = LpipsNetwork()
    params = network.init(jax.random.key(1))
    tensors = export_tensors(params, lpips_rules())
    heads = {n: v for n, v in tensors.items() if n.startswith("lin")}
    vgg = {n: v for n, v in tensors.items() if n not in heads}
    save_npz(tmp_path / "vgg.npz", {**vgg, "classifier.0.bias": np.zeros(3, np.float32)})
    save_npz(tmp_path / "heads.npz", heads)
    run(
        *("lpips", "--source", tmp_path / "vgg.npz", "--linear", tmp_path / "heads.npz"),
        *("--out", tmp_path / "run"),
    )
    template = jax.eval_shape(network.init, jax.random.key(0))
    with Checkpointer(tmp_path / "run" / "lpips" / "checkpoints", read_only=True) as checkpointer:
        found = checkpointer.restore_params(template, use_ema=False)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_c3d_keeps_every_value_and_the_hash(tmp_path, monkeypatch, capsys):
    """At small widths; the file is nested as training scripts save it."""
    spec = C3dSpec(classes=5, widths=(2, 2, 2, 2, 3), hidden=4, size=16)
    monkeypatch.setattr("nbp.convert.C3dSpec", lambda: spec)
    network = C3dNetwork(spec, taps_conv)
    params = network.init(jax.random.key(1))
    tensors = export_tensors(params, c3d_rules())
    source = tmp_path / "c3d.pth.tar"
    write_torch(source, {"epoch": 40, "state_dict": tensors, "opt_dict": {"state": {}}})
    run("c3d", "--source", source, "--out", tmp_path / "run")
    origin = json.loads((tmp_path / "run" / "c3d" / "converted.json").read_text())
    assert origin["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    template = jax.eval_shape(network.init, jax.random.key(0))
    with Checkpointer(tmp_path / "run" / "c3d" / "checkpoints", read_only=True) as checkpointer:
        found = checkpointer.restore_params(template, use_ema=False)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    before = snapshot(tmp_path / "run")
    run("c3d", "--source", source, "--out", tmp_path / "run")
    assert "already converted: c3d of c3d.pth.tar" in capsys.readouterr().out
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_named_and_refused(tmp_path, capsys, bad):
    tensors = {name: value.copy() for name, value in TOKENIZER.items()}
    tensors["encoder_layers.0.conv.weight"].reshape(-1)[:7] = bad
    write_tokenizer(tmp_path / "x.pt", tensors)
    line = fail(
        *("tokenizer", "--source", tmp_path / "x.pt", "--out", tmp_path / "run", *CLIPS),
        capsys=capsys,
    )
    size = tensors["encoder_layers.0.conv.weight"].size
    assert f"encoder_layers.0.conv.weight has 7 of {size} values that are not finite" in line
    assert not (tmp_path / "run").exists()


def test_a_conversion_records_which_file_it_was(tmp_path, monkeypatch):
    """A test file counts as a public one where the registry of these says so."""
    spec = C3dSpec(classes=5, widths=(2, 2, 2, 2, 3), hidden=4, size=16)
    monkeypatch.setattr("nbp.convert.C3dSpec", lambda: spec)
    params = C3dNetwork(spec, taps_conv).init(jax.random.key(1))
    save_npz(tmp_path / "x.npz", export_tensors(params, c3d_rules()))
    content = (tmp_path / "x.npz").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    mine = KnownFile(blob, "c3d.npz", "my-c3d", "c3d", "me", ("me/c3d: c3d.npz",))
    said: list[str] = []
    for known, name in (({blob: mine}, "my-c3d"), ({}, "unknown")):
        request = ConvertRequest(tmp_path / "x.npz", tmp_path / name)
        convert_c3d(request, said.append, known=known)
        origin = json.loads((tmp_path / name / "c3d" / "converted.json").read_text())
        assert origin == {
            "file": "x.npz",
            "sha256": hashlib.sha256(content).hexdigest(),
            "blob": blob,
            "bytes": len(content),
            "format": "npz",
            "known": name,
        }
    assert any("x.npz is my-c3d (c3d.npz of me), SHA-256" in line for line in said)
    assert any(f"x.npz is unknown (x.npz, git blob {blob[:12]})" in line for line in said)


def test_lpips_without_heads_says_where_they_go(tmp_path, capsys):
    save_npz(tmp_path / "vgg.npz", {"features.0.bias": np.zeros(64, np.float32)})
    line = fail(
        *("lpips", "--source", tmp_path / "vgg.npz", "--out", tmp_path / "run"), capsys=capsys
    )
    assert "--linear" in line


def refuse_generator(tmp_path, tensors, *flags, capsys, code=EXIT_CHECKPOINT, **hints):
    write_generator(tmp_path / "x.ckpt", tensors, **hints)
    out = tmp_path / "run"
    line = fail(
        *("generator", "--source", tmp_path / "x.ckpt", "--out", out, *CLIPS, *flags),
        capsys=capsys,
        code=code,
    )
    assert not out.exists()
    return line


def test_a_missing_tensor_is_named(tmp_path, capsys):
    tensors = make_generator()
    del tensors["blocks.1.attn.value.bias"]
    line = refuse_generator(tmp_path, tensors, "--heads", 2, capsys=capsys)
    assert "blocks.1.attn.value.bias" in line


def test_an_extra_tensor_is_named(tmp_path, capsys):
    tensors = make_generator() | {"blocks.0.attn.gate.weight": np.zeros(3, np.float32)}
    line = refuse_generator(tmp_path, tensors, "--heads", 2, capsys=capsys)
    assert "blocks.0.attn.gate.weight" in line


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path, capsys):
    tensors = make_generator() | {"blocks.0.mlp.0.weight": np.zeros((48, 16), np.float32)}
    line = refuse_generator(tmp_path, tensors, "--heads", 2, capsys=capsys)
    assert "blocks.0.mlp.0.weight" in line
    assert "48" in line
    assert "64" in line


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--layers", 3), "--layers says 3"),
        (("--width", 32), "--width says 32"),
        (("--opening", "hybrid"), "--opening says hybrid"),
        (("--prompt", "text"), "--prompt says text"),
    ],
)
def test_flags_that_contradict_the_shapes(tmp_path, capsys, flags, message):
    line = refuse_generator(tmp_path, make_generator(), "--heads", 2, *flags, capsys=capsys)
    assert message in line


def test_the_files_own_flags_are_believed_no_more_than_its_shapes(tmp_path, capsys):
    line = refuse_generator(tmp_path, make_generator(), capsys=capsys, n_head=2, n_layer=5)
    assert "n_layer says 5" in line


def test_heads_that_nothing_tells_must_be_given(tmp_path, capsys):
    line = refuse_generator(tmp_path, make_generator(), capsys=capsys, code=EXIT_USAGE)
    assert "--heads" in line


def test_a_tokenizer_is_no_generator_and_the_reverse(files, capsys):
    line = fail(
        *("generator", "--source", files / "magvit2.pt", "--out", files / "run", *CLIPS),
        capsys=capsys,
    )
    assert "holds no generator" in line
    line = fail(
        *("tokenizer", "--source", files / "nbp.ckpt", "--out", files / "run", *CLIPS),
        capsys=capsys,
    )
    assert "holds no tokenizer" in line
    assert not (files / "run").exists()


def test_truncated_files_leave_nothing(files, capsys):
    whole = (files / "nbp.ckpt").read_bytes()
    for share in (0.2, 0.6, 0.95):
        (files / "cut.ckpt").write_bytes(whole[: int(len(whole) * share)])
        fail(
            *("generator", "--source", files / "cut.ckpt", "--out", files / "run"),
            *("--heads", 2, *CLIPS),
            capsys=capsys,
        )
        assert not (files / "run").exists()


class Evil:
    """Unpickled without care it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_hostile_pickle_runs_nothing(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(tmp_path / "pwned"), protocol=2))
    line = fail(
        *("generator", "--source", tmp_path / "x.ckpt", "--out", tmp_path / "run"), capsys=capsys
    )
    assert "wants to import" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ckpt"]


def test_a_path_that_leads_out_of_the_archive(files, capsys):
    with zipfile.ZipFile(files / "nbp.ckpt", "a") as archive:
        archive.writestr("../evil", "x")
    line = fail(
        *("generator", "--source", files / "nbp.ckpt", "--out", files / "run", "--heads", 2),
        capsys=capsys,
    )
    assert "evil" in line
    assert not (files / "run").exists()
    assert not (files.parent / "evil").exists()


def test_a_conversion_never_replaces_and_never_mixes(files, capsys):
    out = files / "run"
    run("tokenizer", "--source", files / "magvit2.pt", "--out", out, *CLIPS)
    before = sorted(str(p) for p in out.rglob("*"))
    again = ("tokenizer", "--source", files / "magvit2.pt", "--out", out)
    wider = (*CLIPS[:1], "9", *CLIPS[2:])
    assert "already holds a tokenizer" in fail(*again, *CLIPS, "--videos", "x", capsys=capsys)
    assert "frames 5 there, 9 here" in fail(*again, *wider, capsys=capsys)
    write_tokenizer(files / "other.pt", {n: v + 1 for n, v in TOKENIZER.items()})
    another = ("tokenizer", "--source", files / "other.pt", "--out", out, *CLIPS)
    assert "already holds a tokenizer" in fail(*another, capsys=capsys)
    other = ("generator", "--source", files / "nbp.ckpt", "--out", out, "--heads", 2)
    line = fail(*other, *CLIPS[:-1], "5,8", capsys=capsys)
    assert "levels" in line
    assert sorted(str(p) for p in out.rglob("*")) == before


def snapshot(folder):
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in (folder, *folder.rglob("*"))
    }


def test_a_conversion_that_is_done_is_left_as_it_is(files, capsys):
    """Both halves of a workdir, then both commands again: a job that was started again."""
    out = files / "run"
    commands = [
        ("tokenizer", "--source", files / "magvit2.pt", "--out", out, *CLIPS),
        ("generator", "--source", files / "nbp.ckpt", "--out", out, "--heads", 2, *CLIPS),
    ]
    run(*commands[0])
    half = (out / "config.json").read_bytes()
    run(*commands[1])
    before = snapshot(out)
    for command in commands:
        capsys.readouterr()
        run(*command)
        line = f"already converted: {command[0]} of {command[2].name} in {out}"
        assert line in capsys.readouterr().out
        assert snapshot(out) == before
    # Killed between the stage's rename and the files beside it.
    config = (out / "config.json").read_bytes()
    (out / "config.json").write_bytes(half)
    (out / "labels.json").unlink()
    run(*commands[1])
    assert (out / "config.json").read_bytes() == config
    assert read_labels(out) == ("video",)
    largest = max((out / "tokenizer").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    largest.write_bytes(bytes(largest.stat().st_size))
    assert "already holds a tokenizer" in fail(*commands[0], capsys=capsys)


def test_a_conversion_that_was_killed_between_two_stages_goes_on(files, capsys):
    both = files / "both.ckpt"
    write_generator(both, make_generator(), first_stage=TOKENIZER)
    command = ("generator", "--source", both, "--heads", 2, "--first_stage", *CLIPS)
    whole, out = files / "whole", files / "run"
    run(*command, "--out", whole)
    (out / ".converting").mkdir(parents=True)
    shutil.copytree(whole / "tokenizer", out / "tokenizer")
    before = snapshot(out / "tokenizer")
    run(*command, "--out", out)
    told = capsys.readouterr().out
    assert f"already converted: tokenizer of both.ckpt in {out}" in told
    assert snapshot(out / "tokenizer") == before
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    for name in ("config.json", "labels.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_conversion_that_dies_while_writing_leaves_the_workdir_as_it_was(files, monkeypatch):
    out = files / "run"
    run("tokenizer", "--source", files / "magvit2.pt", "--out", out, *CLIPS)
    before = sorted(str(p) for p in out.rglob("*"))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nbp.conversion.Checkpointer.wait", die)
    with contextlib.suppress(KeyboardInterrupt):
        run("generator", "--source", files / "nbp.ckpt", "--out", out, *CLIPS, "--heads", 2)
    assert sorted(str(p) for p in out.rglob("*")) == before
