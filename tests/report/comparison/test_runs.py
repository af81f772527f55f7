# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of a page of several: names, and what cannot be read."""

from pathlib import Path

import pytest

from nbp.errors import CheckpointError
from nbp.report.comparison.runs import list_config_differences, name_runs, read_runs
from tests.report.comparison.runs_example import make_run


def test_runs_are_named_by_as_many_folders_as_tell_them_apart() -> None:
    folders = [
        Path(p) for p in ("/x/a/base", "/x/b/base", "/y/a/base", "/x/other", "/x/a/deep/other")
    ]
    names = list(name_runs(folders).values())
    assert names == ["x/a/base", "b/base", "y/a/base", "x/other", "deep/other"]
    assert list(name_runs([Path("/base"), Path("/a/base")]).values()) == ["/base", "a/base"]


def test_a_folder_is_read_once_however_it_is_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    runs, gone = read_runs([folder, tmp_path / "b" / ".." / "a", make_run(tmp_path / "c")])
    assert [run.name for run in runs] == ["a", "c"]
    assert runs[0].folder == folder
    assert runs[0].updates == {"tokenizer": 400, "generator": 400}
    assert not gone


def test_a_run_that_is_gone_is_told_and_a_folder_that_is_none_refused(tmp_path: Path) -> None:
    folder, gone = make_run(tmp_path / "a"), tmp_path / "gone"
    runs, notes = read_runs([folder, gone])
    assert [run.name for run in runs] == ["a"]
    assert notes == [f"{gone} is left out: there is no such folder"]
    with pytest.raises(CheckpointError, match=r"there is no folder .*gone"):
        read_runs([gone, gone])
    with pytest.raises(CheckpointError, match="is no workdir: it has no config.json"):
        read_runs([folder, tmp_path])


@pytest.mark.parametrize(
    "file, content, note",
    [
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b'{"seed": "much"}', "config.json cannot be read"),
        ("generator/metrics.csv", b"step,loss\n1,\xff\n", "generator/metrics.csv is left out"),
        ("generator/metrics.csv", b"step,loss\n1,much\n", "generator/metrics.csv is left out"),
        ("report/moving-shapes.json", b"{", "moving-shapes.json is left out"),
    ],
)
def test_what_is_damaged_is_told(file: str, content: bytes, note: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / file).write_bytes(content)
    (run,), _ = read_runs([folder])
    assert len(run.notes) == 1
    assert note in run.notes[0]
    whole = [run.config is not None, "generator" in run.panels, bool(run.results)]
    assert sum(whole) == 2, "the rest is there"


def test_only_keys_that_differ_are_listed(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(i), i, name="n" if i else "m") for i in range(2)]
    folders.append(make_run(tmp_path / "2", 1, name="n", stages=("tokenizer",)))
    runs, _ = read_runs(folders)
    assert list_config_differences(runs) == {
        "name": ["m", "n", "n"],
        "seed": [0, 1, 1],
        "stages": [["tokenizer", "generator"], ["tokenizer", "generator"], ["tokenizer"]],
    }
    (tmp_path / "0" / "config.json").write_text("{")
    runs, _ = read_runs(folders)
    assert list(list_config_differences(runs)) == ["stages"]
    assert list_config_differences(runs)["stages"][0] is None
    assert list_config_differences(runs[:1]) == {}
