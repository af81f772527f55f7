# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How many files a reader passes from a command to the arithmetic, read off the call stack."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbp import sample, train
from nbp.nn.attention import reference
from nbp.sampling import filtering
from tests import tiny
from tests.evaluated import add_generator, make_workdir
from tests.test_architecture import ROOT

KEYS = {"data.moving_shapes.train_clips": "16", "stages": "('tokenizer', 'generator')"}


class Reached(BaseException):
    """The place is reached; nothing catches this."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_generator(make_workdir(tmp_path_factory.mktemp("run") / "run", KEYS))


def list_modules(run: Callable[[], Any]) -> list[str]:
    """Modules of ours on the way from a command to where it raises Reached, in order."""
    with pytest.raises(Reached) as caught:
        run()
    package = ROOT / "nbp"
    files = (Path(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__))
    ours = (str(file.relative_to(package)) for file in files if file.is_relative_to(package))
    return list(dict.fromkeys(ours))


def stop(*_: Any, **__: Any) -> None:
    raise Reached


def test_from_train_to_the_matmul_of_attention(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**KEYS, "stages": "('generator',)", "train.tokenizer.ema": "0"}
    monkeypatch.setattr(reference, "_score_piece", stop)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tokenizer").symlink_to(workdir / "tokenizer")
    arguments = ["--config", tiny.CONFIG, "--workdir", str(folder), *tiny.flags(changes)]
    found = list_modules(lambda: train.main(arguments))
    assert found[0] == "train.py"
    assert found[-1] == "nn/attention/reference.py"
    assert len(found) <= 8, found


def test_from_a_label_to_a_drawn_token(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "draw_filtered", stop)
    label = (workdir / "labels.json").read_text(encoding="utf8").split('"')[1]
    arguments = ["--workdir", str(workdir), "--num", "1", "--label", label, "--top_k", "4"]
    found = list_modules(lambda: sample.main([*arguments, "--out", str(tmp_path / "out")]))
    assert found[0] == "sample.py"
    assert found[-1] == "sampling/filtering.py"
    assert len(found) + 1 <= 9, found  # and top_p.py, which was replaced
