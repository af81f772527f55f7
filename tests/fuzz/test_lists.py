# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of videos, class names and the trees that they describe, damaged."""

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbp.data.prepare.annotations import Listing, list_folder, list_kinetics, list_ucf101
from nbp.data.prepare.list_rows import read_kinetics, read_paths, read_table
from nbp.errors import ConfigError, DataError
from nbp.files import read_lines, read_text
from tests.fuzz.bounds import Tally, fuzz_settings, run_case
from tests.fuzz.mutations import damaged, texts

ALLOWED = (DataError, ConfigError)
UCF = """ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1
YoYo/v_YoYo_g25_c05.avi 101
"""
TABBED = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\t0\r\nYoYo/v_YoYo_g01_c02.avi\t100\r\n"
CLASSES = "1 ApplyEyeMakeup\n2 ApplyLipstick\n101 YoYo\n"
KINETICS = """label,youtube_id,time_start,time_end,split
"abseiling",0347ZoDXyP0,95,105,train
"riding a ""bike"", fast",-0Mh8w3XsHI,3.0,13.0,val
yodeling,abcdefghijk,0,10,test
"""
SEEDS = [
    *(text.encode() for text in (UCF, TABBED, CLASSES, KINETICS)),
    *(text.encode("utf-16") for text in (UCF, KINETICS)),
    KINETICS.replace("\n", "\r").encode(),
    KINETICS.replace(",", ";").encode(),
    b"\xef\xbb\xbf" + TABBED.encode(),
]
TOKENS = [
    *(b"label", b"youtube_id", b"time_start", b"time_end", b"split", b"train", b"val", b"test"),
    *(b'"', b'""', b",", b"\n", b"\r\n", b"\t", b".avi", b"/", b"v_", b"_g01_c01", b" 1", b"\\"),
]
VIDEOS = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "YoYo/v_YoYo_g25_c05.avi",
    "train/abseiling/0347ZoDXyP0_000095_000105.mp4",
    "val/yodeling/abcdefghijk.mp4",
)
NAMES = ("trainlist01.txt", "testlist01.txt", "classInd.txt", "train.csv", "k600_val.txt")


def make_tree(folder: Path, paths: Sequence[str]) -> Path:
    for path in paths:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    return folder


def check_listing(listing: Listing | None, videos: Path) -> None:
    """Whatever was read: files that are there, labels and splits that are there."""
    if listing is None:
        return
    for item in listing.items:
        assert 0 <= item.label < len(listing.labels)
        assert item.split in listing.splits
        assert os.path.isfile(os.path.join(videos, *item.path.split("/")))


def fuzz_files(tmp_path: Path, cases: int) -> Tally:
    """Every reader of one file, and both listings, on the same damaged file."""
    tally = Tally("lists")
    videos = make_tree(tmp_path / "videos", VIDEOS)
    lists = tmp_path / "lists"

    @fuzz_settings(cases)
    @given(damaged(SEEDS, TOKENS), st.sampled_from(NAMES), st.sampled_from((UCF, KINETICS, "")))
    def check(data: bytes, name: str, other: str) -> None:
        shutil.rmtree(lists, ignore_errors=True)
        lists.mkdir()
        second = "testlist01.txt" if name == "trainlist01.txt" else "trainlist01.txt"
        (lists / second).write_text(other, encoding="utf8")
        (lists / name).write_bytes(data)

        def run(call: Any) -> Any:
            return run_case(call, tally, allowed=ALLOWED)

        run(lambda: read_text(lists / name))
        run(lambda: read_lines(lists / name))
        run(lambda: list(read_paths(lists / name)))
        run(lambda: list(read_table(lists / name)))
        run(lambda: read_kinetics(lists))
        check_listing(run(lambda: list_ucf101(videos, lists, split=1)), videos)
        check_listing(run(lambda: list_kinetics(videos, lists)), videos)

    check()
    tally.report()
    return tally


def fuzz_trees(tmp_path: Path, cases: int) -> Tally:
    """Folders of files with names of any kind, with and without lists that name them."""
    tally = Tally("trees")
    number = itertools.count()
    part = st.one_of(
        st.sampled_from(("train", "val", "test", "Train ", "a", "A", "e\u0301", "é", ".hidden")),
        texts(),
    )
    suffix = st.sampled_from((".mp4", ".avi", ".MP4", ".txt", "", ".mkv.", "_000001_000011.mp4"))

    def join(parts: list[str], end: str) -> str:
        return "/".join(p.replace("/", "").replace("\0", "")[:60] or "x" for p in parts) + end

    path = st.builds(join, st.lists(part, min_size=1, max_size=4), suffix)

    @fuzz_settings(cases)
    @given(
        st.lists(path, min_size=1, max_size=6),
        st.sampled_from(("auto", "yes", "no")),
        st.sampled_from((0.0, 0.1, 0.5)),
    )
    def check(paths: list[str], folders: Any, validation: float) -> None:
        videos = tmp_path / str(next(number))
        videos.mkdir()
        for name in paths:
            place = os.path.join(videos, os.path.normpath(name.replace("..", "x")))
            try:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                Path(place).write_bytes(b"x")
            except (OSError, ValueError):  # a file is in the place of a folder, no such names
                continue

        def run(call: Any) -> Any:
            return run_case(call, tally, allowed=ALLOWED)

        found = run(lambda: list_folder(videos, validation=validation, split_folders=folders))
        check_listing(found, videos)
        check_listing(run(lambda: list_kinetics(videos, None)), videos)
        shutil.rmtree(videos)

    check()
    tally.report()
    return tally


def test_damaged_lists_in_short(tmp_path: Path) -> None:
    assert fuzz_files(tmp_path, 30).outcomes["DataError"]
    assert fuzz_trees(tmp_path, 20).outcomes["read"]


@pytest.mark.slow
def test_damaged_lists(tmp_path: Path) -> None:
    tally = fuzz_files(tmp_path, 1500)
    assert {"read", "DataError"} <= set(tally.outcomes)


@pytest.mark.slow
def test_trees_of_any_names(tmp_path: Path) -> None:
    tally = fuzz_trees(tmp_path, 1500)
    assert {"read", "DataError"} <= set(tally.outcomes)
