# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Array aliases and the one table of dimension letters used in annotations.

| letter | dimension |
| --- | --- |
| b | batch (clips) |
| t, h, w | video frames, height, width in pixels; in a latent grid its three axes |
| c | channels (3 for RGB) |
| s | samples drawn for one condition |
| n, m | query positions, key positions of a sequence |
| d | width of the residual stream, or of one head where `k` heads are named |
| k | attention heads |
| v | vocabulary |
| l | stacked layers |
| q | quantized channels (FSQ dimensions) |
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:  # a bare accelerator machine: annotations then say nothing at run time

        class _Unchecked:
            def __getitem__(self, item: object) -> Any:
                return Any

        Bool = Float = Int = UInt8 = _Unchecked()

Array = Any  # jax.Array or numpy.ndarray: every public array function takes both
PyTree = Any

Clip = UInt8[np.ndarray, "t h w c"]
Clips = UInt8[np.ndarray, "b t h w c"]

__all__ = ["Array", "Bool", "Clip", "Clips", "Float", "Int", "PyTree", "UInt8"]
