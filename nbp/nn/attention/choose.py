# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The attention backends by name, and which one serves where."""

from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp

from nbp.errors import ConfigError
from nbp.nn.attention.mosaic import GENERATIONS, MosaicAttention, is_installed
from nbp.nn.attention.reference import (
    AttentionBackend,
    dense_attention,
    prefix_attention,
    xla_attention,
)

Name = Literal["prefix", "xla", "dense", "mosaic", "pallas", "cudnn", "splash"]
Choice = Literal["auto", Name]
# Backends that are kernels of one platform; the others run on all.
PLATFORMS = {"mosaic": "gpu", "pallas": "gpu", "cudnn": "gpu", "splash": "tpu"}


def choose_attention(name: Choice, platform: str, dtype: Any) -> Name:
    """The backend that `auto` stands for on a platform (`cpu`, `gpu` or `tpu`).

    On GPUs a kernel that skips hidden tiles, not cuDNN, which skips none (docs/architecture.md).
    Where JAX has none that serves, what runs everywhere: cuDNN would refuse some widths of heads.
    """
    if name != "auto":
        return name
    if platform == "gpu":
        if not _explain_no_mosaic(dtype):
            return "mosaic"
        return "prefix" if _explain_no_pallas() else "pallas"
    return "splash" if platform == "tpu" else "prefix"


def _explain_no_mosaic(dtype: Any) -> str:
    """Why tokamax's kernels cannot serve here; "" where they can."""
    if jnp.dtype(dtype).itemsize != 2:
        return (
            f"computes in half precision, not in {dtype}: use auto, or "
            "--config.generator.dtype=bfloat16"
        )
    if find_generation() not in GENERATIONS:
        return "has kernels for GPUs of compute capability 9 and 10, not for this one: use auto"
    if not is_installed():
        return (
            "needs tokamax, for Python 3.12 or later: "
            'pip install -r requirements.txt ".[cuda]", or use auto'
        )
    return ""


def _explain_no_pallas() -> str:
    """Why our kernel, which is lowered through Triton, cannot serve here; "" where it can.

    JAX has deprecated Pallas's Triton backend in 0.11 and says that it will be removed.
    """
    try:
        from jax.experimental.pallas import triton
    except ImportError:
        triton = None
    if hasattr(triton, "CompilerParams"):
        return ""
    return (
        f"needs Pallas's Triton backend, which JAX {jax.__version__} does not have: use auto, or "
        "cudnn in half precision"
    )


def find_generation() -> int:
    """The compute capability of the first GPU without its decimals, e.g. 9; 0 for others."""
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        return 0
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return int(major) if major.isdecimal() else 0


def make_attention_backend(name: Choice, *, platform: str, dtype: Any) -> AttentionBackend:
    """The backend of this name for a platform and a compute type.

    Raises ConfigError where it cannot serve.
    """
    name = choose_attention(name, platform, dtype)
    needed = PLATFORMS.get(name, platform)
    if needed != platform:
        raise ConfigError(
            f"generator.attention={name} runs on a {needed.upper()}, and this program is for a "
            f"{platform.upper()}: use auto, prefix, xla or dense"
        )
    match name:
        case "prefix":
            return prefix_attention
        case "xla":
            return xla_attention
        case "dense":
            return dense_attention
        case "mosaic":
            if reason := _explain_no_mosaic(dtype):
                raise ConfigError(f"generator.attention=mosaic {reason}")
            return MosaicAttention()
        case "pallas":
            if reason := _explain_no_pallas():
                raise ConfigError(f"generator.attention=pallas {reason}")
            from nbp.nn.attention.pallas import PallasAttention

            return PallasAttention()
        case "splash":
            from nbp.nn.attention.splash import SplashAttention

            return SplashAttention()
        case "cudnn":
            if jnp.dtype(dtype).itemsize != 2:
                raise ConfigError(
                    f"generator.attention=cudnn computes in half precision, not in {dtype}: use "
                    "auto, or --config.generator.dtype=bfloat16"
                )
            from nbp.nn.attention.cudnn import CudnnAttention

            return CudnnAttention()
        case _ as never:
            assert_never(never)
