# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The video tokenizer: causal 3D convolutional encoder and decoder, a quantizer between them.

REFERENCE 4. The official size is one configuration of `TokenizerSpec`: `OFFICIAL_SPEC`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from flax import nnx

from nbp.layout import LatentGrid, frames_of_latents, latents_of_frames
from nbp.models.network import Network
from nbp.nn.conv3d import (
    CausalConv3d,
    ConvBackend,
    FrameCache,
    FrameGroupNorm,
    Stride,
    Swish,
    depth_to_space,
)
from nbp.nn.fsq import Fsq
from nbp.nn.lfq import Lfq
from nbp.nn.quantizer import Quantizer
from nbp.nn.vq import Vq
from nbp.parallel.sharding import gather_all
from nbp.ranges import Count, DType, Natural
from nbp.shapes import Array, Float, Int, PyTree, UInt8

RGB = 3
Pixels = UInt8[Array, "b t h w c"] | Float[Array, "b t h w c"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reconstruction:
    """What training needs of one pass through the tokenizer.

    output: pixels, unbounded, around [0, 1]; differentiable straight through the quantizer.
    penalty: the quantizer's own loss (entropy, commitment), 0 where it has none; a mean over
      clips and positions. metrics: scalars that show how the quantizer does.
    statistics: what `TokenizerNetwork.update_codebook` moves a codebook by, {} without one. All
      leaves are means over code positions: the mean of the statistics of two batches of equal
      size is that of both together.
    """

    output: Float[Array, "b t h w c"]
    codes: Int[Array, "b T H W"]
    penalty: Float[Array, ""]
    metrics: dict[str, Array]
    statistics: PyTree


@dataclass(frozen=True)
class TokenizerSpec:
    """Stages from full resolution down: `widths[i]` channels, `units[i]` residual units.

    The section `tokenizer` of a configuration.

    strides: (t, h, w) of the down-sampling after each stage but the last.
    levels: FSQ levels, () for another kind of quantizer. groups: of the normalisation; must divide
      every width.
    quantizer: fsq has the product of `levels` as codes; lfq (one bit per channel) and vq (vectors
      of `code_channels` that follow the latents as a moving average) have `codes`.
    taps: length of the convolutions over time; 1 sees single images, with time strides of 1. A
      video tokenizer can start from its weights (`train.tokenizer.start_from`).
    remat: "units" computes every residual unit again in the backward pass instead of keeping what
      is inside it: same values, less memory, a third more work.
    dtype: compute type; parameters and normalisation statistics are float32.
    """

    widths: tuple[Count, ...]
    units: tuple[Natural, ...]
    strides: tuple[tuple[Count, Count, Count], ...]
    levels: tuple[int, ...]
    groups: Count = 32
    quantizer: Literal["fsq", "lfq", "vq"] = "fsq"
    codes: Natural = 0
    code_channels: Natural = 0
    taps: Count = 3
    remat: Literal["none", "units"] = "none"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        stages = len(self.widths)
        if len(self.units) != stages or len(self.strides) != stages - 1:
            raise ValueError(
                f"tokenizer with {stages} widths needs {stages} units and {stages - 1} strides, "
                f"has {len(self.units)} and {len(self.strides)}"
            )
        odd = [width for width in self.widths if width % self.groups]
        if odd:
            raise ValueError(f"tokenizer widths {odd} are not multiples of {self.groups} groups")
        if self.taps < 1:
            raise ValueError(f"tokenizer taps {self.taps}: convolutions are at least 1 frame long")
        if self.taps == 1 and self.stride[0] > 1:
            raise ValueError(
                f"tokenizer of taps 1 with time stride {self.stride[0]}: it sees single images and "
                "would drop the frames between. Use strides (1, h, w), or taps 3"
            )

    def make_quantizer(self) -> Quantizer:
        """Raises ValueError for numbers that its kind cannot have, or has no use for."""
        kind = self.quantizer
        used = {"fsq": ("levels",), "lfq": ("codes",), "vq": ("codes", "code_channels")}[kind]
        given = {
            "levels": self.levels,
            "codes": self.codes,
            "code_channels": self.code_channels,
        }
        idle = [f"{name} {value}" for name, value in given.items() if value and name not in used]
        if idle:
            raise ValueError(
                f"quantizer {kind} is made of {' and '.join(used)} alone, not of "
                f"{' and '.join(idle)}. Set levels to (), codes and code_channels to 0 where unused"
            )
        match kind:
            case "fsq":
                return Fsq(self.levels)
            case "lfq":
                return Lfq(self.codes)
            case "vq":
                return Vq(self.codes, self.code_channels)
            case _:
                assert_never(kind)

    @property
    def digits(self) -> tuple[int, ...]:
        """Levels of the digits of a code, the least significant first; () where it has none (vq).

        Codes that differ by one level in one digit are near each other.
        """
        match self.quantizer:
            case "fsq":
                return self.levels
            case "lfq":
                return (2,) * self.make_quantizer().channels
            case _:
                return ()

    @property
    def stride(self) -> Stride:
        """Pixels per token on each axis, e.g. (4, 8, 8)."""
        t = h = w = 1
        for st, sh, sw in self.strides:
            t, h, w = t * st, h * sh, w * sw
        return (t, h, w)

    def grid(self, frames: int, height: int, width: int) -> LatentGrid:
        """Latent grid of a clip; raises ValueError where the clip does not fit the strides."""
        st, sh, sw = self.stride
        latents = latents_of_frames(frames, st)
        if frames < 1 or frames_of_latents(latents, st) != frames:
            near = max(1, frames_of_latents(latents - 1, st))
            raise ValueError(
                f"{frames} frames: a causal tokenizer of time stride {st} takes {st}*m + 1 frames. "
                f"Use {near} or {near + st}."
            )
        if height % sh or width % sw:
            raise ValueError(
                f"{height}x{width} px: height and width must be multiples of {sh} and {sw}"
            )
        return LatentGrid(latents, height // sh, width // sw)


OFFICIAL_SPEC = TokenizerSpec(
    widths=(128, 256, 256, 512),
    units=(4, 4, 4, 8),
    strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
    levels=(8, 8, 8, 5, 5, 5),
)


class ResidualUnit(nnx.Module):
    """Two rounds of norm, swish, causal 3x3x3 convolution, added to the (projected) input."""

    def __init__(self, inputs: int, outputs: int, make: "_Maker", *, rngs: nnx.Rngs) -> None:
        self.norm1, self.act1 = make.norm(inputs), Swish(inputs)
        self.conv1 = make.conv(inputs, outputs, rngs=rngs)
        self.norm2, self.act2 = make.norm(outputs), Swish(outputs)
        self.conv2 = make.conv(outputs, outputs, rngs=rngs)
        project = inputs != outputs
        self.shortcut = make.conv(inputs, outputs, kernel=1, rngs=rngs) if project else None

    def __call__(self, x: Array, cache: FrameCache | None = None) -> Array:
        y = self.conv1(self.act1(self.norm1(x)), cache)
        y = self.conv2(self.act2(self.norm2(y)), cache)
        return y + (x if self.shortcut is None else self.shortcut(x, cache))


class Upsample(nnx.Module):
    """Causal convolution to stride-product as many channels, then depth-to-space."""

    def __init__(self, channels: int, stride: Stride, make: "_Maker", *, rngs: nnx.Rngs) -> None:
        self.stride = stride
        factor = stride[0] * stride[1] * stride[2]
        self.conv = make.conv(channels, channels * factor, rngs=rngs)

    def __call__(self, x: Array, cache: FrameCache | None = None) -> Array:
        starts = cache is None or cache.starts
        return depth_to_space(self.conv(x, cache), self.stride, starts=starts)


class Tokenizer(nnx.Module):
    """Encoder, quantizer and decoder. Pixels are floats in [0, 1], RGB, [b t h w c].

    With a cache, pixels or codes are one chunk of a longer video
    (`nbp.models.tokenizer_streaming`).
    """

    def __init__(self, spec: TokenizerSpec, conv: ConvBackend, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        make = _Maker(spec, conv)
        widths, units, strides = spec.widths, spec.units, spec.strides
        channels = spec.make_quantizer().channels

        encoder: list[nnx.Module] = [make.conv(RGB, widths[0], rngs=rngs)]
        width = widths[0]
        for stage, outputs in enumerate(widths):
            for _ in range(units[stage]):
                encoder.append(ResidualUnit(width, outputs, make, rngs=rngs))
                width = outputs
            if stage < len(strides):
                encoder.append(make.conv(width, width, stride=strides[stage], rngs=rngs))
        encoder += [make.norm(width), Swish(width)]
        encoder.append(make.conv(width, channels, kernel=1, rngs=rngs))
        self.encoder = nnx.List(encoder)

        decoder: list[nnx.Module] = [make.conv(channels, width, rngs=rngs)]
        for stage in reversed(range(len(widths))):
            for _ in range(units[stage]):
                decoder.append(ResidualUnit(width, widths[stage], make, rngs=rngs))
                width = widths[stage]
            if stage > 0:
                decoder.append(Upsample(width, strides[stage - 1], make, rngs=rngs))
        # A quiet output layer: where the first reconstructions are loud noise, the encoder learns
        # to switch its codes off, and it takes hundreds of steps to bring them back.
        output = make.conv(width, RGB, gain=0.1, rngs=rngs)
        decoder += [make.norm(width), Swish(width), output]
        self.decoder = nnx.List(decoder)

        # Last, so that encoder and decoder start the same with every quantizer.
        learned = spec.make_quantizer().init(rngs.params())
        state = {name: nnx.Variable(value) for name, value in learned.items()}
        self.quantizer = nnx.Dict(state) if state else None

    def encode_latents(
        self, pixels: Float[Array, "b t h w c"], cache: FrameCache | None = None
    ) -> Float[Array, "b T H W q"]:
        """Continuous latents before quantization."""
        return self._run(self.encoder, pixels, cache).astype(jnp.float32)

    def encode(
        self, pixels: Float[Array, "b t h w c"], cache: FrameCache | None = None
    ) -> Int[Array, "b T H W"]:
        """Codes 0..codes-1 of a clip with pixels in [0, 1]."""
        return self.spec.make_quantizer().assign(self.encode_latents(pixels, cache), self.codebook)

    def decode_latents(
        self, quantized: Float[Array, "b T H W q"], cache: FrameCache | None = None
    ) -> Float[Array, "b t h w c"]:
        """Pixels, unbounded (callers clip to [0, 1]), from vectors of the quantizer."""
        return self._run(self.decoder, quantized, cache).astype(jnp.float32)

    def decode(
        self, codes: Int[Array, "b T H W"], cache: FrameCache | None = None
    ) -> Float[Array, "b t h w c"]:
        """Pixels in [0, 1] of codes."""
        vectors = self.spec.make_quantizer().lookup(codes, self.codebook)
        return jnp.clip(self.decode_latents(vectors, cache), 0.0, 1.0)

    def reconstruct(self, pixels: Float[Array, "b t h w c"]) -> Reconstruction:
        """Through encoder, quantizer and decoder, with all that training needs."""
        found = self.spec.make_quantizer().apply(self.encode_latents(pixels), self.codebook)
        return Reconstruction(
            output=self.decode_latents(found.vectors),
            codes=found.codes,
            penalty=found.penalty,
            metrics=found.metrics,
            statistics=found.statistics,
        )

    def layer_outputs(
        self, pixels: Float[Array, "b t h w c"], look: Callable[[Array], PyTree]
    ) -> dict[str, PyTree]:
        """What `look` makes of the output of each convolution, residual unit and upsampling.

        In the pass of `reconstruct`, before activations and norms that follow; "encoder.0", ...
        """
        found = {}

        def run(side: str, x: Array) -> Array:
            for i, layer in enumerate(getattr(self, side)):
                x = layer(x)
                if isinstance(layer, CAUSAL):
                    found[f"{side}.{i}"] = look(x)
            return x.astype(jnp.float32)

        latents = run("encoder", pixels)
        run("decoder", self.spec.make_quantizer().apply(latents, self.codebook).vectors)
        return found

    @property
    def codebook(self) -> PyTree:
        """The state of the quantizer, {} where it has none."""
        if self.quantizer is None:
            return {}
        return {name: variable[...] for name, variable in self.quantizer.items()}

    def _run(self, layers: nnx.List, x: Array, cache: FrameCache | None) -> Array:
        for layer in layers:
            if cache is None and self.spec.remat == "units" and isinstance(layer, ResidualUnit):
                x = jax.checkpoint(layer)(x)
            else:
                x = layer(x, cache) if isinstance(layer, CAUSAL) else layer(x)
        return x


CAUSAL = (CausalConv3d, ResidualUnit, Upsample)  # the layers that look back in time


@dataclass(frozen=True)
class _Maker:
    """Makes layers that share the spec's groups, compute type and convolution backend."""

    spec: TokenizerSpec
    backend: ConvBackend

    def conv(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: Stride = (1, 1, 1),
        gain: float = 1.0,
        rngs: nnx.Rngs,
    ) -> CausalConv3d:
        return CausalConv3d(
            inputs,
            outputs,
            backend=self.backend,
            kernel=kernel,
            taps=1 if kernel == 1 else self.spec.taps,
            stride=stride,
            gain=gain,
            dtype=self.spec.dtype,
            rngs=rngs,
        )

    def norm(self, channels: int) -> FrameGroupNorm:
        return FrameGroupNorm(channels, self.spec.groups, self.spec.dtype)


def scale_pixels(video: Pixels) -> Float[Array, "b t h w c"]:
    """Pixels 0..255 as floats in [0, 1]; floats are there already."""
    if jnp.issubdtype(video.dtype, jnp.floating):
        return video
    return video.astype(jnp.float32) / 255.0


def round_pixels(pixels: Float[Array, "b t h w c"]) -> UInt8[Array, "b t h w c"]:
    """Floats in [0, 1] as the nearest pixels 0..255."""
    return jnp.round(pixels * 255.0).astype(jnp.uint8)


@dataclass(frozen=True)
class TokenizerNetwork(Network[Tokenizer]):
    """A tokenizer without its parameters: pure functions of (params, arrays)."""

    spec: TokenizerSpec
    conv: ConvBackend

    def build(self, key: Array) -> Tokenizer:
        return Tokenizer(self.spec, self.conv, rngs=nnx.Rngs(key))

    def bind(self, params: PyTree) -> Tokenizer:
        """As of any network; parameters travel in the type of the computation."""
        return self.merge(gather_all(params, self.spec.dtype))

    def encode(
        self,
        params: PyTree,
        video: Pixels,
        cache: FrameCache | None = None,
    ) -> Int[Array, "b T H W"]:
        """Codes of clips with pixels 0..255, or floats in [0, 1]."""
        return self.bind(params).encode(scale_pixels(video), cache)

    def decode(
        self,
        params: PyTree,
        codes: Int[Array, "b T H W"],
        cache: FrameCache | None = None,
    ) -> UInt8[Array, "b t h w c"]:
        """Clips with pixels 0..255 of codes."""
        return round_pixels(self.bind(params).decode(codes, cache))

    def decode_floats(
        self, params: PyTree, codes: Int[Array, "b T H W"]
    ) -> Float[Array, "b t h w c"]:
        """Clips in [0, 1] of codes, before they are rounded to bytes."""
        return self.bind(params).decode(codes)

    def update_codebook(self, params: PyTree, statistics: PyTree) -> PyTree:
        """Moves the codebook by the statistics of a `Reconstruction`; without one, `params`."""
        if "quantizer" not in params:
            return params
        moved = self.spec.make_quantizer().update(params["quantizer"], statistics)
        return {**params, "quantizer": moved}

    def share_codebook(self, params: PyTree, average: PyTree) -> PyTree:
        """The averaged parameters with the codebook of `params`; without one, `average`.

        A codebook is a moving average already, and averaging it again would mix the old and the
        new place of a code that was restarted.
        """
        if "quantizer" not in params or not jax.tree.leaves(average):
            return average
        return {**average, "quantizer": jax.tree.map(jnp.copy, params["quantizer"])}
