# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The token cache: what was written is read, by us and by TFDS; damage is noticed and named."""

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.data.augmentation import Transform
from nbp.data.pipeline import BatchStream, PipelineSpec
from nbp.data.records import RecordSource, make_record_transforms
from nbp.data.sources import BadVideos, ClipSource
from nbp.data.token_cache import CacheWriter, TokenExample, open_cache
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError
from tests.data.prepared import PLAN, draw_codes, make_cache, make_records, write_shard

SPLITS = {"train": 22, "validation": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "cache"
    make_cache(folder, SPLITS)
    return folder


def hash_files(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.parametrize("place", [".", "1.0.0"])
def test_what_was_written_is_read(root: Path, place: str) -> None:
    cache = open_cache(root / place)
    assert cache.splits == ("train", "validation")
    assert cache.grid == (2, 3, 4)
    for split, count in SPLITS.items():
        source = cache.source(split)
        assert isinstance(source, ClipSource)
        assert len(source) == count
        assert source.label_names == ("a", "b", "c")
        for i in range(count):
            record = source[i]
            assert record["codes"].dtype == np.uint16
            np.testing.assert_array_equal(record["codes"], draw_codes(split, i))
            assert (record["label"], record["path"]) == (i % 3, f"x/{i}.avi")
        with pytest.raises(IndexError):
            source[count]


def test_tfds_opens_it_without_tensorflow(root: Path) -> None:
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(root / "1.0.0"))
    for split, count in SPLITS.items():
        source = builder.as_data_source(split)
        assert len(source) == count
        for i in (0, 4, count - 1):
            example = source[i]
            assert example["tokens"].dtype == np.uint16
            np.testing.assert_array_equal(example["tokens"], draw_codes(split, i))
            assert example["label"] == i % 3
            assert example["path"] == f"x/{i}.avi".encode()
            assert example["crop"] == 0
    assert builder.info.features["label"].names == ["a", "b", "c"]
    assert "tensorflow" not in sys.modules


def test_many_codes_need_wider_integers(tmp_path: Path) -> None:
    make_cache(tmp_path, {"train": 3, "test": 1}, codes=2**16 + 1)
    codes = open_cache(tmp_path).source("train")[2]["codes"]
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, draw_codes("train", 2, 2**16 + 1))


def test_sources_are_pickled_and_read_from_many_threads(root: Path) -> None:
    source = open_cache(root).source("train")
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: copy[i % 22]["codes"], range(200)))
    for i, codes in enumerate(found):
        np.testing.assert_array_equal(codes, draw_codes("train", i % 22))


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path, root: Path) -> None:
    make_cache(tmp_path / "same", SPLITS)
    make_cache(tmp_path / "other", SPLITS, labels=["a", "b", "d"])
    make_cache(tmp_path / "fewer", {"train": 21, "validation": 5})
    folders = [root, tmp_path / "same", tmp_path / "other", tmp_path / "fewer"]
    prints = [open_cache(folder).source("train").fingerprint for folder in folders]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    validation = [open_cache(folder).source("validation").fingerprint for folder in folders]
    assert validation[0] == validation[3] != prints[0]


def test_interrupted_and_shared_work_gives_the_same_bytes(tmp_path: Path, root: Path) -> None:
    """Two hosts, each stopped in the middle of a shard, then both again, the later one first."""

    def make(writer: CacheWriter, host: int, *, stop_after: int) -> None:
        writer.begin()
        for split in SPLITS:
            for number in range(len(writer.list_shards(split))):
                if number % 2 != host or writer.is_made(split, number):
                    continue
                if stop_after == 0:
                    raise KeyboardInterrupt
                stop_after -= 1
                write_shard(writer, split, number)
        if writer.is_whole():
            writer.finish()

    def fail() -> Any:
        yield TokenExample(draw_codes("train", 0), 0, "x", 0)
        raise KeyboardInterrupt

    writers = [CacheWriter(tmp_path, PLAN, examples=SPLITS, shard_size=4) for _ in range(2)]
    for host, writer in enumerate(writers):
        with pytest.raises(KeyboardInterrupt):
            make(writer, host, stop_after=1)
        with pytest.raises(KeyboardInterrupt):
            writer.write_shard("train", 4 + host, examples=fail(), skipped=[])
    with pytest.raises(DataError, match="half a token cache; run nbp.encode again"):
        open_cache(tmp_path)
    made = [path for path in tmp_path.rglob("*.array_record-*") if ".incomplete/1.0.0" in str(path)]
    stamps = {path.name: path.stat().st_mtime_ns for path in made}
    assert len(stamps) == 2
    make(writers[1], 1, stop_after=99)
    make(writers[0], 0, stop_after=99)
    assert hash_files(tmp_path) == hash_files(root)
    for name, stamp in stamps.items():
        assert (tmp_path / "1.0.0" / name).stat().st_mtime_ns == stamp, "made once"
    make(writers[1], 1, stop_after=0)  # nothing is left to do
    writers[1].finish()
    assert hash_files(tmp_path) == hash_files(root)


def test_skipped_examples_are_listed_and_left_out(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, PLAN, examples={"train": 3, "test": 1}, shard_size=3)
    writer.begin()
    skipped: list[tuple[str, int, str]] = []

    def make() -> Any:
        yield TokenExample(draw_codes("train", 0), 1, "x/0.avi", 0)
        skipped.append(("x/1.avi", 0, "corrupt"))
        yield TokenExample(draw_codes("train", 2), 2, "x/2.avi", 1)

    writer.write_shard("train", 0, examples=make(), skipped=skipped)
    write_shard(writer, "test", 0)
    writer.finish()
    cache = open_cache(tmp_path)
    assert [record["label"] for record in map(cache.source("train").__getitem__, (0, 1))] == [1, 2]
    (note,) = cache.provenance["splits"]["train"]
    assert note["skipped"] == [["x/1.avi", 0, "corrupt"]]
    assert note["examples"] == len(cache.source("train")) == 2


def test_another_plan_is_refused_and_both_sides_named(tmp_path: Path, root: Path) -> None:
    for folder in (root, tmp_path):
        if folder is tmp_path:
            CacheWriter(folder, PLAN, examples=SPLITS, shard_size=4).begin()
        other = CacheWriter(folder, PLAN | {"seed": 1}, examples=SPLITS, shard_size=4)
        with pytest.raises(ConfigError, match=r"other settings: seed 0 then, 1 now.*another --out"):
            other.begin()
    assert not (root / ".incomplete").exists()


def test_what_is_no_cache_is_told_from_half_a_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token cache; make one with nbp.encode"):
        open_cache(tmp_path)
    make_cache(tmp_path, {"train": 1, "test": 1}, shard_size=1)
    path = tmp_path / "1.0.0" / "provenance.json"
    text = path.read_text()
    path.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="has format 2, not 1"):
        open_cache(tmp_path)
    path.write_text(text[:40])
    with pytest.raises(DataError, match="cannot be read"):
        open_cache(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_missing_and_cut_files_are_noticed_at_once(tmp_path: Path, damage: str) -> None:
    make_cache(tmp_path, SPLITS)
    (path,) = tmp_path.rglob("tokens-train.array_record-00002-*")
    if damage == "cut":
        os.truncate(path, 2**16)  # at a block boundary ArrayRecord itself notices nothing
    else:
        path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: (missing|65536 bytes), \d+ bytes were"):
        open_cache(tmp_path).source("train")
    open_cache(tmp_path).source("validation")


def test_a_flipped_bit_costs_one_record_or_the_run(tmp_path: Path) -> None:
    make_cache(tmp_path, SPLITS, shard_size=22)
    (path,) = tmp_path.rglob("tokens-train.array_record-*")
    data = bytearray(path.read_bytes())
    place = data.index(draw_codes("train", 9).astype(np.uint16).tobytes())
    data[place + 3] ^= 1
    path.write_bytes(data)
    source = open_cache(tmp_path).source("train")
    bad = []
    for i in range(22):
        try:
            source[i]
        except VideoError as error:
            bad.append((i, error.reason, error.path))
    assert bad == [(9, "corrupt", f"{path} record 9")]

    listed = BadVideos()
    spec = PipelineSpec(11, 3, shuffle=False)
    with BatchStream(source, (), spec, bad_videos=listed) as stream:
        batches = [next(stream) for _ in range(2)]
        assert stream.replaced == 1
    assert [error.path for error in listed] == [f"{path} record 9"]
    for batch in batches:
        for index, codes in zip(batch["index"], batch["codes"], strict=True):
            same = np.array_equal(codes, draw_codes("train", int(index)))
            assert same == (index != 9)
    stopping = PipelineSpec(11, 3, shuffle=False, bad="stop", workers=1)
    with (
        BatchStream(source, (), stopping) as stream,
        pytest.raises(DataError, match=rf"example 9 cannot be read: .*{path.name} record 9"),
    ):
        next(stream)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_records(tmp_path_factory.mktemp("records") / "1.0.0", {"train": 9, "test": 2})


@pytest.fixture(params=["tokens", "records"])
def parts(
    request: pytest.FixtureRequest, root: Path, records: Path
) -> tuple[Any, tuple[Transform, ...]]:
    if request.param == "tokens":
        return open_cache(root).source("train"), ()
    chain = make_record_transforms(frames=5, size=16, fps=None, training=True, flip=True)
    return RecordSource(records, "train"), chain


def draw(parts: Any, count: int, *, workers: int = 0, **options: Any) -> list[dict[str, Any]]:
    source, transforms = parts
    spec = PipelineSpec(6, 7, workers=workers)
    with BatchStream(source, transforms, spec, **options) as stream:
        return [next(stream) for _ in range(count)]


def assert_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_the_promised_form(parts: Any) -> None:
    (batch,) = draw(parts, 1)
    name, kind, shape = {
        "codes": ("codes", np.uint16, (6, 2, 3, 4)),
        "video": ("video", np.uint8, (6, 5, 16, 16, 3)),
    }["codes" if "codes" in batch else "video"]
    assert set(batch) == {name, "label", "index"}
    assert (batch[name].dtype, batch[name].shape) == (kind, shape)


def test_batches_are_the_same_from_every_position_and_with_workers(parts: Any) -> None:
    wanted = draw(parts, 9)
    for start in range(9):
        assert_equal(draw(parts, 9 - start, start_batch=start), wanted[start:])
    workers = 2 if "codes" in wanted[0] else 1
    assert_equal(draw(parts, 6, workers=workers, start_batch=3), wanted[3:])


def test_a_worker_imports_tfds_before_its_threads_start(parts: Any) -> None:
    """While TFDS is imported, imports of other threads give placeholders: reads would fail."""
    code = (
        "import pickle, sys; pickle.load(sys.stdin.buffer); "
        "print('tensorflow_datasets' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, input=pickle.dumps(parts[0]), cwd=root, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split()[-1] == b"True"


def test_two_processes_share_the_epoch(parts: Any) -> None:
    """Disjoint parts of every batch, whose union over an epoch is every record once."""
    source, transforms = parts
    count = len(source)
    epoch = -(-count // 6)
    shares = [draw(parts, epoch, rows=range(3 * i, 3 * i + 3)) for i in range(2)]
    indices = [np.concatenate([batch["index"] for batch in share]) for share in shares]
    assert not set(indices[0]) & set(indices[1])
    assert sorted({*indices[0], *indices[1]}) == list(range(6 * epoch))
    for whole, *halves in zip(draw(parts, epoch), *shares, strict=True):
        for name in whole:
            merged = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(merged, whole[name])
    del transforms
