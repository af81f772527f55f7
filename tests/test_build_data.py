# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which dataset a folder stands for: the one in it, or the only one below it."""

from pathlib import Path

import pytest

from nbp import build_data
from nbp.config import load_config
from nbp.errors import ConfigError
from tests.data.prepared import make_records

ONE = {"train": 1, "test": 1}


def test_the_folder_above_the_only_dataset_stands_for_it(tmp_path: Path) -> None:
    """`data/ucf101` for `data/ucf101/split1/1.0.0`, which is where nbp.prepare puts it."""
    made = make_records(tmp_path / "ucf101" / "split1" / "1.0.0", ONE)
    (tmp_path / "ucf101" / ".incomplete-ucf101" / "1.0.0").mkdir(parents=True)
    for place in (made, made.parent, made.parent.parent):
        assert build_data.find_dataset(place) == made
    config = load_config("configs/quickstart.py", {})
    told: list[str] = []
    for place in (made, made.parent, made.parent.parent):
        changed = build_data.change_data(config, place, {}, report=told.append)
        assert changed.data.kind == "records"
        assert build_data.list_splits(changed) == ["train", "test"]
    assert told == [f"--data: the dataset in {made}"], "what was named need not be told"


def test_of_several_datasets_none_is_chosen(tmp_path: Path) -> None:
    for split in ("split1", "split2"):
        make_records(tmp_path / split / "1.0.0", ONE)
    with pytest.raises(ConfigError, match=r"several datasets: name one of .*split1/1.* .*split2/1"):
        build_data.find_dataset(tmp_path)
    assert build_data.find_dataset(tmp_path / "split2") == tmp_path / "split2" / "1.0.0"


def test_class_folders_of_videos_are_no_datasets(tmp_path: Path) -> None:
    (tmp_path / "class" / "1.0.0").mkdir(parents=True)
    (tmp_path / "class" / "1.0.0" / "video.mp4").touch()
    assert build_data.find_dataset(tmp_path) is None
    assert build_data.find_dataset(tmp_path / "absent") is None
