# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.evaluate --shard I/N`: tasks of an array that know nothing of each other end with the bits
of one process, whatever their order and however often they are killed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp import evaluate, locks
from nbp.errors import ConfigError
from nbp.evaluation import chunk_store, gallery
from nbp.evaluation.setup import EvaluationSetup
from nbp.parallel import distributed
from nbp.workdir import read_config
from tests.evaluated import add_generator, make_workdir
from tests.evaluation.test_score_generated import (
    FEATURES,
    SETUP,
    SHAPES,
    make_ucf,
    shrink,
    with_protocols,
)

PROTOCOL = "nbp-ucf"


@pytest.fixture(autouse=True)
def few_clips_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "EACH", 1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with paired labels, one of which cannot be read: another one stands in for it."""
    folder = make_ucf(tmp_path_factory.mktemp("ucf"), **{"generator.prompt": "label"})
    (records,) = Path(read_config(folder).data.root).glob("*train.array_record*")
    data = bytearray(records.read_bytes())
    data[data.index(b"train/4.avi")] ^= 1
    records.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def setup() -> EvaluationSetup:
    """13 generated clips in chunks of eight, and as many real ones."""
    return with_protocols(shrink(PROTOCOL))


def start(workdir: Path, out: Path, *options: str, setup: EvaluationSetup) -> str | None:
    """The report that a task has written; None for one that leaves it to others."""
    out.unlink(missing_ok=True)
    arguments = ["--workdir", str(workdir), "--protocol", PROTOCOL, *FEATURES, "--out", str(out)]
    evaluate.main([*arguments, *options], setup=setup)
    return out.read_text() if out.exists() else None


def pick(report: str) -> dict[str, Any]:
    """What does not tell of seconds."""
    kept = ("scores", "per_class", "repeats", "code_usage", "leaks", "deviations")
    return {name: json.loads(report)[name] for name in kept}


def read_chunks(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of every chunk, but for seconds."""
    found = {}
    for file in sorted((workdir / "report" / "cache").glob("*/*.npz")):
        with np.load(file) as arrays:
            found |= {
                f"{file.parent.name}/{file.name}/{name}": arrays[name]
                for name in arrays.files
                if name != "seconds"
            }
    return found


def test_tasks_of_an_array_end_with_the_bits_of_one_process(
    workdir: Path,
    setup: EvaluationSetup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "scores.json"
    whole = start(workdir, out, setup=setup)
    assert whole
    (told,) = [line for line in json.loads(whole)["deviations"] if "replaced" in line]
    assert told.startswith(
        "1 unreadable videos were replaced by others, the first: toy/train record"
    )
    chunks = read_chunks(workdir)
    shutil.rmtree(workdir / "report")

    assert start(workdir, out, "--shard=1/2", setup=setup) is None  # before the real set is whole
    assert "share 1 of 2 is done; the last task to end scores" in capsys.readouterr().out
    made = read_chunks(workdir)
    assert 0 < len(made) < len(chunks)

    # The other one is killed after its first file.
    save = chunk_store.ChunkStore.save

    def stop(store: chunk_store.ChunkStore, chunk: int, arrays: chunk_store.Arrays) -> None:
        save(store, chunk, arrays)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chunk_store.ChunkStore, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            start(workdir, out, "--shard=0/2", setup=setup)
    assert len(made) < len(read_chunks(workdir)) < len(chunks)
    damaged = max((workdir / "report" / "cache").glob("generated-*/*.npz"))  # of task 1
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert start(workdir, out, "--shard=0/2", setup=setup) is None
    ended = start(workdir, out, "--shard=1/2", setup=setup)
    assert ended
    assert pick(ended) == pick(whole)
    again = read_chunks(workdir)
    assert again.keys() == chunks.keys()
    for name, values in chunks.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)

    # Rerun: nothing is made, the scores are computed again.
    with monkeypatch.context() as patch:
        patch.setattr(chunk_store.ChunkStore, "save", stop)
        rerun = start(workdir, out, "--shard=0/2", setup=setup)
        assert rerun
        assert pick(rerun) == pick(whole)
        # Two tasks that end at the same time do not both score.
        (folder,) = (workdir / "report" / "cache").glob("generated-*")
        with locks.lock_folder(folder):
            assert start(workdir, out, "--shard=0/2", setup=setup) is None


def test_what_cannot_be_divided_is_refused(
    workdir: Path, setup: EvaluationSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = make_workdir(tmp_path / "run", SHAPES)  # a tokenizer alone
    command = ["--workdir", str(shapes), "--protocol", "reconstruction", "--shard"]
    with pytest.raises(ConfigError, match="here no clips are generated"):
        evaluate.main([*command, "0/2"], setup=SETUP)
    with pytest.raises(ConfigError, match=r"--shard 2/2: write I/N"):
        evaluate.main([*command, "2/2"], setup=SETUP)
    monkeypatch.setattr(distributed, "find_place", lambda: (1, 2))
    with pytest.raises(ConfigError, match="the 2 of this job divide the work without it"):
        start(workdir, tmp_path / "scores.json", "--shard=0/2", setup=setup)
    assert not (shapes / "report").exists()


@pytest.mark.slow
def test_tasks_without_labels_or_features_of_real_clips(tmp_path: Path) -> None:
    """Moving shapes: labels in turn, and a pass over the reconstructions by the last task."""
    folder = add_generator(make_workdir(tmp_path / "run", {**SHAPES, "generator.prompt": "label"}))
    command = ["--workdir", str(folder), "--protocol", "moving-shapes", "--clips", "20"]
    report = folder / "report" / "moving-shapes.json"
    evaluate.main(command, setup=SETUP)
    whole = pick(report.read_text())
    shutil.rmtree(folder / "report")
    for share in ("1/2", "0/2"):
        assert not report.exists()
        evaluate.main([*command, "--shard", share], setup=SETUP)
    assert pick(report.read_text()) == whole
