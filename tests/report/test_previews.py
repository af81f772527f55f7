# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Previews over training as a strip: the same condition in a row, steps in columns."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.video.encode import tile_clips, write_gif
from nbp.report.clips import COLUMNS, cut_tiles, read_previews, spread
from nbp.report.page import build_page
from nbp.report.records import Page
from tests import tiny


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(tiny.CONFIG, tiny.OVERRIDES)


def write_preview(folder: Path, step: int, values: list[int], *, columns: int) -> None:
    """Plain clips of these gray values, as training writes them."""
    gray = np.array(values, np.uint8)[:, None, None, None, None]
    clips = np.broadcast_to(gray, (len(values), 5, 16, 16, 3)).copy()
    if step != 1000:  # that one stands still
        clips[:, 1:, 12:] += np.arange(1, 5, dtype=np.uint8)[:, None, None, None] * 8
    path = folder / "previews" / f"{step:08d}-clips.gif"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, tile_clips(clips, columns=columns), fps=8.0)


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_tiles_come_back_as_they_were_laid_out() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 12, 3), np.uint8)
    cells = cut_tiles(tile_clips(clips, columns=3), 8, 12)
    assert cells is not None
    np.testing.assert_array_equal(cells.reshape(6, 3, 8, 12, 3), clips)
    assert cut_tiles(tile_clips(clips, columns=3), 8, 16) is None


def test_steps_are_spread_evenly() -> None:
    assert spread([1, 2, 3]) == [1, 2, 3]
    found = spread(list(range(0, 1001, 10)))
    assert len(found) == COLUMNS
    assert found[0] == 0
    assert found[-1] == 1000
    assert np.ptp(np.diff(found)) <= 10


def test_a_column_is_a_step_and_a_row_a_condition(tmp_path: Path, config: Config) -> None:
    for step, gray in ((500, 60), (1000, 120), (1500, 180)):
        write_preview(tmp_path, step, [gray, gray + 40], columns=2)
    strip = read_previews(tmp_path, "generator", config)
    assert strip is not None
    assert [name for name, _ in strip.columns] == ["step 500", "step 1000", "step 1500"]
    for (_, picture), gray in zip(strip.columns, (60, 120, 180), strict=True):
        assert (picture.frames, picture.height, picture.width) == (5, 32, 16)
        sheet = decode(picture.uri)
        assert abs(int(sheet[4, 8, 0]) - gray) < 12
        assert abs(int(sheet[28, 8, 0]) - gray - 40) < 12


def test_a_tokenizer_shows_the_clips_beside_their_reconstructions(
    tmp_path: Path, config: Config
) -> None:
    for step, gray in ((2, 20), (4, 90)):
        write_preview(tmp_path, step, [200, 220, gray, gray + 30], columns=2)
    strip = read_previews(tmp_path, "tokenizer", config)
    assert strip is not None
    assert [name for name, _ in strip.columns] == ["held out", "step 2", "step 4"]
    grays = [int(decode(picture.uri)[4, 8, 0]) for _, picture in strip.columns]
    np.testing.assert_allclose(grays, [200, 20, 90], atol=12)


def test_one_preview_and_others_of_another_size_are_no_strip(
    tmp_path: Path, config: Config
) -> None:
    assert read_previews(tmp_path, "generator", config) is None
    write_preview(tmp_path, 2, [1, 2], columns=2)
    assert read_previews(tmp_path, "generator", config) is None
    (tmp_path / "previews" / "00000004-clips.gif").write_bytes(b"nothing")
    assert read_previews(tmp_path, "generator", config) is None


def test_the_page_plays_the_strip_with_and_without_other_clips(
    tmp_path: Path, config: Config
) -> None:
    for step in (2, 4):
        write_preview(tmp_path, step, [100, 120], columns=2)
    strip = read_previews(tmp_path, "generator", config)
    assert strip is not None
    text = build_page(Page("run", {}, previews=(strip,)))
    assert text.count("<canvas") == 2
    assert all(f'data-clip="{place}"' in text for place in (0, 1))
    assert text.count('id="play"') == 1, "the controls are there without a gallery"
    assert "<b>step 2</b>" in text
    assert "Previews over training" in text
    assert "Previews over training" not in build_page(Page("run", {"workdir": "x"}))
