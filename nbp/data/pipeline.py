# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The loader: batches as a pure function of (source, transforms, seed, global example index).

Batch k holds examples k * batch .. (k + 1) * batch - 1 of one endless order, in which each epoch
is shuffled anew. Neither the number of workers, threads or processes nor a restart changes an
example, so one integer, the position, is all that a checkpoint needs.

An example whose record cannot be read is replaced by another, chosen by the example's index;
replacements are counted and listed, and too many of them end the run. Or the first one ends it.
"""

import hashlib
import sys
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nbp.data.augmentation import Transform
from nbp.data.mixing import Rows, list_groups, make_order
from nbp.data.sources import BadVideos, ClipSource
from nbp.data.watchdog import Feeder, prepare_worker
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError
from nbp.shapes import Array

Batch = dict[str, Any]

# An example is tried this often: its own record, then replacements.
ATTEMPTS = 5
# The share of replaced examples is judged once this many were drawn.
JUDGED_AFTER = 64
# What an example consists of, one of these: its type and its axes.
LABELS = ("label", "label_from")  # the second where labels change in clips
CONTENTS = {"video": ((np.uint8, np.float32), "t h w c"), "codes": ((np.integer,), "T H W")}
# Keeps the examples' random numbers apart from those of sources seeded with (seed, index).
_RNG_STREAM = 0x4E4250
# Bytes of a failure's text that travel with an example from a worker.
_TEXT = "S240"


@dataclass(frozen=True)
class PipelineSpec:
    """How examples are ordered, batched and prepared.

    batch: examples in a global batch, over all processes.
    seed: of the order and of every random transform, 0 .. 2^32 - 1.
    shuffle: a new random order in each epoch; else the source's order, repeated.
    examples: None for an endless stream. N ends it after ceil(N / batch) batches; the last one is
        filled up with the examples that follow, to be told by index >= N.
    workers: processes that prepare batches; 0 prepares them in this one. threads, prefetch:
        batches prepared at once, and ready batches kept, in each worker (or here).
    stall_seconds: without a batch for this long the stream raises `RestartError`.
    bad: an example that cannot be read is replaced, or its `DataError` ends the stream.
    balance: classes come equally often, however many examples each has.
    max_bad_fraction: with more replaced examples than this share the stream raises `DataError`.
    """

    batch: int
    seed: int
    shuffle: bool = True
    examples: int | None = None
    workers: int = 0
    threads: int = 2
    prefetch: int = 4
    stall_seconds: float = 300.0
    bad: Literal["replace", "stop"] = "replace"
    max_bad_fraction: float = 0.2
    balance: bool = False

    def __post_init__(self) -> None:
        _check("batch", self.batch, self.batch >= 1, "1 or more")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 .. 2^32 - 1")
        fits = self.examples is None or self.examples >= 1
        _check("examples", self.examples, fits, "None or 1 or more")
        _check("workers", self.workers, self.workers >= 0, "0 or more")
        _check("threads", self.threads, self.threads >= 1, "1 or more")
        _check("prefetch", self.prefetch, self.prefetch >= 1, "1 or more")
        _check("stall_seconds", self.stall_seconds, self.stall_seconds > 0, "above 0")
        fits = 0 <= self.max_bad_fraction <= 1
        _check("max_bad_fraction", self.max_bad_fraction, fits, "0 .. 1")


def _check(field: str, value: object, fits: bool, allowed: str) -> None:
    if not fits:
        raise ConfigError(f"PipelineSpec.{field} is {value!r}; allowed: {allowed}.")


class BatchStream:
    """Batches of this process, from batch `start_batch` on.

    Each is {"video": uint8 [b t h w c], "label": int32 [b], "index": int64 [b]}, with "codes"
    (integers [b T H W]) in place of "video" where the source holds tokens; where labels change in
    clips also "label_from": int32 [b], the frame from which the label holds. `rows` are the rows of
    each global batch that are made here, in this order, by default all; a job of several processes
    divides them. `index` is the global example index: g + row in the global batch that starts at g.

    `bad_videos` collects files that failed while streaming. Iterating raises `DataError` when no
    replacement can be read, too many are needed, or none is wanted; `RestartError` when a worker
    died or no batch came in time; and whatever a transform raises. After an error the stream stays
    failed: make a new one at `position`. Close it, or use it in a `with`, to stop its workers.
    """

    def __init__(
        self,
        source: ClipSource,
        transforms: tuple[Transform, ...],
        spec: PipelineSpec,
        *,
        start_batch: int = 0,
        rows: Sequence[int] | None = None,
        bad_videos: BadVideos | None = None,
    ):
        if len(source) == 0:
            raise DataError("the data source has no examples; check the data configuration.")
        rows = tuple(range(spec.batch) if rows is None else rows)
        if not rows or min(rows) < 0 or max(rows) >= spec.batch:
            raise ConfigError(f"rows {rows} of a batch of {spec.batch}; allowed: some of its rows.")
        if start_batch < 0:
            raise ConfigError(f"start_batch is {start_batch}; allowed: 0 or more.")
        self.source, self.spec = source, spec
        self.bad_videos = BadVideos() if bad_videos is None else bad_videos
        self.position = start_batch
        self.replaced = 0
        self._drawn = 0
        self._fingerprint = make_fingerprint(source, transforms, spec)
        self._error: BaseException | None = None
        groups = list_groups(source, balance=spec.balance)
        self._feeder = Feeder(
            lambda: _make_iterator(
                groups,
                _MakeExample(
                    source, transforms, spec.seed, ATTEMPTS if spec.bad == "replace" else 1
                ),
                spec,
                start_batch=start_batch,
                rows=rows,
            )
        )
        # Stops the workers of a stream that was dropped without being closed.
        self._finalizer = weakref.finalize(self, self._feeder.stop)

    @property
    def fingerprint(self) -> str:
        """Two streams with the same fingerprint give the same example at the same index.

        Batches, their size, and workers only cut the one endless order of examples.
        """
        return self._fingerprint

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        try:
            batch = self._feeder.take(self.spec.stall_seconds, self.position)
            self._note_failures(batch)
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            self._feeder.stop()
            raise
        self.position += 1
        return batch

    def _note_failures(self, batch: Batch) -> None:
        """Takes the failure columns out of the batch; lists, counts and judges them."""
        self._drawn += len(batch["index"])
        self.replaced += _list_failures(batch, self.source, self.bad_videos)
        limit = self.spec.max_bad_fraction * self._drawn
        if self._drawn >= JUDGED_AFTER and self.replaced > limit:
            listed = f" (listed in {self.bad_videos.file})" if self.bad_videos.file else ""
            raise DataError(
                f"{self.replaced} of {self._drawn} examples could not be decoded and were "
                f"replaced, more than the allowed share of {self.spec.max_bad_fraction:g}: "
                f"{self.bad_videos.summarize()}{listed}. Repair or remove these files."
            )

    def close(self) -> None:
        """Stops the workers; the stream gives no more batches."""
        self._finalizer()
        self._error = self._error or ValueError("this stream is closed")

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_examples(
    source: ClipSource,
    transforms: tuple[Transform, ...],
    spec: PipelineSpec,
    *,
    indices: Sequence[int],
    bad_videos: BadVideos,
) -> Batch:
    """The examples that an unshuffled stream of `spec` has at `indices`, one after the other.

    Raises what a stream raises, but for the judgement of many replacements.
    """
    attempts = ATTEMPTS if spec.bad == "replace" else 1
    make = _MakeExample(source, transforms, spec.seed, attempts)
    with ThreadPoolExecutor(spec.threads) as pool:
        batch = _stack_examples(list(pool.map(lambda i: make(i, i % len(source)), indices)))
    _list_failures(batch, source, bad_videos)
    return batch


_FAILURE_COLUMNS = ("failed_row", "failed_reason", "failed_detail")


def _list_failures(batch: Batch, source: ClipSource, bad_videos: BadVideos) -> int:
    """Takes the failure columns out of a batch into the list; returns the replaced examples."""
    rows, reasons, details = (batch.pop(name) for name in _FAILURE_COLUMNS)
    for row, reason, detail in zip(*map(np.ravel, (rows, reasons, details)), strict=True):
        if row >= 0:
            path = _name_example(source, int(row))
            detail = detail.decode(errors="replace")  # it may have been cut in a letter
            bad_videos.add(VideoError(path, reason.decode(), detail))
    return int(np.sum(rows[:, 0] >= 0))


@dataclass(frozen=True)
class _MakeExample:
    """Makes example `index` from row `row` of the source, or from a replacement."""

    source: ClipSource
    transforms: tuple[Transform, ...]
    seed: int
    attempts: int

    def __call__(self, index: int, row: int) -> Batch:
        failed: list[tuple[int, DataError]] = []
        for attempt in range(self.attempts):
            rng = np.random.default_rng((_RNG_STREAM, self.seed, index, attempt))
            if attempt:
                row = int(rng.integers(len(self.source)))
            try:
                record = self.source[row]
                for transform in self.transforms:
                    record = transform(record, rng)
            except DataError as error:
                failed.append((row, error))
                continue
            return {
                **_take_content(record),
                **{name: np.int32(record[name]) for name in LABELS if name in record},
                "index": np.int64(index),
                **_describe_failures(failed),
            }
        if self.attempts == 1:
            raise DataError(
                f"example {index} cannot be read: {failed[0][1]}. Repair or remove it, or have it "
                "replaced by another: --config.data.bad_records=replace."
            )
        raise DataError(
            f"example {index}: {self.attempts} videos in a row could not be decoded, the last: "
            f"{failed[-1][1]}. Check that the data is still there and whole."
        )


def _describe_failures(failed: list[tuple[int, DataError]]) -> Batch:
    """The failed attempts as arrays of fixed size, which batch and pass between processes."""
    rows = np.full(ATTEMPTS, -1, np.int64)
    reasons, details = np.zeros(ATTEMPTS, _TEXT), np.zeros(ATTEMPTS, _TEXT)
    for attempt, (row, error) in enumerate(failed):
        known = isinstance(error, VideoError)
        rows[attempt] = row
        reasons[attempt] = error.reason.encode() if known else b"unreadable"
        details[attempt] = (error.detail if known else str(error)).encode(errors="replace")
    return dict(zip(_FAILURE_COLUMNS, (rows, reasons, details), strict=True))


def _name_example(source: ClipSource, row: int) -> str:
    try:
        return source[row].get("path", f"example {row}")
    except DataError as error:  # the source itself reads the data
        return getattr(error, "path", f"example {row}")


def _take_content(record: Batch) -> dict[str, Array]:
    """The clip or the codes of a record, as {name: array}."""
    for name, (kinds, axes) in CONTENTS.items():
        found = record.get(name)
        if found is None:
            continue
        fits = isinstance(found, np.ndarray) and any(np.issubdtype(found.dtype, k) for k in kinds)
        if fits and found.ndim == len(axes.split()):
            return {name: np.ascontiguousarray(found)}
        shown = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else repr(found)
        raise ValueError(
            f"an example's {name!r} must be {kinds[0].__name__} [{axes}] after the transforms, not "
            f"{shown}"
        )
    raise ValueError(
        "an example has neither 'video' nor 'codes' after the transforms; a folder of videos needs "
        "DecodeClip first, prepared records DecodeRecord."
    )


@dataclass(frozen=True)
class _PickRow:
    """Example number `place` of those that this process makes: some rows of every batch.

    An example's index is its position in the endless `order`, so each epoch draws new windows and
    crops.
    """

    order: Any
    make_example: _MakeExample
    batch: int
    rows: tuple[int, ...]

    def __call__(self, place: int) -> Batch:
        number, row = divmod(place, len(self.rows))
        index = number * self.batch + self.rows[row]
        return self.make_example(index, int(self.order[index]))


def _make_iterator(
    groups: Sequence[tuple[float, Sequence[Rows]]],
    make_example: _MakeExample,
    spec: PipelineSpec,
    *,
    start_batch: int,
    rows: tuple[int, ...],
) -> Iterator[Batch]:
    # Slow to import (it brings JAX), and not needed on a machine that only samples.
    import grain
    from absl import flags

    # grain 0.2.18 reads an absl flag when it starts workers, which fails unless absl parsed argv.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    order = make_order(groups, seed=spec.seed, shuffle=spec.shuffle)
    # Batching comes before anything that knows of workers: contents must not depend on them.
    batches = (
        grain.MapDataset.range(sys.maxsize)
        .map(_PickRow(order, make_example, spec.batch, rows))[start_batch * len(rows) :]
        .batch(len(rows), drop_remainder=True, batch_fn=_stack_examples)
    )
    workers = spec.workers
    if spec.examples is not None:
        count = max(0, -(-spec.examples // spec.batch) - start_batch)
        if count == 0:
            return iter(())
        batches = batches[:count]
        workers = min(workers, count)
    threads = min(spec.threads, spec.prefetch)
    stream = batches.to_iter_dataset(grain.ReadOptions(threads, spec.prefetch))
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        stream = stream.mp_prefetch(options, worker_init_fn=prepare_worker)
    return iter(stream)


# grain stacks into shared memory only behind the division of the examples among workers, and then
# batches depend on the number of workers (benchmarks/libraries.py).
def _stack_examples(examples: Sequence[Batch]) -> Batch:
    content = next(name for name in CONTENTS if name in examples[0])
    shapes = {example[content].shape for example in examples}
    if len(shapes) > 1:
        raise ValueError(
            f"clips of different shapes cannot form a batch: {sorted(shapes)}; end the transforms "
            "with a Crop or Squash to one size."
        )
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def make_fingerprint(
    source: ClipSource, transforms: tuple[Transform, ...], spec: PipelineSpec
) -> str:
    """The `BatchStream.fingerprint` of these."""
    parts = (source.fingerprint, len(source), transforms, spec.seed, spec.shuffle)
    parts += ("balanced",) * spec.balance
    return "examples-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
