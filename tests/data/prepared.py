# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Small prepared datasets and token caches for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from nbp.data.records import serialize_record, shard_name, write_metadata
from nbp.data.token_cache import CacheWriter, TokenExample
from nbp.data.video.clip_codec import ClipEncoder, Coding
from nbp.data.video.decode import VideoInfo
from tests.data.videos import make_clip

GRID = (2, 3, 4)
PLAN: dict[str, Any] = {"grid": GRID, "codes": 64_000, "labels": ["a", "b", "c"], "seed": 0}


def make_records(folder: Path, splits: Mapping[str, int], *, frames: int = 20) -> Path:
    """A prepared dataset of lossless-enough clips 20x24; record i has class i % 2."""
    folder.mkdir(parents=True)
    for split, count in splits.items():
        writer = ArrayRecordWriter(
            str(folder / shard_name("toy", split, 0, 1)), "group_size:1,uncompressed"
        )
        for i in range(count):
            encoder = ClipEncoder(Coding(quality=1), 10.0)
            for frame in make_clip(frames, 20, 24, seed=1000 * len(split) + i):
                encoder.add(frame)
            info = VideoInfo(frames, 10.0, 20, 24)
            clip = encoder.finish()
            path = f"{split}/{i}.avi"
            writer.write(serialize_record(clip, info, label=i % 2, path=path, sha256=str(i)))
        writer.close()
    write_metadata(
        folder, "toy", labels=("one", "two"), splits={name: [n] for name, n in splits.items()}
    )
    return folder


def draw_codes(split: str, example: int, codes: int = 64_000) -> np.ndarray:
    """The codes of an example of `make_cache`."""
    rng = np.random.default_rng((len(split), example))
    return rng.integers(0, codes, GRID, np.int32)


def make_cache(
    root: Path, splits: Mapping[str, int], *, shard_size: int = 4, **plan: Any
) -> CacheWriter:
    """A finished token cache of random codes; example i has class i % 3."""
    writer = CacheWriter(root, PLAN | plan, examples=splits, shard_size=shard_size)
    writer.begin()
    for split in splits:
        for number in range(len(writer.list_shards(split))):
            write_shard(writer, split, number)
    writer.finish()
    return writer


def write_shard(writer: CacheWriter, split: str, number: int) -> None:
    """One shard of `make_cache`."""
    examples = [
        TokenExample(draw_codes(split, i, writer.plan["codes"]), i % 3, f"x/{i}.avi", 0)
        for i in writer.list_shards(split)[number]
    ]
    writer.write_shard(split, number, examples=examples, skipped=[])
