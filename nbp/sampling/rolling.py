# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A rolling cache: blocks of one endless stream of codes, for generators with rotary positions.

A clip is drawn as ever. From there on each pass draws the next block of the stream, and its keys
and values take the slots of blocks that have left the window (`RollingWindow`). What is
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
import numpy as np

from nbp.layout import Phase, SequencePlan
from nbp.models.inference import forward_cached
from nbp.nn.attention.kv_cache import Cache
from nbp.nn.rotary import Sinks
from nbp.sampling.generate import Drawn, Generation
from nbp.shapes import Array, Bool, Float, Int


@dataclass(frozen=True)
class RollingWindow:
    """The slots of a cache through which a stream of blocks rolls that does not end with a clip.

    The slots `[0, base)` hold the prompt and the first `sinks` latent frames of the stream: they
    are the first positions of the plan and stay. The others are a ring of blocks. A slot belongs to
    the block that is *read* there. The query of a block of the latent frames f (as many as a block
    is deep) sees the sinks and what is read of the latest frames up to f, as many as make a clip
    with the sinks; those of an older frame leave together, since they would stand at a distance
    that no clip has. `newest` is where the plan has the queries of a clip's last latent frames.

    Raises ValueError for a number of sinks that the plan does not allow.
    """

    plan: SequencePlan
    sinks: int

    def __post_init__(self) -> None:
        plan, allowed = self.plan, list_sinks(self.plan)
        if not allowed:
            raise ValueError(
                f"a window of {plan.grid.t} latent frames in blocks of depth {plan.block[0]} with "
                f"opening {plan.opening.kind} cannot roll: the frame that is drawn, one before it "
                "and what the opening draws token by token need more"
            )
        if self.sinks not in allowed:
            raise ValueError(
                f"{self.sinks} latent frames as sinks: a window of {plan.grid.t} in blocks of "
                f"depth {plan.block[0]} keeps {', '.join(map(str, allowed))}"
            )

    @property
    def passes(self) -> int:
        """Blocks that lie beside each other: passes for as many latent frames as one is deep."""
        return self.plan.block[0] * self.plan.grid.frame // self.plan.block_size

    @property
    def newest(self) -> int:
        """First query of the last latent frames of the plan."""
        return self.plan.length - self.passes * self.plan.block_size

    @property
    def base(self) -> int:
        """Slots that stay; the rest is the ring."""
        return self.plan.length - self.ring * self.plan.block_size

    @property
    def ring(self) -> int:
        """Blocks that the ring holds: all that are read behind the sinks, the last is not."""
        return (self.plan.grid.t - self.sinks) // self.plan.block[0] * self.passes - 1

    def later(self, number: Any) -> Any:
        """Latent frames by which the `number`-th ones of the stream stand behind a clip's last."""
        return number * self.plan.block[0] - (self.plan.grid.t - self.plan.block[0])

    def slot(self, number: Any, index: Any) -> Any:
        """Where the query of block `index` of the `number`-th latent frames is written.

        Both may be traced. number: from 0, in units of the depth of a block.
        """
        return self.base + self._place(number, index) * self.plan.block_size

    def visible(self, number: Any, index: Any) -> Bool[Any, "length"]:
        """The slots that this query attends, its own among them."""
        slots = np.arange(self.plan.length)
        age = (self._place(number, index) - (slots - self.base) // self.plan.block_size) % self.ring
        frames = (self.plan.grid.t - self.sinks) // self.plan.block[0] - 1
        return (slots < self.base) | (age < frames * self.passes + index)

    def _place(self, number: Any, index: Any) -> Any:
        """In the ring; its first block reads the first one behind the sinks."""
        read = number * self.passes + index - 1
        return (read - self.sinks // self.plan.block[0] * self.passes) % self.ring


def list_sinks(plan: SequencePlan) -> list[int]:
    """Numbers of latent frames that can stay while blocks roll past; none for short clips.

    Two frames roll at least, and what is drawn token by token stays: the ring has whole blocks.
    """
    depth = plan.block[0]
    fewest = -(-plan.narrow // (depth * plan.grid.frame)) * depth
    return list(range(fewest, plan.grid.t - depth, depth))


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
