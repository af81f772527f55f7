# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of several kinds of clips: which comes when, and that nothing else changes them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from nbp import build_data
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.buckets import CHUNK, BucketSchedule, BucketStream
from nbp.data.pipeline import BatchStream, PipelineSpec
from nbp.data.token_cache import CacheWriter, TokenExample
from nbp.errors import DataError
from tests import tiny

GRIDS = {"data.grids": "((3, 16, 24), (5, 24, 24))", "data.grid_shares": "(0.25, 0.25)"}
TOKENIZER = {"stages": "('tokenizer',)", "data.moving_shapes.train_clips": "20"}


@dataclass(frozen=True)
class Squares:
    """Example i is a square of `side` pixels that are all i."""

    side: int
    size: int = 10

    label_names = ("only",)

    @property
    def fingerprint(self) -> str:
        return f"squares of {self.side}"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = np.full((1, self.side, self.side, 3), index, np.uint8)
        return {"video": video, "label": np.int32(0)}


SCHEDULE = BucketSchedule((0.5, 0.25, 0.25), seed=3)
SPECS = [PipelineSpec(batch, seed) for batch, seed in ((4, 7), (2, 8), (6, 9))]


def start(
    batch: int, schedule: BucketSchedule = SCHEDULE, rows: list[list[int]] | None = None
) -> BucketStream:
    starts = schedule.count(batch).tolist()
    streams = [
        BatchStream(Squares(2 + i), (), SPECS[i], start_batch=n, rows=rows[i] if rows else None)
        for i, n in enumerate(starts)
    ]
    return BucketStream(streams, schedule, start_batch=batch)


def test_a_schedule_is_a_function_of_seed_and_batch() -> None:
    kinds = [SCHEDULE.find(batch) for batch in range(CHUNK + 200)]
    again = BucketSchedule((0.5, 0.25, 0.25), seed=3)
    assert [again.find(batch) for batch in (CHUNK + 100, 5, 3)] == [
        kinds[batch] for batch in (CHUNK + 100, 5, 3)
    ]
    assert kinds != [BucketSchedule(SCHEDULE.shares, seed=4).find(b) for b in range(len(kinds))]
    for batch in (0, 1, 50, CHUNK, CHUNK + 150):
        counted = np.bincount(kinds[:batch], minlength=3)
        np.testing.assert_array_equal(SCHEDULE.count(batch), counted)
    np.testing.assert_allclose(np.bincount(kinds) / len(kinds), SCHEDULE.shares, atol=0.03)


def test_each_kind_goes_through_its_own_order() -> None:
    with start(0) as stream:
        found = [next(stream) for _ in range(20)]
        assert stream.position == 20
    seen = [0, 0, 0]
    alone = [BatchStream(Squares(2 + i), (), SPECS[i]) for i in range(3)]
    for number, batch in enumerate(found):
        kind = SCHEDULE.find(number)
        expected = next(alone[kind])
        for name in ("video", "index", "label"):
            np.testing.assert_array_equal(batch[name], expected[name])
        seen[kind] += 1
    assert min(seen) > 0


def test_a_stream_goes_on_where_it_stood_and_processes_share_a_batch() -> None:
    with start(0) as stream:
        whole = [next(stream) for _ in range(16)]
    halves = [[0, 1], [0], [0, 1, 2]], [[2, 3], [1], [3, 4, 5]]
    with start(9, rows=halves[0]) as first, start(9, rows=halves[1]) as second:
        for batch in whole[9:]:
            parts = next(first), next(second)
            joined = np.concatenate([part["video"] for part in parts])
            np.testing.assert_array_equal(joined, batch["video"])
    with pytest.raises(ValueError, match="before batch 9"):
        BucketStream(start(8).streams, SCHEDULE, start_batch=9)


def test_fingerprints_tell_shares_and_batches() -> None:
    plain = start(0).fingerprint
    assert start(4).fingerprint == plain
    other = BucketSchedule((0.4, 0.35, 0.25), seed=3)
    assert start(0, other).fingerprint != plain
    streams = [
        BatchStream(Squares(2 + i), (), replace(spec, batch=spec.batch * (1 + (i == 1))))
        for i, spec in enumerate(SPECS)
    ]
    assert BucketStream(streams, SCHEDULE, start_batch=0).fingerprint != plain


def load(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **TOKENIZER, **GRIDS, **keys})


@pytest.mark.parametrize("images", ["0", "2"])
def test_moving_shapes_come_in_each_grid(images: str) -> None:
    config = load(images__batch=images)
    train, held_out = build_data.make_data(config)
    train = build_data.add_images(config, train)
    stage = config.train.tokenizer
    shapes = set()
    with build_data.make_training_stream(config, stage, data=train, start_batch=0) as stream:
        assert stream.fingerprint == build_data.find_fingerprint(config, stage, train)
        for _ in range(12):
            batch = next(stream)
            shapes.add(batch["video"].shape)
            assert ("image" in batch) == (images != "0")
    # 5x16x16 px in batches of 8; 3x16x24 px have as many tokens, 5x24x24 px twice as many.
    assert shapes == {(8, 5, 16, 16, 3), (8, 3, 16, 24, 3), (4, 5, 24, 24, 3)}
    assert [each.source[0]["video"].shape for each in held_out.grids] == [
        (3, 16, 24, 3),
        (5, 24, 24, 3),
    ]
    plain = load(data__grids="()", data__grid_shares="()")
    alone = build_data.make_data(plain)[0]
    assert alone.source.fingerprint == train.source.fingerprint
    assert build_data.find_fingerprint(plain, stage, alone).startswith("examples-")


def write_cache(root: Any, config: Config, codes: int) -> None:
    grid = config.grid.shape
    plan = {
        "grid": list(grid),
        "codes": codes,
        "labels": ["only"],
        "preprocessing": build_data.describe_clips(config),
    }
    writer = CacheWriter(root, plan, examples={"train": 4, "validation": 2}, shard_size=4)
    writer.begin()
    for split, count in writer.examples.items():
        examples = [TokenExample(np.full(grid, i), 0, str(i), 0) for i in range(count)]
        writer.write_shard(split, 0, examples=examples, skipped=[])
    writer.finish()


def test_token_caches_lie_below_the_main_one(tmp_path: Any) -> None:
    changes = {"data.kind": "tokens", "data.root": str(tmp_path), "stages": "('generator',)"}
    changes |= {"data.grids": "((3, 16, 24),)", "data.grid_shares": "(0.5,)"}
    changes |= {"generator.positions": "rotary"}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    codes = config.tokenizer.make_quantizer().codes
    main, further = config.each_grid
    write_cache(tmp_path, main, codes)
    with pytest.raises(DataError, match="3x16x24: no token cache; make one with nbp.encode"):
        build_data.make_data(config)
    write_cache(tmp_path / "3x16x24", further, codes)
    train, held_out = build_data.make_data(config)
    assert train.source[0]["codes"].shape == (3, 4, 4)
    assert train.grids[0].source[0]["codes"].shape == (2, 4, 6)
    assert len(held_out.grids[0].source) == 2
    assert len(build_data.open_each_cache(config)) == 2
