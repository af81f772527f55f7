# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The stream as a pure function of the example index, and what happens when an example fails.

Classes here are at module level because loader workers must be able to import them.
"""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nbp.data import pipeline
from nbp.data.augmentation import Flip, Transform, make_clip_transforms
from nbp.data.moving_shapes import MovingShapes, MovingShapesSpec
from nbp.data.pipeline import ATTEMPTS, BatchStream, PipelineSpec
from nbp.data.sources import BadVideos, ClipSource, FolderSpec, scan_folder
from nbp.errors import ConfigError, DataError, RestartError
from nbp.files import VideoError
from tests.data.videos import encode, make_clip


@dataclass(frozen=True)
class Numbered:
    """Example i is a clip whose pixels are all i; some rows fail in a chosen way."""

    size: int = 10
    bad: frozenset[int] = frozenset()
    fault: str = "undecodable"

    label_names = ("only",)
    fingerprint = "numbered"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.bad:
            match self.fault:
                case "undecodable":
                    raise VideoError(f"{index}.mp4", "corrupt", f"frame {index} is damaged")
                case "bug":
                    raise KeyError("a mistake of ours")
                case "hang":
                    time.sleep(4)
                case _:
                    os.kill(os.getpid(), signal.SIGKILL)
        video = np.full((2, 3, 3, 3), index, np.uint8)
        return {"video": video, "label": np.int32(0)}


@dataclass(frozen=True)
class AddNoise:
    """Makes each example depend on its generator."""

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        noise = rng.integers(0, 100, record["video"].shape, dtype=np.uint8)
        return {**record, "video": record["video"] + noise}


def _draw(
    count: int,
    source: ClipSource | None = None,
    spec: PipelineSpec | None = None,
    transforms: tuple[Transform, ...] = (AddNoise(),),
    **options: Any,
) -> list[dict[str, Any]]:
    spec = spec or PipelineSpec(4, 7)
    with BatchStream(source or Numbered(), transforms, spec, **options) as stream:
        return [next(stream) for _ in range(count)]


def _rows(batches: list[dict[str, Any]]) -> list[int]:
    """Which row of `Numbered` each example shows (drawn without noise)."""
    return [int(clip[0, 0, 0, 0]) for batch in batches for clip in batch["video"]]


def _assert_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other) == {"video", "label", "index"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_the_promised_form():
    source = MovingShapes(MovingShapesSpec(frames=3, size=16), seed=1, start=100, size=20)
    (batch,) = _draw(1, source, PipelineSpec(4, 0, shuffle=False), transforms=())
    assert batch["video"].shape == (4, 3, 16, 16, 3)
    assert [batch[name].dtype for name in ("video", "label", "index")] == [
        np.uint8,
        np.int32,
        np.int64,
    ]
    assert all(type(value) is np.ndarray for value in batch.values())
    for row in range(4):
        np.testing.assert_array_equal(batch["video"][row], source[row]["video"])
        assert batch["label"][row] == source[row]["label"]
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_each_epoch_is_a_new_order_of_all_examples():
    rows = _rows(_draw(15, spec=PipelineSpec(2, 3), transforms=()))
    epochs = [rows[:10], rows[10:20], rows[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert rows != _rows(_draw(15, spec=PipelineSpec(2, 4), transforms=()))
    plain = _rows(_draw(10, spec=PipelineSpec(2, 3, shuffle=False), transforms=()))
    assert plain == [*range(10), *range(10)]


def test_random_transforms_differ_by_index_and_seed():
    spec = PipelineSpec(10, 3, shuffle=False)
    first, second = (batch["video"] for batch in _draw(2, Numbered(10), spec))
    assert not any(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    (other,) = _draw(1, Numbered(10), PipelineSpec(10, 4, shuffle=False))
    assert not np.array_equal(first, other["video"])
    noise = first - np.arange(10, dtype=np.uint8)[:, None, None, None, None]
    assert len({clip.tobytes() for clip in noise}) == 10


@pytest.mark.parametrize("start", [1, 4, 9])
def test_restart_gives_the_same_batches(start):
    _assert_equal(_draw(12 - start, start_batch=start), _draw(12)[start:])


def test_position_counts_drawn_batches():
    with BatchStream(Numbered(), (), PipelineSpec(4, 7), start_batch=5) as stream:
        assert stream.position == 5
        for expected in (6, 7, 8):
            batch = next(stream)
            assert stream.position == expected
            assert batch["index"].tolist() == list(range(4 * expected - 4, 4 * expected))


def test_batches_do_not_depend_on_threads():
    wanted = _draw(10)
    for threads, prefetch in [(1, 1), (4, 8)]:
        _assert_equal(
            _draw(10, spec=PipelineSpec(4, 7, threads=threads, prefetch=prefetch)), wanted
        )


def _count_workers() -> int:
    return sum("grain" in child.name for child in multiprocessing.active_children())


def test_batches_do_not_depend_on_workers():
    """Two worker processes, restarted in the middle, with damaged examples among the good."""
    source = Numbered(10, frozenset({3, 8}))
    bad = [BadVideos(), BadVideos()]
    wanted = _draw(14, source, PipelineSpec(4, 7, max_bad_fraction=1.0), bad_videos=bad[0])
    spec = PipelineSpec(4, 7, workers=2, max_bad_fraction=1.0)
    _assert_equal(_draw(9, source, spec, start_batch=5, bad_videos=bad[1]), wanted[5:])
    assert {(error.path, error.reason, error.detail) for error in bad[1]} == {
        ("3.mp4", "corrupt", "frame 3 is damaged"),
        ("8.mp4", "corrupt", "frame 8 is damaged"),
    }
    deadline = time.monotonic() + 40  # on a busy machine they leave after `close` has returned
    while _count_workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _count_workers() == 0


def test_a_dead_worker_asks_for_a_restart():
    source = Numbered(100, frozenset({60}), fault="killed")
    spec = PipelineSpec(4, 7, shuffle=False, workers=1)
    with (
        BatchStream(source, (), spec) as stream,
        pytest.raises(RestartError, match=r"worker died at position \d+ with exit code -9"),
    ):
        list(stream)
    assert stream.position <= 15


@pytest.mark.parametrize(
    "rows, workers", [([0, 1], 0), ([2, 3], 0), ([1, 3], 1), ([0], 0), ([3, 0, 1, 2], 0)]
)
def test_some_rows_of_each_batch_are_those_of_the_whole(rows, workers):
    wanted = _draw(6, start_batch=2)
    part = _draw(6, spec=PipelineSpec(4, 7, workers=workers), start_batch=2, rows=rows)
    for whole, some in zip(wanted, part, strict=True):
        for name in whole:
            np.testing.assert_array_equal(some[name], whole[name][rows])


def test_finite_stream_covers_every_example_once():
    spec = PipelineSpec(4, 7, shuffle=False, examples=10)
    for _ in range(2):
        with BatchStream(Numbered(), (), spec) as stream:
            batches = list(stream)
            assert list(stream) == []
        # The last batch is filled up with what follows, here the source from its start.
        assert np.concatenate([batch["index"] for batch in batches]).tolist() == list(range(12))
        assert _rows(batches) == [*range(10), 0, 1]
    with BatchStream(Numbered(), (), spec, start_batch=2) as stream:
        assert [batch["index"][0] for batch in stream] == [8]
    with BatchStream(Numbered(), (), spec, start_batch=3) as stream:
        assert list(stream) == []


def test_small_sources_fill_large_batches():
    (batch,) = _draw(1, Numbered(3), PipelineSpec(8, 0), transforms=())
    counts = Counter(_rows([batch]))
    assert set(counts) == {0, 1, 2}
    assert max(counts.values()) <= 3


def test_undecodable_examples_are_replaced_and_listed(tmp_path):
    source = Numbered(10, frozenset({4}))
    spec = PipelineSpec(5, 7, shuffle=False)
    bad = BadVideos(tmp_path / "bad_videos.csv")
    with BatchStream(source, (), spec, bad_videos=bad) as stream:
        batches = [next(stream) for _ in range(8)]
        assert stream.replaced == 4  # once in each of 4 epochs
    rows = np.array(_rows(batches))
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == list(range(40))
    good = np.arange(40) % 10 != 4
    np.testing.assert_array_equal(rows[good], np.arange(40)[good] % 10)
    assert 4 not in rows
    assert len(set(rows[~good])) > 1  # the replacement depends on the index
    assert (tmp_path / "bad_videos.csv").read_text() == (
        "path,reason,detail\n4.mp4,corrupt,frame 4 is damaged\n"
    )
    _assert_equal(_draw(4, source, spec, transforms=(), start_batch=4), batches[4:])


def test_too_many_replacements_end_the_run():
    source = Numbered(10, frozenset({1, 2, 3}))
    with (
        BatchStream(source, (), PipelineSpec(8, 7)) as stream,
        pytest.raises(DataError, match=r"\d+ of 64 examples could not be decoded.*3 corrupt"),
    ):
        list(stream)
    assert stream.position == 7


def test_the_first_bad_record_stops_where_that_is_asked_for():
    source = Numbered(10, frozenset({6}))
    spec = PipelineSpec(4, 7, shuffle=False, bad="stop")
    with BatchStream(source, (), spec) as stream:
        next(stream)
        message = r"example 6 cannot be read: 6\.mp4: corrupt \(frame 6 is damaged\).*=replace"
        with pytest.raises(DataError, match=message) as caught:
            next(stream)
        assert caught.value.exit_code == 3
        assert (stream.position, stream.replaced) == (1, 0)


def test_nothing_decodable_ends_the_run():
    source = Numbered(10, frozenset(range(10)))
    with BatchStream(source, (), PipelineSpec(4, 7)) as stream:
        for _ in range(2):  # a failed stream stays failed
            with pytest.raises(DataError, match=rf"{ATTEMPTS} videos in a row.*is damaged"):
                next(stream)
        assert stream.position == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_mistakes_are_not_swallowed(workers):
    """The traceback, also that of a worker, goes down to the line at fault."""
    source = Numbered(10, frozenset({2}), fault="bug")
    spec = PipelineSpec(5, 7, shuffle=False, workers=workers)
    with (
        BatchStream(source, (), spec) as stream,
        pytest.raises(KeyError, match="a mistake of ours") as caught,
    ):
        next(stream)
    assert 'raise KeyError("a mistake of ours")' in "".join(
        traceback.format_exception(caught.value)
    )


def test_a_stall_ends_in_a_restart_request():
    source = Numbered(10, frozenset({7}), fault="hang")
    spec = PipelineSpec(2, 7, shuffle=False, threads=1, prefetch=1, stall_seconds=2.0)
    # The import of grain is slow and must not count: warm it up.
    _draw(1, spec=PipelineSpec(2, 7))
    with BatchStream(source, (), spec) as stream:
        began = time.monotonic()
        with pytest.raises(RestartError, match="no batch for 2 s at position 3"):
            list(stream)
        assert time.monotonic() - began < 10
        with pytest.raises(RestartError):
            next(stream)


def test_closed_stream_says_so():
    stream = BatchStream(Numbered(), (), PipelineSpec(4, 7))
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_missing_decode_step_is_named(tmp_path):
    encode(tmp_path / "a" / "one.mp4", make_clip())
    source = scan_folder(tmp_path, FolderSpec(8, validation="same")).train
    with (
        BatchStream(source, (), PipelineSpec(2, 7)) as stream,
        pytest.raises(ValueError, match="needs DecodeClip first"),
    ):
        next(stream)


def test_folder_of_two_sizes_streams_and_loses_a_file_on_the_way(tmp_path):
    encode(tmp_path / "a" / "wide.mp4", make_clip(20, 24, 48))
    encode(tmp_path / "b" / "tall.mkv", make_clip(24, 40, 24))
    encode(tmp_path / "b" / "gone.mkv", make_clip(24, 40, 24))
    source = scan_folder(tmp_path, FolderSpec(8, validation="same")).train
    (tmp_path / "b" / "gone.mkv").unlink()
    chain = make_clip_transforms(frames=8, size=16, fps=None, training=True)
    spec = PipelineSpec(6, 7, max_bad_fraction=1.0)
    bad = BadVideos()
    batches = _draw(3, source, spec, transforms=chain, bad_videos=bad)
    assert {batch["video"].shape for batch in batches} == {(6, 8, 16, 16, 3)}
    assert {int(label) for batch in batches for label in batch["label"]} == {0, 1}
    assert [(error.path, error.reason) for error in bad] == [
        (str(tmp_path / "b" / "gone.mkv"), "unreadable")
    ]
    with pytest.raises(ValueError, match="end the transforms with a Crop"):
        _draw(1, source, spec, transforms=chain[:1])


def test_import_is_light():
    """Machines without grain may import the project, and workers must not start JAX for it."""
    code = "import sys, nbp.data.pipeline; sys.exit(bool({'jax', 'grain'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fingerprint_names_what_matters():
    source, flip = Numbered(), Flip()

    def fingerprint(
        source: ClipSource = source, transforms: tuple[Transform, ...] = (flip,), **changes: Any
    ) -> str:
        spec = dataclasses.replace(PipelineSpec(4, 7), **changes)
        return BatchStream(source, transforms, spec).fingerprint

    same = [
        fingerprint(),
        fingerprint(workers=2, threads=1, prefetch=9, stall_seconds=5.0, max_bad_fraction=0.5),
        fingerprint(batch=8, bad="stop"),  # they cut the same order of examples
    ]
    others = [
        fingerprint(seed=8),
        fingerprint(shuffle=False),
        fingerprint(Numbered(11)),
        fingerprint(transforms=()),
        fingerprint(transforms=(Flip(0.25),)),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 6


@pytest.mark.parametrize(
    "field, value",
    [
        ("batch", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("examples", 0),
        ("workers", -1),
        ("threads", 0),
        ("prefetch", 0),
        ("stall_seconds", 0.0),
        ("max_bad_fraction", 1.5),
    ],
)
def test_wrong_spec_names_the_field(field, value):
    with pytest.raises(ConfigError, match=rf"PipelineSpec\.{field} is"):
        dataclasses.replace(PipelineSpec(4, 0), **{field: value})


def test_wrong_rows_and_empty_source_are_refused():
    for rows in ([], [4], [-1, 0]):
        with pytest.raises(ConfigError, match="rows .* of a batch of 4"):
            BatchStream(Numbered(), (), PipelineSpec(4, 7), rows=rows)
    with pytest.raises(ConfigError, match="start_batch"):
        BatchStream(Numbered(), (), PipelineSpec(4, 7), start_batch=-1)
    with pytest.raises(DataError, match="no examples"):
        BatchStream(Numbered(0), (), PipelineSpec(4, 7))


def test_judgement_waits_for_enough_examples(monkeypatch):
    monkeypatch.setattr(pipeline, "JUDGED_AFTER", 8)
    with pytest.raises(DataError, match="of 8 examples"):
        _draw(2, Numbered(10, frozenset({0, 1, 5})), PipelineSpec(4, 1, shuffle=False))
