# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Real frames as the published evaluations scale them, and as this package does: a line for each.

    python protocol_resize.py --videos DIR --write originals.npz      # with the originals
    python -m benchmarks.protocol_resize --videos DIR --originals originals.npz
    python protocol_resize.py --reference tests/golden/resize.npz     # with the originals

The commands run in different environments. The first one needs decord, torch, torchvision,
opencv-python and imageio-ffmpeg, and nothing of this package; it applies the very operation of each
repository to the first frames of each video (mp4 or avi, found below DIR) and keeps the results.
The second one applies ours to the same files and prints the differences: mean and largest in
levels of 255, and PSNR over all frames of all videos; beside it the bicubic kernel of our own data.
The third one makes the small reference of the tests in the same way. TensorFlow is not run: its
`tf.image.resize` is that of `F.interpolate`, on bytes here, cut off.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 17
SIZE = 128
# What OmniTokenizer's files are read at.
STORED = {"omni-ucf stored": 128, "omni-k600 stored": 64}


def main(argv: list[str] | None = None) -> None:
    """Writes the originals' frames, or compares ours with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--write", type=Path, help="file for the originals' frames")
    parser.add_argument("--originals", type=Path, help="file that --write made")
    parser.add_argument("--reference", type=Path, help="file of the tests, to be made")
    arguments = parser.parse_args(argv)
    if arguments.reference is not None:
        save(arguments.reference, write_reference())
        return
    if arguments.videos is None or (arguments.write is None) == (arguments.originals is None):
        sys.exit(
            "give --videos DIR and --write FILE, --videos DIR and --originals FILE, or "
            "--reference FILE"
        )
    videos = sorted(p for p in arguments.videos.rglob("*") if p.suffix in (".mp4", ".avi"))
    if not videos:
        sys.exit(f"{arguments.videos} holds no mp4 or avi file")
    if arguments.write is not None:
        save(arguments.write, write_originals(videos))
        return
    with np.load(arguments.originals) as found:
        compare(videos, dict(found))


# The originals -----------------------------------------------------------------------------------


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(name: str) -> Any:
    """A module that only the originals need."""
    try:
        return __import__(name, fromlist=["x"])
    except ImportError:
        sys.exit(f"{name} is missing: this runs where the originals' packages are, see --help")


def write_originals(videos: list[Path]) -> dict[str, np.ndarray]:
    """{"PROTOCOL/VIDEO": frames [t h w 3]}, bytes or floats in [0, 1]."""
    found = {}
    for video in videos:
        frames = read_decord(video)
        for size in (64, 128, 256):
            found[f"decord {size}/{video.stem}"] = read_decord(video, width=size, height=size)
        for name, scale in ORIGINALS.items():
            found[f"{name}/{video.stem}"] = scale(frames, SIZE)
        clip = found[f"decord 256/{video.stem}"]
        for name, size in STORED.items():
            found[f"{name}/{video.stem}"] = store(clip, size)
    return found


def read_decord(video: Path, **size: int) -> np.ndarray:
    """nbp/video_utils.py:256 of NBP, and OmniTokenizer's; without a size the frames as they are."""
    reader = load("decord").VideoReader(str(video), **size)
    return reader.get_batch(np.arange(min(FRAMES, len(reader)))).asnumpy()


def scale_larp(frames: np.ndarray, size: int) -> np.ndarray:
    """datasets/video_dataset.py:45-48: floats in [0, 1]."""
    transforms = load("torchvision.transforms")
    floats = load("torch").from_numpy(frames).permute(3, 0, 1, 2).float() / 255.0
    chain = transforms.Compose(
        [transforms.Resize(size, antialias=True), transforms.CenterCrop(size)]
    )
    return chain(floats).permute(1, 2, 3, 0).numpy()


def scale_tats(frames: np.ndarray, size: int) -> np.ndarray:
    """tats/data.py:99-136, and line 113 of the sample script: bytes that features see."""
    floats = load("torch").from_numpy(frames).permute(0, 3, 1, 2).float() / 255.0
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    wide = height < width
    target = (size, math.ceil(width * scale)) if wide else (math.ceil(height * scale), size)
    scaled = cut_centre(interpolate(floats, target), size) - 0.5
    return ((scaled + 0.5) * 255).byte().numpy()


def scale_dmvr(frames: np.ndarray, size: int) -> np.ndarray:
    """dmvr/processors.py:374-409: bilinear of bytes, cast to bytes."""
    floats = load("torch").from_numpy(frames).permute(0, 3, 1, 2).float()
    height, width = frames.shape[1:3]
    target = max(size, height * size // width), max(size, width * size // height)
    return cut_centre(interpolate(floats, target), size).byte().numpy()


def interpolate(frames: Any, target: tuple[int, int]) -> Any:
    functional = load("torch.nn.functional")
    scaled = functional.interpolate(frames, size=target, mode="bilinear", align_corners=False)
    return scaled.permute(0, 2, 3, 1)


def scale_seed(frames: np.ndarray, size: int) -> np.ndarray:
    """Open_MAGVIT2/data/functional.py:27-76: OpenCV on bytes."""
    cv2 = load("cv2")
    height, width = frames.shape[1:3]
    target = (
        (int(size * width / height), size)
        if width >= height
        else (size, int(size * height / width))
    )
    scaled = [cv2.resize(frame, target, interpolation=cv2.INTER_LINEAR) for frame in frames]
    return cut_centre(np.stack(scaled), size)


ORIGINALS = {
    "larp": scale_larp,
    "tats": scale_tats,
    "seed": scale_seed,
    "magvit": scale_dmvr,
}


def store(clip: np.ndarray, size: int) -> np.ndarray:
    """OmniTokenizer/utils.py:222-247, and evaluation/fvd_external.py:31, of real frames."""
    imageio_ffmpeg = load("imageio_ffmpeg")
    floats = load("torch").from_numpy(clip).float() / 255.0 - 0.5
    written = (load("torch").clamp(floats + 0.5, 0, 1).numpy() * 255).astype("uint8")
    # utils.py:233-242: a grid with room for a line on each side, in whose corner its one clip lies.
    padded = np.pad(written, ((0, 0), (0, 2), (0, 2), (0, 0)))
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "clip.mp4")
        shape = (padded.shape[2], padded.shape[1])
        # As imageio's plugin calls it for mimsave: it passes no quality on.
        writer = imageio_ffmpeg.write_frames(
            file, shape, fps=6, quality=None, macro_block_size=16, ffmpeg_log_level="error"
        )
        writer.send(None)
        for frame in padded:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return read_decord(Path(file), width=size, height=size)


def cut_centre(frames: Any, size: int) -> Any:
    """The centre square, as the repositories cut it where nothing is drawn."""
    top, left = ((side - size) // 2 for side in frames.shape[1:3])
    return frames[:, top : top + size, left : left + size]


def draw_clip(frames: int, height: int, width: int) -> np.ndarray:
    """Ramps that move, with sharp edges, of whole numbers: uint8 [t h w 3], the same everywhere."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    clip = np.abs((4 * t + 3 * (c + 2) * x + 5 * y) % 128 - 64) * 3 + 20
    clip[:, height // 3 : height // 2, width // 3 : width // 2] = 250
    return clip.astype(np.uint8)


def write_reference() -> dict[str, np.ndarray]:
    """What `tests/data/video/test_resize.py` compares with: a few frames of a few pixels."""
    imageio_ffmpeg = load("imageio_ffmpeg")
    found = {name: scale(draw_clip(2, 38, 53), 16) for name, scale in ORIGINALS.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        video = draw_clip(3, 44, 60)
        writer = imageio_ffmpeg.write_frames(str(file), (60, 44), fps=8, macro_block_size=2)
        writer.send(None)
        for frame in video:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        found["mp4"] = np.frombuffer(file.read_bytes(), np.uint8)
        found["decord"] = read_decord(file, width=32, height=32)
    found["stored"] = store(draw_clip(4, 40, 40), 32)
    return found


# Ours --------------------------------------------------------------------------------------------


def compare(videos: list[Path], originals: dict[str, np.ndarray]) -> None:
    """A line for each operation, over all videos."""
    found: dict[str, list[np.ndarray]] = {}
    for video in videos:
        for name, ours in scale_ours(video, originals):
            theirs = originals[f"{name.split(', ')[0]}/{video.stem}"]
            a, b = (x * 255.0 if x.dtype == np.float32 else x * 1.0 for x in (theirs, ours))
            found.setdefault(name, []).append(np.abs(a - b).ravel())
    print(f"{'operation':<28}  {'mean':>6}  {'largest':>7}  {'PSNR':>6}")
    for name, parts in sorted(found.items()):
        error = np.concatenate(parts)
        psnr = 20 * math.log10(255 / max(math.sqrt(np.mean(error**2)), 1e-3))
        print(f"{name:<28}  {error.mean():6.3f}  {error.max():7.1f}  {psnr:6.1f}")


def scale_ours(video: Path, originals: dict[str, np.ndarray]) -> Any:
    """Yields (operation, frames), with the records' own rules."""
    from nbp.data.video.resize import Scaling, scale_frame, to_rgb
    from nbp.evaluation.real_pixels import CentreCrop, read_stored
    from nbp.protocols import PROTOCOLS
    from nbp.protocols.pixels import pass_range

    frames = decode_frames(video)
    rgb = [to_rgb(frame) for frame in frames]
    for size in (64, 128, 256):
        scaling = Scaling(size, squash=True, kernel="swscale-bilinear")
        yield f"decord {size}", np.stack([scaling.scale(frame) for frame in frames])
        bicubic = [scale_frame(frame, size, size, kernel="bicubic") for frame in rgb]
        yield f"decord {size}, bicubic", np.stack(bicubic)
    decord = Scaling(SIZE, squash=True, kernel="swscale-bilinear")
    yield f"decord {SIZE}, stored so", store_prepared([decord.scale(f) for f in frames], None)
    yield f"decord {SIZE}, stored native", store_prepared(rgb, decord.scale)
    plain = Scaling(SIZE, False, "bicubic")
    short = [plain.scale(frame) for frame in rgb]
    yield f"decord {SIZE}, stored short", store_prepared(short, decord.scale)
    names = {"larp": "larp-ucf", "tats": "tats-ucf", "seed": "seed-rfvd", "magvit": "magvit-ucf"}
    for name, protocol in names.items():
        pixels = PROTOCOLS[protocol].clips[0].pixels
        scaling = Scaling(SIZE, False, pixels.resize, pixels.long_side, pixels.values)
        ours = np.stack([scaling.scale(frame) for frame in rgb])
        if pixels.margin == "round":
            ours = CentreCrop(SIZE)({"video": ours}, np.random.default_rng(0))["video"]
        else:
            ours = cut_centre(ours, SIZE)
        yield name, pass_range(ours, pixels.passed) if name == "tats" else ours
        bicubic = cut_centre(np.stack([plain.scale(frame) for frame in rgb]), SIZE)
        yield f"{name}, bicubic", bicubic
    written = pass_range(originals[f"decord 256/{video.stem}"], "[-0.5, 0.5]")
    rule = PROTOCOLS["omni-k600"].clips[0].storage
    assert rule is not None
    for name, size in STORED.items():
        yield name, read_stored(written, rule, Scaling(size, True, "swscale-bilinear"))


def store_prepared(frames: list[np.ndarray], scale: Any) -> np.ndarray:
    """RGB frames as nbp.prepare stores them by default, read again."""
    from nbp.data.video.clip_codec import ClipEncoder, Coding, decode_clip

    encoder = ClipEncoder(Coding())
    for frame in frames:
        encoder.add(frame)
    return decode_clip(encoder.finish(), np.arange(len(frames)), name="clip", scale=scale)


def decode_frames(video: Path) -> list[Any]:
    import av

    with av.open(str(video)) as file:
        return [frame for _, frame in zip(range(FRAMES), file.decode(video=0), strict=False)]


if __name__ == "__main__":
    main()
