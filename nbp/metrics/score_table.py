# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names, units and digits of the scores."""

from typing import Literal

# Unit of each score and the digits worth printing.
UNITS = {
    "psnr": ("dB", 2),
    "psnr_worst": ("dB", 2),
    "ssim": ("", 4),
    "gms": ("", 4),
    "gmsd": ("", 4),
    "lpips": ("", 4),
    "bits_per_token": ("bits", 3),
    "unigram_bits": ("bits", 3),
    "code_perplexity": ("codes", 1),
    "code_usage": ("share of codes", 3),
    "accuracy": ("share of tokens", 3),
    "accuracy_top5": ("share of tokens", 3),
    "loss": ("nats per token", 3),
}


def find_unit(name: str) -> tuple[str, int]:
    """Unit of a score and the digits worth printing."""
    # `rfvd_256` and the like: a score under conditions that its name tells.
    return UNITS.get(name, ("", 2) if name.startswith(("fvd", "rfvd")) else ("", 3))


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
