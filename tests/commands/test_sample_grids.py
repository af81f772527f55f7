# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips of other sizes and lengths than those of training, by the command and by the library."""

from pathlib import Path

import numpy as np
import pytest

import nbp
from nbp import sample
from nbp.errors import ConfigError
from tests.evaluated import add_generator, make_workdir

# Few passes and no filters: programs that are quick to compile.
CHANGES = {
    "data.grids": "((3, 16, 24),)",
    "stages": "('tokenizer', 'generator')",
    "generator.positions": "rotary",
    "generator.block": "frame",
    "generator.opening": "bov",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_generator(make_workdir(tmp_path_factory.mktemp("grids") / "run", CHANGES))


def draw(workdir: Path, out: Path, *flags: str) -> dict[str, np.ndarray]:
    sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *flags])
    with np.load(out / "samples.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    "flags, videos, tokens, notes",
    [
        ((), (5, 16, 16), (3, 4, 4), ()),
        (("--size", "16", "24", "--num_frames", "3"), (3, 16, 24), (2, 4, 6), ()),
        (("--num_frames", "2"), (2, 16, 16), (2, 4, 4), ()),
        (
            ("--size", "18", "--num_frames", "1"),
            (1, 18, 18),
            (1, 5, 5),
            ("1x20x20 is generated and cut to 1x18x18", "warning: 1x18x18 was not trained on"),
        ),
        (("--size", "16", "24", "--num_frames", "8"), (8, 16, 24), (5, 4, 6), ("5x16x24 was not",)),
    ],
    ids=["plain", "trained", "cut", "new", "long"],
)
def test_clips_of_other_sizes_and_lengths(
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    videos: tuple[int, ...],
    tokens: tuple[int, ...],
    notes: tuple[str, ...],
) -> None:
    found = draw(workdir, tmp_path, *flags)
    assert found["videos"].shape == (2, *videos, 3)
    assert found["tokens"].shape == (2, *tokens)
    told = [line for line in capsys.readouterr().err.splitlines() if "nbp.sample: " in line]
    assert len(told) == len(notes)
    assert all(note in line for note, line in zip(notes, told, strict=True))


def test_the_library_draws_what_the_command_draws(workdir: Path, tmp_path: Path) -> None:
    loaded = nbp.load(workdir)
    with pytest.warns(UserWarning, match="1x20x20 is generated and cut"):
        clips = loaded.sample(num=2, num_frames=1, size=18)
    found = draw(workdir, tmp_path, "--size", "18", "--num_frames", "1")
    np.testing.assert_array_equal(clips, found["videos"])
    given = loaded.sample(num=2, num_frames=3, size=(16, 24), frames=np.zeros((1, 16, 24, 3), "u1"))
    assert given.shape == (2, 3, 16, 24, 3)
    assert loaded.sample(num=1).shape == (1, *loaded.shape)


def test_a_shorter_clip_is_the_beginning_of_a_longer_one(workdir: Path, tmp_path: Path) -> None:
    whole = draw(workdir, tmp_path / "whole")
    short = draw(workdir, tmp_path / "short", "--num_frames", "3")
    np.testing.assert_array_equal(short["tokens"], whole["tokens"][:, :2])
    np.testing.assert_array_equal(short["videos"], whole["videos"][:, :3])


def test_learned_positions_say_the_way_out(tmp_path: Path) -> None:
    workdir = make_workdir(tmp_path / "run", {})
    with pytest.raises(ConfigError, match="draws 5x16x16 alone.*positions=rotary.*data.grids"):
        draw(workdir, tmp_path / "out", "--size", "24")
    assert not (tmp_path / "out").exists()
