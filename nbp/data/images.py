# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Single images beside the clips of a batch: a causal tokenizer sees them as clips of one frame.

They come from a folder of image files, or are frames of the clips' own source (`TakeFrame`). Image
files are hostile input as videos are: only regular files of a few formats are read, sizes are
capped, and every failure is a `VideoError` with the path and a reason.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nbp.data.augmentation import (
    Fit,
    Flip,
    Record,
    ShortSide,
    Sides,
    Squash,
    Transform,
    choose_spatial,
    resize_frame,
)
from nbp.data.buckets import BucketStream
from nbp.data.pipeline import Batch, BatchStream
from nbp.data.sources import BadVideos, find_files
from nbp.data.video.decode import MAX_BYTES, MAX_PIXELS
from nbp.errors import DataError
from nbp.files import VideoError, open_regular
from nbp.progress import Progress, print_note
from nbp.shapes import UInt8

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# By content, whatever the suffix says. No format that needs another program to be read.
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as RGB, upright; grey levels of 16 bits are cut to 8, transparency is white.

    Raises `VideoError`.
    """
    with _open_image(os.fspath(path)) as image:
        return _to_rgb(image)


def check_image(path: str | Path, *, decode: bool) -> None:
    """Reads the header, and the pixels too if `decode`. Raises `VideoError`."""
    with _open_image(os.fspath(path)) as image:
        if decode:
            image.load()


@contextmanager
def _open_image(name: str) -> Iterator[Image.Image]:
    """Yields the image, and turns what opening and decoding it raise into `VideoError`."""
    with open_regular(name, MAX_BYTES) as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(name, image.height, image.width)
                yield image
        except DataError:
            raise
        except UnidentifiedImageError:
            raise VideoError(name, "not an image", f"none of {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError as error:
            raise VideoError(name, "too large", str(error)) from None
        # Decoders raise whatever their parsing trips over, and nothing else runs in here.
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise VideoError(name, "corrupt", text) from None


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise VideoError(name, "too large", f"{width}x{height}, at most {MAX_PIXELS} pixels")


def _to_rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits, which a plain conversion would cap at 255
        levels = np.clip(np.asarray(upright), 0, 2**16 - 1) // 2**8
        upright = Image.fromarray(levels.astype(np.uint8))
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(upright.convert("RGB"))


@dataclass(frozen=True)
class ImageFolder:
    """The source over the usable images of a folder; made by `scan_images`.

    `source[i]` is {"path": str, "label": 0}, a record for `ReadImage`.
    """

    root: str
    files: tuple[tuple[str, int], ...] = field(repr=False)  # path below the root, bytes

    label_names = ("image",)

    @property
    def fingerprint(self) -> str:
        """Changes with the files (names, sizes), not with the root."""
        digest = hashlib.sha256()
        for name, size in self.files:
            digest.update(os.fsencode(name) + f"\0{size}\n".encode())
        return "images-" + digest.hexdigest()[:16]

    def list_labels(self) -> None:
        """Nothing: images have no classes."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, _ = self.files[index]
        return {"path": os.path.join(self.root, *name.split("/")), "label": np.int32(0)}


def scan_images(
    root: str | Path,
    *,
    bad: BadVideos,
    check: Literal["frames", "headers"] = "headers",
    threads: int | None = None,
    report: Callable[[str], None] = print_note,
) -> ImageFolder:
    """Finds every image below `root`, in natural order; unusable ones are added to `bad`.

    check: "frames" decodes each image once, which finds damage anywhere; "headers" trusts what a
        file's beginning says: damage is then met, replaced and counted while training.
    report: takes lines of progress.
    Raises `DataError` for a missing folder and for one without a usable image.
    """
    root = Path(root)
    errors: list[VideoError] = []
    names = [name for name, _ in find_files(root, errors.append, suffixes=IMAGE_SUFFIXES)]
    if not names:
        raise DataError(
            f"{root}: no image files in it. Put images ({', '.join(IMAGE_SUFFIXES)}) into it or "
            "into folders below it."
        )

    def probe(name: str) -> tuple[str, int] | VideoError:
        path = os.path.join(root, *name.split("/"))
        try:
            check_image(path, decode=check == "frames")
            return name, os.path.getsize(path)
        except VideoError as error:
            return error
        except OSError as error:  # it vanished in between
            return VideoError(path, "unreadable", error.strerror or str(error))

    files: list[tuple[str, int]] = []
    with (
        ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
        Progress(len(names), "images looked at", report) as progress,
    ):
        for found in pool.map(probe, names):
            if isinstance(found, VideoError):
                errors.append(found)
            else:
                files.append(found)
            progress.step(bad=isinstance(found, VideoError))
    bad.add(*errors)
    if not files:
        raise DataError(
            f"{root}: none of its {len(names)} image files can be used, the first: {errors[0]}. "
            "Replace them."
        )
    return ImageFolder(os.fspath(root), tuple(files))


# Transforms --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadImage:
    """Reads the record's "path" into "video" [1 h w 3], scaled by `resize`. Raises `VideoError`."""

    resize: ShortSide | Squash

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        pixels = read_image(record["path"])
        height, width = self.resize.target(*pixels.shape[:2])
        _check_size(record["path"], height, width)  # a very long strip grows with its short side
        return {"video": resize_frame(pixels, height, width)[None], "label": record["label"]}


@dataclass(frozen=True)
class TakeFrame:
    """Keeps one random frame of the record's "video"."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        frame = int(rng.integers(len(record["video"])))
        return {**record, "video": record["video"][frame : frame + 1]}


def make_image_transforms(*, size: Sides, fit: Fit, flip: bool) -> tuple[Transform, ...]:
    """From an image file to uint8 [1 size size 3], by the spatial policy of training clips."""
    resize, cut = choose_spatial(fit, size, training=True)
    return (ReadImage(resize), *cut, *((Flip(),) if flip else ()))


# Stream ------------------------------------------------------------------------------------------


class MixedStream:
    """Batches of clips that also hold "image": uint8 [n 1 h w c].

    Both streams start at the same batch, and batch k has their batches k: with n images in a
    global batch, image examples k * n .. (k + 1) * n - 1 of an order of their own. So the batch's
    number alone is the position, and each process holds its share of both. Errors are those of
    `BatchStream`; afterwards the stream stays failed.
    """

    def __init__(self, clips: BatchStream | BucketStream, images: BatchStream):
        if clips.position != images.position:
            raise ValueError(
                f"clips start at batch {clips.position} and images at {images.position}; start "
                "both at the same."
            )
        self.clips, self.images = clips, images
        self.position = clips.position

    @property
    def fingerprint(self) -> str:
        """That of both streams, and how many images there are for each clip."""
        share = Fraction(self.images.spec.batch, self.clips.spec.batch)
        return join_fingerprints(self.clips.fingerprint, self.images.fingerprint, share)

    def __iter__(self) -> "MixedStream":
        return self

    def __next__(self) -> Batch:
        batch = next(self.clips)
        # A failed stream of images stays failed, so clips are never paired with other images.
        batch["image"] = next(self.images)["video"]
        self.position += 1
        return batch

    def close(self) -> None:
        """Stops the workers of both; the stream gives no more batches."""
        try:
            self.clips.close()
        finally:
            self.images.close()

    def __enter__(self) -> "MixedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join_fingerprints(clips: str, images: str, share: Fraction) -> str:
    """The fingerprint of a stream with `share` images for each clip, from those of both."""
    return f"{clips} with {share} of {images}"
