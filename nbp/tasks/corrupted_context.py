# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Corrupted context: a generator learns to predict clean codes behind codes that are partly wrong.

In training a transformer reads true codes, in sampling its own. Each of its slips is then something
that it has never read, and what follows gets worse. Wrong codes among those that it reads teach it
to go on from slips (Infinity, arXiv 2412.04431, section 3.3, flips bits of codes; BitDance, arXiv
2602.14041). The targets stay clean, so the loss on clean context gets a little worse: samples show
what it is good for (docs/blocks.md).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbp.layout import SequencePlan
from nbp.ranges import Share
from nbp.shapes import Array, Int


@dataclass(frozen=True)
class CorruptionSettings:
    """The section `generator.corruption`.

    share: of the codes that are read in training, the largest share that is replaced; each clip
      draws its own between 0 and this. 0 replaces nothing.
    codes: what replaces a code: any code, or a near one, of which one FSQ digit (or LFQ bit)
      differs by one level.
    over_time: whether each latent frame loses the same share, or it grows in equal steps from
      share / T in the first of T latent frames to the whole share in the last.
    """

    share: Share = 0.0
    codes: Literal["random", "near"] = "random"
    over_time: Literal["constant", "growing"] = "constant"


@dataclass(frozen=True)
class CorruptedContext:
    """Replaces codes of clips in generation order.

    count: codes 0..count-1 exist. levels: of their digits, channel 0 the least significant, as
    `nbp.nn.fsq.Fsq` orders them; () where codes have no digits, and none is near another.
    given: leading codes that are never replaced, because sampling is given them.
    """

    settings: CorruptionSettings
    plan: SequencePlan
    count: int
    levels: tuple[int, ...] = ()
    given: int = 0

    def __post_init__(self) -> None:
        if self.settings.codes == "near" and not self.levels:
            raise ValueError("near codes: these codes have no digits, use codes=random")

    def __call__(self, codes: Int[Array, "b size"], key: Array) -> Int[Array, "b size"]:
        """The codes as they are read: some of them replaced, as the settings say."""
        share_key, hit_key, code_key = jax.random.split(key, 3)
        share = jax.random.uniform(share_key, (codes.shape[0], 1)) * self.settings.share
        hit = jax.random.uniform(hit_key, codes.shape) < share * self._scale
        other = self._near(codes, code_key) if self.settings.codes == "near" else None
        if other is None:
            other = jax.random.randint(code_key, codes.shape, 0, self.count, codes.dtype)
        return jnp.where(hit, other, codes)

    @property
    def _scale(self) -> np.ndarray:
        """[size] What a clip's share is multiplied by at each token."""
        plan = self.plan
        frame = plan.order // plan.grid.frame
        growing = self.settings.over_time == "growing"
        scale = (frame + 1) / plan.grid.t if growing else np.ones(plan.grid.size)
        free = np.arange(plan.grid.size) >= max(self.given, plan.first)
        return np.where(free, scale, 0.0).astype(np.float32)

    def _near(self, codes: Int[Array, "b size"], key: Array) -> Int[Array, "b size"]:
        """One digit, each with the same chance, one level up or down; at its end the one way."""
        digit_key, way_key = jax.random.split(key)
        levels = np.asarray(self.levels, np.int32)
        basis = np.cumprod([1, *levels[:-1]]).astype(np.int32)
        which = jax.random.randint(digit_key, codes.shape, 0, len(levels))
        level, size = jnp.asarray(levels)[which], jnp.asarray(basis)[which]
        digit = (codes // size) % level
        up = jax.random.bernoulli(way_key, shape=codes.shape)
        up = jnp.where(digit == 0, True, jnp.where(digit == level - 1, False, up))
        return codes + jnp.where(up, size, -size)
