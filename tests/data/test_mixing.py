# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets mixed by weight and balanced classes: what comes how often, the same after a restart.

Classes here are at module level because loader workers must be able to import them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp import build_data
from nbp.config import from_dict, load_config, to_json
from nbp.config.schema import Config
from nbp.data.mixing import WINDOW, MixedSource, TransformBySet, list_groups, make_order
from nbp.data.pipeline import Batch, BatchStream, PipelineSpec
from nbp.data.records import RecordSource
from nbp.data.sources import ClipSource
from nbp.errors import ConfigError, DataError
from tests import tiny
from tests.data.prepared import PLAN, make_cache, make_records
from tests.data.videos import encode, make_clip


@dataclass(frozen=True)
class Classes:
    """`counts[c]` examples of class c, whose pixels are all `base` and the row."""

    counts: tuple[int, ...]
    label_names: tuple[str, ...]
    base: int = 0
    unread: int = 0  # so many more, whose class cannot be read

    @property
    def fingerprint(self) -> str:
        return f"{self.counts} from {self.base}"

    def __len__(self) -> int:
        return sum(self.counts) + self.unread

    def list_labels(self) -> np.ndarray:
        known = np.repeat(np.arange(len(self.counts)), np.array(self.counts, int))
        return np.concatenate([known, np.full(self.unread, -1)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = self.list_labels()[index]
        if label < 0:
            raise DataError(f"row {index}")
        video = np.full((1, 2, 2, 3), self.base + index, np.uint8)
        return {"video": video, "label": np.int32(label)}


@dataclass(frozen=True)
class Uniform(Classes):
    """One that draws its classes alike."""

    def list_labels(self) -> None:  # type: ignore[override]
        return None


SKEWED = Classes((1, 2, 37), ("a", "b", "c"))
MIXED = MixedSource(
    (SKEWED, Classes((20, 10), ("c", "d"), 100), Classes((5,), ("b",), 200)), (1.0, 0.5, 2.5)
)


def draw(source: ClipSource, count: int, start: int = 0, **spec: Any) -> list[Batch]:
    with BatchStream(source, (), PipelineSpec(8, 7, **spec), start_batch=start) as stream:
        return [next(stream) for _ in range(count)]


def peek(source: ClipSource, count: int, *, balance: bool = False) -> list[tuple[int, int]]:
    """(number that all pixels are, label) of the first examples, without a loader."""
    order = make_order(list_groups(source, balance=balance), seed=7, shuffle=True)
    records = [source[int(order[i])] for i in range(count)]
    return [(int(record["video"].max()), int(record["label"])) for record in records]


def join(batches: list[Batch], name: str = "label") -> list[int]:
    """Labels, or the number that all pixels of a clip are."""
    values = [batch[name] for batch in batches]
    return [int(v) for part in values for v in (part[:, 0, 0, 0, 0] if part.ndim > 1 else part)]


def test_classes_of_equal_names_are_one_and_the_first_set_keeps_its_ids() -> None:
    assert MIXED.label_names == ("a", "b", "c", "d")
    assert len(MIXED) == 40 + 30 + 5
    found = [
        (MIXED[i]["set"], int(MIXED[i]["label"]), int(MIXED[i]["video"].max()))
        for i in (0, 1, 39, 40, 59, 60, 69, 70, 74)
    ]
    assert found == [
        (0, 0, 0), (0, 1, 1), (0, 2, 39), (1, 2, 100), (1, 2, 119), (1, 3, 120), (1, 3, 129),
        (2, 1, 200), (2, 1, 204),
    ]  # fmt: skip


def test_sets_come_by_their_weights_in_every_window() -> None:
    rows = [number for number, _ in peek(MIXED, 2 * WINDOW)]
    for window in (rows[:WINDOW], rows[WINDOW:]):
        counts = Counter(row // 100 for row in window)
        wanted = np.array([1.0, 0.5, 2.5]) / 4 * WINDOW
        np.testing.assert_allclose([counts[i] for i in range(3)], wanted, atol=1.5)
    places = [[row // 100 for row in rows[i::8]] for i in range(8)]
    for place in places:  # no row of a batch belongs to one set
        assert 0.5 < Counter(place)[2] / len(place) < 0.75


def test_each_set_goes_through_epochs_of_its_own() -> None:
    rows = [number for number, _ in peek(MIXED, 2 * WINDOW) if number >= 200]
    counts = Counter(rows)
    assert set(counts) == set(range(200, 205))
    assert max(counts.values()) - min(counts.values()) <= 1 + len(rows) // WINDOW + 2


def test_classes_come_equally_often() -> None:
    found = peek(SKEWED, 1200, balance=True)
    counts = Counter(label for _, label in found)
    np.testing.assert_allclose([counts[i] for i in range(3)], 400, rtol=0.12)
    assert len(set(found)) == 40, "no clip of the large class is left out"
    plain = Counter(join(draw(SKEWED, 5)))
    assert plain[2] == 37


def test_balance_is_within_each_set() -> None:
    found = peek(MIXED, WINDOW, balance=True)
    pairs = Counter((number // 100, label) for number, label in found)
    wanted = {(0, 0): 1 / 3, (0, 1): 1 / 3, (0, 2): 1 / 3, (1, 2): 0.25, (1, 3): 0.25, (2, 1): 2.5}
    assert set(pairs) == set(wanted)
    for pair, share in wanted.items():
        assert abs(pairs[pair] - share / 4 * WINDOW) <= 2, pair


@pytest.mark.parametrize("start", [1, 9])
@pytest.mark.parametrize("balance", [False, True])
def test_a_restart_gives_the_same_batches(start: int, balance: bool) -> None:
    whole = draw(MIXED, start + 3, balance=balance)
    for ours, theirs in zip(draw(MIXED, 3, start, balance=balance), whole[start:], strict=True):
        for name in ("video", "label", "index"):
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_and_workers_divide_the_same_batches(workers: int) -> None:
    whole = draw(MIXED, 3, balance=True)
    for rows in ([0, 2, 4, 6], [5, 1]):
        spec = PipelineSpec(8, 7, workers=workers, balance=True)
        with BatchStream(MIXED, (), spec, rows=rows) as stream:
            for wanted in whole:
                found = next(stream)
                np.testing.assert_array_equal(found["video"], wanted["video"][rows])
                np.testing.assert_array_equal(found["label"], wanted["label"][rows])


def test_the_plain_order_is_the_one_that_it_ever_was() -> None:
    import grain

    order = make_order(list_groups(SKEWED, balance=False), seed=5, shuffle=True)
    wanted = grain.MapDataset.range(40).seed(5).shuffle().repeat()
    assert [order[i] for i in range(100)] == [wanted[i] for i in range(100)]


def test_without_shuffling_sets_and_classes_take_turns() -> None:
    order = make_order(list_groups(MIXED, balance=False), seed=5, shuffle=False)
    rows = [int(order[i]) for i in range(80)]
    assert [row for row in rows if row < 40] == list(range(20))
    assert [row for row in rows if row >= 70] == [70 + i % 5 for i in range(50)]


def test_rows_whose_class_cannot_be_read_are_left_out() -> None:
    ((_, groups),) = list_groups(Classes((2, 0, 3), ("a", "b", "c"), unread=2), balance=True)
    assert [list(rows) for rows in groups] == [[0, 1], [2, 3, 4]]
    with pytest.raises(DataError, match="no class can be read of 2 clips"):
        list_groups(Classes((), (), unread=2), balance=True)
    ((_, alike),) = list_groups(Uniform((2, 3), ("a", "b")), balance=True)
    assert alike == [range(5)]


def test_weights_sets_and_balance_are_other_data() -> None:
    spec = PipelineSpec(8, 7)
    sources = [
        MIXED,
        MixedSource(MIXED.sources, (1.0, 0.5, 2.0)),
        MixedSource(MIXED.sources[:2], (1.0, 0.5)),
    ]
    prints = [BatchStream(source, (), spec).fingerprint for source in sources]
    balanced = BatchStream(MIXED, (), PipelineSpec(8, 7, balance=True)).fingerprint
    assert len({*prints, balanced}) == 4


# Configuration -----------------------------------------------------------------------------------

SMALL = {**tiny.OVERRIDES, "data.frames": "5", "data.size": "16"}


def load(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**SMALL, **keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of the classes `two` and `three`: 3 and 1."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("two/a", "two/b", "two/c", "three/d")):
        path = root / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        encode(path, make_clip(8, 20, 24, seed=number))
    return root


def test_records_a_folder_and_moving_shapes_in_one_stream(tmp_path: Path, folder: Path) -> None:
    records = make_records(tmp_path / "toy" / "1.0.0", {"train": 6, "validation": 2})
    (folder / "two" / "broken.mp4").write_bytes(b"nothing")
    mix = f"({{'root': '{folder}', 'kind': 'folder'}}, {{'kind': 'moving_shapes', 'weight': 2.0}})"
    config = load(data__kind="records", data__root=str(records), data__mix=mix)
    assert from_dict(json.loads(to_json(config))) == config
    train, held_out = build_data.make_data(config)
    shapes = config.shapes_spec.label_names
    names = ("one", "two", "three", *shapes)
    assert train.label_names == held_out.label_names == names
    assert isinstance(held_out.source, RecordSource)
    assert len(held_out.source) == 2
    assert [len(source) for source in train.source.sources[:2]] == [6, 4], "all of the folder"
    assert train.bad_videos is held_out.bad_videos
    assert [Path(error.path).name for error in train.bad_videos or ()] == ["broken.mp4"]
    stage = config.train.tokenizer
    with build_data.make_training_stream(config, stage, data=train, start_batch=0) as stream:
        batches = [next(stream) for _ in range(8)]
        print_of_stream = stream.fingerprint
    assert print_of_stream == build_data.find_fingerprint(config, stage, train)
    assert {batch["video"].shape for batch in batches} == {(8, 5, 16, 16, 3)}
    kinds = Counter(min(label, 3) for batch in batches for label in batch["label"].tolist())
    assert set(kinds) == {0, 1, 2, 3}
    assert 0.3 < kinds[3] / 64 < 0.7, "half of the clips"
    told = build_data.describe_mix(config, train)
    assert told.startswith(f"clips: 25.0% of {records} (6), 25.0% of {folder} (4), 50.0% of moving")
    images = build_data.add_images(
        load(data__kind="records", data__root=str(records), data__mix=mix, images__batch="4"), train
    )
    assert images.images is not None
    assert isinstance(images.images.transforms[0], TransformBySet)


def test_grids_of_mixed_sets(folder: Path) -> None:
    config = load(
        data__mix=f"({{'root': '{folder}', 'kind': 'folder'}},)",
        data__grids="((3, 24, 24),)",
        generator__positions="rotary",
        generator__opening_blocks="1",
        data__validation_clips="4",
    )
    train, held_out = build_data.make_data(config)
    assert len(train.grids) == len(held_out.grids) == 1
    assert train.grids[0].label_names == held_out.grids[0].label_names == train.label_names
    rng = np.random.default_rng(0)
    record = train.grids[0].source[len(train.source) - 1]
    assert train.grids[0].transforms[0](record, rng)["video"].shape == (3, 24, 24, 3)


def test_caches_of_tokens_are_mixed(tmp_path: Path) -> None:
    for name, labels in (("one", ["a", "b", "c"]), ("two", ["c", "x", "y"])):
        make_cache(tmp_path / name, {"train": 6, "validation": 3}, labels=labels)
    caches = [build_data.open_cache(tmp_path / name) for name in ("one", "two")]
    source = MixedSource(tuple(cache.source("train") for cache in caches), (1.0, 1.0))
    assert source.label_names == ("a", "b", "c", "x", "y")
    (batch,) = draw(source, 1, balance=True)
    assert batch["codes"].shape == (8, *PLAN["grid"])
    order = make_order(list_groups(source, balance=True), seed=7, shuffle=True)
    counts = Counter(int(source[int(order[i])]["label"]) for i in range(WINDOW))
    assert abs(counts[2] - WINDOW / 3) <= 3, "class c is in both"


def test_labels_of_records_are_read_where_they_are_not_noted(tmp_path: Path) -> None:
    source = RecordSource(make_records(tmp_path / "1.0.0", {"train": 5}), "train")
    assert source.list_labels().tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "mix, message",
    [
        ("({'kind': 'folder'},)", r"data\.mix\[0\]\.root: name the folder of videos"),
        ("({'kind': 'moving_shapes'},)", r"data\.mix\[0\]: moving shapes is mixed in already"),
        ("({'kind': 'tokens', 'root': 'x'},)", r"data\.mix\[0\]\.kind: tokens and moving_shapes"),
        ("({'kind': 'folder', 'root': 'x', 'weight': 0.0},)", r"data\.mix\[0\]\.weight"),
        ("({'path': 'x'},)", r"unknown config key 'data\.mix\[0\]\.path'"),
        ("({'kind': 'folder', 'root': '~nobody-at-all/x'},)", r"data\.mix\[0\]\.root: .*no home"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(mix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        load(data__mix=mix)
    assert "\n" not in str(refusal.value)
