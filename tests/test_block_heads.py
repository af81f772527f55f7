# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of digits in configurations, workdirs and commands: trained, drawn with, refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, build_sampling, sample, train
from nbp.build_sampling import plan_request
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.video.encode import write_video
from nbp.errors import CheckpointError, ConfigError
from nbp.init_from import Start, check_start, find_start, fit_generator, read_params
from nbp.models.heads import HeadSpec, JointHeadSettings
from nbp.sampling.request import DecodingRequest, SampleRequest
from nbp.stages import compare_config
from nbp.training.optimizer import assign_groups
from nbp.trees import flatten_paths
from nbp.workdir import read_config
from tests import tiny
from tests.evaluated import add_generator, make_workdir
from tests.test_end_to_end import read_rows

JOINT = {
    "generator.head": "joint",
    "generator.joint_head.layers": "1",
    "generator.joint_head.width": "8",
    "generator.joint_head.heads": "2",
}
LFQ = {"tokenizer.quantizer": "lfq", "tokenizer.levels": "()", "tokenizer.codes": "16"}
VQ = LFQ | {"tokenizer.quantizer": "vq", "tokenizer.code_channels": "2"}


def load(changes: dict[str, str]) -> Config:
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


def make_network(changes: dict[str, str]):
    return build.make_generator_network(load(changes), ["a", "b"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with the vocabulary head."""
    return add_generator(make_workdir(tmp_path_factory.mktemp("plain") / "run", {}))


@pytest.fixture(scope="module")
def joint(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates of one with the joint head, from that one's layers and tokenizer."""
    workdir = make_workdir(tmp_path_factory.mktemp("joint") / "run", {})
    changes = {
        **JOINT,
        "stages": "('generator',)",
        "train.generator.start_from": str(plain),
        "train.generator.steps": "2",
        "train.evaluate_every": "2",
        "train.tokenizer.ema": "0",
        "train.generator.ema": "0",
    }
    train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)])
    return workdir


def test_it_trains_and_is_measured(joint):
    rows = read_rows(joint / "generator" / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["bits_per_token"]] == [1, 2]
    assert float(rows[0]["bits_per_token"]) == pytest.approx(4.0, abs=0.2)  # 16 codes, all new
    last = rows[-1]
    for name in ("bits_per_token", "bits_self_drawn", "accuracy", "bits_frame_1"):
        assert np.isfinite(float(last[f"validation/{name}"])), name


def draw(workdir: Path, out: Path, *flags: Any) -> np.ndarray:
    sample.main(["--workdir", str(workdir), "--out", str(out), *map(str, flags)])
    with np.load(out / "samples.npz") as arrays:
        return arrays["tokens"]


def test_long_videos_and_kept_cells_are_drawn(joint, tmp_path):
    flags = ("--num_frames", 9, "--slide", "codes", "--guidance", 0.5, "--top_p", 0.9)
    long = draw(joint, tmp_path / "long", "--num", 2, *flags)
    assert long.shape[1] > read_config(joint).grid.t
    assert len(np.unique(long)) > 4
    red, green = json.loads((joint / "labels.json").read_text())[:2]
    (tmp_path / "story.txt").write_text(f"5 {red}\n4 {green}\n")
    story = ("--story", tmp_path / "story.txt", "--anchor")
    assert draw(joint, tmp_path / "told", "--num", 2, *story).shape == long.shape
    video = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", video, fps=8.0)
    given = ("--frames", tmp_path / "clip.mp4", "--mask", "box:8,0,16,16")
    kept = draw(joint, tmp_path / "kept", "--num", 2, *given)
    assert (kept[0, :, :, :2] == kept[1, :, :, :2]).all()
    assert (kept[0] != kept[1]).any()


def test_another_head_is_refused_on_resume(joint, plain):
    for workdir, changes in ((joint, {}), (plain, JOINT)):
        config = load({**changes, "stages": "('generator',)"})
        with pytest.raises(CheckpointError, match="generator.head was '.*', now '") as caught:
            compare_config(config, workdir)
        assert "\n" not in str(caught.value)


def test_a_stage_starts_from_another_head(plain, joint, tmp_path, capsys):
    """The layers are taken over, the head is new: in either direction."""
    labels = json.loads((plain / "labels.json").read_text())
    for source, changes in ((plain, JOINT), (joint, {}), (plain, {"generator.head": "digits"})):
        config = load({**changes, "train.generator.start_from": str(source)})
        network = build.make_generator_network(config, labels)
        start = find_start(config, tmp_path / "new", "generator")
        assert isinstance(start, Start)
        check_start(start, "generator", network)
        found = flatten_paths(read_params(start, "generator", network))
        assert "has another head: new here" in capsys.readouterr().out
        fresh = flatten_paths(jax.jit(network.init)(jax.random.key(0))["head"])
        there = read_config(source)
        trained = build.load_trained(
            source, "generator", network=build.make_generator_network(there, labels), ema=False
        )
        old = {p: leaf for p, leaf in flatten_paths(trained.params).items() if p[:5] != "head/"}
        assert {p for p in found if p[:5] != "head/"} == set(old)
        for path, leaf in old.items():
            np.testing.assert_array_equal(found[path], leaf)
        for path, leaf in fresh.items():
            np.testing.assert_allclose(found[f"head/{path}"], leaf, rtol=1e-5, atol=1e-7)


def test_blocks_and_head_change_together():
    source = make_network({"generator.block": "token"})
    target = make_network({**JOINT, "generator.block": "frame"})
    shapes = jax.eval_shape(source.init, jax.random.key(0))
    fitted = jax.eval_shape(lambda p: fit_generator(p, source, target), shapes)
    wanted = jax.eval_shape(target.init, jax.random.key(0))
    assert jax.tree.map(lambda p: p.shape, fitted) == jax.tree.map(lambda p: p.shape, wanted)


@pytest.mark.parametrize("head", ["vocabulary", "digits", "joint"])
def test_networks_of_configurations(head):
    """Every parameter is in one group; a configuration without the key has today's head."""
    changes = JOINT | {"generator.head": head}
    config, network = load(changes), make_network(changes)
    settings = JointHeadSettings(1, 8, 2)
    specs = {
        "vocabulary": None,
        "digits": HeadSpec((4, 4)),
        "joint": HeadSpec((4, 4), settings),
    }
    assert network.head == specs[head]
    params = jax.eval_shape(network.init, jax.random.key(0))
    assign_groups(build.make_generator_groups(config), params)
    assert set(network.axes) == set(flatten_paths(params))
    assert load({}).head is None
    bits = load(LFQ | {"generator.head": head})
    assert bits.head is None or bits.head.levels == (2,) * 4


def test_a_mesh_divides_both_widths():
    config = load(JOINT | {"mesh.fsdp": "0", "mesh.data": "0", "generator.width": "24"})
    narrow = dataclasses.replace(config.generator.joint_head, width=12)
    narrow = dataclasses.replace(config.generator, joint_head=narrow)
    assert build.make_mesh(config, "generator").shape["fsdp"] == 8
    config = dataclasses.replace(config, generator=narrow)
    assert build.make_mesh(config, "generator").shape["fsdp"] == 4


@pytest.mark.parametrize(
    "changes, message",
    [
        (VQ, "generator.head: joint predicts digits of codes"),
        ({"generator.recipe": "paper"}, "generator.head: recipe paper is the official network"),
        ({"generator.draft": "True"}, "generator.draft: drafts are accepted by probabilities"),
        ({"generator.joint_head.heads": "3"}, "width 8 is not a multiple of 3 heads"),
    ],
)
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load({**JOINT, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "request_, message",
    [
        (
            SampleRequest(1, decoder=DecodingRequest("self_speculative")),
            "--decoding self_speculative compares probabilities of whole codes",
        ),
        (
            SampleRequest(1, decoder=DecodingRequest("relaxed")),
            "--decoding relaxed compares probabilities of whole codes",
        ),
        (
            SampleRequest(1, sampling={"refinements": 2}),
            "refinements 2: .* draws a block in 1 pass",
        ),
        (SampleRequest(1, between=(Path("a.mp4"), Path("b.mp4"))), "--between: .* draft channel"),
    ],
)
def test_requests_that_need_whole_codes(request_, message):
    with pytest.raises(ConfigError, match=message):
        plan_request(load(JOINT), ["a", "b"], request_)


def test_masks_need_a_chain():
    request = SampleRequest(1, frames=Path("clip.mp4"), mask="box:0,0,8,8")
    build_sampling.check_given_anywhere(load(JOINT), request)
    with pytest.raises(ConfigError, match="--mask: this model has no draft channel"):
        build_sampling.check_given_anywhere(load({"generator.head": "digits"}), request)


def test_independent_digits_are_trained_with_a_warning(plain, tmp_path, capsys):
    workdir = make_workdir(tmp_path / "run", {})
    changes = {
        "generator.head": "digits",
        "stages": "('generator',)",
        "train.generator.steps": "1",
        "train.tokenizer.ema": "0",
        "train.generator.ema": "0",
    }
    train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "head=digits" in line]
    assert len(lines) == 1
    assert "warning" in lines[0]
