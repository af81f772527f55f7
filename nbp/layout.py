# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sequence geometry: which token is read where, what it predicts, what it may see, in which pass.

Everything follows from (grid, block, opening, prompt length, partition). Nobody outside this module
adds or subtracts a token offset. All arrays are plain read-only numpy; a `SequencePlan` is hashable
and so static under `jax.jit`.

Terms (paper: arXiv 2502.07737, section 3; official code: `nbp/lm_transformer.py`):

* The latent grid (T, H, W) is cut into blocks (bt, bh, bw), or into as many sets of as many places
  that lie apart (`SequencePlan.order`). *Generation order* runs block by block, and inside a block
  in t, h, w order. Token `i` below always means the i-th token of that order; `SequencePlan.order`
  maps it to the flat (t, h, w) index of the grid.
* A sequence is the prompt (P positions) followed by the positions that predict. Query `P + j`
  predicts token `j + first`, where `first` is the block size B for `prefix` and 0 otherwise.
* Every mask of this family is a prefix per query: query q attends the keys `[0, k_end[q])`.
"""

import dataclasses
import functools
import hashlib
import math
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from nbp.shapes import Bool, Float, Int

Box = tuple[int, int, int]
OpeningKind = Literal["prefix", "bov", "hybrid"]
Partition = Literal["box", "strided", "halton"]
Positions = Literal["learned", "rotary"]


@dataclass(frozen=True)
class LatentGrid:
    """Size of the tokenizer's output: `t` latent frames of `h` x `w` tokens."""

    t: int
    h: int
    w: int

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"latent grid {self.shape}: every axis must be at least 1")

    @property
    def shape(self) -> Box:
        return (self.t, self.h, self.w)

    @property
    def frame(self) -> int:
        """Tokens per latent frame."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """Tokens per clip."""
        return self.t * self.frame


# A causal tokenizer makes one latent frame of the first frame of a video, and one of each `stride`
# frames that follow.


def frames_of_latents(latents: int, stride: int) -> int:
    """Frames that the first `latents` latent frames stand for; 0 for none."""
    return 1 + (latents - 1) * stride if latents > 0 else 0


def latents_of_frames(frames: int, stride: int) -> int:
    """Latent frames in which the first `frames` frames lie, the last one perhaps with others."""
    return 1 - (1 - frames) // stride if frames > 0 else 0


def latent_borders(frames: int, stride: int) -> range:
    """Of a video of so many frames the first one of each latent frame but the first."""
    return range(1, frames, stride)


def resolve_block(block: str | Box, grid: LatentGrid) -> Box:
    """The block box for a name (`token`, `row`, `frame`) or an explicit (bt, bh, bw)."""
    named = {"token": (1, 1, 1), "row": (1, 1, grid.w), "frame": (1, grid.h, grid.w)}
    if isinstance(block, str):
        if block not in named:
            raise ValueError(f"block {block!r}: use {', '.join(named)} or a box (bt, bh, bw)")
        return named[block]
    if len(block) != 3:
        raise ValueError(f"block {block}: a box has three sides (bt, bh, bw)")
    box = (int(block[0]), int(block[1]), int(block[2]))
    for name, side, extent in zip(("depth", "height", "width"), box, grid.shape, strict=True):
        if side < 1 or extent % side:
            axis = {"depth": "time", "height": "height", "width": "width"}[name]
            allowed = ", ".join(str(n) for n in range(1, extent + 1) if extent % n == 0)
            raise ValueError(
                f"block {box}: block {name} {side} does not divide latent {axis} {extent}. "
                f"Use one of {allowed}."
            )
    return box


@dataclass(frozen=True)
class Opening:
    """How the first tokens come to be.

    * `prefix`: the first block is given, never predicted; block k predicts block k + 1.
    * `bov`: a block of begin-of-video tokens predicts block 1.
    * `hybrid`: the first `blocks` blocks are predicted token by token from one begin-of-video
      token; then the last of these tokens and B - 1 "middle" tokens predict the next block. The
      official model has `blocks = 1`; the whole first latent frame is the other useful value.
    """

    kind: OpeningKind
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("prefix", "bov", "hybrid"):
            raise ValueError(f"opening {self.kind!r}: use prefix, bov or hybrid")
        if self.blocks < 1 or (self.kind != "hybrid" and self.blocks != 1):
            raise ValueError(
                f"opening {self.kind} with {self.blocks} blocks: only hybrid takes a length, >= 1"
            )


@dataclass(frozen=True)
class Vocabulary:
    """One table of ids: special tokens first, then prompt ids, then codes.

    This is the official order (REFERENCE: special ids 0..S-1, text ids shifted by S, video ids
    shifted by S + text vocabulary).
    """

    codes: int
    prompt: int = 0
    special: int = 0

    @property
    def prompt_offset(self) -> int:
        return self.special

    @property
    def code_offset(self) -> int:
        return self.special + self.prompt

    @property
    def size(self) -> int:
        return self.special + self.prompt + self.codes


@dataclass(frozen=True)
class Phase:
    """`count` passes of equal width: pass i feeds the queries `[start + i*width, + width)`."""

    start: int
    width: int
    count: int


@dataclass(frozen=True)
class Schedule:
    """The passes that generate a clip when its first `given` tokens are known.

    The first pass feeds the queries `[0, prefill)` and draws from its last `first_width` logits;
    then come the phases. Each later pass attends all that is cached plus itself. left: passes of
    the whole clip that are not made, where only its beginning is drawn.
    """

    given: int
    prefill: int
    first_width: int
    phases: tuple[Phase, ...]
    left: int = 0

    @property
    def passes(self) -> int:
        """Passes that are made."""
        return 1 + sum(phase.count for phase in self.phases)

    @property
    def planned(self) -> int:
        """Passes of the whole clip: what guidance and temperature change over."""
        return self.passes + self.left


@dataclass(frozen=True)
class SequencePlan:
    """Everything derived from (grid, block, opening, prompt length, partition).

    See the module's text. partition: which places of a frame (of `bt` frames) make a block; see
    `order`.

    Raises ValueError when the block does not divide the grid or the opening does not fit into it.
    """

    grid: LatentGrid
    block: Box
    opening: Opening
    prompt_length: int = 0
    partition: Partition = "box"

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", resolve_block(self.block, self.grid))
        if self.prompt_length < 0:
            raise ValueError(f"prompt length {self.prompt_length} is negative")
        blocks = self.grid.size // self.block_size
        if self.opening.blocks > blocks:
            raise ValueError(
                f"opening {self.opening.kind} takes {self.opening.blocks} blocks token by token, "
                f"but the grid {self.grid.shape} holds {blocks} blocks of {self.block}"
            )
        if self.opening.kind == "prefix" and blocks < 2:
            raise ValueError(
                f"opening prefix needs at least 2 blocks; block {self.block} is the whole grid"
            )

    # Sizes ---------------------------------------------------------------------------------

    @property
    def block_size(self) -> int:
        """Tokens per block, B."""
        return math.prod(self.block)

    @property
    def first(self) -> int:
        """Index of the first token that is predicted."""
        return self.block_size if self.opening.kind == "prefix" else 0

    @property
    def target_count(self) -> int:
        """Tokens that are predicted and scored."""
        return self.grid.size - self.first

    @property
    def length(self) -> int:
        """Input length L: the prompt and one query per scored token."""
        return self.prompt_length + self.target_count

    @property
    def special_count(self) -> int:
        """Special ids: begin-of-video (0) and, for hybrid, middle tokens 1..B-1."""
        match self.opening.kind:
            case "prefix":
                return 0
            case "bov":
                return 1
            case "hybrid":
                return self.block_size
            case _ as never:
                assert_never(never)

    @property
    def narrow(self) -> int:
        """Tokens drawn one by one (length of the token-by-token part of a hybrid opening)."""
        return self.opening.blocks * self.block_size if self.opening.kind == "hybrid" else 0

    @property
    def first_joint(self) -> int:
        """Index of the first token that is drawn together with others; `grid.size` without any."""
        return self.grid.size if self.block_size == 1 else max(self.first, self.narrow)

    @property
    def name(self) -> str:
        """Of its block: token, row, frame, else the sides, as 1x2x4."""
        for name in ("token", "row", "frame"):
            if self.block == resolve_block(name, self.grid):
                return name
        return "x".join(map(str, self.block))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short stable name of the geometry; equal plans have equal fingerprints."""
        fields = dataclasses.astuple(self)  # boxes have the names that they had without a choice
        text = repr(fields[:-1] if self.partition == "box" else fields)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # Arrays --------------------------------------------------------------------------------

    @functools.cached_property
    def order(self) -> Int[np.ndarray, "size"]:
        """Flat (t, h, w) grid index of the i-th generated token: a permutation.

        With n = (H / bh, W / bw) blocks along the axes of a frame, and blocks of equal size always:

        * box: block (i, j) is the box of places with h // bh = i and w // bw = j;
        * strided: the places with h % n[0] = i and w % n[1] = j, as far apart as they can be
          (parallelized autoregressive generation, arXiv 2412.15119, section 3.2);
        * halton: the places in the order in which the Halton sequence of bases 2 and 3 first comes
          to them, cut into blocks, so that each block, and what was drawn before it, is spread over
          the frame (arXiv 2503.17076, section 3).

        A block spans `bt` whole frames in each, which follow each other in time.
        """
        flat = np.arange(self.grid.size).reshape(self.grid.shape)
        (t, h, w), (bt, bh, bw) = self.grid.shape, self.block
        match self.partition:
            case "box":
                boxes = flat.reshape(t // bt, bt, h // bh, bh, w // bw, bw)
                return _frozen(boxes.transpose(0, 2, 4, 1, 3, 5).reshape(-1))
            case "strided":
                sets = flat.reshape(t // bt, bt, bh, h // bh, bw, w // bw)
                return _frozen(sets.transpose(0, 3, 5, 1, 2, 4).reshape(-1))
            case "halton":
                blocks = np.sort(_halton_order(h, w).reshape(-1, bh * bw), axis=-1)
                frames = flat.reshape(t // bt, bt, h * w)[:, :, blocks]
                return _frozen(frames.transpose(0, 2, 1, 3).reshape(-1))
            case _ as never:
                assert_never(never)

    @functools.cached_property
    def inverse_order(self) -> Int[np.ndarray, "size"]:
        """Generation index of each flat (t, h, w) grid position: `x[order][inverse_order] == x`."""
        return _frozen(np.argsort(self.order))

    @functools.cached_property
    def input_index(self) -> Int[np.ndarray, "length"]:
        """Row of the table `[prompt (P); special ids; tokens in generation order]` read at q."""
        prompt = self.prompt_length
        token = prompt + self.special_count  # table row of token 0
        j = np.arange(self.target_count)
        match self.opening.kind:
            case "prefix":
                rows = token + j
            case "bov":
                rows = np.where(j < self.block_size, prompt, token + j - self.block_size)
            case "hybrid":
                one_by_one = np.where(j == 0, prompt, token + j - 1)
                middle = np.where(j == self.narrow, token + j - 1, prompt + j - self.narrow)
                wide = np.where(
                    j < self.narrow + self.block_size, middle, token + j - self.block_size
                )
                rows = np.where(j < self.narrow, one_by_one, wide)
            case _ as never:
                assert_never(never)
        return _frozen(np.concatenate([np.arange(prompt), rows]))

    @functools.cached_property
    def target_index(self) -> Int[np.ndarray, "length"]:
        """Token predicted by each query (generation order); -1 where nothing is predicted."""
        prompt = np.full(self.prompt_length, -1)
        return _frozen(np.concatenate([prompt, np.arange(self.first, self.grid.size)]))

    @functools.cached_property
    def k_end(self) -> Int[np.ndarray, "length"]:
        """Attention limit: query q attends the keys `[0, k_end[q])`."""
        prompt, size = self.prompt_length, self.block_size
        q = np.arange(self.length)
        wide_from = prompt + self.narrow
        wide = wide_from + size * ((q - wide_from) // size + 1)
        limit = np.where(q < wide_from, q + 1, wide)
        return _frozen(np.where(q < prompt, prompt, limit))

    @functools.cached_property
    def positions(self) -> Int[np.ndarray, "length"]:
        """Absolute positions 0..L-1 (the `paper` recipe)."""
        return _frozen(np.arange(self.length))

    @functools.cached_property
    def target_coordinates(self) -> Int[np.ndarray, "length 3"]:
        """Grid position (t, h, w) that each query *predicts*; -1 for the prompt (`modern`)."""
        predicted = self.order[self.target_index[self.prompt_length :]]
        coordinates = np.stack(np.unravel_index(predicted, self.grid.shape), -1)
        prompt = np.full((self.prompt_length, 3), -1)
        return _frozen(np.concatenate([prompt, coordinates]))

    @functools.cached_property
    def rotary_coordinates(self) -> Float[np.ndarray, "2 length 3"]:
        """Grid positions (t, h, w) that each query predicts, and of the token that it reads.

        Where it reads a special id, both are what it predicts. The prompt stands before time 0, in
        the middle of the frame.
        """
        token = self.input_index - self.prompt_length - self.special_count
        read = np.stack(np.unravel_index(self.order[np.maximum(token, 0)], self.grid.shape), -1)
        both = np.stack([self.target_coordinates, self.target_coordinates]).astype(float)
        both[1, token >= 0] = read[token >= 0]
        both[:, : self.prompt_length] = (-1, (self.grid.h - 1) / 2, (self.grid.w - 1) / 2)
        return _frozen(both)

    @functools.cached_property
    def mask(self) -> Bool[np.ndarray, "length length"]:
        """True where query (row) may attend key (column): `k_end` written out."""
        return _frozen(np.arange(self.length)[None, :] < self.k_end[:, None])

    # Decoding ------------------------------------------------------------------------------

    def tokens_of_frames(self, frames: int) -> int:
        """Number of leading tokens that are exactly the first `frames` latent frames.

        Raises ValueError when whole frames are not whole blocks, or nothing would be generated.
        """
        if not 0 <= frames < self.grid.t or frames % self.block[0]:
            allowed = ", ".join(str(n) for n in range(0, self.grid.t, self.block[0]))
            raise ValueError(
                f"{frames} given latent frames do not fit a grid of {self.grid.t} frames in blocks "
                f"of depth {self.block[0]}: give one of {allowed}"
            )
        return frames * self.grid.frame

    def schedule(self, given: int = 0, until: int | None = None) -> Schedule:
        """The decoding passes when the first `given` tokens (whole blocks) are known.

        until: tokens after which drawing stops: whole blocks, or some of those that are drawn one
        by one. None draws the whole clip.
        """
        size, total = self.block_size, self.grid.size
        if given % size or not self.first <= given < total:
            raise ValueError(
                f"{given} given tokens: a clip of {total} tokens in blocks of {size} with opening "
                f"{self.opening.kind} can start after {self.first}, {self.first + size}, ..., "
                f"{total - size} tokens"
            )
        end = total if until is None else until
        if not given < end <= total or (end > self.narrow and end % size):
            raise ValueError(
                f"drawing {given} to {end} of {total} tokens: in blocks of {size} it can end after "
                f"whole blocks, or within the first {self.narrow} tokens"
            )
        query = self.prompt_length - self.first  # query of token i is query + i
        width = 1 if given < self.narrow else size
        drawn = given + width
        phases, narrow = [], min(self.narrow, end)
        if drawn < narrow:
            phases.append(Phase(query + drawn, 1, narrow - drawn))
            drawn = narrow
        if drawn < end:
            phases.append(Phase(query + drawn, size, (end - drawn) // size))
        found = Schedule(given, query + given + width, width, tuple(phases))
        if until is None:
            return found
        return dataclasses.replace(found, left=self.schedule(given).passes - found.passes)

    def settled(self, tokens: int) -> int:
        """Leading positions whose keys and values depend on nothing behind the first `tokens`.

        They are what the first pass feeds when these tokens (whole blocks) are given.
        """
        return self.schedule(tokens).prefill

    def phases(self, given: int = 0) -> tuple[Phase, ...]:
        """The passes of `schedule(given)` by width, the first pass in its place among them."""
        schedule = self.schedule(given)
        width = schedule.first_width
        phases = [Phase(schedule.prefill - width, width, 1)]
        for phase in schedule.phases:
            last = phases[-1]
            if phase.width == last.width:
                phases[-1] = Phase(last.start, last.width, last.count + phase.count)
            else:
                phases.append(phase)
        return tuple(phases)

    @functools.cached_property
    def lookalikes(self) -> Int[np.ndarray, "size"]:
        """An earlier token that each one likely resembles, without any model.

        The same place a block earlier in time; in the first blocks the same place of the block
        before; in the very first the token itself. Never a token of the same block.
        """
        flat = np.arange(self.grid.size).reshape(self.grid.shape)
        depth = self.block[0]
        earlier = self.inverse_order[np.concatenate([flat[:depth], flat[:-depth]]).reshape(-1)]
        token, size = np.arange(self.grid.size), self.block_size
        found = np.empty_like(token)
        found[self.inverse_order] = earlier
        before = np.where(token < size, token, token - size)
        return _frozen(np.where(found == token, before, found))

    def passes(self, given: int = 0) -> int:
        """Number of forward passes of `schedule(given)`."""
        return self.schedule(given).passes


def draw_mask(plan: SequencePlan) -> str:
    """The mask as text, a row per query: `#` attends, `.` does not, `|` after prompt and blocks."""
    size, prompt = plan.block_size, plan.prompt_length
    cuts = {prompt} | set(range(prompt + plan.narrow, plan.length, size))
    lines = []
    for q, row in enumerate(plan.mask):
        if q in cuts and q:
            lines.append("")
        cells = ("|" * (k in cuts and k > 0) + "#" * int(seen) + "." * int(not seen)
                 for k, seen in enumerate(row))  # fmt: skip
        target = plan.target_index[q]
        lines.append("".join(cells) + (f"  -> z{target}" if target >= 0 else ""))
    return "\n".join(lines)


def draw_blocks(plan: SequencePlan) -> str:
    """The first latent frame as text: in each place the number of its block, from 0."""
    frame = plan.inverse_order[: plan.grid.frame] // plan.block_size
    digits = len(str(frame.max()))
    rows = frame.reshape(plan.grid.h, plan.grid.w)
    return "\n".join(" ".join(f"{number:{digits}}" for number in row) for row in rows)


def _halton_order(height: int, width: int) -> Int[np.ndarray, "places"]:
    """Flat places of a frame in the order in which the Halton sequence first comes to them."""
    order: dict[int, None] = {}
    number = 0
    while len(order) < height * width:
        (a, halves), (b, thirds) = radical_inverse(number, 2), radical_inverse(number, 3)
        order[a * height // halves * width + b * width // thirds] = None
        number += 1
    return np.array(list(order))


def radical_inverse(number: int, base: int) -> tuple[int, int]:
    """The digits of `number` mirrored at the point, in [0, 1): numerator and denominator.

    Of all numbers this is van der Corput's sequence, of several bases Halton's.
    """
    value, scale = 0, 1
    while number:
        number, digit = divmod(number, base)
        value, scale = value * base + digit, scale * base
    return value, scale


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only view: cached arrays are shared by everyone who holds the plan."""
    array.flags.writeable = False
    return array
