# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sequence geometry against a sequence built item by item, and a decoder simulated in numpy."""

import dataclasses
import itertools
import math
import textwrap
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbp.layout import (
    LatentGrid,
    Opening,
    OpeningKind,
    Partition,
    SequencePlan,
    Vocabulary,
    draw_mask,
    frames_of_latents,
    latent_borders,
    latents_of_frames,
    resolve_block,
)

UCF = LatentGrid(5, 16, 16)
ROW = (1, 1, 16)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def plans(draw: st.DrawFn) -> SequencePlan:
    grid = LatentGrid(draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    t, h, w = (draw(st.sampled_from(divisors(extent))) for extent in grid.shape)
    blocks = grid.size // (t * h * w)
    kinds: list[OpeningKind] = ["bov", "hybrid"]
    if blocks > 1:
        kinds.append("prefix")
    kind = draw(st.sampled_from(kinds))
    length = draw(st.integers(1, blocks)) if kind == "hybrid" else 1
    partition: Partition = draw(st.sampled_from(get_args(Partition)))
    return SequencePlan(grid, (t, h, w), Opening(kind, length), draw(st.integers(0, 3)), partition)


def spell_out(plan: SequencePlan) -> list[tuple[tuple[str, int], int | None, int]]:
    """(input, predicted token, group) of each position, appended one by one as REFERENCE 1.2 tells.

    A position sees all groups up to its own; the prompt is one group, bidirectional.
    """
    size, total = math.prod(plan.block), plan.grid.size
    positions: list[tuple[tuple[str, int], int | None, int]] = []
    group = 0
    for i in range(plan.prompt_length):
        positions.append((("prompt", i), None, group))
    token = size if plan.opening.kind == "prefix" else 0
    held = plan.opening.blocks * size if plan.opening.kind == "hybrid" else 0
    while token < total:
        group += 1
        if token < held:  # one by one: begin-of-video, then the token before
            source = ("token", token - 1) if token else ("special", 0)
            positions.append((source, token, group))
            token += 1
            continue
        sources = [("token", token - size + i) for i in range(size)]
        if token == 0:
            sources = [("special", 0)] * size
        elif token == held:
            sources = [("token", token - 1)] + [("special", i) for i in range(1, size)]
        positions += [(source, token + i, group) for i, source in enumerate(sources)]
        token += size
    return positions


@settings(max_examples=150, deadline=None)
@given(plans())
def test_arrays_are_the_sequence_spelled_out(plan):
    expected = spell_out(plan)
    special = {"prefix": 0, "bov": 1, "hybrid": math.prod(plan.block)}[plan.opening.kind]
    start = {"prompt": 0, "special": plan.prompt_length, "token": plan.prompt_length + special}
    assert plan.length == len(expected)
    assert plan.special_count == special
    assert plan.input_index.tolist() == [start[kind] + i for (kind, i), _, _ in expected]
    assert plan.target_index.tolist() == [-1 if t is None else t for _, t, _ in expected]
    groups = np.array([group for _, _, group in expected])
    np.testing.assert_array_equal(plan.mask, groups[None, :] <= groups[:, None])
    np.testing.assert_array_equal(plan.k_end, plan.mask.sum(axis=1))
    np.testing.assert_array_equal(plan.positions, np.arange(len(expected)))


@settings(max_examples=150, deadline=None)
@given(plans())
def test_each_token_is_predicted_once_and_from_exactly_what_precedes_it(plan):
    size = math.prod(plan.block)
    first = size if plan.opening.kind == "prefix" else 0
    held = plan.opening.blocks * size if plan.opening.kind == "hybrid" else 0
    predicted = plan.target_index[plan.target_index >= 0]
    assert sorted(predicted) == list(range(first, plan.grid.size))
    assert plan.target_count == len(predicted)
    table = plan.prompt_length + plan.special_count
    holder = {int(row) - table: q for q, row in enumerate(plan.input_index) if row >= table}
    for q in range(plan.prompt_length, plan.length):
        token = int(plan.target_index[q])
        seen = {i for i, at in holder.items() if at < plan.k_end[q]}
        # Before the block (or, one by one, before the token): all of it; itself and later: nothing.
        assert seen == set(range(token if token < held else token // size * size))
        assert plan.k_end[q] > q  # a query sees itself, and so the whole prompt


@settings(max_examples=150, deadline=None)
@given(plans())
def test_order_runs_through_contiguous_boxes(plan):
    plan = dataclasses.replace(plan, partition="box")
    order = plan.order
    assert sorted(order) == list(range(plan.grid.size))
    values = np.random.default_rng(0).permutation(plan.grid.size)
    np.testing.assert_array_equal(values[order][plan.inverse_order], values)
    (bt, bh, bw), size = plan.block, math.prod(plan.block)
    corners = []
    for block in order.reshape(-1, size):
        t, h, w = (int(i) for i in np.unravel_index(block[0], plan.grid.shape))
        box = itertools.product(range(t, t + bt), range(h, h + bh), range(w, w + bw))
        assert [tuple(int(i) for i in np.unravel_index(i, plan.grid.shape)) for i in block] == list(
            box
        )
        corners.append((t, h, w))
    assert corners == sorted(corners)


@settings(max_examples=100, deadline=None)
@given(plans())
def test_target_coordinates_are_those_of_the_predicted_token(plan):
    coordinates = plan.target_coordinates
    assert (coordinates[: plan.prompt_length] == -1).all()
    for q in range(plan.prompt_length, plan.length):
        t, h, w = coordinates[q]
        flat = (t * plan.grid.h + h) * plan.grid.w + w
        assert flat == plan.order[plan.target_index[q]]


def simulate(plan: SequencePlan, known_tokens: int) -> int:
    """Decodes with the schedule, checking each query against training; returns the passes."""
    schedule = plan.schedule(known_tokens)
    table = plan.prompt_length + plan.special_count
    known, cached, passes = set(range(known_tokens)), 0, 0

    def run(start: int, fed: int, drawn: int, limits: list[int]) -> None:
        nonlocal cached, passes
        assert start == cached, "a pass continues where the cache ends"
        for q, limit in zip(range(start, start + fed), limits, strict=True):
            row = int(plan.input_index[q])
            assert row < table or row - table in known, "an input is known when it is read"
            # Keys beyond what is cached and fed do not exist yet.
            visible = np.arange(plan.length) < min(limit, start + fed)
            np.testing.assert_array_equal(visible, plan.mask[q])
        cached, passes = start + fed, passes + 1
        new = [int(i) for i in plan.target_index[cached - drawn : cached]]
        assert not known & set(new), "no token is drawn twice"
        assert new == list(range(len(known), len(known) + drawn))
        known.update(new)

    limits = [int(k) for k in plan.k_end[: schedule.prefill]]
    run(0, schedule.prefill, schedule.first_width, limits)
    for phase in schedule.phases:
        for i in range(phase.count):
            start = phase.start + i * phase.width
            run(start, phase.width, phase.width, [start + phase.width] * phase.width)
    assert known == set(range(plan.grid.size))
    assert cached == plan.length
    return passes


def count_passes(plan: SequencePlan, known: int) -> int:
    size = math.prod(plan.block)
    held = plan.opening.blocks * size if plan.opening.kind == "hybrid" else 0
    passes = 0
    while known < plan.grid.size:
        known += 1 if known < held else size
        passes += 1
    return passes


@settings(max_examples=100, deadline=None)
@given(plans())
def test_schedule_replays_training_from_every_allowed_start(plan):
    size = math.prod(plan.block)
    first = size if plan.opening.kind == "prefix" else 0
    for known in range(plan.grid.size + 1):
        if known % size or not first <= known < plan.grid.size:
            with pytest.raises(ValueError, match="can start after"):
                plan.schedule(known)
            continue
        passes = simulate(plan, known)
        assert passes == plan.passes(known) == plan.schedule(known).passes
        assert passes == count_passes(plan, known)
        # By width: the same passes, each of them the queries of the tokens that it draws.
        phases = plan.phases(known)
        assert sum(phase.count for phase in phases) == passes
        widths = [phase.width for phase in phases]
        assert len(set(widths)) == len(widths)
        queries = [q for p in phases for q in range(p.start, p.start + p.width * p.count)]
        assert [int(plan.target_index[q]) for q in queries] == list(range(known, plan.grid.size))


@settings(max_examples=100, deadline=None)
@given(plans())
def test_lookalikes_stand_at_the_same_place_of_an_earlier_block(plan):
    size = math.prod(plan.block)
    for token, found in enumerate(plan.lookalikes):
        if token < size:
            assert found == token
            continue
        assert found // size < token // size
        assert found % size == token % size, "the same place inside the block"
        t, h, w = np.unravel_index(plan.order[token], plan.grid.shape)
        if t >= plan.block[0]:
            expected = (t - plan.block[0], h, w)
            assert np.unravel_index(plan.order[found], plan.grid.shape) == expected


@settings(max_examples=60, deadline=None)
@given(plans())
def test_settled_positions_depend_on_nothing_later(plan):
    table = plan.prompt_length + plan.special_count
    latest = plan.input_index - table  # the last token that a position depends on; below 0: none
    for _ in range(plan.length):  # what it attends depends on what that attends
        seen = np.array([latest[:end].max() for end in plan.k_end])
        if np.array_equal(seen, latest):
            break
        latest = seen
    for tokens in range(plan.first, plan.grid.size, plan.block_size):
        later = np.flatnonzero(latest >= tokens)
        assert plan.settled(tokens) == (later[0] if len(later) else plan.length)


def test_official_sizes():
    hybrid = SequencePlan(UCF, ROW, Opening("hybrid"), 8)
    assert (hybrid.length, hybrid.target_count, hybrid.passes()) == (1288, 1280, 95)
    prefix = SequencePlan(UCF, ROW, Opening("prefix"))
    assert (prefix.length, prefix.target_count, prefix.first) == (1264, 1264, 16)
    given_two = prefix.tokens_of_frames(2)
    assert (given_two, UCF.size - given_two) == (512, 768)
    assert prefix.passes(given_two) == 48
    assert hybrid.passes(given_two) == 48
    bov = SequencePlan(UCF, ROW, Opening("bov"), 8)
    assert (bov.length, bov.passes()) == (1288, 80)
    frame = SequencePlan(UCF, ROW, Opening("hybrid", 16), 8)
    assert (frame.length, frame.passes()) == (1288, 256 + 64)


def test_official_attention_limits():
    # q < P: P; then the three rules of REFERENCE 1.4 with P = 8, S = 24, B = 16.
    hybrid = SequencePlan(UCF, ROW, Opening("hybrid"), 8).k_end
    expected = {0: 8, 7: 8, 8: 9, 9: 10, 23: 24, 24: 40, 39: 40, 40: 56, 1272: 1288, 1287: 1288}
    assert {q: int(hybrid[q]) for q in expected} == expected
    prefix = SequencePlan(UCF, ROW, Opening("prefix")).k_end
    expected = {0: 16, 15: 16, 16: 32, 511: 512, 512: 528, 1263: 1264}
    assert {q: int(prefix[q]) for q in expected} == expected
    bov = SequencePlan(UCF, ROW, Opening("bov"), 8).k_end
    expected = {0: 8, 7: 8, 8: 24, 23: 24, 24: 40, 1287: 1288}
    assert {q: int(bov[q]) for q in expected} == expected


def test_official_inputs_of_the_hybrid_sequence():
    plan = SequencePlan(UCF, ROW, Opening("hybrid"), 8)
    table = 8 + 16  # prompt rows, special rows, then tokens
    assert plan.input_index[:9].tolist() == list(range(9))  # text, bov
    assert plan.input_index[9:25].tolist() == [table + i for i in range(16)]  # z0 .. z15
    assert plan.input_index[25:40].tolist() == [8 + i for i in range(1, 16)]  # middle tokens
    assert plan.input_index[40:42].tolist() == [table + 16, table + 17]
    assert plan.target_index[24:26].tolist() == [16, 17]


PICTURES = {
    ("prefix", 1, 0): """
        ##|..  -> z2
        ##|..  -> z3

        ##|##  -> z4
        ##|##  -> z5
    """,
    ("bov", 1, 1): """
        #|..|..|..

        #|##|..|..  -> z0
        #|##|..|..  -> z1

        #|##|##|..  -> z2
        #|##|##|..  -> z3

        #|##|##|##  -> z4
        #|##|##|##  -> z5
    """,
    ("hybrid", 1, 2): """
        ##|..|..|..
        ##|..|..|..

        ##|#.|..|..  -> z0
        ##|##|..|..  -> z1

        ##|##|##|..  -> z2
        ##|##|##|..  -> z3

        ##|##|##|##  -> z4
        ##|##|##|##  -> z5
    """,
    ("hybrid", 2, 0): """
        #...|..  -> z0
        ##..|..  -> z1
        ###.|..  -> z2
        ####|..  -> z3

        ####|##  -> z4
        ####|##  -> z5
    """,
}


@pytest.mark.parametrize("kind, blocks, prompt", PICTURES)
def test_masks_as_pictures(kind, blocks, prompt):
    plan = SequencePlan(LatentGrid(1, 3, 2), (1, 1, 2), Opening(kind, blocks), prompt)
    picture = textwrap.dedent(PICTURES[kind, blocks, prompt]).strip()
    assert draw_mask(plan) == picture
    rows = [line.partition(" ")[0].replace("|", "") for line in picture.splitlines() if line]
    np.testing.assert_array_equal(plan.mask, [[cell == "#" for cell in row] for row in rows])


def test_blocks_reorder_tokens():
    plan = SequencePlan(LatentGrid(2, 2, 2), (2, 1, 2), Opening("bov"))
    assert plan.order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    row = SequencePlan(LatentGrid(2, 2, 2), (1, 1, 2), Opening("bov"))
    assert row.order.tolist() == list(range(8))


def test_block_names():
    grid = LatentGrid(3, 4, 6)
    assert resolve_block("token", grid) == (1, 1, 1)
    assert resolve_block("row", grid) == (1, 1, 6)
    assert resolve_block("frame", grid) == (1, 4, 6)
    assert resolve_block((3, 2, 3), grid) == (3, 2, 3)


def test_errors_name_what_is_allowed():
    grid = LatentGrid(5, 18, 16)
    with pytest.raises(
        ValueError, match=r"height 4 does not divide latent height 18.*1, 2, 3, 6, 9, 18"
    ):
        resolve_block((1, 4, 8), grid)
    with pytest.raises(ValueError, match=r"depth 2 does not divide latent time 5.*one of 1, 5"):
        SequencePlan(grid, (2, 1, 1), Opening("bov"))
    with pytest.raises(ValueError, match="width 0 does not divide"):
        resolve_block((1, 1, 0), grid)
    with pytest.raises(ValueError, match=r"column.*token, row, frame"):
        resolve_block("column", grid)
    with pytest.raises(ValueError, match="at least 1"):
        LatentGrid(0, 4, 4)
    with pytest.raises(ValueError, match="only hybrid takes a length"):
        Opening("bov", 2)
    with pytest.raises(ValueError, match="only hybrid takes a length"):
        Opening("hybrid", 0)
    with pytest.raises(ValueError, match=r"takes 91 blocks.*holds 90 blocks"):
        SequencePlan(grid, (1, 1, 16), Opening("hybrid", 91))
    with pytest.raises(ValueError, match="prefix needs at least 2 blocks"):
        SequencePlan(grid, grid.shape, Opening("prefix"))
    with pytest.raises(ValueError, match="negative"):
        SequencePlan(grid, (1, 1, 1), Opening("bov"), -1)


def test_given_frames_are_whole_blocks():
    plan = SequencePlan(LatentGrid(6, 2, 2), (2, 1, 2), Opening("bov"))
    assert [plan.tokens_of_frames(n) for n in (0, 2, 4)] == [0, 8, 16]
    held = plan.order[: plan.tokens_of_frames(2)]
    assert sorted(held) == list(range(8))  # exactly the first two latent frames
    for frames in (1, 3, 6, -2):
        with pytest.raises(ValueError, match="give one of 0, 2, 4"):
            plan.tokens_of_frames(frames)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_frames_and_latent_frames_as_they_are_counted_out(stride):
    """The first frame makes a latent frame, and so do each `stride` that follow."""
    latent_of = [0, *(1 + frame // stride for frame in range(4 * stride))]
    for frames in range(1, len(latent_of) + 1):
        assert latents_of_frames(frames, stride) == len(set(latent_of[:frames]))
        borders = [at for at in range(1, frames) if latent_of[at] != latent_of[at - 1]]
        assert list(latent_borders(frames, stride)) == borders
    for latents in range(1, max(latent_of) + 2):
        frames = sum(latent < latents for latent in latent_of)
        assert frames_of_latents(latents, stride) == frames
        assert latents_of_frames(frames, stride) == latents
    assert frames_of_latents(0, stride) == latents_of_frames(0, stride) == 0


@pytest.mark.parametrize("grid, block", [((4, 6, 8), (2, 3, 2)), ((1, 8, 4), (1, 2, 4))])
def test_strided_blocks_are_residues(grid, block):
    plan = SequencePlan(LatentGrid(*grid), block, Opening("bov"), 0, "strided")
    (_, h, w), (bt, bh, bw) = grid, block
    down, across = h // bh, w // bw
    blocks = plan.order.reshape(-1, plan.block_size)
    for number, places in enumerate(blocks):
        chunk, i, j = np.unravel_index(number, (grid[0] // bt, down, across))
        expected = [
            (t, y, x)
            for t in range(chunk * bt, chunk * bt + bt)
            for y in range(h)
            for x in range(w)
            if y % down == i and x % across == j
        ]
        assert list(zip(*np.unravel_index(places, grid), strict=True)) == expected


def halton(number: int, base: int) -> Fraction:
    """By its definition: sum of digit_k / base^(k+1)."""
    digits = []
    while number:
        digits.append(number % base)
        number //= base
    return sum((Fraction(d, base ** (k + 1)) for k, d in enumerate(digits)), Fraction(0))


@pytest.mark.parametrize("size", [(4, 4), (3, 8)])
def test_halton_blocks_follow_the_sequence(size):
    h, w = size
    seen: list[int] = []
    for number in range(10_000):
        place = int(halton(number, 2) * h) * w + int(halton(number, 3) * w)
        if place not in seen:
            seen.append(place)
    assert len(seen) == h * w
    plan = SequencePlan(LatentGrid(2, h, w), (1, 1, w), Opening("bov"), 0, "halton")
    expected = [sorted(seen[k : k + w]) for k in range(0, h * w, w)]
    frames = plan.order.reshape(2, h, w)
    assert frames[0].tolist() == expected
    assert (frames[1] - frames[0] == h * w).all()
    # A block of 2 frames holds the places in both.
    deep = SequencePlan(LatentGrid(2, h, w), (2, 1, w), Opening("bov"), 0, "halton")
    assert deep.order.reshape(h, 2, w)[:, 0].tolist() == expected
    assert deep.order.reshape(h, 2, w)[:, 1].tolist() == frames[1].tolist()


def test_places_of_a_block_lie_apart():
    """How near the nearest other place of the same block is, in the worst case and on average."""

    def distances(partition: Partition, *, summarize=np.min) -> list[float]:
        plan = SequencePlan(LatentGrid(1, 16, 16), (1, 1, 16), Opening("bov"), 0, partition)
        square = SequencePlan(LatentGrid(1, 16, 16), (1, 4, 4), Opening("bov"), 0, partition)
        found = []
        for blocks in (plan, square):
            at = np.stack(np.unravel_index(blocks.order, (16, 16)), -1).reshape(-1, 16, 2)
            gaps = np.abs(at[:, :, None] - at[:, None]).sum(-1)
            nearest = np.where(np.eye(16, dtype=bool), 99, gaps).min(-1)
            found.append(summarize(nearest))
        return found

    assert distances("box") == [1, 1]
    assert distances("strided") == [1, 4]  # a row whose stride across is 1 stays a row
    assert min(distances("halton", summarize=np.mean)) > 2.5


def test_plans_are_values():
    def make(**changes) -> SequencePlan:
        values = {"grid": LatentGrid(2, 4, 4), "block": (1, 1, 4), "opening": Opening("hybrid")}
        return SequencePlan(**(values | changes))

    variants = [
        make(),
        make(grid=LatentGrid(3, 4, 4)),
        make(block=(1, 4, 1)),
        make(opening=Opening("bov")),
        make(opening=Opening("prefix")),
        make(opening=Opening("hybrid", 2)),
        make(prompt_length=1),
        make(block=(1, 2, 2), partition="strided"),
        make(block=(1, 2, 2), partition="halton"),
    ]
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make().fingerprint == make().fingerprint == "10cdb36182096281", "checkpoints name it"
    assert len(set(variants)) == len({plan.fingerprint for plan in variants}) == len(variants)


def test_arrays_cannot_be_overwritten():
    plan = SequencePlan(LatentGrid(2, 2, 2), (1, 1, 2), Opening("hybrid"), 1)
    for name in (
        "order",
        "inverse_order",
        "input_index",
        "target_index",
        "k_end",
        "mask",
        "lookalikes",
    ):
        with pytest.raises(ValueError, match="read-only"):
            getattr(plan, name)[0] = 0


def test_vocabulary_is_the_official_table():
    ucf = Vocabulary(codes=64000, prompt=32000, special=16)
    assert (ucf.prompt_offset, ucf.code_offset, ucf.size) == (16, 32016, 96016)
    assert Vocabulary(codes=64000).size == 64000
    assert Vocabulary(codes=64000, prompt=32000, special=1).size == 96001
