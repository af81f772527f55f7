# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels that published evaluations scale real frames with. They differ, and move the number.

| kernel | what it is | whose |
| --- | --- | --- |
| bicubic | Pillow's, antialiased, bytes | this package's own data |
| swscale-bilinear | FFmpeg's filter, from decoded YUV in one step | decord with width, height |
| bilinear-antialiased | a triangle as wide as the scale | torchvision Resize(antialias=True) |
| bilinear | the two nearest pixels | F.interpolate; tf.image.resize of TensorFlow 2 |
| cv2-bilinear | the two nearest pixels, 11-bit weights, bytes | cv2.resize(INTER_LINEAR) |

All have half-pixel centres; the two `bilinear` ones give floats, the others bytes. decord's last
release builds a `scale` filter without flags, which in its FFmpeg is bilinear. The float kernels
are computed in float32, in the order of their originals.
"""

import functools
import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, assert_never

import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from nbp.shapes import Float, Int, UInt8

Kernel = Literal["bicubic", "swscale-bilinear", "bilinear-antialiased", "bilinear", "cv2-bilinear"]
LongSide = Literal["round", "floor", "ceil"]
Values = Literal["rounded", "floored", "float"]
# These give floats, which `Values` then says the fate of; the others give bytes.
FLOAT_KERNELS = ("bilinear-antialiased", "bilinear")
_CV2_BITS = 11


@dataclass(frozen=True)
class Scaling:
    """Frames to `size` px: both sides (squash), or the short one with the aspect ratio kept.

    long_side: how the other side becomes whole. values: bytes, rounded or cut off, or float32 in
    [0, 1] as a float kernel gives them (bytes of the other kernels divided by 255).
    """

    size: int
    squash: bool
    kernel: Kernel = "bicubic"
    long_side: LongSide = "round"
    values: Values = "rounded"

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The scaled height and width."""
        if self.squash:
            return self.size, self.size
        long = scale_long_side(self.size, height, width, self.long_side)
        return (self.size, long) if height <= width else (long, self.size)

    def scale(self, frame: Any) -> np.ndarray:
        """A frame, RGB uint8 [h w 3] or as decoded by PyAV, at its target's size."""
        height, width = (
            frame.shape[:2] if isinstance(frame, np.ndarray) else (frame.height, frame.width)
        )
        return scale_frame(
            frame, *self.target(height, width), kernel=self.kernel, values=self.values
        )


def scale_long_side(size: int, height: int, width: int, rule: LongSide) -> int:
    """The long side where the short one becomes `size`, at least `size`.

    round: of this package. floor: torchvision, SEED-Voken's functional.py, DMVR. ceil: TATS.
    """
    short, long = sorted((height, width))
    match rule:
        case "round":
            found = round(long * size / short)
        case "floor":
            found = int(size * long / short)
        case "ceil":
            found = math.ceil(long * (size / short))
        case _:
            assert_never(rule)
    return max(size, found)


def scale_frame(
    frame: Any, height: int, width: int, *, kernel: Kernel, values: Values = "rounded"
) -> np.ndarray:
    """A frame, RGB uint8 [h w 3] or as decoded by PyAV, as RGB [height width 3]; see `Values`."""
    if kernel == "swscale-bilinear":
        return finish_values(_scale_bilinear_in_swscale(frame, height, width), values)
    pixels = frame if isinstance(frame, np.ndarray) else to_rgb(frame)
    if pixels.shape[:2] == (height, width):
        return finish_values(pixels, values)
    match kernel:
        case "bicubic":
            return finish_values(scale_bicubic(pixels, height, width), values)
        case "cv2-bilinear":
            return finish_values(scale_like_cv2(pixels, height, width), values)
        case "bilinear" | "bilinear-antialiased":
            scale = scale_bilinear if kernel == "bilinear" else scale_antialiased
            floats = pixels.astype(np.float32)
            if values == "float":
                return scale(floats / np.float32(255.0), height, width)
            scaled = scale(floats, height, width)
            whole = np.rint(scaled) if values == "rounded" else np.floor(scaled)
            return np.clip(whole, 0, 255).astype(np.uint8)
        case _:
            assert_never(kernel)


def finish_values(pixels: UInt8[np.ndarray, "h w 3"], values: Values) -> np.ndarray:
    """Bytes as they are, or as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255.0) if values == "float" else pixels


def scale_bicubic(
    pixels: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Bicubic, antialiased where it shrinks (Pillow)."""
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def scale_bilinear(
    pixels: Float[np.ndarray, "h w c"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} c"]:
    """Between the two nearest pixels of each axis, whatever the scale; edges repeated."""
    for axis, size in ((1, width), (0, height)):
        low, high, share = _find_neighbours(pixels.shape[axis], size)
        first, second = pixels.take(low, axis), pixels.take(high, axis)
        # As a difference: flat parts keep their very value, which counts where values are floored.
        weights = share[:, None, None] if axis == 0 else share[:, None]
        pixels = first + (second - first) * weights
    return pixels


def scale_antialiased(
    pixels: Float[np.ndarray, "h w c"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} c"]:
    """Each pixel the mean under a triangle, as wide as the scale where a side shrinks."""
    rows, columns = (
        _weigh_triangles(length, size)
        for length, size in zip(pixels.shape[:2], (height, width), strict=True)
    )
    across = np.einsum("wx,hxc->hwc", columns, pixels, optimize=True)
    return np.einsum("hy,ywc->hwc", rows, across, optimize=True)


def scale_like_cv2(
    pixels: UInt8[np.ndarray, "h w c"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} c"]:
    """INTER_LINEAR of OpenCV on bytes: weights of 11 bits, sums cut and rounded as its loops do."""
    steps = 1 << _CV2_BITS
    low, high, share = _find_neighbours(pixels.shape[1], width)
    second = np.rint(share * np.float32(steps)).astype(np.int32)[:, None]
    across = pixels.astype(np.int32)
    across = across[:, low] * (steps - second) + across[:, high] * second
    low, high, share = _find_neighbours(pixels.shape[0], height)
    second = np.rint(share * np.float32(steps)).astype(np.int32)[:, None, None]
    across >>= 4
    down = (across[low] * (steps - second) >> 16) + (across[high] * second >> 16)
    return np.clip((down + 2) >> 2, 0, 255).astype(np.uint8)


def _scale_bilinear_in_swscale(frame: Any, height: int, width: int) -> np.ndarray:
    if isinstance(frame, np.ndarray):
        if frame.shape[:2] == (height, width):
            return frame
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return scale_in_swscale(frame, height, width).to_ndarray()


@functools.lru_cache(256)
def _find_neighbours(
    length: int, size: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """The pixels on both sides of each centre, and the share of the second, in float32."""
    scale = np.float32(length / size)
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    centres = np.clip(centres, 0, length - 1).astype(np.float32)
    low = np.floor(centres).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), centres - low.astype(np.float32)


@functools.lru_cache(256)
def _weigh_triangles(length: int, size: int) -> Float[np.ndarray, "n m"]:
    """[size length]: the share of each pixel in each of the scaled ones."""
    scale = length / size
    reach = max(scale, 1.0)
    weights = np.zeros((size, length))
    for i in range(size):
        centre = scale * (i + 0.5)
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        distances = np.abs((np.arange(first, last) + 0.5 - centre) / reach)
        weights[i, first:last] = np.maximum(1.0 - distances, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class _Local(threading.local):
    """Of this thread: what keeps the tables of the sizes that it has seen."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self.graphs: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}


_LOCAL = _Local()
_MAX_GRAPHS = 16


def to_rgb(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """A frame decoded by PyAV as RGB, at its own size."""
    return _LOCAL.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def scale_in_swscale(
    frame: Any, height: int, width: int, *, pixels: str = "rgb24", flags: str = "bilinear"
) -> Any:
    """A frame of PyAV at another size and in the pixel format `pixels`, by FFmpeg's filter `scale`.

    The filter tells the library where the chroma of 4:2:0 lies, which `VideoFrame.reformat` does
    not: without it frames differ from decord's by 0.3 levels, with it (but for sides that are kept)
    by none.
    """
    key = (
        *(frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range),
        *(width, height, pixels, flags),
    )
    if key not in _LOCAL.graphs:
        while len(_LOCAL.graphs) >= _MAX_GRAPHS:
            _LOCAL.graphs.pop(next(iter(_LOCAL.graphs)))
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 25),
        )
        scale = graph.add("scale", f"{width}:{height}:flags={flags}")
        convert, sink = graph.add("format", pixels), graph.add("buffersink")
        source.link_to(scale)
        scale.link_to(convert)
        convert.link_to(sink)
        graph.configure()
        _LOCAL.graphs[key] = graph, source, sink
    _, source, sink = _LOCAL.graphs[key]
    source.push(frame)
    return sink.pull()
