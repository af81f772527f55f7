# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of published evaluations, against frames that their own packages made.

`tests/golden/resize.npz` was written by `benchmarks/protocol_resize.py --reference` with decord
0.6.0, torch 2.14 and torchvision 0.29, opencv-python 5.0, imageio-ffmpeg 0.8 (its FFmpeg).
"""

import io
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest

from benchmarks.protocol_resize import draw_clip
from nbp import prepare
from nbp.data.video import resize
from nbp.data.video.resize import Kernel, LongSide, Scaling, Values, scale_frame, scale_long_side
from nbp.evaluation.real_pixels import CentreCrop, read_stored
from nbp.protocols import PROTOCOLS
from nbp.protocols.pixels import pass_range
from nbp.protocols.protocol import ClipRule, Storage
from tests.data.videos import make_clip

GOLDEN = Path(__file__).parents[2] / "golden" / "resize.npz"
RULES = {"larp": "larp-ucf", "tats": "tats-ucf", "seed": "seed-rfvd", "magvit": "magvit-ucf"}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as found:
        return dict(found)


def cut(video: np.ndarray, size: int, margin: str) -> np.ndarray:
    if margin == "round":
        return CentreCrop(size)({"video": video}, np.random.default_rng(0))["video"]
    top, left = ((side - size) // 2 for side in video.shape[1:3])
    return video[:, top : top + size, left : left + size]


def find_rule(protocol: str) -> ClipRule:
    (rule,) = PROTOCOLS[protocol].choose("ucf101", "records").clips
    return rule


@pytest.mark.parametrize("name", RULES)
def test_records_scale_as_the_repositories_do(name: str, golden: dict[str, np.ndarray]) -> None:
    """torchvision, F.interpolate, OpenCV, and the operations of DMVR: one level apart at most."""
    rule = find_rule(RULES[name]).pixels
    scaling = Scaling(16, False, rule.resize, rule.long_side, rule.values)
    found = cut(np.stack([scaling.scale(frame) for frame in draw_clip(2, 38, 53)]), 16, rule.margin)
    wanted = golden[name]
    if name == "larp":
        assert found.dtype == wanted.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        return
    if name == "tats":
        found = pass_range(found, rule.passed)
    assert found.dtype == wanted.dtype == np.uint8
    off = np.abs(found.astype(int) - wanted)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


def decode(data: bytes) -> list[Any]:
    with av.open(io.BytesIO(data), "r") as file:
        return list(file.decode(video=0))


def test_frames_of_a_file_are_scaled_as_decord_does(golden: dict[str, np.ndarray]) -> None:
    """From YUV in one step, and with its place of the chroma; RGB first gives other frames."""
    scaling = Scaling(32, True, find_rule("nbp-ucf").pixels.resize)
    frames = decode(golden["mp4"].tobytes())
    found = np.stack([scaling.scale(frame) for frame in frames])
    np.testing.assert_allclose(found.astype(int), golden["decord"], atol=1)
    other = np.stack([scaling.scale(resize.to_rgb(frame)) for frame in frames])
    assert np.abs(other.astype(int) - golden["decord"]).mean() > 0.3
    bicubic = np.stack([scale_frame(frame, 32, 32, kernel="bicubic") for frame in frames])
    assert np.abs(bicubic.astype(int) - golden["decord"]).mean() > 1


def test_stored_clips_are_those_that_imageio_writes(golden: dict[str, np.ndarray]) -> None:
    """With two black lines at two sides, macro blocks of 16, and the encoder's own crf, 23."""
    rule = PROTOCOLS["omni-k600"].clips[0]
    assert rule.storage is not None
    written = pass_range(draw_clip(4, 40, 40), rule.pixels.passed)
    scaling = Scaling(32, True, rule.pixels.resize)

    def mean_error(storage: Storage) -> float:
        found = read_stored(written, storage, scaling).astype(int)
        assert found.shape == golden["stored"].shape
        return float(np.abs(found - golden["stored"]).mean())

    found = mean_error(rule.storage)
    assert found < 0.5
    for change in ({"black": 0}, {"crf": 14}, {"macro_block": 2}):
        assert mean_error(Storage(**{**vars(rule.storage), **change})) > found + 0.3


def test_the_long_side_of_each_rounding() -> None:
    assert [scale_long_side(128, 240, 320, rule) for rule in get_args(LongSide)] == [171, 170, 171]
    assert scale_long_side(128, 320, 240, "floor") == 170
    for rule in get_args(LongSide):
        assert scale_long_side(128, 240, 240, rule) == 128


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_frames_of_the_right_size_stay_as_they_are(kernel: Kernel) -> None:
    frame = make_clip(1, 20, 30)[0]
    for values in ("rounded", "floored"):
        found = scale_frame(frame, 20, 30, kernel=kernel, values=values)
        np.testing.assert_array_equal(found, frame)
    floats = scale_frame(frame, 20, 30, kernel=kernel, values="float")
    np.testing.assert_array_equal(floats, frame.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_flat_frames_stay_flat(kernel: Kernel) -> None:
    """Also where values are cut off: no weight may sum to a little less than one."""
    for value in (1, 77, 127, 128, 254, 255):
        frame = np.full((30, 41, 3), value, np.uint8)
        for values in ("rounded", "floored") if kernel == "bilinear" else ("rounded",):
            found = scale_frame(frame, 16, 21, kernel=kernel, values=values)
            assert found.shape == (16, 21, 3)
            assert (found == value).all(), values


def test_names_are_the_same_everywhere() -> None:
    assert get_args(Kernel) == get_args(Kernel) == prepare.KERNELS
    assert get_args(LongSide) == get_args(LongSide)
    assert get_args(Values) == get_args(Values)
