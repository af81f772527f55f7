# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How the stored frames of a data set become those of a protocol, and what that cannot restore."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp.data.augmentation import Record, Transform
from nbp.data.video.resize import FLOAT_KERNELS, Scaling
from nbp.data.video.round_trip import store_clip
from nbp.protocols.pixels import Passed, pass_range, to_bytes
from nbp.protocols.protocol import ClipRule, Protocol, Storage

CODECS = {"h264": "H.264", "jpeg": "JPEG"}


def apply_rule(transforms: Sequence[Transform], rule: ClipRule, size: int) -> tuple[Transform, ...]:
    """The chain with the rule's kernel, values and storage. size: px of the clips.

    Clips of another size than the rule's are those that a model continues: they are not stored.
    """
    if rule.size is None:
        return tuple(transforms)  # the workdir's own way
    stored = rule.storage if size == rule.size else None
    scaling = Scaling(
        size if stored is None else stored.size,
        squash=rule.spatial == "squash",
        kernel=rule.pixels.resize,
        long_side=rule.pixels.long_side,
        values=rule.pixels.values,
    )
    chain = [_replace_resize(transform, scaling) for transform in transforms]
    if stored is not None:
        reading = dataclasses.replace(scaling, size=size)
        chain.append(StoreClip(stored, reading, rule.pixels.passed))
    return tuple(chain)


def _replace_resize(transform: Any, scaling: Scaling) -> Any:
    """The transform with another resize, its own or that of the one it wraps."""
    if hasattr(transform, "resize"):
        return dataclasses.replace(transform, resize=scaling)
    if hasattr(transform, "decode"):
        inner = _replace_resize(transform.decode, scaling)
        return dataclasses.replace(transform, decode=inner)
    return transform


@dataclass(frozen=True)
class CentreCrop:
    """The centre square of `size` px; of an odd margin the half is rounded to an even number.

    As torchvision's CenterCrop does.
    """

    size: int

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        video = record["video"]
        top, left = (round((side - self.size) / 2) for side in video.shape[1:3])
        return {**record, "video": video[:, top : top + self.size, left : left + self.size]}


@dataclass(frozen=True)
class StoreClip:
    """A clip after it was written to a file as the protocol's own clips are, and read again."""

    storage: Storage
    scaling: Scaling
    passed: Passed

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        written = to_bytes(pass_range(record["video"], self.passed))
        return {**record, "video": read_stored(written, self.storage, self.scaling)}


def read_stored(clip: np.ndarray, storage: Storage, scaling: Scaling) -> np.ndarray:
    """A clip of bytes [t h w 3] through the file, scaled from the decoded frames."""
    return store_clip(
        clip,
        scaling.scale,
        black=storage.black,
        macro_block=storage.macro_block,
        crf=storage.crf,
        fps=storage.fps,
    )


def score_pixels(video: np.ndarray, rule: ClipRule) -> np.ndarray:
    """Real clips as features see them. Those from a file have been through the range before."""
    return video if rule.storage is not None else pass_range(video, rule.pixels.passed)


def find_needed_size(protocol: Protocol) -> int | None:
    """The px that stored clips must have: of the real ones, before storage and as conditions."""
    (rule,) = protocol.clips
    made = protocol.generation
    sizes = [rule.size, rule.storage and rule.storage.size]
    if made is not None and made.given_frames != 0:
        sizes.append(made.size)
    return max((size for size in sizes if size is not None), default=None)


def list_losses(protocol: Protocol, prepared: Mapping[str, Any]) -> list[str]:
    """How stored frames differ from those that a published protocol reads, in words.

    prepared: options of `nbp.prepare`; {} for other data, of which nothing is known to be lost.
    """
    (rule,) = protocol.clips
    pixels = rule.pixels
    size = find_needed_size(protocol)
    if not prepared or size is None:
        return []
    codec, quality = prepared.get("codec", "h264"), prepared.get("quality")
    level = "" if quality is None else f" of quality {quality}"
    found = [f"frames were stored as {CODECS.get(codec, codec)}{level}, not read from the files"]
    fit, stored = prepared["fit"], prepared["size"]
    if fit == "native":
        return found
    kernel = prepared.get("resize", "bicubic")
    sizes = {rule.size, size}
    if fit == "short" and rule.spatial == "squash":
        found.append(
            f"frames were scaled to a short side of {stored} px before they were stored, and are "
            "squashed from there: scaled twice"
        )
    elif sizes != {stored}:
        found.append(
            f"frames were scaled to {stored} px before they were stored, and are scaled again to "
            f"{' and '.join(str(s) for s in sorted(s for s in sizes if s not in (None, stored)))}"
        )
    if kernel != pixels.resize:
        found.append(f"frames were scaled with {kernel}, the protocol's kernel is {pixels.resize}")
    long_side = prepared.get("long_side", "round")
    if fit == "short" and rule.spatial == "crop" and long_side != pixels.long_side:
        found.append(
            f"the long side of frames was found by {long_side}, the protocol's by "
            f"{pixels.long_side}"
        )
    if pixels.values != "rounded" and pixels.resize in FLOAT_KERNELS:
        kept = {"float": "are kept as floats", "floored": "are cut off"}[pixels.values]
        found.append(f"scaled pixels were rounded when they were stored, the protocol's {kept}")
    return found
