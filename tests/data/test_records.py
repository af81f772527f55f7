# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prepared datasets: TFDS opens them, windows are those of the source, damage is named."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nbp import build_data
from nbp.config import load_config
from nbp.data.augmentation import DecodeClip, ShortSide
from nbp.data.records import (
    PREPARED,
    DecodeRecord,
    RecordSource,
    count_records,
    make_record_transforms,
    open_writer,
    serialize_record,
    shard_name,
    write_metadata,
)
from nbp.data.sources import ClipSource
from nbp.data.video.clip_codec import ClipEncoder, Coding
from nbp.data.video.decode import VideoInfo, probe_video
from nbp.errors import DataError
from nbp.files import VideoError
from tests import tiny
from tests.data.videos import encode, make_clip, psnr

LABELS = ("archery", "bow ling")
FRAMES, FPS = 40, 30000 / 1001
SHAPE = (36, 50)


def make_dataset(folder: Path, *, name: str = "toy", lengths: tuple[int, ...] = (3, 2)) -> Path:
    folder.mkdir(parents=True)
    seed = 0
    for shard, length in enumerate(lengths):
        writer = open_writer(folder / shard_name(name, "train", shard, len(lengths)))
        for _ in range(length):
            encoder = ClipEncoder(Coding(quality=4), FPS)
            for frame in make_clip(FRAMES, *SHAPE, seed=seed):
                encoder.add(frame)
            info = VideoInfo(FRAMES, FPS, *SHAPE)
            path = f"ä/clip{seed}.avi"
            writer.write(
                serialize_record(
                    encoder.finish(), info, label=seed % 2, path=path, sha256=f"{seed:064x}"
                )
            )
            seed += 1
        writer.close()
    write_metadata(folder, name, labels=LABELS, splits={"train": lengths})
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "toy" / "1.0.0")


def test_source_gives_what_was_written(dataset):
    source = RecordSource(dataset, "train")
    assert isinstance(source, ClipSource)
    assert len(source) == 5
    assert source.label_names == LABELS
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint
    for i in range(5):
        record = copy[i]
        assert record["path"] == f"ä/clip{i}.avi"
        assert record["label"] == i % 2
        assert record["label"].dtype == np.int32
        assert record["info"] == VideoInfo(FRAMES, FPS, *SHAPE)  # fps exactly, not its float32
        video = DecodeRecord(FRAMES, None, False)(record, np.random.default_rng(0))["video"]
        assert psnr(video, make_clip(FRAMES, *SHAPE, seed=i)) > 42
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            source[wrong]


def test_tfds_opens_it_without_tensorflow(dataset):
    """In a process of its own, with the network refused."""
    code = f"""
import socket, sys
def refuse(*_, **__):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory({str(dataset)!r})
assert builder.info.features["label"].names == {list(LABELS)!r}, builder.info.features
source = builder.as_data_source("train")
assert len(source) == 5 and len(builder.as_data_source("train[1:3]")) == 2
example = source[3]
video = example.pop("video")
assert type(video) is bytes and video[4:8] == b"ftyp"
assert example.pop("sha256") == b"%064x" % 3
print(sorted(example.items()), "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fps = float(np.float32(FPS))
    assert (
        done.stdout.strip()
        == str(
            [
                ("fps", fps),
                ("frames", FRAMES),
                ("height", SHAPE[0]),
                ("label", 1),
                ("path", "ä/clip3.avi".encode()),
                ("width", SHAPE[1]),
            ]
        )
        + " False"
    )


def test_bytes_of_a_record_are_the_same_in_every_process():
    code = """
from nbp.data.records import serialize_record
from nbp.data.video.decode import VideoInfo
data = serialize_record(b"clip", VideoInfo(3, 25.0, 4, 5), label=1, path="a\\udce4/b", sha256="ff")
print(data.hex())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert b"a\\xe4/b" in bytes.fromhex(found.pop())


@pytest.mark.parametrize("fps", [None, 8.0, 23.976, 29.97, 60.0])
@pytest.mark.parametrize("random", [False, True])
def test_windows_are_those_of_the_source_file(tmp_path, fps, random):
    """DecodeRecord and DecodeClip, with equal generators, cut the same frames."""
    clip = make_clip(60, 24, 32)
    path = encode(tmp_path / "clip.mkv", clip, fps=FPS)  # lossless
    info = probe_video(path)
    encoder = ClipEncoder(Coding(quality=0), FPS)
    for frame in clip:
        encoder.add(frame)
    folder = tmp_path / "data"
    folder.mkdir()
    writer = open_writer(folder / shard_name("toy", "train", 0, 1))
    stored = encoder.finish()
    writer.write(serialize_record(stored, info, label=0, path="clip.mkv", sha256=""))
    writer.close()
    write_metadata(folder, "toy", labels=["one"], splits={"train": [1]})
    record = RecordSource(folder, "train")[0]
    assert record["info"] == info
    frames = 9
    for seed in range(6):
        wanted = DecodeClip(frames, fps, random)(
            {"path": str(path), "info": info, "label": np.int32(0)}, np.random.default_rng(seed)
        )
        found = DecodeRecord(frames, fps, random)(record, np.random.default_rng(seed))
        assert found.keys() == wanted.keys() == {"video", "label"}
        distance = np.abs(found["video"][:, None].astype(int) - wanted["video"][None])
        nearest = distance.mean(axis=(2, 3, 4)).argmin(axis=1)
        np.testing.assert_array_equal(nearest, np.arange(frames))
        assert psnr(found["video"], wanted["video"]) > 42


@pytest.mark.parametrize("fit", ["crop", "squash", "random_crop"])
@pytest.mark.parametrize("training", [False, True])
def test_chains_give_clips_of_the_size_asked_for(dataset, fit, training):
    record = RecordSource(dataset, "train")[2]
    for size in (16, 36, 48):  # smaller than stored, as stored, larger
        chain = make_record_transforms(frames=9, size=size, fps=15.0, training=training, fit=fit)
        result = []
        for seed in (0, 0, 1):
            rng = np.random.default_rng(seed)
            example = record
            for transform in chain:
                example = transform(example, rng)
            result.append(example["video"])
        assert result[0].shape == (9, size, size, 3)
        np.testing.assert_array_equal(result[0], result[1])
        assert training != np.array_equal(result[0], result[2])
    flips = make_record_transforms(frames=9, size=16, fps=15.0, training=True, flip=True)
    assert len(flips) == 3


def test_resizing_and_too_short(dataset):
    record = RecordSource(dataset, "train")[0]
    rng = np.random.default_rng(0)
    assert DecodeRecord(5, None, False, ShortSide(18))(record, rng)["video"].shape[1:3] == (18, 25)
    with pytest.raises(VideoError, match=r"ä/clip0\.avi: too short .*10 frames at 8 fps"):
        DecodeRecord(17, 8.0, True)(record, rng)


def test_fingerprint_follows_the_content_not_the_place(dataset, tmp_path):
    here = RecordSource(dataset, "train").fingerprint
    moved = shutil.copytree(dataset, tmp_path / "elsewhere")
    assert RecordSource(moved, "train").fingerprint == here
    (moved / PREPARED).write_text("{}")
    assert RecordSource(moved, "train").fingerprint != here
    other = make_dataset(tmp_path / "other", lengths=(2, 3))
    assert RecordSource(other, "train").fingerprint != here


def test_flipped_byte_is_named(dataset, tmp_path):
    broken = shutil.copytree(dataset, tmp_path / "broken")
    file = broken / shard_name("toy", "train", 1, 2)
    data = bytearray(file.read_bytes())
    data[data.index(b"ftyp") + 2000] ^= 1
    file.write_bytes(data)
    source = RecordSource(broken, "train")
    failed = []
    for i in range(5):
        try:
            source[i]
        except VideoError as error:
            failed.append((i, error.path, error.reason, file.name in error.detail))
    assert failed == [(3, "toy/train record 3", "corrupt", True)]


@pytest.mark.parametrize("cut", [0, 100, 65536, 65537, -1, None])
def test_truncated_and_missing_files_are_found_at_open(dataset, tmp_path, cut):
    broken = shutil.copytree(dataset, tmp_path / "broken")
    file = broken / shard_name("toy", "train", 1, 2)
    if cut is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:cut])
        assert count_records(file) == 0
    with pytest.raises(DataError, match=rf"{file.name}: (missing|damaged).*nbp\.prepare again"):
        RecordSource(broken, "train")


def test_folders_that_are_no_dataset_say_what_is_there(dataset, tmp_path):
    def message(folder: Path, split: str = "train") -> str:
        with pytest.raises(DataError) as caught:
            RecordSource(folder, split)
        assert caught.value.exit_code == 3
        return str(caught.value)

    assert "no such folder. Prepare a dataset first: python -m nbp.prepare" in message(
        tmp_path / "nowhere"
    )
    assert f"Give one of those below it: {dataset}" in message(dataset.parent.parent)
    (tmp_path / "half" / ".incomplete-toy" / "final").mkdir(parents=True)
    shutil.copy(dataset / "dataset_info.json", tmp_path / "half" / ".incomplete-toy" / "final")
    assert "not finished. Run the same nbp.prepare command again" in message(tmp_path / "half")
    assert "no split 'test'; it has train" in message(dataset, "test")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.avi").touch()
    assert "it holds a.avi" in message(tmp_path / "videos")
    assert "not a folder" in message(dataset / "features.json")
    foreign = shutil.copytree(dataset, tmp_path / "foreign")
    features = json.loads((foreign / "features.json").read_text())
    features["featuresDict"]["features"] = {"image": {}}
    (foreign / "features.json").write_text(json.dumps(features))
    assert "a TFDS dataset with image as array_record" in message(foreign)
    (foreign / "features.json").write_text("{")
    assert "not one that nbp.prepare wrote" in message(foreign)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "[" * 100_000, '{"name": "x"}', '{"splits": 1}', '{"splits": [1]}'),
        *(
            json.dumps({"name": "x", "splits": [{"name": "train", "shardLengths": [n]}]})
            for n in (1e999, None, [], "x")
        ),
    ],
    ids=lambda text: text[:60],
)
def test_a_damaged_description_of_a_dataset_is_one_line(tmp_path, text):
    (tmp_path / "dataset_info.json").write_text(text)
    (tmp_path / "features.json").write_text('{"featuresDict": {"features": {}}}')
    with pytest.raises(DataError, match="a TFDS dataset, but not one"):
        RecordSource(tmp_path, "train")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": 1}', '{"splits": [{}]}', '"x"'])
def test_splits_of_a_damaged_description_are_one_line(tmp_path, text):
    (tmp_path / "dataset_info.json").write_text(text)
    keys = {"data.kind": "records", "data.root": str(tmp_path)}
    with pytest.raises(DataError, match=r"dataset_info\.json: damaged"):
        build_data.list_splits(load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys}))
