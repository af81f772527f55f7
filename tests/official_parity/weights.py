# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reference weights, rebuilt from their official names by the rules of the golden cases."""

import zlib
from typing import Literal, assert_never, get_args

import numpy as np

Family = Literal["gpt", "tokenizer", "i3d"]
FAMILIES: tuple[str, ...] = get_args(Family)

_TENTH = np.float32(0.1)
_HALF = np.float32(0.5)


def make_weight(family: Family, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of an official key (relative to the family's root module) and PyTorch shape.

    Float32 arithmetic with constants rounded to float32 first. Raises ValueError for a key that
    no rule covers.
    """
    shape = tuple(shape)
    match family:
        case "gpt":
            return _make_gpt_weight(name, shape)
        case "tokenizer":
            return _make_tokenizer_weight(name, shape)
        case "i3d":
            return _make_i3d_weight(name, shape)
        case _:
            assert_never(family)


def draw_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """n(name, shape): standard normal float32, seeded by the CRC32 of the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(shape).astype(np.float32)


def _make_gpt_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = draw_normal(name, shape)
    if name in ("tok_emb.weight", "pos_emb", "uncond_embedding"):
        return _HALF * normal
    if name.endswith(".weight") and len(shape) == 2:
        return normal * np.float32(1.0 / np.sqrt(shape[1]))
    if name.endswith(".weight") and len(shape) == 1:
        return 1 + _TENTH * normal
    if name.endswith(".bias"):
        return _TENTH * normal
    raise ValueError(f"no rule for gpt weight {name!r} of shape {shape}")


def _make_tokenizer_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = draw_normal(name, shape)
    if name.endswith(".weight") and len(shape) == 5:
        return normal * _he_factor(shape)
    if name.endswith(".beta") or (name.endswith(".weight") and len(shape) == 1):
        return 1 + _TENTH * normal
    if name.endswith(".bias"):
        return _TENTH * normal
    raise ValueError(f"no rule for tokenizer weight {name!r} of shape {shape}")


def _make_i3d_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    normal = draw_normal(name, shape)
    if name.endswith("conv3d.weight"):
        return normal * _he_factor(shape)
    if name.endswith("bn.weight"):
        return 1 + _TENTH * normal
    if name.endswith(".running_var"):
        return 1 + _TENTH * np.abs(normal)
    if name.endswith((".running_mean", ".bias")):
        return _TENTH * normal
    raise ValueError(f"no rule for i3d weight {name!r} of shape {shape}")


def _he_factor(shape: tuple[int, ...]) -> np.float32:
    return np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
