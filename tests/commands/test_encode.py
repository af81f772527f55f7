# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From a trained tokenizer to a token cache, and from the cache to a trained generator."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, build_data, encode, evaluate, sample, train
from nbp.config import load_config
from nbp.data.token_cache import open_cache
from nbp.encode import EncodeRequest, encode_workdir
from nbp.errors import CheckpointError, ConfigError, DataError
from nbp.workdir import read_config
from tests import tiny
from tests.data.prepared import make_records
from tests.data.test_token_cache import hash_files
from tests.data.videos import encode as encode_video
from tests.data.videos import make_clip
from tests.test_end_to_end import check_samples

ROOT = Path(__file__).resolve().parents[2]
CLIPS = {"data.moving_shapes.train_clips": "20", "data.validation_clips": "6"}
ON_TOKENS = {"data.kind": "tokens", "stages": "('generator',)"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with a trained tokenizer; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("encode") / "run"
    changes = {**CLIPS, "stages": "('tokenizer',)"}
    train.main(["--config", tiny.CONFIG, "--workdir", str(folder), *tiny.flags(changes)])
    return folder


@pytest.fixture(scope="module")
def cache(workdir: Path) -> Path:
    """Two crops of each training clip, in shards of 16."""
    return run(workdir, workdir.parent / "cache", crops=2, shard_size=16)


def run(workdir: Path, out: Path, **changes: Any) -> Path:
    encode_workdir(EncodeRequest(workdir, out, **changes), report=lambda line: None)
    return out


def train_on(cache: Path, workdir: Path, changes: dict[str, str] | None = None) -> None:
    keys = {**CLIPS, **ON_TOKENS, "data.root": str(cache), **(changes or {})}
    train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(keys)])


def copy(workdir: Path, target: Path) -> Path:
    shutil.copytree(workdir, target)
    return target


def test_codes_are_those_of_the_tokenizer(workdir: Path, cache: Path) -> None:
    config = read_config(workdir)
    trained = build.load_tokenizer(config, workdir)
    tokenize = jax.jit(build.make_tokenizer_network(config).encode)
    opened = open_cache(cache)
    for split, data in zip(opened.splits, build_data.make_data(config), strict=True):
        source = opened.source(split)
        crops = 2 if split == "train" else 1
        assert len(source) == crops * len(data.source)
        assert source.label_names == data.label_names
        clips = np.stack([data.source[i]["video"] for i in range(len(data.source))])
        codes = np.asarray(tokenize(trained.params, clips))
        for i in range(len(source)):
            record = source[i]
            np.testing.assert_array_equal(record["codes"], codes[i // crops])
            assert record["label"] == data.source[i // crops]["label"]
    made = opened.provenance
    assert made["tokenizer"]["sha256"] == trained.sha256
    assert made["tokenizer"]["step"] == trained.step == 4
    assert made["tokenizer"]["spec"]["levels"] == [4, 4]
    assert made["preprocessing"] == {
        "frames": 5, "size": 16, "fps": 0.0, "spatial": "crop", "flip": False
    }  # fmt: skip
    assert (made["crops"], made["seed"], made["codes"], opened.grid) == (2, 0, 16, (3, 4, 4))
    assert made["source"]["kind"] == "moving_shapes"
    assert [entry["examples"] for entry in made["splits"]["train"]] == [16, 16, 8]


def test_killed_and_shared_work_gives_the_same_bytes(
    workdir: Path, cache: Path, tmp_path: Path
) -> None:
    """kill -9 once a shard is in place; then one host of two, then the other."""
    command = ["-m", "nbp.encode", "--workdir", str(workdir), "--out", str(tmp_path / "killed")]
    arguments = ["--crops", "2", "--shard_size", "16"]
    process = subprocess.Popen(
        [sys.executable, *command, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    work = tmp_path / "killed" / ".incomplete"
    deadline = time.monotonic() + 120
    while not list(work.glob("1.0.0/*array_record*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = [path.name for path in work.glob("1.0.0/*")]
    assert 1 <= len(made) < 4, "killed in the middle"
    with pytest.raises(DataError, match="half a token cache"):
        open_cache(tmp_path / "killed")
    (work / "tokens-train.array_record-00009-of-00003.1.tmp").write_bytes(b"of the killed one")
    told: list[str] = []
    request = EncodeRequest(workdir, tmp_path / "killed", crops=2, shard_size=16, hosts=2)
    encode_workdir(request, told.append)
    assert "another one's are not done yet" in told[-1]
    encode_workdir(dataclasses.replace(request, host=1, threads=1), told.append)
    assert told[-1].startswith("40 train, 6 validation clips as tokens")
    assert hash_files(tmp_path / "killed") == hash_files(cache)
    # Rerun: nothing to do, nothing changed.
    encode_workdir(dataclasses.replace(request, hosts=1), told.append)
    assert told[-1].endswith("1.0.0 is finished already")
    assert hash_files(tmp_path / "killed") == hash_files(cache)


def test_records_and_folders_are_encoded_with_seeded_crops(workdir: Path, tmp_path: Path) -> None:
    records = make_records(tmp_path / "toy" / "1.0.0", {"train": 3, "test": 2})
    one = open_cache(run(workdir, tmp_path / "a", data=records.parent, crops=3))
    assert one.splits == ("train", "test")
    assert one.provenance["source"]["kind"] == "records"
    source = one.source("train")
    assert [source[i]["path"] for i in range(9)] == [f"train/{i // 3}.avi" for i in range(9)]
    assert len({source[i]["codes"].tobytes() for i in range(3)}) > 1, "crops of one clip differ"
    assert source.label_names == ("one", "two")
    again = open_cache(run(workdir, tmp_path / "b", data=records, crops=3, threads=3))
    assert again.source("train").fingerprint == source.fingerprint
    other = open_cache(run(workdir, tmp_path / "c", data=records, crops=3, seed=1))
    assert other.source("train").fingerprint != source.fingerprint
    assert other.source("test").fingerprint == again.source("test").fingerprint

    for i in range(4):
        encode_video(tmp_path / "videos" / f"class{i % 2}" / f"{i}.mp4", make_clip(12, seed=i))
    (tmp_path / "videos" / "class0" / "bad.mp4").write_bytes(b"no video")
    overrides = {"data.validation": "0.0"}
    folder = run(workdir, tmp_path / "d", data=tmp_path / "videos", overrides=overrides)
    listed = folder / "bad_videos.csv"
    assert "bad.mp4" in listed.read_text()
    listed.write_text("what was found while decoding")
    assert run(workdir, tmp_path / "d", data=tmp_path / "videos", overrides=overrides) == folder
    assert listed.read_text() == "what was found while decoding"  # a rerun touches nothing
    found = open_cache(folder).source("train")
    assert sorted(found[i]["path"] for i in range(4)) == [
        "class0/0.mp4", "class0/2.mp4", "class1/1.mp4", "class1/3.mp4"
    ]  # fmt: skip


@pytest.mark.parametrize("bad", ["replace", "stop"])
def test_a_damaged_clip_is_skipped_or_stops(workdir: Path, tmp_path: Path, bad: str) -> None:
    records = make_records(tmp_path / "1.0.0", {"train": 4, "test": 1})
    (file,) = records.glob("toy-train.array_record*")
    data = bytearray(file.read_bytes())
    place = data.index(b"train/2.avi")
    data[place] ^= 1
    file.write_bytes(data)
    overrides = {"data.bad_records": bad}
    if bad == "stop":
        with pytest.raises(DataError, match="bad_records=replace"):
            run(workdir, tmp_path / "out", data=records, overrides=overrides)
        assert not (tmp_path / "out" / "1.0.0").exists()
        return
    opened = open_cache(run(workdir, tmp_path / "out", data=records, overrides=overrides))
    assert len(opened.source("train")) == 3
    (note,) = opened.provenance["splits"]["train"]
    assert [(crop, reason) for _, crop, reason in note["skipped"]] == [(0, "corrupt")]


@pytest.mark.parametrize(
    "changes,error,message",
    [
        ({"seed": 7}, ConfigError, "other settings: seed 0 then, 7 now"),
        ({"crops": 1}, ConfigError, "crops 2 then, 1 now"),
        ({"overrides": {"data.fps": "4.0"}}, ConfigError, "preprocessing.fps 0.0 then, 4.0 now"),
        ({"overrides": {"data.size": "17"}}, ConfigError, "data: 17x17 px"),
        (
            {"overrides": {"data.moving_shapes.world.changes": "(1,)"}},
            ConfigError,
            "a token cache keeps one for each",
        ),
        ({"overrides": {"seed": "1"}}, ConfigError, "only keys of data can be changed here"),
        ({"data": Path("/absent")}, DataError, "/absent"),
        ({"workdir": Path("/absent")}, CheckpointError, "is no workdir"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    workdir: Path, cache: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = hash_files(cache)
    request = EncodeRequest(workdir, cache, crops=2, shard_size=16)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        encode_workdir(dataclasses.replace(request, **changes), report=print)
    assert hash_files(cache) == before


def test_a_cache_is_no_source_of_clips(workdir: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a token cache and clips are needed"):
        run(workdir, tmp_path / "out", data=cache)
    for shard in ("2/2", "1", "a/b"):
        with pytest.raises(ConfigError, match=f"--shard {shard}: write I/N"):
            encode.main(["--workdir", str(workdir), "--out", str(tmp_path / "x"), "--shard", shard])


@pytest.mark.slow
def test_from_tokens_to_samples(
    workdir: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = copy(workdir, tmp_path / "run")
    changes = {
        "train.evaluate_every": "4",
        "train.preview_every": "4",
        "evaluation.samples": "3",
        "evaluation.given_frames": "1",
    }
    train_on(cache, run_folder, changes)
    check_samples(run_folder / "samples", 3)
    # The first latent frame is that of held-out clips: it came as codes.
    with np.load(run_folder / "samples" / "samples.npz") as arrays:
        held_out = open_cache(cache).source("validation")
        for i, tokens in enumerate(arrays["tokens"]):
            np.testing.assert_array_equal(tokens[0], held_out[i]["codes"][0])
    assert list((run_folder / "generator" / "previews").glob("*.gif"))
    assert "validation/bits_per_token" in (run_folder / "generator" / "metrics.csv").read_text()
    config = read_config(run_folder)
    task = build.make_generator_task(config, open_cache(cache).source("train").label_names, {})
    assert task.frozen == {}, "no tokenizer in the step"

    sample.main(["--workdir", str(run_folder), "--num", "2", "--out", str(tmp_path / "drawn")])
    check_samples(tmp_path / "drawn", 2)

    command = ["--workdir", str(run_folder), "--protocol", "moving-shapes", "--clips", "4"]
    with pytest.raises(ConfigError, match="clips are needed: name a folder of videos or a prep"):
        evaluate.main(command)
    capsys.readouterr()
    evaluate.main([*command, "--config.data.kind=moving_shapes"])
    assert "psnr" in capsys.readouterr().out

    # Resuming continues; other tokens are other data.
    capsys.readouterr()
    train_on(cache, run_folder, {**changes, "train.generator.steps": "5"})
    assert "resumes after step 4" in capsys.readouterr().out
    other = run(workdir, tmp_path / "other", crops=1)
    changes["train.generator.steps"] = "6"
    with pytest.raises(CheckpointError, match=r"tokens?.*|examples-\w+ then, examples-\w+ now"):
        train_on(other, run_folder, changes)
    train_on(other, run_folder, {**changes, "train.changed_data": "accept"})
    assert "warning: the data differ" in capsys.readouterr().out


@pytest.mark.slow
def test_training_on_tokens_gives_the_updates_of_training_on_clips(
    workdir: Path, cache: Path, tmp_path: Path
) -> None:
    """One crop of every clip, in the order of the clips: the very same examples."""
    same = run(workdir, tmp_path / "cache", crops=1)
    losses = []
    for name in ("tokens", "clips"):
        folder = copy(workdir, tmp_path / name)
        if name == "tokens":
            train_on(same, folder)
        else:
            keys = {**CLIPS, "stages": "('generator',)"}
            train.main(["--config", tiny.CONFIG, "--workdir", str(folder), *tiny.flags(keys)])
        rows = (folder / "generator" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss")
        losses.append([float(row.split(",")[column]) for row in rows[1:]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_tokens_of_another_tokenizer_are_refused(
    workdir: Path, cache: Path, tmp_path: Path
) -> None:
    folder = copy(workdir, tmp_path / "run")
    foreign = copy(cache, tmp_path / "foreign")
    path = foreign / "1.0.0" / "provenance.json"
    made = json.loads(path.read_text())
    ours = made["tokenizer"]["sha256"]
    made["tokenizer"] |= {"sha256": "0123456789abcdef" * 4, "step": 77}
    path.write_text(json.dumps(made))
    with pytest.raises(CheckpointError) as caught:
        train_on(foreign, folder)
    assert caught.value.exit_code == 4
    for part in ("tokenizer 0123456789abcdef (step 77)", f"(step 4) is {ours[:16]}", "nbp.encode"):
        assert part in str(caught.value)
    assert read_config(folder).data.kind == "moving_shapes", "nothing was adopted"
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(CheckpointError, match="holds no trained tokenizer"):
        train_on(cache, folder)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"data.fps": "8.0"}, "fps 0.0, here 8.0"),
        ({"data.spatial": "squash"}, "spatial 'crop', here 'squash'"),
        ({"data.frames": "9"}, r"frames 5, here 9; grid \(3, 4, 4\), here \(5, 4, 4\)"),
        ({"tokenizer.levels": "(5, 5)"}, "codes 16, here 25"),
    ],
)
def test_tokens_of_other_clips_are_refused(
    cache: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"\(clips-\w+\) than this.*\(clips-\w+\): {message}"):
        train_on(cache, tmp_path / "run", changes)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_tokenizer_stage_refuses_tokens(cache: Path) -> None:
    keys = {**tiny.OVERRIDES, "data.kind": "tokens", "data.root": str(cache)}
    with pytest.raises(ConfigError, match="stages: the tokenizer learns from clips, not tokens"):
        load_config(tiny.CONFIG, keys)
    keys |= {"stages": "('generator',)", "evaluation.protocol": "moving-shapes"}
    with pytest.raises(ConfigError, match=r"evaluation.protocol: scores clips.*--data DIR"):
        load_config(tiny.CONFIG, keys)
    with pytest.raises(ConfigError, match=r"data.root: name the token cache that nbp.encode"):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **ON_TOKENS})


def test_an_absent_held_out_split_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no split holdout, but train, validation"):
        train_on(cache, tmp_path / "run", {"data.validation_split": "holdout"})
    assert not (tmp_path / "run").exists()
