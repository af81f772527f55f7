# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Stages that begin with the parameters of another workdir."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import build, train
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import CheckpointError
from nbp.init_from import Start, find_start, prepare_start, read_params
from nbp.models.tokenizer import scale_pixels
from nbp.shapes import PyTree
from nbp.training.checkpoint import Checkpointer
from tests import tiny

pytestmark = pytest.mark.slow

IMAGES = {
    "tokenizer.strides": "((1, 4, 4),)",
    "tokenizer.taps": "1",
    "train.tokenizer.steps": "2",
    "stages": "('tokenizer',)",
}
# Parameters that stay where they start from.
STILL = {
    "train.tokenizer.learning_rate": "1e-12",
    "train.generator.learning_rate": "1e-12",
    "train.tokenizer.steps": "1",
    "train.generator.steps": "1",
    "train.generator.weight_decay": "0.0",
}


def run(workdir: Path, changes: dict[str, str]) -> Config:
    train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)])
    return load(changes)


def load(changes: dict[str, str]) -> Config:
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with an image tokenizer, trained for two steps on the frames of clips."""
    workdir = tmp_path_factory.mktemp("images") / "run"
    run(workdir, IMAGES)
    return workdir


@pytest.fixture(scope="module")
def video(images: Path) -> Path:
    """A workdir with a video tokenizer that began with it, and a generator."""
    workdir = images.parent / "video"
    run(workdir, {**STILL, "train.tokenizer.start_from": str(images)})
    return workdir


def read_checkpoint(workdir: Path, stage: str) -> tuple[PyTree, dict[str, Any]]:
    with Checkpointer(workdir / stage / "checkpoints", read_only=True) as checkpointer:
        meta = checkpointer.read_meta()
        config = load({})
        network: Any = build.make_tokenizer_network(config)
        if stage == "generator":
            network = build.make_generator_network(
                config, json.loads((workdir / "labels.json").read_text())
            )
        template = jax.eval_shape(network.init, jax.random.key(0))
        return checkpointer.restore_params(template, use_ema=False), meta


def assert_equal(a: PyTree, b: PyTree, *, atol: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def test_a_video_tokenizer_begins_with_the_reconstructions_of_an_image_tokenizer(
    images: Path,
) -> None:
    config = load({"train.tokenizer.start_from": str(images)})
    task = build.make_tokenizer_task(config)
    start = Start(str(images), 2, find_hash(images))
    params = read_params(start, "tokenizer", task.network)
    source = load(IMAGES)
    network = build.make_tokenizer_network(source)
    trained = build.load_tokenizer(source, images)  # averaged: quickstart keeps an average
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16, 3), np.uint8)

    def reconstruct(network: Any, params: PyTree) -> tuple[np.ndarray, np.ndarray]:
        found = jax.jit(lambda p: network.bind(p).reconstruct(scale_pixels(frames)))(params)
        return np.asarray(found.codes), np.asarray(found.output)

    codes, output = reconstruct(network, trained.params)
    assert len(np.unique(codes)) > 2
    found = reconstruct(task.network, params)
    np.testing.assert_array_equal(found[0], codes)
    np.testing.assert_allclose(found[1], output, atol=1e-6)  # the compiler orders the sums


def find_hash(workdir: Path, step: int = 2, stage: str = "tokenizer") -> str:
    with Checkpointer(workdir / stage / "checkpoints", read_only=True) as checkpointer:
        return checkpointer.checkpoint_hash(step)


def test_training_begins_there_and_says_so(images: Path, video: Path) -> None:
    params, meta = read_checkpoint(video, "tokenizer")
    start = Start(str(images), 2, find_hash(images))
    assert meta["started_from"] == dataclasses.asdict(start)
    expected = read_params(start, "tokenizer", build.make_tokenizer_network(load({})))
    assert_equal(params, expected, atol=1e-9)
    assert "started_from" not in read_checkpoint(video, "generator")[1]


def test_the_average_begins_there_too(images: Path) -> None:
    config = load({"train.tokenizer.start_from": str(images)})
    task = build.make_tokenizer_task(config)
    begin, _ = prepare_start(
        config, images.parent / "other", "tokenizer", network=task.network, origin={}
    )
    assert begin is not None
    state = begin(jax.jit(task.init)(jax.random.key(0)))
    assert_equal(state.params, state.ema, atol=0)
    leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True)
    assert not any(np.shares_memory(a, b) for a, b in leaves)


def test_a_generator_starts_from_a_generator(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(video, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "generator")
    run(tmp_path / "run", {**STILL, "train.generator.start_from": str(video)})
    assert f"started from {video} (step 1, " in capsys.readouterr().out
    params, meta = read_checkpoint(tmp_path / "run", "generator")
    assert meta["started_from"]["sha256"] == find_hash(video, 1, "generator")
    labels = json.loads((video / "labels.json").read_text())
    network = build.make_generator_network(load({}), labels)
    loaded = build.load_trained(video, "generator", network=network, ema=True)
    assert_equal(params, loaded.params, atol=1e-9)
    fresh = jax.jit(network.init)(jax.random.key(0))
    assert not jnp.allclose(fresh["head"]["kernel"], params["head"]["kernel"])
    origin = {"tokenizer_sha256": "another"}
    (tmp_path / "new").mkdir()
    config = load({"train.generator.start_from": str(video)})
    prepare_start(config, tmp_path / "new", "generator", network=network, origin=origin)
    assert "warning: it knows the codes of tokenizer" in capsys.readouterr().out


def test_what_a_stage_began_with_stays(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other workdir trains on, start_from changes, the stage gets a checkpoint."""
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(images, source)
    config = load({"train.tokenizer.start_from": str(source)})
    first = find_start(config, workdir, "tokenizer")
    assert first == Start(str(source), 2, find_hash(source))
    shutil.copytree(source / "tokenizer/checkpoints/2", source / "tokenizer/checkpoints/3")
    assert find_start(config, workdir, "tokenizer") == first
    other = load({"train.tokenizer.start_from": str(images)})
    second = find_start(other, workdir, "tokenizer")
    assert second == Start(str(images), 2, find_hash(images))
    again = find_start(config, workdir, "tokenizer")
    assert again is not None
    assert again.step == 3
    (workdir / "tokenizer/checkpoints/1").mkdir(parents=True)
    for changed in (other, load({})):
        assert find_start(changed, workdir, "tokenizer") == again
    network = build.make_tokenizer_network(other)
    prepare_start(other, workdir, "tokenizer", network=network, origin={})
    told = capsys.readouterr().out
    assert f"not started from {images}: this stage has checkpoints already" in told
    assert f"started from {source} (step 3, " in told
    shutil.rmtree(workdir / "tokenizer/checkpoints")
    assert find_start(load({}), workdir, "tokenizer") is None
    assert not (workdir / "tokenizer/start.json").exists()


@pytest.mark.parametrize(
    "place,message",
    [
        ("nowhere", "is no workdir: it has no config.json"),
        ("untrained", "holds no trained tokenizer"),
    ],
)
def test_places_without_a_trained_stage(
    images: Path, tmp_path: Path, place: str, message: str
) -> None:
    (tmp_path / "untrained").mkdir()
    shutil.copy(images / "config.json", tmp_path / "untrained")
    config = load({"train.tokenizer.start_from": str(tmp_path / place)})
    with pytest.raises(CheckpointError, match=message):
        find_start(config, tmp_path / "run", "tokenizer")


def test_parameters_that_changed_or_do_not_fit(images: Path, video: Path) -> None:
    start, network = (
        Start(str(images), 2, find_hash(images)),
        build.make_tokenizer_network(load({})),
    )
    with pytest.raises(CheckpointError, match=r"step 2 was another, now"):
        read_params(dataclasses.replace(start, sha256="another"), "tokenizer", network)
    with pytest.raises(CheckpointError, match="no checkpoint 9"):
        read_params(dataclasses.replace(start, step=9), "tokenizer", network)
    wide = build.make_tokenizer_network(load({"tokenizer.widths": "(4, 16)"}))
    with pytest.raises(CheckpointError, match=r"widths \(4, 8\) there, \(4, 16\) here"):
        read_params(start, "tokenizer", wide)
    here = Start(str(video), 1, find_hash(video, 1))
    more = build.make_tokenizer_network(load({"tokenizer.levels": "(4, 4, 4)"}))
    sides = r"float32\[1, 1, 1, 4, 2\] in the checkpoint, float32\[1, 1, 1, 4, 3\] here"
    with pytest.raises(CheckpointError, match=f"other shapes: .* is {sides}"):
        read_params(here, "tokenizer", more)
