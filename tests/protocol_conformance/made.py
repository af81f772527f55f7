# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generated and reconstructed clips: their labels, what they go through, and I3D's input."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.protocol_conformance import ours, real, sets
from tests.protocol_conformance.cells import Check
from tests.protocol_conformance.originals import larp, magvit, nbp, omnitokenizer, seed_voken, tats

WHICH = {
    "omni-ucf": "which 2,048 of 2,222 generated clips",
    "tats-ucf": "which 2,048 of 32 clips per class",
}


def compare_labels(count: int) -> Iterator[Check]:
    """Classes of generated clips, and the frames that they continue."""
    videos = sets.list_videos(count, shortest=real.SHORTEST_UCF)
    labels = sorted({video.label for video in videos})
    classes = {video.path: video.label for video in videos}
    for name, number in (
        ("nbp-ucf", nbp.number_classes),
        ("larp-ucf", larp.number_classes),
        ("magvit-ucf", None),
    ):
        protocol = ours.find_protocol(name, total=len(videos))
        drawn = ours.list_clips(protocol, videos, labels)
        made = ours.make_labels(protocol, len(drawn), [clip.label for clip in drawn])
        assert made is not None
        if number is None:
            shown = [video for clip in drawn for video in videos if video.path == clip.path]
            wanted = [labels.index(label) for label in magvit.iterate_labels(shown)]
        else:
            numbers = dict(zip(classes, number(list(classes)), strict=True))
            wanted = [numbers[clip.path] for clip in drawn]
        other = int(np.count_nonzero(made != wanted))
        yield Check(name, "labels", f"other classes of {len(drawn)}", other)
    for name, (each, scored) in (
        ("omni-ucf", omnitokenizer.label_law()),
        ("tats-ucf", tats.count_labels()),
    ):
        protocol = ours.find_protocol(name)
        assert protocol.generation is not None
        made = ours.make_labels(protocol, protocol.generation.clips or 0, [])
        assert made is not None
        counts = Counter(made.tolist())
        expected = scored / 101
        off = max(abs(counts[label] - expected) for label in range(101))
        off = off if max(counts.values()) <= each and len(made) == scored else np.inf
        what = "clips of a class, from the mean of the original's draw"
        yield Check(name, "labels", what, float(off), listed=WHICH[name], limit=1)
    for name, frames in (
        ("nbp-k600", nbp.given_frames()),
        ("larp-k600", 5),  # sample.py:236: num_cond_frames
        ("omni-k600", nbp.given_frames()),
    ):
        rule = ours.find_protocol(name).generation
        assert rule is not None
        yield Check(name, "labels", "given frames", abs((rule.given_frames or 0) - frames))
    uncond = ours.make_labels(ours.find_protocol("tats-ucf-uncond"), 8, [])
    yield Check("tats-ucf-uncond", "labels", "labels, of none", 0 if uncond is None else 8)


def compare_storage(folder: Path, size: int) -> Iterator[Check]:
    """Values of real and generated clips on their way to the features. Levels of 0..255.

    size: px of the clips that are written to files, where the original has 256.
    """
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, axis=-1)
    unit = every.astype(np.float32) / np.float32(255)
    for name, wanted in (
        ("nbp-rfvd", nbp.tokenizer_bytes(unit)),
        ("omni-rfvd", omnitokenizer.real_bytes(unit - np.float32(0.5))),
        ("seed-rfvd", seed_voken.real_bytes(every)),
    ):
        found = ours.real_pixels(ours.find_protocol(name), every)
        yield Check(
            name, "storage", "other real bytes of 256", np.count_nonzero(found != wanted) / 3
        )
    pixels = sets.draw_pixels(1, 17, 32)
    for name, values in (
        ("nbp-ucf", pixels),
        ("nbp-k600", pixels),
        ("larp-ucf", pixels),
        ("larp-k600", pixels),
        ("magvit-ucf", pixels),
        ("tats-ucf", tats.made_bytes(pixels)),
        ("tats-ucf-uncond", tats.made_bytes(pixels)),
    ):
        found = ours.made_pixels(ours.find_protocol(name), pixels)
        same = found.dtype == values.dtype and found.shape == values.shape
        off = float(np.abs(found.astype(np.float64) - values).max()) if same else np.inf
        yield Check(name, "storage", "generated pixels", off)
    yield from _compare_files(folder, sets.draw_pixels(1, 17, size)[0])


def _compare_files(folder: Path, pixels: np.ndarray) -> Iterator[Check]:
    """OmniTokenizer's mp4 files of a clip [t h w 3]; the encoder has one thread, and eight."""
    folder.mkdir(parents=True, exist_ok=True)
    bound = 0.01  # of an encoder that does not repeat itself exactly
    for name, size in (("omni-ucf", 128), ("omni-k600", 64)):
        wanted = omnitokenizer.pixels_through_file(folder / f"{name}.mp4", pixels, size) * 255
        found = ours.made_pixels(ours.find_protocol(name), pixels[None], size=size)[0]
        off = float(np.abs(found - wanted).mean()) if found.shape == wanted.shape else np.inf
        yield Check(name, "storage", "generated levels, on average", off, bound)
        place = folder / f"{name}-8.mp4"
        wanted = omnitokenizer.pixels_through_file(place, pixels, size, threads=8) * 255
        off = float(np.abs(found - wanted).mean())
        what = "the same, where the encoder had eight threads"
        yield Check(name, "storage", what, off, bound, listed="the encoder's threads", limit=3)
    clip = np.rint(pixels * 255).astype(np.uint8)
    centred = clip.astype(np.float32) / np.float32(255) - np.float32(0.5)
    shown = np.clip(centred + np.float32(0.5), 0, 1)  # transformer_eval.py:96-97
    wanted = omnitokenizer.pixels_through_file(folder / "real.mp4", shown, 64) * 255
    found = ours.real_through_file(ours.find_protocol("omni-k600"), clip)
    off = float(np.abs(found - wanted).mean()) if found.shape == wanted.shape else np.inf
    yield Check("omni-k600", "storage", "real levels, on average", off, bound)


def compare_preparation() -> Iterator[Check]:
    """I3D's input of floats that are no whole bytes, in [-1, 1]."""
    pixels = sets.draw_pixels(1, 17, 64)
    # Reconstructions become bytes on the way.
    for name, wanted in (
        ("nbp-rfvd", nbp.prepare_tokenizer(nbp.tokenizer_bytes(pixels))),
        ("omni-rfvd", omnitokenizer.prepare_tokenizer(omnitokenizer.made_bytes(pixels))),
        ("larp-rfvd", larp.prepare(pixels[:, :16])),
        ("seed-rfvd", seed_voken.prepare(seed_voken.made_bytes(pixels))),
    ):
        found = ours.prepare(ours.find_protocol(name), pixels)
        yield _check_inputs(name, found, wanted, rare=name in ("omni-rfvd", "seed-rfvd"))
    clips = tats.made_bytes(pixels)
    for name, wanted in (
        ("nbp-ucf", nbp.prepare_generation(pixels)),
        ("larp-ucf", larp.prepare(pixels[:, :16])),
        ("magvit-ucf", magvit.prepare(pixels[:, :16])),
        ("tats-ucf", tats.prepare(clips[:, :16])),
        ("tats-ucf-uncond", tats.prepare(clips[:, :16])),
    ):
        protocol = ours.find_protocol(name)
        found = ours.prepare(protocol, ours.made_pixels(protocol, pixels))
        yield _check_inputs(name, found, wanted)
    large = sets.draw_pixels(1, 16, 128)
    for name, wanted in (
        ("nbp-k600", nbp.prepare_generation(large, shrunk=64)),
        ("larp-k600", larp.prepare(large, shrunk=64)),
    ):
        yield _check_inputs(name, ours.prepare(ours.find_protocol(name), large), wanted)
    read = tats.made_bytes(pixels)
    wanted = omnitokenizer.prepare_external(read.astype(np.float32) / np.float32(255))
    for name in ("omni-ucf", "omni-k600"):
        yield _check_inputs(name, ours.prepare(ours.find_protocol(name), read), wanted)


def _check_inputs(name: str, found: np.ndarray, wanted: np.ndarray, *, rare: bool = False) -> Check:
    """rare: a float next to a whole number may be cut off to the other side of it."""
    if found.shape != wanted.shape:
        return Check(name, "preparation", f"shape {found.shape}, not {wanted.shape}", np.inf)
    errors = np.abs(found - wanted)
    if rare:
        return Check(name, "preparation", "input, on average", float(errors.mean()), 1e-4)
    return Check(name, "preparation", "input", float(errors.max()), 1e-4)
