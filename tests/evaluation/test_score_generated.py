# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations of generated clips on models of random weights: numbers, files, resuming."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp import build_data, build_sampling, evaluate, weights
from nbp.build_sampling import make_sampling
from nbp.errors import EXIT_USAGE, run_main
from nbp.evaluation import chunk_store, gallery
from nbp.evaluation.generation import Made, finish_clips
from nbp.evaluation.leakage import find_duplicates
from nbp.evaluation.real_clips import open_clips
from nbp.evaluation.setup import EvaluationSetup
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.score_table import find_score
from nbp.nn.conv3d import taps_conv
from nbp.protocols import PROTOCOLS
from nbp.protocols.clip_lists import draw_clips
from nbp.protocols.protocol import FeatureRule, GenerationRule, Protocol, Storage
from nbp.sampling.sampler import Sampler
from nbp.workdir import read_config, read_labels
from tests.evaluated import (
    SMALL,
    SMALL_SETUP,
    SmallNetwork,
    add_generator,
    make_prepared,
    make_workdir,
)

# Few passes and no filters: programs that are quick to compile.
QUICK = {
    "generator.block": "frame",
    "generator.opening": "bov",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
}
SHAPES = {"data.frames": "9", "data.size": "16", "data.validation_clips": "11", **QUICK}
FEATURES = ("--features", "random-i3d")


SETUP = dataclasses.replace(SMALL_SETUP, chunk=8)


def with_protocols(*protocols: Protocol) -> EvaluationSetup:
    """In place of those of their names, or beside all."""
    added = {protocol.name: protocol for protocol in protocols}
    return dataclasses.replace(SETUP, protocols={**PROTOCOLS, **added})


@pytest.fixture(autouse=True)
def few_clips_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording two dozen clips for the page takes longer than scoring them."""
    monkeypatch.setattr(gallery, "EACH", 1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving shapes of 9x16x16, with label prompts."""
    folder = tmp_path_factory.mktemp("shapes") / "run"
    return add_generator(make_workdir(folder, {**SHAPES, "generator.prompt": "label"}))


def run(
    workdir: Path, protocol: str, *arguments: object, setup: EvaluationSetup = SETUP
) -> dict[str, Any]:
    out = workdir.parent / "scores.json"
    flags = ("--workdir", workdir, "--protocol", protocol, "--out", out, *arguments)
    evaluate.main([str(flag) for flag in flags], setup=setup)
    found = json.loads(out.read_text())
    assert all(find_score(name).meaning for name in found["scores"])
    return found


def load(workdir: Path) -> tuple[Sampler, Any]:
    config = read_config(workdir)
    sampling = make_sampling(config)
    labels = read_labels(workdir)
    sampler, _ = build_sampling.load_sampler(config, workdir, labels=labels, sampling=sampling)
    return sampler, config


def make_extractor() -> FeatureExtractor:
    network = SmallNetwork(SMALL, taps_conv)
    return FeatureExtractor(network, weights.draw_i3d(network), FeatureRule("any", "videogpt"))


def test_the_score_is_that_of_all_clips_at_once(workdir: Path) -> None:
    report = run(workdir, "moving-shapes", *FEATURES, "--clips", 21)
    sampler, config = load(workdir)
    labels = [i % len(read_labels(workdir)) for i in range(21)]
    made = sampler.sample(21, seed=0, labels=labels)
    _, held_out = build_data.make_data(config)
    real = np.stack([held_out.source[i]["video"] for i in range(11)])
    extract = make_extractor()
    want = frechet_distance(Moments.of(extract(real)), Moments.of(extract(made.videos)))
    assert report["scores"]["fvd_random_features_21"] == pytest.approx(want, rel=1e-6)
    assert "fvd" not in report["scores"]
    assert report["generated"]["clips"] == 21


def shrink(name: str, clips: int = 13) -> Protocol:
    """A published protocol for toy data: fewer videos, smaller and shorter clips."""
    protocol = PROTOCOLS[name]
    assert protocol.generation is not None
    assert protocol.features is not None
    rules = tuple(
        dataclasses.replace(rule, videos=6, clips=clips, frames=9, size=16, counted=None)
        for rule in protocol.clips
    )
    made = dataclasses.replace(protocol.generation, clips=clips, size=None)
    features = dataclasses.replace(protocol.features, frames=9)
    return dataclasses.replace(protocol, clips=rules, generation=made, features=features)


def make_ucf(folder: Path, kind: str = "ucf101", **changes: str) -> Path:
    splits = {"train": 6, "test": 3} if kind == "ucf101" else {"train": 6, "validation": 6}
    data = make_prepared(folder / "data", splits, kind=kind)
    keys = {**SHAPES, "data.kind": "records", "data.root": str(data)}
    return add_generator(make_workdir(folder / "run", {**keys, **changes}))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ucf(tmp_path_factory.mktemp("ucf"), **{"generator.prompt": "label"})


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"generator.prompt": "none", "generator.opening": "prefix"}
    return make_ucf(tmp_path_factory.mktemp("k600"), kind="k600", **changes)


def list_chunks(workdir: Path) -> list[Path]:
    return sorted((workdir / "report" / "cache").glob("generated-*/*.npz"))


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_bits(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*FEATURES, "--clips", 20, "--seed", 3)
    whole = run(workdir, "moving-shapes", *arguments)
    files = {path: path.read_bytes() for path in list_chunks(workdir)}
    shutil.rmtree(workdir / "report" / "cache")
    save, drawn = chunk_store.ChunkStore.save, []

    def stop(store: chunk_store.ChunkStore, chunk: int, arrays: chunk_store.Arrays) -> None:
        save(store, chunk, arrays)
        if store.folder.name.startswith("generated"):
            drawn.append(chunk)
            raise KeyboardInterrupt

    monkeypatch.setattr(chunk_store.ChunkStore, "save", stop)
    for _ in range(2):  # of three chunks
        with pytest.raises(KeyboardInterrupt):
            run(workdir, "moving-shapes", *arguments)
    monkeypatch.setattr(chunk_store.ChunkStore, "save", save)
    (first, second) = list_chunks(workdir)
    second.write_bytes(files[second][:-200])  # damaged: made again
    calls = count_draws(monkeypatch)
    again = run(workdir, "moving-shapes", *arguments)
    assert drawn == [0, 1]
    assert first.name == "000000.npz"
    # One batch of each chunk that was missing, then the clips to show.
    assert {number for numbers in calls[:2] for number in numbers} == set(range(8, 20))
    assert again["scores"] == whole["scores"]
    assert again["per_class"] == whole["per_class"]


def test_paired_labels_and_repeated_videos(labelled: Path) -> None:
    """nbp-ucf: 13 clips of six videos, dealt to eight processes, with their labels."""
    protocol = shrink("nbp-ucf")
    setup = with_protocols(protocol)
    report = run(labelled, "nbp-ucf", *FEATURES, setup=setup)
    assert report["reference"]["distinct"] == 8
    assert report["reference"]["clips"] == 13
    assert report["seed"] == 42
    odd = int((draw_clips(protocol.clips[0], 6, 42).rows % 2).sum())
    assert [(row["label"], row["count"]) for row in report["per_class"]] == [
        ("one", 13 - odd),
        ("two", odd),
    ]
    losses = ["frames were stored as H.264, not read from the files"]
    assert report["deviations"] == ["features of random-i3d", *losses]
    assert list(report["scores"]) == ["fvd_random_features"]
    # A smaller number is another score.
    part = run(labelled, "nbp-ucf", *FEATURES, "--clips", 4, setup=setup)
    assert "fvd_random_features_4" in part["scores"]
    assert part["deviations"][:2] == ["4 of 13 generated clips", "4 of 13 real clips"]
    assert not part["complete"]


def test_protocols_share_their_clips_and_repeat_them(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four repeats; tats-ucf scores a beginning of its first."""
    names = ["omni-ucf", "tats-ucf"]
    first = shrink("omni-ucf")
    rules = (dataclasses.replace(first.clips[0], duplicates="cycle", order="listed"),)
    first = dataclasses.replace(first, repeats=4, clips=rules)
    setup = with_protocols(first, shrink("tats-ucf", clips=8))
    calls = count_draws(monkeypatch)
    flags = [f"--protocol={name}" for name in names]
    arguments = [*flags, "--workdir", str(labelled), *FEATURES, "--statistics=kvd,precision,stream"]
    evaluate.main(arguments, setup=setup)
    drawn = [numbers for numbers in calls if numbers[0] == 0]
    longer, tats = (json.loads((labelled / "report" / f"{n}.json").read_text()) for n in names)
    values = [row["value"] for row in longer["repeats"]]
    assert [row["seed"] for row in longer["repeats"]] == [0, 1, 2, 3]
    assert longer["scores"]["fvd_random_features"] == pytest.approx(np.mean(values))
    assert longer["scores"]["fvd_random_features_std"] == pytest.approx(np.std(values, ddof=1))
    assert {"kvd_random_features", "precision_random_features"} <= set(tats["scores"])
    assert 0 <= tats["scores"]["stream_random_temporal"] <= 1
    assert len(drawn) >= 4
    # Alone, tats-ucf gives the same bits.
    shutil.rmtree(labelled / "report" / "cache")
    alone = run(labelled, "tats-ucf", *FEATURES, "--statistics=kvd,precision,stream", setup=setup)
    assert alone["scores"] == tats["scores"]


def count_draws(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    calls: list[list[int]] = []
    sample = Sampler.sample

    def note(self: Sampler, *arguments: Any, **keywords: Any) -> Any:
        calls.append(np.asarray(keywords["numbers"]).tolist())
        return sample(self, *arguments, **keywords)

    monkeypatch.setattr(Sampler, "sample", note)
    return calls


def test_given_frames_are_those_of_the_real_clips(
    predicting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "EACH", 8)
    name = "nbp-k600"
    report = run(predicting, name, *FEATURES, setup=with_protocols(shrink(name, clips=7)))
    scores = report["scores"]
    assert {"fvd_random_features", "psnr_after_given"} <= set(scores)
    assert len(report["generated_psnr_per_frame"]) == 9
    rows = json.loads((predicting / "report" / "clips.json").read_text())
    assert {row["protocol"] for row in rows} == {name}
    by_kind = {kind: [r for r in rows if r["kind"] == kind] for kind in KINDS}
    assert all(len(found) == 7 for found in by_kind.values())
    for made, again in zip(by_kind["generated"], by_kind["reconstructed"], strict=True):
        assert (predicting / "report" / made["file"]).is_file()
        assert made["given_frames"] == 5
        assert made["paired"]
        # The given frames are as the tokenizer reconstructs them: the same error.
        np.testing.assert_allclose(
            made["psnr_per_frame"][:5], again["psnr_per_frame"][:5], atol=2e-3
        )
    # Frames that are pasted have none.
    rule = GenerationRule(7, given_frames=5, condition="pasted")
    made = Made(
        videos=np.zeros((1, 9, 16, 16, 3), np.uint8),
        tokens=np.zeros((1, 5, 4, 4), np.int32),
        labels=np.zeros(1, np.int32),
        seconds=np.zeros(1, np.float32),
        real=np.full((1, 9, 16, 16, 3), 7, np.uint8),
    )
    finished = finish_clips(made, rule, size=16, pixels=5)
    assert (finished[:, :5] == 7).all()
    assert (finished[:, 5:] == 0).all()


KINDS = ("real", "reconstructed", "generated")


def test_stored_and_scaled_clips_stay_close() -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    clip = np.broadcast_to(ramp[None, None, None, :, None], (1, 9, 32, 32, 3)).copy()
    made = Made(clip, np.zeros(1), np.zeros(1), np.zeros(1))
    storage = Storage(size=32, black=0)
    found = finish_clips(made, GenerationRule(storage=storage), size=16, pixels=0)
    assert found.shape == (1, 9, 16, 16, 3)
    want = clip.reshape(1, 9, 16, 2, 16, 2, 3).mean(axis=(3, 5))
    assert np.abs(found - want)[..., 2:-2, :].mean() < 6
    edged = finish_clips(made, GenerationRule(storage=Storage(size=32)), size=16, pixels=0)
    # Two black lines of 34 are one of 16: the right and lower ends are dark, the left is not moved.
    assert edged[:, :, :, -1].mean() < 0.6 * found[:, :, :, -1].mean()
    assert edged[:, :, -1].mean() < 0.6 * found[:, :, -1].mean()
    assert np.abs(edged - found)[:, :, :12, :3].mean() < 6


@pytest.mark.parametrize(
    "model,protocol,message",
    [
        ("predicting", "nbp-ucf", "scores clips of ucf101"),
        ("labelled", "nbp-k600", "scores clips of k600"),
        ("labelled", "tats-ucf", "generates clips of 128 px|scores clips of 128 px"),
    ],
)
def test_other_data_or_sizes_are_refused_beforehand(
    model: str,
    protocol: str,
    message: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refuse(request.getfixturevalue(model), protocol, capsys)
    assert re.search(message, line)


def refuse(
    workdir: Path,
    protocol: str,
    capsys: pytest.CaptureFixture[str],
    *,
    setup: EvaluationSetup = SETUP,
) -> str:
    """The line of a request that ends with exit code 2 before anything is made."""
    before = sorted(workdir.rglob("*"))
    arguments = ["--workdir", str(workdir), "--protocol", protocol, *FEATURES]
    with pytest.raises(SystemExit) as caught:
        run_main(functools.partial(evaluate.main, setup=setup), arguments)
    assert caught.value.code == EXIT_USAGE
    assert sorted(workdir.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_models_that_cannot_generate_it_are_refused_beforehand(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("nbp-ucf", "tats-ucf", "tats-ucf-uncond")
    small = [shrink(name, clips=6) for name in names]
    prediction = dataclasses.replace(
        small[-1],
        name="prediction",
        generation=GenerationRule(6, given_frames=4, condition="reconstructed"),
    )
    setup = with_protocols(*small, prediction)
    line = refuse(labelled, "prediction", capsys, setup=setup)
    assert "it gives 4 frames, which are no whole latent frames" in line
    none = {"generator.prompt": "none"}
    unlabelled = make_ucf(tmp_path / "a", **none)
    line = refuse(unlabelled, "nbp-ucf", capsys, setup=setup)
    assert "it asks for clips of given classes, and this model was trained without labels" in line
    assert "Use tats-ucf-uncond" in line
    never = {"generator.prompt": "label", "generator.null_probability": "0"}
    line = refuse(make_ucf(tmp_path / "b", **never), "tats-ucf-uncond", capsys, setup=setup)
    assert "it gives no labels, and this model always had one in training" in line
    only = make_ucf(tmp_path / "c", **none, **{"generator.opening": "prefix"})
    line = refuse(only, "tats-ucf-uncond", capsys, setup=setup)
    assert "it gives no frames to continue, and this model was not trained for that" in line


def test_leaks_are_told(
    labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbp.progress.QUIET", -1.0)  # quick work has no lines else
    report = labelled.parent / "report.csv"  # beside the data, as nbp.prepare leaves it
    report.write_text(
        "heading,split,class,path,detail\n"
        "overlap,test,one,test/1.avi,same content as train/1.avi of train\n"
        "too short,test,one,test/2.avi,\n"
    )
    setup = with_protocols(shrink("tats-ucf", clips=6))
    found = run(labelled, "tats-ucf", *FEATURES, setup=setup)
    report.unlink()
    assert found["leaks"]["train_test_names"] == ["test/1.avi"]
    assert found["leaks"]["duplicate_clips"] == 0
    printed = capsys.readouterr().out
    assert "leak: 1 names or videos are in both splits, the first: test/1.avi" in printed
    assert printed.index("leak:") < printed.index("generated clips")


def test_equal_real_clips_are_found(labelled: Path) -> None:
    config = read_config(labelled)
    clips = open_clips(config, PROTOCOLS["reconstruction"], None)
    hashes = np.array([5, 6, 5], np.uint64)
    pairs, count = find_duplicates(clips, hashes, distinct=3)
    assert (pairs, count) == ([["test/0.avi", "test/2.avi"]], 1)
    assert find_duplicates(clips, hashes, distinct=2) == ([], 0)


def test_only_numbers_of_one_protocol_are_compared(
    labelled: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = []
    setup = with_protocols(shrink("tats-ucf", clips=6))
    for seed in (1, 2):
        report = run(labelled, "tats-ucf", *FEATURES, "--seed", seed, setup=setup)
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(report))
    capsys.readouterr()
    evaluate.main(["--compare", *map(str, files)])
    printed = capsys.readouterr().out
    scores = [json.loads(file.read_text())["scores"]["fvd_random_features"] for file in files]
    assert "seed: A 1, B 2" in printed
    assert f"{scores[1] - scores[0]:.4f}" in printed
    other = json.loads(files[1].read_text())
    other["protocol"]["clips"][0]["fps"] = 8.0
    for version, message in ((2, "clips[0].fps 0.0 and 8.0"), (1, "protocol tats-ucf v2 and v1")):
        other["protocol"]["version"] = version
        files[1].write_text(json.dumps(other))
        with pytest.raises(SystemExit) as caught:
            run_main(evaluate.main, ["--compare", *map(str, files)])
        assert caught.value.code == EXIT_USAGE
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
