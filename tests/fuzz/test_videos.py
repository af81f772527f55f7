# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Video files of every container that is read, damaged: a VideoError, or frames."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from nbp.data.video.decode import VideoInfo, probe_video, read_clip, read_frames
from nbp.files import VideoError
from tests.fuzz.bounds import Tally, fuzz_settings, run_case
from tests.fuzz.mutations import damaged

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".ts", ".m2ts", ".gif")
TOKENS = [
    *(b"moov", b"trak", b"tkhd", b"mdhd", b"stsd", b"stts", b"ctts", b"stsc", b"stsz", b"stco"),
    *(b"co64", b"elst", b"edts", b"moof", b"traf", b"trun", b"avc1", b"avcC", b"pasp", b"colr"),
    *(b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x2a\xd7\xb1", b"\x44\x89", b"\xb0", b"\xba"),
    *(b"\x21\xf9\x04", b"\x2c", b"\x3b", b"\x47\x40\x00", b"\0\0\0\1\x67", b"\0\0\0\1\x65"),
]
MEMORY = 1536  # MiB: some pictures of the largest size that is read


def fuzz_videos(tmp_path: Path, cases: int) -> Tally:
    """Probed, the centre read, and read as a whole."""
    tally = Tally("videos")
    files = [p.read_bytes() for p in sorted(FIXTURES.iterdir()) if p.suffix in SUFFIXES]
    path = tmp_path / "clip"

    def run(call):
        return run_case(call, tally, allowed=(VideoError,), memory=MEMORY)

    @fuzz_settings(cases)
    @given(damaged(files, TOKENS))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        info: VideoInfo | None = run(lambda: probe_video(path))
        if info is not None:
            assert info.frames > 0
            assert 0 < info.fps < float("inf")
            clip = run(lambda: read_clip(path, frames=min(2, info.frames), info=info))
            assert clip is None or clip.dtype == np.uint8
            run(lambda: read_clip(path, frames=1, fps=7.5, start=0.5))
        run(lambda: read_frames(path, lambda rate: lambda frame: None))

    check()
    tally.report()
    return tally


def test_damaged_videos_in_short(tmp_path: Path) -> None:
    assert fuzz_videos(tmp_path, 20).outcomes["VideoError"]


@pytest.mark.slow
def test_damaged_videos(tmp_path: Path) -> None:
    assert {"read", "VideoError"} <= set(fuzz_videos(tmp_path, 1500).outcomes)
