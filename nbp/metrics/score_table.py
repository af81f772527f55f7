# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every score that an evaluation can give: one record each, from which all tables are made."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Score:
    """A score, what it means, and how it is shown.

    better: which direction; "" where neither is. digits: those worth printing. headline: worth
    being shown large.
    """

    name: str
    meaning: str
    better: Literal["lower", "higher", ""] = ""
    unit: str = ""
    digits: int = 3
    headline: bool = True


def _aside(name: str, meaning: str, *, digits: int = 3) -> Score:
    """What belongs to another score, and is neither good nor bad."""
    return Score(name, meaning, digits=digits, headline=False)


def _part(name: str) -> Score:
    return dataclasses.replace(
        Score(f"{name}_agreement", f"the same of the label's {name} alone", "higher"),
        headline=False,
    )


# In the order of what a reader asks for first.
_RECORDS = (
    Score("fvd", "Frechet distance of generated clips from real ones", "lower", digits=2),
    Score("fvd_infinity", "the same of infinitely many generated clips", "lower", "", 2, False),
    _aside("fvd_infinity_error", "error of the line that is read off there", digits=2),
    _aside("fvd_bootstrap_error", "deviation over sets drawn again", digits=2),
    Score("rfvd", "Frechet distance of reconstructions from real clips", "lower", digits=2),
    Score("kvd", "kernel distance of generated clips from real ones", "lower"),
    _aside("kvd_error", "its jackknife error"),
    Score("label_agreement", "share of generated clips that show what their label says", "higher"),
    _part("colour"),
    _part("shape"),
    _part("motion"),
    *(
        _aside(f"{part}_chance", f"{part}_agreement that chance alone would give")
        for part in ("label", "colour", "shape", "motion")
    ),
    Score("psnr", "peak signal-to-noise ratio, mean over clips", "higher", "dB", 2),
    Score("bits_per_token", "bits that the generator needs for a code of a real clip", "lower",
          "bits"),
    Score("bits_blocks", "the same in further blocks that the same weights know", "lower", "bits"),
    Score("bits_clips", "the same in clips of another size that the same weights know", "lower",
          "bits"),
    Score("bits_self_drawn", "the same behind codes that the generator draws itself", "lower",
          "bits", headline=False),
    Score("draft_bits_per_token", "the same where the tokens of a block come one by one", "lower",
          "bits"),
    Score("ssim", "structural similarity", "higher", digits=4),
    Score("lpips", "learned perceptual distance", "lower", digits=4),
    Score("psnr_worst", "PSNR of the worst clip", "higher", "dB", 2),
    Score("psnr_clips", "PSNR in clips of another size that the same weights know", "higher", "dB",
          2),
    Score("psnr_after_given", "PSNR of the frames that continue given ones", "higher", "dB", 2),
    Score("ssim_after_given", "structural similarity of these frames", "higher", digits=4),
    Score("lpips_after_given", "learned perceptual distance of these frames", "lower", digits=4),
    Score("stream_temporal", "motion of generated clips against real ones (STREAM)", "higher"),
    Score("stream_fidelity", "precision of frames' features (STREAM)", "higher"),
    Score("stream_diversity", "recall of frames' features (STREAM)", "higher"),
    Score("precision", "share of generated clips among real ones", "higher"),
    Score("recall", "share of real clips among generated ones", "higher"),
    Score("density", "generated clips in the neighbourhoods of real ones", "higher"),
    Score("coverage", "share of real clips that have generated neighbours", "higher"),
    Score("inception_score", "Inception score", "higher"),
    Score("gmsd", "deviation of the gradient similarity", "lower", digits=4),
    Score("gms", "gradient magnitude similarity", "higher", digits=4),
    Score("accuracy", "share of codes that the generator finds most likely", "higher",
          "share of tokens"),
    Score("accuracy_top5", "share of codes among the five that it finds most likely", "higher",
          "share of tokens"),
    Score("loss", "cross-entropy", "lower", "nats per token"),
    Score("code_usage", "share of codes used at all", "higher", "share of codes"),
    Score("code_perplexity", "number of equally used codes with the same entropy", "higher",
          "codes", 1),
    Score("unigram_bits", "entropy of the codes' frequencies", "", "bits"),
)  # fmt: skip
SCORES = {score.name: score for score in _RECORDS}
_PLACES = {name: place for place, name in enumerate(SCORES)}

# What a reported name says beside the score: whose features, of how many clips, in how many parts.
_CONDITIONS = re.compile(
    r"_(?:random|other)_features|_parts_\d+|_\d+(?=_|$)|(?<=^stream)_(?:random|vgg)"
    r"|(?<=^bits)_(?:token|row|frame|\d+x\d+x\d+)(?=_blocks$)"
    r"|(?<=^bits|^psnr)_\d+x\d+x\d+(?=_clips$)"
)
_FEATURES = {
    "_random_features": "random features: only for trends",
    "_other_features": "features that no published number is of",
}


def find_score(name: str) -> Score:
    """The record of a reported score: `rfvd_random_features_256` and the like have that of `rfvd`.

    Its name is the reported one. A name that is not known has a record without meaning.
    """
    base, deviation, _ = name.partition("_std")
    known = SCORES.get(base) or SCORES.get(_CONDITIONS.sub("", base))
    if known is None:
        return Score(name, "", headline=False)
    if deviation:
        over = "parts or repeats" if known.name == "inception_score" else "repeats"
        return _aside(name, f"standard deviation over {over}", digits=known.digits)
    meaning = known.meaning
    for ending, text in _FEATURES.items():
        meaning += f"; {text}" * (ending in name)
    return dataclasses.replace(known, name=name, meaning=meaning)


def find_place(name: str) -> int:
    """Where a reported score stands in the order of reading: unknown ones behind all others."""
    base = name.partition("_std")[0]
    return _PLACES.get(base, _PLACES.get(_CONDITIONS.sub("", base), len(SCORES)))


# Whose features a distance is of: those that published numbers are made with, random ones, or any
# other network's.
FeatureKind = Literal["published", "random", "other"]


def name_fvd(
    prefix: Literal["fvd", "rfvd"], *, count: int, complete: int, features: FeatureKind
) -> str:
    """Under which name a Frechet video distance is reported, so that no other is taken for it.

    `prefix` alone is a complete set with the features of the protocol. Random features give
    `PREFIX_random_features`, those of a file that is not the published one `PREFIX_other_features`;
    count < complete clips add `_COUNT`.
    """
    name = prefix if features == "published" else f"{prefix}_{features}_features"
    return name if count >= complete else f"{name}_{count}"
