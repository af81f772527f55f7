# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Bucketed batches: clips of several sizes and lengths, each batch of one kind.

Which kind batch k has is drawn by chance from the seed and k alone, so it is the same on every
process, and after a restart. Each kind has an endless order of examples of its own.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbp.data.pipeline import Batch, BatchStream
from nbp.shapes import Int

CHUNK = 4096  # batches whose kinds are drawn at once
_STREAM = 0x62556B  # keeps these draws apart from those of examples


@dataclass(frozen=True)
class BucketSchedule:
    """Which kind of clips each batch has.

    shares: the chance of each kind, above 0; together 1. seed: 0 or more.
    """

    shares: tuple[float, ...]
    seed: int

    def find(self, batch: int) -> int:
        """The kind of a batch."""
        return int(_draw(self, batch // CHUNK)[batch % CHUNK])

    def count(self, batch: int) -> Int[np.ndarray, "kinds"]:
        """How many of the batches before this one have each kind."""
        kinds = len(self.shares)
        total = np.zeros(kinds, np.int64)
        for chunk in range(batch // CHUNK):
            total += np.bincount(_draw(self, chunk), minlength=kinds)
        return total + np.bincount(_draw(self, batch // CHUNK)[: batch % CHUNK], minlength=kinds)


@functools.lru_cache(maxsize=4)
def _draw(schedule: BucketSchedule, chunk: int) -> Int[np.ndarray, "chunk"]:
    """The kinds of CHUNK batches."""
    rng = np.random.default_rng((_STREAM, schedule.seed, chunk))
    return np.searchsorted(np.cumsum(schedule.shares)[:-1], rng.random(CHUNK), side="right")


class BucketStream:
    """Batches of several streams, one for each kind of clips, in turn as `schedule` says.

    Batch k is the next one of its kind's stream, so k alone is the position. streams: each starts
    at the batch that `BucketSchedule.count` tells for `start_batch`. Errors are those of
    `BatchStream`; afterwards the stream stays failed.
    """

    def __init__(
        self, streams: Sequence[BatchStream], schedule: BucketSchedule, *, start_batch: int
    ) -> None:
        starts = [stream.position for stream in streams]
        if starts != schedule.count(start_batch).tolist():
            raise ValueError(
                f"streams at {starts}, but before batch {start_batch} lie "
                f"{schedule.count(start_batch).tolist()} of each kind"
            )
        self.streams, self.schedule = tuple(streams), schedule
        self.position = start_batch
        self.spec = streams[0].spec

    @property
    def fingerprint(self) -> str:
        """That of all streams, their batches and shares: on these depends what comes when."""
        parts = [(stream.fingerprint, stream.spec.batch) for stream in self.streams]
        return join_bucket_fingerprints(parts, self.schedule.shares)

    def __iter__(self) -> "BucketStream":
        return self

    def __next__(self) -> Batch:
        batch = next(self.streams[self.schedule.find(self.position)])
        self.position += 1
        return batch

    def close(self) -> None:
        """Stops the workers of all; the stream gives no more batches."""
        for stream in self.streams:
            stream.close()

    def __enter__(self) -> "BucketStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join_bucket_fingerprints(parts: Sequence[tuple[str, int]], shares: Sequence[float]) -> str:
    """The fingerprint of a bucketed stream from those and the batches of its kinds."""
    named = zip(parts, shares, strict=True)
    return "; ".join(f"{share:.6g} of {batch} {text}" for (text, batch), share in named)
