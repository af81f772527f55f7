# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are written frame by frame: the same as those of a whole clip, or not there."""

import numpy as np
import pytest
from PIL import Image

from nbp.data.video.decode import read_clip
from nbp.data.video.encode import GifWriter, VideoWriter, write_gif, write_video
from tests.data.videos import make_clip


def test_pieces_make_the_file_of_the_whole(tmp_path):
    clip = make_clip(11, 23, 31)
    write_video(tmp_path / "whole.mp4", clip, fps=8.0)
    with VideoWriter(tmp_path / "pieces.mp4", fps=8.0) as writer:
        for piece in np.split(clip, [1, 5, 6]):
            writer.add(piece)
        assert not (tmp_path / "pieces.mp4").exists(), "not before it is complete"
    found, wanted = (read_clip(tmp_path / f"{name}.mp4", frames=11) for name in ("pieces", "whole"))
    np.testing.assert_array_equal(found, wanted)
    others = np.abs(found.astype(int) - wanted[::-1]).mean()
    assert others > 20, "frames out of order would be seen"
    write_gif(tmp_path / "whole.gif", clip, fps=8.0, scale=2)
    with GifWriter(tmp_path / "pieces.gif", fps=8.0, scale=2) as writer:
        for piece in np.split(clip, [3]):
            writer.add(piece)
    assert (tmp_path / "pieces.gif").read_bytes() == (tmp_path / "whole.gif").read_bytes()
    with Image.open(tmp_path / "pieces.gif") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((62, 46), 11)


@pytest.mark.parametrize("kind", [VideoWriter, GifWriter])
def test_what_is_interrupted_leaves_nothing(tmp_path, kind):
    def stop() -> None:
        with kind(tmp_path / "new" / "clip", fps=8.0) as writer:
            writer.add(make_clip(3))
            raise KeyError

    with pytest.raises(KeyError):
        stop()
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("size", [24, 48, 128, 144, 192])
def test_the_same_frames_are_the_same_file_every_time(tmp_path, size):
    """With its vector code libx264 made several files of most of these."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (9, size // 8, size // 8, 3), np.uint8)
    clip = coarse.repeat(8, axis=1).repeat(8, axis=2) // 2 + rng.integers(
        0, 128, (9, size, size, 3), np.uint8
    )
    for number in range(10):
        write_video(tmp_path / f"{number}.mp4", clip, fps=6.0)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
