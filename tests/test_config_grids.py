# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips of several sizes in a configuration: what follows from them, what is refused."""

import dataclasses
import json

import pytest

from nbp.config import from_dict, load_config, to_json
from nbp.config.grids import draw_clips, find_batches, find_mean_clips, find_shares
from nbp.config.schema import Config
from nbp.errors import ConfigError
from tests import tiny

TWO = {"data.grids": "((3, 16, 24), (5, 32, 32))", "generator.positions": "rotary"}


def load(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def load_two(**changes: str) -> Config:
    return load(**{**TWO, **changes})


def test_plans_of_each_grid() -> None:
    config = load_two()
    assert from_dict(json.loads(to_json(config))) == config
    main, wide, large = config.each_grid
    assert main is config
    shapes = [each.grid.shape for each in config.each_grid]
    assert shapes == [(3, 4, 4), (2, 4, 6), (3, 8, 8)]
    assert [each.plan.block for each in config.each_grid] == [(1, 1, 4), (1, 1, 6), (1, 1, 8)]
    # The first latent frame is an opening of as many rows as it has.
    assert [each.plan.opening.blocks for each in (main, wide, large)] == [4, 4, 8]
    assert wide.data.clip == (3, 16, 24)
    assert (large.data.size, large.data.width, large.data.grids) == (32, 0, ())
    # Special ids are those of the widest row.
    assert config.vocabulary(9).special == 8
    assert load_two(generator__special_ids="2").vocabulary(9).special == 2
    assert load().vocabulary(9).special == 4


def test_shares_and_batches() -> None:
    config = load_two()
    stage = dataclasses.replace(config.train.generator, batch=24)
    assert find_shares(config) == (1 / 3, 1 / 3, 1 / 3)
    assert find_batches(config, stage) == (24, 24, 6)
    assert find_mean_clips(config, stage) == [8, 8, 2]
    stage = dataclasses.replace(stage, accumulate=4)
    assert find_batches(config, stage) == (24, 24, 12)
    stage = dataclasses.replace(stage, grid_batches=(8, 4))
    assert find_batches(config, stage) == (24, 8, 4)
    shared = load_two(data__grid_shares="(0.25, 0.125)")
    assert find_shares(shared) == (0.625, 0.25, 0.125)
    small = load(data__size="32", data__grids="((5, 16, 16),)", generator__positions="rotary")
    assert find_batches(small, small.train.generator) == (8, 32)
    assert find_shares(load()) == (1.0,)
    assert find_batches(load(), load().train.generator) == (8,)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"generator.positions": "learned"}, "data.grids: learned positions are of one grid. Use"),
        ({"data.grids": "((5, 16, 16),)"}, "5x16x16, 5x16x16: name each once"),
        ({"data.grids": "((5, 16, 24), (5, 16, 24))"}, "name each once"),
        ({"data.grids": "((4, 16, 16),)"}, "data.grids: 4x16x16: 4 frames: a causal tokenizer"),
        ({"data.grids": "((5, 16, 18),)"}, "data.grids: 5x16x18: 16x18 px: height and width must"),
        ({"data.grids": "((5, 0, 16),)"}, "data.grids: 5x0x16: frames, height and width are at"),
        ({"data.grids": "((1, 16, 16),)"}, "data.grids: 1x16x16: MovingShapesSpec.frames is 1"),
        (
            {"generator.block": "(1, 2, 2)", "data.grids": "((5, 16, 20),)"},
            "data.grids: 5x16x20: block (1, 2, 2): block width 2 does not divide latent width 5",
        ),
        ({"data.grid_shares": "(0.5,)"}, "data.grid_shares: 1 shares for 2 grids"),
        ({"data.grid_shares": "(0.5, 0.5)"}, "together below 1"),
        ({"train.generator.grid_batches": "(4,)"}, "grid_batches: 1 batches for 2 grids"),
        (
            {"train.generator.grid_batches": "(4, 3)", "train.generator.accumulate": "2"},
            "train.generator.grid_batches: 3 clips do not split into 2 micro-batches",
        ),
        (
            {"data.grids": "()", "data.width": "24", "evaluation.protocol": "moving-shapes"},
            "data.width: protocols score squares, not 16x24",
        ),
        (
            {"generator.draft": "True", "data.grids": "((3, 8, 8),)", "generator.block": "row",
             "generator.opening_blocks": "4"},
            "data.grids: 3x8x8: no block is drawn at once",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)  # fmt: skip
def test_grids_that_do_not_fit_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_two(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_alone_takes_any_grid() -> None:
    config = load(data__grids="((3, 16, 24),)", stages="('tokenizer',)")
    assert config.generator.positions == "learned"


@pytest.mark.parametrize("frames, latents", [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (9, 3)])
@pytest.mark.parametrize("side", [16, 18, 20, 32])
def test_clips_that_are_drawn_are_whole_latents(frames: int, latents: int, side: int) -> None:
    config = load_two()
    drawn = draw_clips(config, frames=frames, size=(side,))
    made, rows = drawn.config, -(-side // 4)
    assert drawn.clip == (frames, side, side)
    assert made.grid.shape == (latents, rows, rows)
    assert made.plan.block == (1, 1, rows)
    assert made.vocabulary(9) == config.vocabulary(9)
    cut = [note for note in drawn.notes if "is generated and cut to" in note]
    assert bool(cut) == (side % 4 > 0)
    known = [note for note in drawn.notes if "was not trained on, but 5x16x16, 3x16x24" in note]
    assert bool(known) == (rows not in (4, 8))
    assert len(drawn.notes) == len(cut) + len(known)


def test_blocks_and_openings_make_clips_larger() -> None:
    keys = {"generator.block": "(1, 2, 4)", "data.size": "32", "data.grids": "()"}
    config = load_two(**keys)
    drawn = draw_clips(config, frames=2, size=(12, 20))
    assert drawn.config.data.clip == (3, 16, 32)
    prefix = load_two(
        **{**keys, "generator.block": "frame", "generator.opening": "prefix"},
        generator__opening_blocks="1",
    )
    assert draw_clips(prefix, frames=1).config.data.clip == (3, 32, 32)
    assert draw_clips(prefix, frames=9).config.data.clip == (5, 32, 32)


def test_learned_positions_draw_one_size() -> None:
    config = load()
    for frames in (None, 1, 5, 40):
        drawn = draw_clips(config, frames=frames, size=(16, 16))
        assert drawn.config is config
        assert (drawn.clip[0], drawn.notes) == (frames or 5, ())
    with pytest.raises(ConfigError, match="--size 16 32: this model draws 5x16x16 alone: learned"):
        draw_clips(config, size=(16, 32))
    with pytest.raises(ConfigError, match="--size 1 2 3: give height and width, or one side"):
        draw_clips(config, size=(1, 2, 3))
