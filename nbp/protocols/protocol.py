# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a protocol is made of: rules for real clips, for generated ones, and for features.

A record fixes every choice that is known to move a number; None leaves one to the workdir, which
only the protocols without a published counterpart do.
"""

from dataclasses import dataclass, replace
from typing import Literal

from nbp.errors import ConfigError

DataSet = Literal["any", "videos", "moving_shapes", "ucf101", "k600"]
Detector = Literal["any", "videogpt-pt", "styleganv-ts"]
# "cut" scales whole frames and takes their centre, "squash" scales whole frames to the input.
ClassPreparation = Literal["cut", "squash"]
Preparation = Literal["videogpt", "styleganv", "videogpt_crop", "tf1"]
Order = Literal["listed", "shuffled", "ranks", "sample", "epochs"]
Split = Literal["held out", "train", "validation", "test", "train+test"]

# As in `nbp.data.video.resize`, which says what each is.
Kernel = Literal["bicubic", "swscale-bilinear", "bilinear-antialiased", "bilinear", "cv2-bilinear"]
LongSide = Literal["round", "floor", "ceil"]
Values = Literal["rounded", "floored", "float"]
Margin = Literal["floor", "round"]

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
# The protocols that any data of a kind can be scored under.
GENERAL = {
    "moving_shapes": ("moving-shapes", "reconstruction"),
    "folder": ("folder", "reconstruction"),
    "records": ("folder", "reconstruction"),
}


@dataclass(frozen=True)
class Storage:
    """A video file that clips go through before they are scored: libx264's yuv420p in mp4.

    size: px at which they are written. black: rows below and columns to the right that are added
    and stay. macro_block: sides are scaled (bicubic) up to multiples of it. crf, preset: of the
    encoder. fps: in the file.
    """

    size: int = 256
    black: int = 2
    macro_block: int = 16
    crf: int = 23
    preset: Literal["medium"] = "medium"
    fps: float = 6.0


@dataclass(frozen=True)
class PixelRule:
    """How the frames of real clips become those that are encoded and scored.

    resize, long_side: the kernel, and how the side becomes whole that is not given.
    margin: where the centre lies if an odd number of pixels is cut off.
    values: of scaled frames, as the tokenizer gets them.
    passed: the range that pixels were brought to in float32 and back before features saw them as
      bytes, cut off: 1 to 63 come out one lower.
    """

    resize: Kernel = "bicubic"
    long_side: LongSide = "round"
    margin: Margin = "floor"
    values: Values = "rounded"
    passed: Literal["none", "[-0.5, 0.5]", "[-1, 1]"] = "none"


@dataclass(frozen=True)
class ClipRule:
    """Which real clips, and how they are read.

    split: of a prepared data set; "held out" is the workdir's own choice.
    videos: length of the official list, which a complete set has; None where it is not published.
    clips: how many are scored; None takes each video once. order: see `nbp.protocols.clip_lists`:
      the list's, or drawn from the protocol's seed; fewer clips than videos are the first of it.
      ranks: processes that a list is dealt to, for the order of that name. duplicates: how fewer
      videos become that many clips: the same clips from the start again (cycle), or further ones
      of videos drawn without replacement (random).
    limit: "all", or the first `data.validation_clips` of the split.
    frames, size: of a clip. fps: rate that videos are resampled to, 0 for each file's own.
    spatial: as `data.spatial`; crop: where the square is cut.
    window: of frames in a video; "random" from the protocol's seed, "loader" as the processes of
      `ranks` draw it, see `nbp.protocols.clip_lists`; "all" takes every one at a distance of `step`
      frames, so that a long video is many clips.
    counted: frames that a window has, where more are read (None: all that are read): those after
      the video's last one repeat it.
    flip: probability that a clip is mirrored.
    short: a video with too few frames gets black ones at its end, or is left out.
    pixels: how frames are scaled, and with which values. storage: a file that clips go through at
      its size; then they are scaled to `size`.
    """

    dataset: DataSet
    split: Split = "held out"
    videos: int | None = None
    clips: int | None = None
    order: Order = "listed"
    ranks: int = 1
    duplicates: Literal["none", "cycle", "random"] = "none"
    limit: Literal["all", "validation_clips"] = "all"
    frames: int | None = None
    size: int | None = None
    fps: float | None = None
    spatial: Literal["crop", "squash"] | None = None
    crop: Literal["centre", "random"] = "centre"
    window: Literal["centre", "random", "loader", "all"] = "centre"
    step: int = 1
    counted: int | None = None
    flip: float = 0.0
    short: Literal["left out", "black"] = "left out"
    pixels: PixelRule = PixelRule()
    storage: Storage | None = None


@dataclass(frozen=True)
class FeatureRule:
    """How clips become the features of a Frechet distance: 400 logits of I3D, float64 moments.

    detector: the published weights. preparation: see `nbp.metrics.fvd`. frames:
    scored ones from `first_frame` on; None all. sizes: in pixels, that clips are scaled to before
    the preparation. antialias: of these and of the preparation, where a side shrinks. epsilon: of
    the
      normalisation; None that of the weights' own code. moments, root: mean and covariance in
      float64, and the trace of the root by eigenvalues, without regularisation. ddof: what is
      taken off the number of clips in the covariance's divisor.
    """

    detector: Detector
    preparation: Preparation
    frames: int | None = None
    first_frame: int = 0
    sizes: tuple[int, ...] = ()
    antialias: bool = False
    epsilon: float | None = None
    ddof: Literal[0, 1] = 1
    feature: Literal["logits"] = "logits"
    moments: Literal["float64"] = "float64"
    root: Literal["eigenvalues"] = "eigenvalues"


@dataclass(frozen=True)
class InceptionRule:
    """How the class probabilities of generated clips become inception scores.

    parts: into how many parts the clips are cut; more than one number gives as many scores.
    clips: of one evaluation, `loops` of which follow each other; None takes all clips once.
    shuffle: seed of numpy's RandomState that orders the clips before; None leaves their order.
    preparation: see `nbp.metrics.inception_score`.
    """

    parts: tuple[int, ...] = (1, 10)
    clips: int | None = None
    loops: int = 1
    shuffle: int | None = 42
    preparation: ClassPreparation = "cut"


@dataclass(frozen=True)
class GenerationRule:
    """Which clips a model generates.

    clips: how many; None leaves it to the workdir. size: their pixels where the real clips have
      others, to which they are then scaled.
    given_frames: pixel frames that a clip continues, 0 for none; None as the model needs them.
    condition: how these look in a generated clip: as the tokenizer reconstructs them, as the
      model's decoder makes them again, or pasted from the real clip. The first two are the same
      for a causal decoder, as it makes the first frames of the given codes alone.
    labels: none, all in turn, those of the real clips (clip i has the label of real clip i), or
      "any": in turn where the model has labels.
    storage: what a clip goes through before it is scored.
    values: of the model's floats, as they are stored or scored. resize: the kernel to the real
      clips' size, where it is another one or clips are read from storage.
    """

    clips: int | None = None
    size: int | None = None
    given_frames: int | None = 0
    condition: Literal["none", "reconstructed", "regenerated", "pasted"] = "none"
    labels: Literal["none", "in turn", "paired", "any"] = "none"
    storage: Storage | None = None
    values: Values = "rounded"
    resize: Kernel = "bicubic"

    @property
    def follows_real(self) -> bool:
        """Whether clip i depends on real clip i."""
        return self.labels == "paired" or self.given_frames != 0


@dataclass(frozen=True)
class Protocol:
    """What is measured on which clips.

    clips: one rule for each data set; a report holds the one that was used (`choose`).
    reconstruction: whether the tokenizer's reconstructions of the clips are scored.
    fidelity_frames: the first frames, on which PSNR, SSIM and GMS are computed; None all.
    features: for Frechet distances; None computes none. features_optional: they may be left out.
    likelihood: whether a generator's bits per token are measured on the same clips.
    label_agreement: whether generated clips are checked against the label they were asked for.
    inception: of the class probabilities of generated clips, where a classifier is given.
    repeats: evaluations with seeds `seed`, `seed` + 1, ...; the score is their mean.
    repeats_ddof: of the standard deviation over them.
    source: repository and files that the values were read from. unknown: what these do not tell,
      with the choice made here. differs: what is done otherwise on purpose.
    """

    name: str
    version: int
    clips: tuple[ClipRule, ...]
    reconstruction: bool = True
    fidelity_frames: int | None = None
    features: FeatureRule | None = None
    features_optional: bool = False
    generation: GenerationRule | None = None
    likelihood: bool = False
    label_agreement: bool = False
    inception: InceptionRule = InceptionRule()
    repeats: int = 1
    repeats_ddof: Literal[0, 1] = 1
    seed: int = 0
    source: str = ""
    unknown: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

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
            f"{there}. Use {' or '.join(GENERAL[kind])}, or --data DIR"
        )
