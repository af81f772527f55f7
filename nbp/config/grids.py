# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips of several sizes and lengths: what a run on mixed grids learns of each, what may be drawn.

A grid is the latent grid of clips (frames, height, width) in pixels, by which it is named here. The
main one is that of `data.frames` and `data.size`, the further ones are `data.grids`.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nbp.config.schema import Config, StageConfig
from nbp.errors import ConfigError
from nbp.layout import Box, frames_of_latents, latents_of_frames

LEARNED = (
    "learned positions are of one grid. Use --config.generator.positions=rotary (recipe modern)"
)


def name_clips(clip: Box) -> str:
    """Frames x height x width, as 9x48x48."""
    return "x".join(map(str, clip))


def list_clips(config: Config) -> tuple[Box, ...]:
    """(frames, height, width) of the main grid and of each further one."""
    return tuple(each.data.clip for each in config.each_grid)


def find_shares(config: Config) -> tuple[float, ...]:
    """The chance of an update of each grid, the main one first."""
    grids, shares = config.data.grids, config.data.grid_shares
    if not shares:
        return (1.0 / (1 + len(grids)),) * (1 + len(grids))
    return (1.0 - sum(shares), *shares)


def find_batches(config: Config, stage: StageConfig) -> tuple[int, ...]:
    """Clips of an update of each grid, the main one first.

    Without `grid_batches` the main batch times the power of two that comes nearest to as many
    tokens, as far as micro-batches allow: batches go on dividing among devices where they can, and
    depend on nothing but the configuration.
    """
    if not config.data.grids:
        return (stage.batch,)
    if stage.grid_batches:
        return (stage.batch, *stage.grid_batches)
    sizes = [each.grid.size for each in config.each_grid]
    return tuple(_scale(stage, sizes[0] / size) for size in sizes)


def _scale(stage: StageConfig, wanted: float) -> int:
    clips, power = stage.batch, round(math.log2(wanted))
    while power < 0 and clips % (2 * stage.accumulate) == 0:
        clips, power = clips // 2, power + 1
    return clips * 2 ** max(0, power)


def find_mean_clips(config: Config, stage: StageConfig) -> list[float]:
    """Clips of each grid in an update, on average."""
    pairs = zip(find_shares(config), find_batches(config, stage), strict=True)
    return [share * batch for share, batch in pairs]


def describe_grids(config: Config, stage: StageConfig) -> str:
    """What updates are of, for the log."""
    rows = zip(find_batches(config, stage), list_clips(config), find_shares(config), strict=True)
    parts = [f"{share:.0%} of {batch} clips of {name_clips(clip)}" for batch, clip, share in rows]
    return f"updates: {', '.join(parts)}"


def find_grid_problems(config: Config) -> list[str]:
    """What is wrong with the further grids, and with what is said of each."""
    data, count = config.data, len(config.data.grids)
    problems = []
    if data.width and (config.evaluation.protocol or config.evaluation.every):
        problems.append(
            f"data.width: protocols score squares, not {data.size}x{data.width}: leave "
            "evaluation.protocol and evaluation.every out, or make another of data.grids the first"
        )
    clips = [data.clip, *data.grids]
    if len(set(clips)) < len(clips):
        names = ", ".join(map(name_clips, clips))
        problems.append(f"data.grids: {names}: name each once, and not that of data.frames, size")
    if data.grid_shares and len(data.grid_shares) != count:
        problems.append(
            f"data.grid_shares: {len(data.grid_shares)} shares for {count} grids: give each one"
        )
    if min(find_shares(config)) <= 0:
        problems.append(
            f"data.grid_shares: {data.grid_shares}: each is above 0, and together below 1: the "
            "rest is the share of data.frames and data.size"
        )
    for name in config.stages:
        batches = getattr(config.train, name).grid_batches
        if batches and len(batches) != count:
            problems.append(
                f"train.{name}.grid_batches: {len(batches)} batches for {count} grids: give each "
                "one, or none for about as many tokens in each"
            )
    if not count or problems:
        return problems
    if "generator" in config.stages and config.generator.positions != "rotary":
        problems.append(
            f"data.grids: {LEARNED}, or train the tokenizer alone: "
            "--config.stages=\"('tokenizer',)\""
        )
    for clip, each in zip(data.grids, config.each_grid[1:], strict=True):
        problems += [f"data.grids: {name_clips(clip)}: {text}" for text in _list_misfits(each)]
    return problems


def _list_misfits(config: Config) -> list[str]:
    """What does not go with the clips of one grid, an error each."""
    if min(config.data.clip) < 1:
        return ["frames, height and width are at least 1"]
    if config.data.kind == "moving_shapes":
        try:
            _ = config.shapes_spec
        except ValueError as error:
            return [str(error)]
    try:
        _ = config.grid
        if "generator" in config.stages:
            plans, _ = (config.plan, *config.further_plans), config.corruption
            if config.generator.draft and any(p.first_joint >= p.grid.size for p in plans):
                return ["no block is drawn at once, so generator.draft has nothing to refine"]
    except ValueError as error:
        return [str(error)]
    return []


# Drawing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnClips:
    """What a model is asked for: `config` draws whole latents, `clip` of their pixels is kept.

    notes: what the user is to know, a line each.
    """

    config: Config
    clip: Box
    notes: tuple[str, ...] = ()


def draw_clips(
    config: Config, *, frames: int | None = None, size: Sequence[int] | None = None
) -> DrawnClips:
    """The configuration whose model draws clips of so many frames and (height, width).

    None leaves what the workdir has. Pixels are made a stride, and blocks, at a time: the clips are
    larger where these do not divide them. Beyond the longest clip of training they are of its
    length, for a window to slide. With learned positions all clips are of the main grid, and fewer
    frames are cut off. Raises ConfigError where the model has no such clips.
    """
    longest = max(clip[0] for clip in list_clips(config))
    asked = frames or config.data.frames
    height, width = _read_size(config, size)
    free = config.generator.positions == "rotary"
    if (height, width) != config.data.sides and not free:
        raise ConfigError(
            f"--size {height} {width}: this model draws {name_clips(config.data.clip)} alone: "
            f"{LEARNED}, and for good clips train on more sizes: --config.data.grids"
        )
    wanted = (min(asked, longest), height, width)
    if not free or wanted == config.data.clip:
        return DrawnClips(config, (asked, height, width))
    drawn, notes = _round_up(config, wanted, longest), []
    st = config.tokenizer.stride[0]
    whole = frames_of_latents(latents_of_frames(wanted[0], st), st)
    if drawn.data.clip != (whole, height, width):  # the end of a latent frame is told elsewhere
        notes.append(
            f"{name_clips(drawn.data.clip)} is generated and cut to {name_clips(wanted)}: strides "
            f"{'x'.join(map(str, config.tokenizer.stride))} and blocks do not divide these"
        )
    if not any(
        (each.grid.h, each.grid.w) == (drawn.grid.h, drawn.grid.w) and drawn.grid.t <= each.grid.t
        for each in config.each_grid
    ):
        known = ", ".join(map(name_clips, list_clips(config)))
        notes.append(f"warning: {name_clips(wanted)} was not trained on, but {known}")
    return DrawnClips(drawn, (asked, height, width), tuple(notes))


def _read_size(config: Config, size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width; ConfigError for what is neither a number nor two."""
    sides = tuple(size or config.data.sides)
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ConfigError(f"--size {' '.join(map(str, sides))}: give height and width, or one side")
    return sides[0], sides[-1]


def _round_up(config: Config, clip: Box, longest: int) -> Config:
    """On the smallest clips that hold these, of whole latents and blocks; of `longest` at most."""
    (st, sh, sw), block = config.tokenizer.stride, config.generator.block
    frames, *sides = clip
    bt, bh, bw = (1, 1, 1) if isinstance(block, str) else block
    t = -(-latents_of_frames(frames, st) // bt) * bt
    height, width = (
        -(-side // step) * step for side, step in zip(sides, (sh * bh, sw * bw), strict=True)
    )
    known = config.vocabulary(0).special
    while True:  # an opening may need more than one block
        changed = config.on_clips((frames_of_latents(t, st), height, width))
        generator = dataclasses.replace(changed.generator, special_ids=known, blocks=())
        changed = dataclasses.replace(changed, generator=generator)
        try:
            _ = changed.plan
            return changed
        except ValueError as error:
            t += bt
            if frames_of_latents(t, st) > longest:
                raise ConfigError(f"--size {height} {width}: {error}") from error
