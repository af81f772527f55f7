# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The originals' side, written anew, against files that the original libraries wrote.

`references/make.py` has the lines that made them.
"""

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.protocol_conformance import originals, sets
from tests.protocol_conformance.originals import (
    drawing,
    files,
    larp,
    magvit,
    nbp,
    omnitokenizer,
    resampling,
    scoring,
    seed_voken,
)
from tests.protocol_conformance.references.make import KERNELS, LENGTHS, LOADER_RANKS, noise

REFERENCES = Path(__file__).parent / "references"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCES / name) as stored:
        return dict(stored)


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())


def test_originals_import_nothing_of_this_package() -> None:
    places = [*Path(originals.__file__).parent.glob("*.py"), Path(sets.__file__)]
    assert len(places) >= 11
    for place in places:
        for node in ast.walk(ast.parse(place.read_text(encoding="utf8"))):
            names = [alias.name for alias in getattr(node, "names", ())]
            names.append(getattr(node, "module", None) or "")
            assert not any(name.split(".")[0] == "nbp" for name in names[-1:])
            if isinstance(node, ast.Import):
                assert not any(name.split(".")[0] == "nbp" for name in names)


def test_draws_are_those_of_torch() -> None:
    stored = load("draws.npz")
    assert drawing.torch_permutation(9_537, 0) == stored["permutation_9537"].tolist()
    for count in (997, 64):
        for rank, share in enumerate(drawing.distributed_shares(count, 8)):
            assert share == stored[f"rank_{count}_{rank}"].tolist()
    starts = nbp.draw_starts(LENGTHS)
    each = len(starts) // nbp.RANKS
    for rank in LOADER_RANKS:
        assert starts[rank * each : (rank + 1) * each] == stored[f"loader_{rank}"].tolist()


@pytest.mark.parametrize("number", range(len(KERNELS)))
def test_kernels_are_those_of_torch_tensorflow_and_opencv(number: int) -> None:
    stored, tensorflow = load("kernels.npz"), load("tensorflow.npz")
    height, width, tall, wide = KERNELS[number]
    image = noise(height, width)
    for name, wanted in (
        ("half_pixel", stored[f"half_pixel_{number}"]),
        ("triangle", stored[f"triangle_{number}"]),
        ("corner_pixel", tensorflow[f"corner_pixel_{number}"]),
    ):
        found = resampling.resize(image, tall, wide, getattr(resampling, name))
        assert largest(found, wanted) < 5e-4, name  # float32 of 0..255 there
    found = resampling.resize_opencv(image, tall, wide)
    assert largest(found, stored[f"opencv_{number}"]) <= 1
    assert np.mean(found != stored[f"opencv_{number}"]) < 0.03


def test_chains_are_those_of_torchvision_and_dmvr(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, tensorflow = load("kernels.npz"), load("tensorflow.npz")
    shown = {}
    monkeypatch.setattr(files, "read_native", lambda path, numbers: shown[path][None])
    for number, shape in enumerate(((15, 20), (18, 32), (32, 18), (18, 21))):
        place = Path(str(number))
        shown[place] = noise(*shape)
        assert largest(larp.read(place, [0], 8)[0], stored[f"larp_{number}"]) < 1e-6
    for number, (height, width, *_) in enumerate(KERNELS):
        place = Path(f"dmvr {number}")
        shown[place] = noise(height, width)
        found = magvit.read(place, [0], 8)[0]
        assert largest(found, tensorflow[f"dmvr_{number}"]) <= 1  # float32 near a whole number
        assert np.mean(found != tensorflow[f"dmvr_{number}"]) < 0.01


def test_preparations_are_those_of_the_repositories() -> None:
    stored = load("preparations.npz")
    square = sets.draw_pixels(1, 1, 12)
    wide = np.concatenate([square, square[:, :, :, :7]], axis=3)
    for name, clip in (("square", square), ("wide", wide)):
        for size in (8, 21):
            found = (nbp.shrink(clip, size)[0] - 0.5) * 2
            assert largest(found, stored[f"styleganv_{name}_{size}"]) < 1e-5
    clips = (wide * np.float32(255)).astype(np.uint8)
    found = 2 * resampling.resize(clips, 16, 16, resampling.half_pixel)[0] / 255 - 1
    assert largest(found, stored["videogpt"]) < 1e-5
    found = nbp.shrink(clips.astype(np.float32) / np.float32(255), 16)[0] * 2 - 1
    assert largest(found, stored["videogpt_crop"]) < 1e-5
    pixels = nbp.shrink(clips.astype(np.float32) / np.float32(255), 8)[0].astype(np.float32)
    half = np.float32(0.5)
    found = ((pixels - half + half) * np.float32(255)).astype(np.uint8)
    assert largest(found, stored["tats"]) <= 1
    assert np.mean(found != stored["tats"]) < 0.02


def test_bytes_are_those_of_the_repositories() -> None:
    stored = load("bytes.npz")
    every = np.arange(256, dtype=np.uint8)
    unit = every.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(nbp.tokenizer_bytes(unit), stored["nbp"])
    np.testing.assert_array_equal(omnitokenizer.real_bytes(unit - np.float32(0.5)), stored["omni"])
    np.testing.assert_array_equal(seed_voken.real_bytes(every), stored["seed_voken"])
    assert np.count_nonzero(stored["omni"] != every) == 63
    assert np.count_nonzero(stored["seed_voken"] != every) == 63
    assert np.count_nonzero(stored["nbp"] != every) == 0


@pytest.mark.parametrize("name", ["ucf.avi", "k600.mp4"])
def test_frames_are_those_of_decord(name: str) -> None:
    stored = load("files.npz")
    path = REFERENCES / name
    assert files.count_frames(path) == 3
    assert largest(files.read_native(path, [2]), stored[f"{name}_native"]) == 0
    for size in (32, 64):
        assert largest(files.read_squashed(path, [2], size), stored[f"{name}_{size}"]) == 0


def test_files_are_those_of_imageio(tmp_path: Path) -> None:
    """The encoder's version may differ, so the frames are compared and not the bytes."""
    stored = load("files.npz")["omni_read"]
    clip = sets.draw_pixels(1, 17, 32)[0]
    theirs = omnitokenizer.read_external(REFERENCES / "omni.mp4", 32)
    assert largest(np.rint(theirs[::8] * 255), stored) == 0
    assert omnitokenizer.store(tmp_path / "ours.mp4", clip) == (48, 48)
    ours = omnitokenizer.read_external(tmp_path / "ours.mp4", 32)
    error = 255 * np.abs(ours - theirs)
    assert error.mean() < 1.5, error.mean()  # theirs was made with vector code, see `write_imageio`
    for path in (REFERENCES / "omni.mp4", tmp_path / "ours.mp4"):
        assert b"crf=23.0" in path.read_bytes()
    # Black lines below and to the right, and none above and to the left.
    for path in (REFERENCES / "omni.mp4", tmp_path / "ours.mp4"):
        frame = files.read_native(path, [8])[0]
        assert max(frame[-1].mean(), frame[:, -1].mean()) < 40
        assert min(frame[0].mean(), frame[:, 0].mean()) > 80


def test_scores_are_those_of_the_repositories() -> None:
    stored, tensorflow = load("scores.npz"), load("tensorflow.npz")
    for count, dimensions in ((256, 40), (300, 120)):
        pair = [
            sets.draw_features(count, seed=seed, dimensions=dimensions, shift=seed / 10)
            for seed in (1, 2)
        ]
        key = f"{count}_{dimensions}"
        single = scoring.singular_root_distance(*map(scoring.single_moments, pair))
        assert single == pytest.approx(stored[f"videogpt_{key}"], rel=3e-4)
        summed = [scoring.summed_moments(x) for x in pair]
        larp_covariance = stored[f"larp_covariance_{key}"]
        np.testing.assert_allclose(summed[0][1][:4, :4], larp_covariance, rtol=1e-12)
        found = scoring.singular_root_distance(*summed)
        assert found == pytest.approx(stored[f"larp_{key}"], rel=1e-9)
        doubled = [x.astype(np.float64) for x in pair]
        found = scoring.matrix_root_distance(*map(scoring.numpy_moments, doubled))
        assert found == pytest.approx(stored[f"styleganv_{key}"], rel=1e-9)
        found = scoring.kernel_distance(*doubled)
        assert found == pytest.approx(stored[f"kvd_{key}"], rel=1e-9)
    pair = [sets.draw_features(256, seed=s, dimensions=40, shift=s / 10) for s in (1, 2)]
    moments = [scoring.numpy_moments(x.astype(np.float64)) for x in pair]
    found = scoring.singular_root_distance(*moments)
    assert found == pytest.approx(tensorflow["tfgan_256_40"], rel=1e-6)
    logits = 3 * sets.draw_features(500, seed=3, dimensions=101)
    assert scoring.inception_score(logits) == pytest.approx(tensorflow["score_500_101"], rel=1e-5)


def test_similarity_is_that_of_pytorch_msssim() -> None:
    clips = [sets.draw_pixels(1, 3, 32, seed=seed) for seed in (3, 4)]
    assert scoring.clip_ssim(*clips)[0] == pytest.approx(load("scores.npz")["ssim"], abs=1e-6)


def test_windows_are_those_of_dmvr() -> None:
    stored = load("tensorflow.npz")
    for frames in (5, 16, 17, 40):
        drawn = {tuple(row) for row in stored[f"windows_{frames}"].tolist()}
        assert drawn == set(magvit.list_windows(frames))
