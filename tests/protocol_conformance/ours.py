# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The side of this package: what its evaluations do under a protocol, from its own code paths.

Sources of data and networks are replaced, and what lies between them is run as it is.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import av
import jax.numpy as jnp
import numpy as np

from nbp import build_data
from nbp.build_data import ClipData, make_transforms
from nbp.config import load_config
from nbp.data.sources import BadVideos
from nbp.data.video.decode import VideoInfo
from nbp.evaluation import real_clips
from nbp.evaluation.drawn_clips import CropPlace
from nbp.evaluation.generation import Made, choose_labels_of, choose_values, finish_clips
from nbp.evaluation.real_pixels import StoreClip, score_pixels
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.fvd import _extract_features
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.nn.conv3d import taps_conv
from nbp.protocols import PROTOCOLS
from nbp.protocols.protocol import FeatureRule, GenerationRule, Protocol, Values
from tests import tiny
from tests.protocol_conformance.sets import Video


@dataclass(frozen=True)
class DrawnClip:
    """A real clip: the file, frame numbers of what is scored (-1 black), class id, crop, flip."""

    path: str
    numbers: tuple[int, ...]
    label: int
    crop: tuple[float, float] | None
    flip: bool


@dataclass(frozen=True)
class ListedVideos:
    """A prepared split without videos: a record of each line of a list, in its order."""

    videos: Sequence[Video]
    label_names: tuple[str, ...]
    fingerprint: str = "listed"

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = self.videos[index]
        return {
            "path": video.path,
            "label": np.int32(self.label_names.index(video.label)),
            "clip": b"",
            "info": VideoInfo(video.frames, video.fps, 240, 320),
        }


def find_protocol(name: str, dataset: str | None = None, *, total: int | None = None) -> Protocol:
    """A published record with one rule; total: for a list of that length, clips in proportion."""
    protocol = PROTOCOLS[name]
    rule = next(rule for rule in protocol.clips if dataset in (None, rule.dataset))
    if total is not None:
        share = total / (rule.videos or total)
        clips = rule.clips and min(rule.clips, round(rule.clips * share))
        rule = dataclasses.replace(rule, clips=clips, videos=rule.videos and total)
    return dataclasses.replace(protocol, clips=(rule,))


def open_clips(
    protocol: Protocol, videos: Sequence[Video], labels: Sequence[str]
) -> real_clips.RealClips:
    """The clips of a protocol from a list of videos, as an evaluation opens them."""
    (rule,) = protocol.clips
    made = protocol.generation and protocol.generation.size
    overrides = {
        **tiny.OVERRIDES,
        "data.kind": "records",
        "data.root": "nowhere",
        "data.size": str(made or rule.size),
        "data.frames": str(rule.frames),
    }
    prepared = {"kind": rule.dataset, "split": 1, "fit": "native", "size": 0}
    splits = ("train", "validation", "test")
    with (
        mock.patch.object(real_clips, "read_prepared", return_value=prepared),
        mock.patch.object(build_data, "list_splits", return_value=splits),
    ):
        chosen, config = real_clips.choose_rule(protocol, load_config(tiny.CONFIG, overrides), {})
    data = dataclasses.replace(config.data, size=rule.size or 0)
    config = dataclasses.replace(config, data=data)
    # "train+test" joins two lists.
    cut = len(videos) // 2 if "+" in rule.split else 0
    parts = videos[:cut], videos[cut:]
    train, held_out = (
        ClipData(
            ListedVideos(part, tuple(labels)),
            make_transforms(config, training=training),
            BadVideos(),
        )
        for part, training in zip(parts, (True, False), strict=True)
    )
    with mock.patch.object(build_data, "make_data", return_value=(train, held_out)):
        return real_clips.open_clips(config, chosen, None)


def list_clips(
    protocol: Protocol, videos: Sequence[Video], labels: Sequence[str], *, repeat: int = 0
) -> list[DrawnClip]:
    """Every clip that is scored in a repeat. Videos that are left out are not among them."""
    clips = open_clips(protocol, videos, labels).of_repeat(repeat)
    source, read = clips.chosen.source, clips.data.transforms[0]
    frames = protocol.features and protocol.features.frames
    found = []

    def number_frames(data: bytes, numbers: np.ndarray, **_: Any) -> np.ndarray:
        return (numbers + 1).reshape(-1, 1, 1, 1)  # 0 is black

    with mock.patch("nbp.data.records.decode_clip", number_frames):
        for index in range(len(source)):
            record = source[index]
            try:
                video = read(record, np.random.default_rng())["video"]
            except ValueError:
                continue
            numbers = tuple((video[:frames].ravel() - 1).tolist())
            place = record["place"]
            label = int(record["label"])
            found.append(DrawnClip(record["path"], numbers, label, place.crop, place.flip))
    return found


@functools.cache
def open_single(protocol: Protocol) -> real_clips.RealClips:
    """A protocol of one clip, for what it does with pixels."""
    rule = dataclasses.replace(protocol.clips[0], clips=1, videos=1)
    single = dataclasses.replace(protocol, clips=(rule,))
    return open_clips(single, [Video("a/b.avi", "a", 99, 25.0)], ["a"])


def read_frames(protocol: Protocol, path: Path, numbers: Sequence[int]) -> np.ndarray:
    """Frames of a file after the rule's kernel, before the crop; as the tokenizer gets them."""
    clips = open_single(protocol)
    scaling = cast(Any, clips.data.transforms[0]).decode.resize
    with av.open(str(path)) as container:
        frames = [scaling.scale(frame) for frame in container.decode(container.streams.video[0])]
    return np.stack([frames[number] for number in numbers])


def cut_centre(protocol: Protocol, frames: np.ndarray) -> np.ndarray:
    """The square that the rule cuts, where it draws none."""
    clips = open_single(protocol)
    for transform in clips.data.transforms:
        if isinstance(transform, CropPlace):
            place = mock.Mock(crop=None, flip=False)
            record = transform({"video": frames, "place": place}, np.random.default_rng())
            frames = record["video"]
    return frames


def cut_shares(protocol: Protocol, height: int, width: int) -> np.ndarray:
    """How often each top and left are cut, [tops lefts], over an even grid of drawn shares."""
    size = protocol.clips[0].size or 0
    cut = CropPlace(size)
    places = np.moveaxis(np.mgrid[:height, :width], 0, -1)[None]
    counts = np.zeros((height - size + 1, width - size + 1))
    tops, lefts = ((np.arange(4 * n) + 0.5) / (4 * n) for n in counts.shape)
    for top in tops:
        for left in lefts:
            record = {"video": places, "place": mock.Mock(crop=(top, left))}
            corner = cut(record, np.random.default_rng())["video"][0, 0, 0]
            counts[tuple(corner)] += 1
    return counts / counts.sum()


def real_pixels(protocol: Protocol, clips: np.ndarray) -> np.ndarray:
    """Real clips as features see them."""
    return score_pixels(clips, protocol.clips[0])


def real_through_file(protocol: Protocol, clip: np.ndarray) -> np.ndarray:
    """A real clip [t h w 3] of bytes after the file that the rule stores it in."""
    opened = open_single(protocol)
    store = next(t for t in opened.data.transforms if isinstance(t, StoreClip))
    return store({"video": clip}, np.random.default_rng())["video"]


def made_pixels(protocol: Protocol, pixels: np.ndarray, *, size: int | None = None) -> np.ndarray:
    """Generated clips [n t h w 3] in [0, 1] as features see them; size: px of the real ones."""
    rule = protocol.generation or GenerationRule()
    others: dict[Values, np.ndarray] = {rule.values: choose_values(pixels, rule.values)}
    made = Made(choose_values(pixels, "rounded"), *[np.zeros(1)] * 3, real=None, others=others)
    return finish_clips(made, rule, size=size or pixels.shape[2], pixels=0)


def make_labels(protocol: Protocol, count: int, real: Sequence[int]) -> np.ndarray | None:
    """The class id of each generated clip."""
    rule = protocol.generation or GenerationRule()
    return choose_labels_of(rule, count, classes=101, real=lambda: np.array(real))


class _Eye(I3dNetwork):
    """In place of I3D: features are the prepared input itself."""

    def features(self, params: Any, pixels: Any) -> Any:
        return pixels


_EYE = _Eye(I3dSpec(), taps_conv)


def prepare(protocol: Protocol, clips: np.ndarray) -> np.ndarray:
    """What I3D gets of clips, bytes or floats in [0, 1]."""
    rule = cast(FeatureRule, protocol.features)
    return np.asarray(_extract_features(_EYE, rule, None, jnp.asarray(clips)))


def covariance(protocol: Protocol, features: np.ndarray) -> np.ndarray:
    """Of features [n d]."""
    rule = cast(FeatureRule, protocol.features)
    return Moments.of(features).covariance_of(rule.ddof)


def distance(protocol: Protocol, real: np.ndarray, made: np.ndarray) -> float:
    """The Frechet distance of two sets of features, merged from parts."""
    rule = cast(FeatureRule, protocol.features)
    sets = []
    for features in (real, made):
        moments = Moments.empty(features.shape[1])
        for part in np.array_split(features, 3):
            moments = moments.add(part)
        sets.append(moments)
    return frechet_distance(*sets, ddof=rule.ddof)
