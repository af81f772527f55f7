# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Named, versioned evaluation recipes. A score is reported with the record that produced it.

A record fixes every choice that is known to move a number; None leaves one to the workdir, which
only the protocols without a published counterpart do. Where a value comes from stands beside it:
repository and file, read there. docs/protocols.md explains the records.
"""

from dataclasses import dataclass, replace
from typing import Literal

from nbp.errors import ConfigError

DataSet = Literal["any", "videos", "moving_shapes", "ucf101", "k600"]
Detector = Literal["any", "videogpt-pt", "styleganv-ts"]
Preparation = Literal["videogpt", "styleganv", "videogpt_crop"]

# Data sets that nbp.prepare knows by these names as well.
NAMED = ("ucf101", "k600")
# Kinds of data (`data.kind`) that can be the data set of a rule. Only a prepared data set is known
# to be UCF101 or Kinetics-600 and to have its official splits.
KINDS: dict[DataSet, tuple[str, ...]] = {
    "any": ("moving_shapes", "folder", "records"),
    "videos": ("folder", "records"),
    "moving_shapes": ("moving_shapes",),
    "ucf101": ("records",),
    "k600": ("records",),
}


@dataclass(frozen=True)
class ClipRule:
    """Which real clips, and how they are read.

    split: of a prepared data set; "held out" is the workdir's own choice.
    videos: length of the official list, which a complete set has. clips: how many are scored; None
      takes each video once. duplicates: how fewer videos become that many clips: the list from its
      start again (cycle), or further videos drawn without replacement (random).
    limit: "all", or the first `data.validation_clips` of the split.
    frames, size: of a clip. fps: rate that videos are resampled to, 0 for each file's own.
    spatial: as `data.spatial`; crop: where the square is cut. window: of frames in a video.
    short: a video with too few frames gets black ones at its end, or is left out.
    """

    dataset: DataSet
    split: Literal["held out", "train", "validation", "test"] = "held out"
    videos: int | None = None
    clips: int | None = None
    duplicates: Literal["none", "cycle", "random"] = "none"
    limit: Literal["all", "validation_clips"] = "all"
    frames: int | None = None
    size: int | None = None
    fps: float | None = None
    spatial: Literal["crop", "squash"] | None = None
    crop: Literal["centre", "random"] = "centre"
    window: Literal["centre", "random"] = "centre"
    short: Literal["left out", "black"] = "left out"


@dataclass(frozen=True)
class FeatureRule:
    """How clips become the features of a Frechet distance: 400 logits of I3D, float64 moments.

    detector: the published weights. preparation: see `nbp.evaluation.fvd`. frames: scored ones from
    `first_frame` on; None all. sizes: in pixels, that clips are scaled to before the preparation.
    antialias: of these and of the preparation, where a side shrinks.
    """

    detector: Detector
    preparation: Preparation
    frames: int | None = None
    first_frame: int = 0
    sizes: tuple[int, ...] = ()
    antialias: bool = False
    feature: Literal["logits"] = "logits"
    moments: Literal["float64"] = "float64"


@dataclass(frozen=True)
class GenerationRule:
    """Which clips a model generates.

    clips: how many; None leaves it to the workdir. given_frames: pixel frames that it continues.
    condition: how these look in a generated clip: as the tokenizer reconstructs them, as the
    model's decoder makes them again, or pasted from the real clip. labels: none, all in turn, or
    those of the real clips. storage: what a clip goes through before it is scored.
    """

    clips: int | None = None
    given_frames: int = 0
    condition: Literal["none", "reconstructed", "regenerated", "pasted"] = "none"
    labels: Literal["none", "in turn", "paired"] = "none"
    storage: Literal["none", "mp4"] = "none"


@dataclass(frozen=True)
class Protocol:
    """What is measured on which clips.

    clips: one rule for each data set; a report holds the one that was used (`choose`).
    fidelity_frames: the first frames, on which PSNR, SSIM and GMS are computed; None all.
    features: for Frechet distances; None computes none. features_optional: they may be left out.
    likelihood: whether a generator's bits per token are measured on the same clips.
    label_agreement: whether generated clips are checked against the label they were asked for.
    repeats: evaluations with seeds `seed`, `seed` + 1, ...; the score is their mean.
    """

    name: str
    version: int
    clips: tuple[ClipRule, ...]
    fidelity_frames: int | None = None
    features: FeatureRule | None = None
    features_optional: bool = False
    generation: GenerationRule | None = None
    likelihood: bool = False
    label_agreement: bool = False
    repeats: int = 1
    seed: int = 0

    @property
    def data(self) -> tuple[str, ...]:
        """Kinds of data that its clips may come from."""
        kinds = (kind for rule in self.clips for kind in KINDS[rule.dataset])
        return tuple(dict.fromkeys(kinds))

    def choose(self, dataset: str, kind: str) -> "Protocol":
        """This protocol with the one rule for a data set; ConfigError where it has none.

        dataset: "ucf101", "k600", or "" for any other; kind: of the data, see `KINDS`.
        """
        for rule in self.clips:
            named = rule.dataset in NAMED
            if rule.dataset == dataset if named else kind in KINDS[rule.dataset]:
                return replace(self, clips=(rule,))
        known = " or ".join(rule.dataset for rule in self.clips)
        there = dataset or "another data set"
        raise ConfigError(
            f"protocol {self.name} scores clips of {known}, as nbp.prepare writes them; this is "
            f"{there}. Use {_name_fitting(kind)}, or --data DIR"
        )


# UCF101, split 1: train and test list. Kinetics-600: the validation list of the NBP release.
UCF_TRAIN, UCF_TEST, K600_VALIDATION = 9_537, 3_783, 29_739

# NBP: tokenizer_eval.py and nbp/data.py (parser defaults: fps 16), with the resolution and length
# of scripts/recons/eval_tokenizer.sh. The script is for Kinetics-600; UCF101's has no published
# one, so the same defaults stand. Frames are squashed by the decoder, and short clips end in black.
_NBP_UCF_CLIPS = ClipRule(
    "ucf101",
    split="test",
    videos=UCF_TEST,
    frames=17,
    size=128,
    fps=16.0,
    spatial="squash",
    short="black",
)
NBP_RFVD = Protocol(
    "nbp-rfvd",
    1,
    clips=(
        _NBP_UCF_CLIPS,
        replace(_NBP_UCF_CLIPS, dataset="k600", split="validation", videos=K600_VALIDATION),
    ),
    fidelity_frames=16,  # tokenizer_eval.py: all but the last frame
    features=FeatureRule("videogpt-pt", "videogpt", frames=17),  # nbp/fvd/fvd.py
)

# OmniTokenizer: vqgan_eval.py and OmniTokenizer/data.py (fps 16), at the 256 pixels of
# scripts/recons/eval_video.sh. The loader is the one that NBP took over.
OMNI_RFVD = replace(
    NBP_RFVD,
    name="omni-rfvd",
    clips=tuple(replace(rule, size=256) for rule in NBP_RFVD.clips),
    fidelity_frames=None,
)

# LARP: eval/eval_larp_tokenizer.py, eval/rfvd_evaluator.py, datasets/video_dataset.py: the train
# list, a random window of 16 frames at the file's rate, short side and centre crop, one pass. A
# causal tokenizer of time stride 4 takes 17 frames: that many are read and the first 16 scored.
LARP_RFVD = Protocol(
    "larp-rfvd",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            window="random",
        ),
    ),
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16),
)

# SEED-Voken (Open-MAGVIT2): evaluation_video.py, Open_MAGVIT2/data/ucf101.py: the train folder,
# filled up to 10,000 by random.sample, centre windows of 17 frames, short side and random crop.
SEED_RFVD = Protocol(
    "seed-rfvd",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            duplicates="random",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            crop="random",
        ),
    ),
    features=FeatureRule("videogpt-pt", "videogpt", frames=17),
)

# Ours. The first two follow the workdir's own data and settings and grew up with the quickstart;
# `reconstruction` scores the tokenizer of any workdir on all of its held-out clips.
MOVING_SHAPES = Protocol(
    "moving-shapes",
    1,
    clips=(ClipRule("moving_shapes", limit="validation_clips"),),
    generation=GenerationRule(labels="in turn"),
    likelihood=True,
    label_agreement=True,
)
FOLDER = Protocol(
    "folder", 1, clips=(ClipRule("videos", limit="validation_clips"),), likelihood=True
)
RECONSTRUCTION = Protocol(
    "reconstruction",
    1,
    clips=(ClipRule("any"),),
    features=FeatureRule("any", "videogpt"),
    features_optional=True,
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        MOVING_SHAPES,
        FOLDER,
        RECONSTRUCTION,
        NBP_RFVD,
        OMNI_RFVD,
        LARP_RFVD,
        SEED_RFVD,
    )
}


def find_protocol(name: str, data: str | None = None) -> Protocol:
    """The protocol of a name; ConfigError where it is unknown or made for another kind of data."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if data is not None and data not in protocol.data:
        kinds = " or ".join(protocol.data)
        prepare = ""
        if protocol.data == ("records",):
            prepare = ", or prepare its data set (nbp.prepare) and name it with --data DIR"
        raise ConfigError(
            f"protocol {name} scores models of {kinds} data, not {data}. "
            f"Use {_name_fitting(data)}{prepare}"
        )
    return protocol


def needs_features(name: str) -> bool:
    """Whether a protocol, if it is known, has no scores without features."""
    protocol = PROTOCOLS.get(name)
    return bool(protocol and protocol.features and not protocol.features_optional)


def _name_fitting(kind: str) -> str:
    """The protocols that any data of a kind can be scored under."""
    return " or ".join(
        protocol.name
        for protocol in PROTOCOLS.values()
        if any(rule.videos is None and kind in KINDS[rule.dataset] for rule in protocol.clips)
    )
