# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A rolling cache: blocks of one endless stream of codes, for generators with rotary positions.

A clip is drawn as ever. From there on each pass draws the next block of the stream, and its keys
and values take the slots of blocks that have left the window (`nbp.layout.RollingWindow`). What is
kept: the sinks, which are the prompt and the first latent frames (StreamingLLM, arXiv 2309.17453),
and the latest frames, as many as make a trained clip with the sinks.

A query sees what it would see in the last latent frames of a clip, at the same distances: none is
larger than in training. Keys keep the rotation with which they were written. In the ring the time
of a key is that of the stream, and so is that of a query that looks there; at the sinks it looks
with the time that it would have in the clip. So a query turns twice, nothing in the cache turns
again, and there is no error that grows.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from nbp.layout import Phase, RollingWindow
from nbp.models.inference import forward_cached
from nbp.nn.attention.kv_cache import Cache
from nbp.nn.rotary import Sinks
from nbp.sampling.generate import Drawn, Generation
from nbp.shapes import Array, Float, Int


@dataclass(frozen=True)
class RollingGeneration(Generation):
    """Passes behind the end of a clip: those of `window.plan`'s last latent frames, anywhere.

    number: of these latent frames in the stream, in units of the depth of a block; an array.
    """

    window: RollingWindow
    number: Int[Array, ""]

    def draw_next(self, ids: Int[Array, "b size"], cache: Cache) -> Drawn:
        """The next latent frames, as many as a block is deep, at the end of the window's ids.

        ids: of the window before. cache: all of its slots filled.
        """
        plan, passes = self.model.plan, self.window.passes
        ids = jnp.roll(ids, -passes * plan.block_size, axis=1)
        phase = Phase(self.window.newest, plan.block_size, passes)
        return self.scan_phase(ids, cache, phase, self.schedule.passes - passes, kept=None)

    def forward(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        *,
        start: Array | int,
        k_end: Int[Array, "n"],
        key_mask: Any,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """The layers: the block that the plan has at `start` goes into its slot of the ring."""
        model, window = self.model, self.window
        index = (start - window.newest) // model.plan.block_size
        seen = jnp.broadcast_to(window.visible(self.number, index), (len(x), cache.length))
        now = model.rotation(start, x.shape[1], later=window.later(self.number))
        in_clip = model.rotation(start, x.shape[1])
        assert now is not None  # of a rotary model: `Rollout` takes no other
        assert in_clip is not None
        return forward_cached(
            model.transformer,
            x,
            cache,
            self.decoder.layers,
            start=window.slot(self.number, index),
            k_end=jnp.full(x.shape[1], cache.length),
            key_mask=seen if key_mask is None else seen & key_mask,
            rotation=now._replace(sinks=Sinks(window.base, in_clip.query)),
        )


def roll(run: Generation, window: RollingWindow, number: Array) -> RollingGeneration:
    """The passes behind a clip's generation. Raises ValueError without rotary positions."""
    if not run.model.rotary:
        raise ValueError("a rolling cache needs a generator with rotary positions")
    fields = {name: getattr(run, name) for name in Generation.__dataclass_fields__}
    return RollingGeneration(**fields, window=window, number=number)
