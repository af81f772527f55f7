# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips through a video file as a published evaluation writes its own: the file is read, not kept.

What `imageio` does with a list of frames: `imageio-ffmpeg` hands RGB frames to FFmpeg's libx264,
scaled (bicubic) to whole macro blocks where a side is none.
"""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from nbp.data.video.encode import H264_ENCODERS, make_x264_options
from nbp.data.video.resize import scale_in_swscale
from nbp.shapes import Clip


def store_clip(
    clip: Clip,
    read: Callable[[Any], np.ndarray],
    *,
    black: int = 0,
    macro_block: int = 2,
    crf: int = 23,
    fps: float = 6.0,
) -> np.ndarray:
    """The frames of an RGB clip [t h w 3] after an H.264 mp4 file (yuv420p), stacked.

    read: from a frame as PyAV decodes it to an array. black: rows below and columns to the right
    that are added, and kept. macro_block: sides become multiples of it. crf: constant rate factor
    of the preset "medium".
    """
    added = (0, black)
    padded = np.pad(clip, ((0, 0), added, added, (0, 0)))
    height, width = (-(-side // macro_block) * macro_block for side in padded.shape[1:3])
    data = io.BytesIO()
    encoder = next(name for name in H264_ENCODERS if name in av.codecs_available)
    with av.open(data, "w", format="mp4") as file:
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = file.add_stream(encoder, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if encoder == "libx264":
            stream.options = make_x264_options(width, height, crf=str(crf), preset="medium")
        for number, image in enumerate(padded):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = scale_in_swscale(frame, height, width, pixels="yuv420p", flags="bicubic")
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    data.seek(0)
    with av.open(data, "r", format="mov") as stored:
        found = [read(frame) for frame in stored.decode(video=0)]
    return np.stack(found[: len(clip)])
