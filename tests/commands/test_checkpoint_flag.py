# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`--checkpoint`: best, latest, a step, and what is none, of all commands that have it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, evaluate, export, sample
from nbp.config import load_config
from nbp.errors import EXIT_CHECKPOINT, EXIT_USAGE, run_main
from nbp.stages import adopt_config
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import save_labels
from tests import tiny

LABELS = tuple(load_config(tiny.CONFIG, {}).shapes_spec.label_names)
LOSSES = {2: 3.0, 5: 1.0, 7: 2.0}  # by step: the best is neither the first nor the newest
COMMANDS: dict[str, tuple[Callable[[list[str] | None], None], list[str]]] = {
    "sample": (sample.main, ["--num", "1", "--top_k", "1"]),
    "evaluate": (evaluate.main, ["--protocol", "moving-shapes", "--clips", "2"]),
    "export": (export.main, ["--format", "safetensors"]),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of one step, and a generator of other random weights at each of LOSSES."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    folder.mkdir()
    changes = {"train.tokenizer.ema": "0", "train.generator.ema": "0", "sampling.top_p": "1"}
    changes |= {"generator.block": "frame", "generator.opening": "bov", "sampling.guidance": "0"}
    changes |= {"generator.opening_blocks": "1", "data.validation_clips": "2"}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    adopt_config(config, folder, report=lambda text: None)
    save_labels(folder, LABELS)
    save_steps(folder, "tokenizer", build.make_tokenizer_network(config), {3: 0.0})
    save_steps(folder, "generator", build.make_generator_network(config, LABELS), LOSSES)
    return folder


def save_steps(folder: Path, stage: str, network: Any, losses: dict[int, float]) -> None:
    name = "validation/loss" if len(losses) > 1 else None
    with Checkpointer(folder / stage / "checkpoints", keep=9, keep_best=name) as checkpointer:
        for step, loss in losses.items():
            params = jax.jit(network.init)(jax.random.key(step))
            state = TrainState(np.asarray(step, np.int32), params, ema={}, opt_state={}, extra={})
            checkpointer.save(step, state, data={}, meta={}, metrics={"validation/loss": loss})
        checkpointer.wait()


def draw(workdir: Path, out: Path, *flags: str) -> bytes:
    sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *flags])
    with np.load(out / "samples.npz") as arrays:
        return arrays["tokens"].tobytes()


def test_the_words_are_the_steps_that_they_stand_for(workdir: Path, tmp_path: Path) -> None:
    drawn = {
        name: draw(workdir, tmp_path / name, "--checkpoint", name)
        for name in ("best", "latest", "2", "5", "7")
    }
    assert drawn["best"] == drawn["5"]
    assert drawn["latest"] == drawn["7"] == draw(workdir, tmp_path / "none")
    assert len({drawn[name] for name in ("2", "5", "7")}) == 3


@pytest.mark.parametrize("name, step", [("best", 5), ("latest", 7), ("2", 2)])
def test_a_report_names_the_step(workdir: Path, tmp_path: Path, name: str, step: int) -> None:
    main, flags = COMMANDS["evaluate"]
    out = tmp_path / "scores.json"
    main(["--workdir", str(workdir), *flags, "--checkpoint", name, "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["checkpoints"]["generator_step"] == step
    assert report["checkpoints"]["tokenizer_step"] == 3


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "value, code, message",
    [
        ("3", EXIT_CHECKPOINT, "no checkpoint 3 in {folder}: [2, 5, 7]."),
        ("newest", EXIT_USAGE, "--checkpoint: 'newest' is not a whole number from 0 to "
         "2147483647, nor best or latest"),
        ("-1", EXIT_USAGE, "--checkpoint: -1 is not a whole number from 0 to 2147483647, nor best "
         "or latest"),
    ],
)  # fmt: skip
def test_what_is_none_is_told_in_a_line(
    workdir: Path, tmp_path: Path, capsys: Any, command: str, value: str, code: int, message: str
) -> None:
    main, flags = COMMANDS[command]
    out = ["--out", str(tmp_path / "out.json" if command == "evaluate" else tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        run_main(main, ["--workdir", str(workdir), *flags, *out, "--checkpoint", value])
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nbp: ")
    assert message.format(folder=workdir / "generator" / "checkpoints") in line
    assert not list(tmp_path.glob("out*"))


def test_best_of_a_run_that_kept_no_score(workdir: Path, tmp_path: Path, capsys: Any) -> None:
    plain = tmp_path / "run"
    plain.mkdir()
    for name in ("config.json", "labels.json", "tokenizer"):
        (plain / name).symlink_to(workdir / name)
    with pytest.raises(SystemExit) as caught:
        run_main(export.main, ["--workdir", str(plain), "--out", str(tmp_path / "out"),
                               "--format", "safetensors", "--checkpoint", "best"])  # fmt: skip
    assert caught.value.code == EXIT_CHECKPOINT
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no checkpoint in {plain / 'tokenizer' / 'checkpoints'} has a score. Train with" in line
