# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of the video tokenizer and its quantizer."""

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.interop.mapping import convert_tensors, export_tensors
from nbp.interop.official import make_tokenizer_rules
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork, Upsample
from nbp.nn.conv3d import taps_conv
from nbp.nn.fsq import EPS, Fsq
from nbp.shapes import Array, PyTree
from tests.official_parity.comparison import Comparison, Reader, compare
from tests.official_parity.metrics import Arrays, Case, open_case
from tests.official_parity.weights import make_weight

# Layer outputs are larger than z or pixels; the golden files name no tolerance for them.
LAYERS = {"atol": 1e-3, "rtol": 1e-3}


def check_tokenizer(case: Case, arrays: Arrays) -> list[Comparison]:
    """Encoder and decoder layer by layer, latents, codes, pixels of the stored codes."""
    with open_case(case, arrays, "tokenizer") as (config, tolerances, read):
        spec = replace(OFFICIAL_SPEC, levels=tuple(config["levels"]))
        network, fsq = TokenizerNetwork(spec, taps_conv), Fsq(spec.levels)
        video = _read_video(config, read)
        params = make_params(network)
        count = read["enc_samples"].shape[1]
        down = _trace(network, params, "encoder", video, count=count)
        margin, (scale, bound) = read["index_margin"], ("indices", tolerances["indices"])
        stable = margin > _read_margin(bound)
        indices, ours = read["indices"], _quantize(fsq, down.output)
        quantized = np.asarray(fsq.lookup(jnp.asarray(indices)))
        up = _trace(network, params, "decoder", quantized, count=read["dec_samples"].shape[1])
        pixels = _channels_first(up.output)
        _check_shapes(config, down, up)
        results = [
            compare("z", _channels_first(down.output), read["z"], tolerances["z"]),
            compare(scale, ours[stable], indices[stable], "exact"),
            compare("index_margin", _margin(fsq, down.output), margin, tolerances["z"]),
        ]
        results += _compare_layers("enc", down, read) + _compare_layers("dec", up, read)
        return results + _compare_pixels(pixels, case, read, tolerances["recon"])


def check_fsq(case: Case, arrays: Arrays) -> list[Comparison]:
    """Bounding, rounding, indices, gradient, and all codes."""
    with open_case(case, arrays, None) as (config, tolerances, read):
        fsq = Fsq(tuple(config["levels"]))
        if config["eps"] != EPS:
            raise ValueError(f"eps {config['eps']}: only {EPS} is known")
        z = jnp.moveaxis(jnp.asarray(read["z"]), 1, -1)
        weight = jnp.moveaxis(jnp.asarray(read["grad_weight"]), 1, -1)
        quantized = fsq.quantize(z)
        gradient = jax.grad(lambda z: jnp.sum(fsq.quantize(z) * weight))(z)
        _ = config["seed"]
        basis = [int(fsq.index(jnp.asarray(unit))) for unit in _unit_steps(fsq)]
        margin = np.moveaxis(read["margin"], 1, -1).min(-1)
        stable = margin > _read_margin(tolerances["indices"])
        indices = np.asarray(fsq.index(quantized))
        subset = read["subset_indices"]
        every = np.asarray(fsq.lookup(jnp.arange(fsq.codes)), np.float32) + np.float32(0.0)
        digest = hashlib.sha256(every.astype("<f4").tobytes()).hexdigest()
        return [
            compare("basis", basis, config["basis"], "exact"),
            compare("indices", indices[stable], read["indices"][stable], "exact"),
            compare("codes", _channels_first(quantized), read["codes"], tolerances["codes"]),
            compare(
                "bounded", _channels_first(fsq.bound(z)), read["bounded"], tolerances["bounded"]
            ),
            compare("grad", _channels_first(gradient), read["grad"], tolerances["grad"]),
            compare("subset_codes", every[subset], read["subset_codes"], tolerances["codes"]),
            compare("all codes", fsq.index(jnp.asarray(every)), np.arange(fsq.codes), "exact"),
            compare(
                "digest of all codes", digest == case["measured"]["all_codes_sha256"], True, "exact"
            ),
        ]


@functools.lru_cache(maxsize=1)  # drawing 370 million numbers takes longer than most cases
def make_params(network: TokenizerNetwork) -> PyTree:
    """Parameters rebuilt from official names, through the rules that convert published files."""
    template = jax.eval_shape(network.init, jax.random.key(0))
    rules, _ = make_tokenizer_rules(network.spec)
    shapes = {name: zero.shape for name, zero in export_tensors(template, rules).items()}
    tensors = {name: make_weight("tokenizer", name, shape) for name, shape in shapes.items()}
    return convert_tensors(tensors, rules, template=template, origin="rebuilt tokenizer weights")


# Parts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trace:
    """Shape, moments and a few values of every layer of one half, and its output [b t h w c]."""

    shapes: list[list[int]]
    moments: np.ndarray
    samples: np.ndarray
    output: np.ndarray


def _trace(network: TokenizerNetwork, params: PyTree, half: str, x: Array, *, count: int) -> _Trace:
    """Runs one half, keeping of each layer only what a case has on file."""
    shapes: list[list[int]] = []

    def summarize(x: Array) -> tuple[Array, Array]:
        shapes.append([x.shape[0], x.shape[-1], *x.shape[1:-1]])
        flat = jnp.moveaxis(x, -1, 1).reshape(-1)
        picked = flat[np.arange(count) * flat.size // count]
        return jnp.stack([flat.mean(), jnp.sqrt(jnp.square(flat).mean())]), picked

    @jax.jit
    def run(params: PyTree, x: Array) -> Any:
        notes = []
        for layer in getattr(network.bind(params), half):
            if isinstance(layer, Upsample):  # two entries in the official list
                notes.append(summarize(layer.conv(x)))
            x = layer(x)
            notes.append(summarize(x))
        return notes, x

    notes, output = jax.device_get(run(params, x))
    moments, samples = (np.stack(column) for column in zip(*notes, strict=True))
    return _Trace(shapes, moments, samples, output)


def _read_video(config: Reader, read: Reader) -> np.ndarray:
    """The clip [b t h w c] in [0, 1]: stored or drawn, in either case checked."""
    sizes = [config[name] for name in ("batch", "frames", "height", "width")]
    batch, frames, height, width = sizes
    if config["input_rule"] != _INPUT_RULE:
        raise ValueError(f"unknown input_rule {config['input_rule']!r}")
    _ = config["float64_reference"]
    noise = np.random.default_rng(config["seed"]).random(
        (batch, 3, frames, height, width), dtype=np.float32
    )
    t, h, w = np.ogrid[:frames, :height, :width]
    wave = (0.5 + 0.5 * np.sin(0.35 * h + 0.21 * w + 0.6 * t)).astype(np.float32)
    video = np.float32(0.5) * noise + np.float32(0.5) * wave
    if "video" in read:
        if not np.array_equal(video, read["video"]):
            raise ValueError("the stored clip is not the one that input_rule describes")
    else:
        sums = [video.sum(dtype=np.float64), np.square(video, dtype=np.float64).sum()]
        if not np.allclose(sums, read["video_checksum"], rtol=1e-9):
            raise ValueError("the clip drawn by input_rule does not have the stored sums")
    return np.moveaxis(video, 1, -1)


_INPUT_RULE = (
    "r = default_rng(seed).random((B,3,T,H,W), dtype=float32); "
    "s[t,h,w] = float32(0.5+0.5*sin(0.35*h+0.21*w+0.6*t)) (computed in float64, then rounded); "
    "video = 0.5*r + 0.5*s in float32"
)


def _quantize(fsq: Fsq, z: np.ndarray) -> np.ndarray:
    return np.asarray(fsq.index(fsq.quantize(jnp.asarray(z))))


def _margin(fsq: Fsq, z: np.ndarray) -> np.ndarray:
    """Smallest distance of a bounded channel to a rounding boundary."""
    bounded = np.asarray(fsq.bound(jnp.asarray(z)), np.float64)
    return np.abs(bounded - np.floor(bounded) - 0.5).min(-1)


def _read_margin(rule: str) -> float:
    """The number in "exact where index_margin > 1e-3"."""
    found = re.fullmatch(r"exact where (?:index_)?margin > ([\d.e+-]+)", rule)
    if found is None:
        raise ValueError(f"unknown tolerance {rule!r} of indices")
    return float(found[1])


def _check_shapes(config: Reader, down: _Trace, up: _Trace) -> None:
    """Layer shapes as the case lists them."""
    shapes: dict[str, Any] = {"enc_shapes": down.shapes, "dec_shapes": up.shapes}
    shapes["latent_shape"] = down.shapes[-1]
    shapes["embed_dim"] = down.shapes[-1][1]
    wrong = [name for name, value in shapes.items() if config[name] != value]
    if wrong:
        raise ValueError(f"our shapes differ from the case's {', '.join(wrong)}")


def _compare_layers(name: str, trace: _Trace, read: Reader) -> list[Comparison]:
    """Mean and root mean square of every layer, and a few values at even distances."""
    return [
        compare(f"{name}_stats", trace.moments, read[f"{name}_stats"], LAYERS),
        compare(f"{name}_samples", trace.samples, read[f"{name}_samples"], LAYERS),
    ]


def _compare_pixels(
    pixels: np.ndarray, case: Case, read: Reader, tolerance: Any
) -> list[Comparison]:
    """All pixels, or of large clips a slice, an edge and the frames' means."""
    if "recon" in read:
        return [compare("recon", pixels, read["recon"], tolerance)]
    wide = pixels.astype(np.float64)
    axes = (3, 4)
    return [
        compare(name, pixels[_read_slices(case["arrays"][name]["meaning"])], read[name], tolerance)
        for name in ("recon_sub", "recon_edge")
    ] + [
        compare("recon_frame_mean", wide.mean(axes), read["recon_frame_mean"], tolerance),
        compare(
            "recon_frame_rms",
            np.sqrt(np.square(wide).mean(axes)),
            read["recon_frame_rms"],
            tolerance,
        ),
    ]


def _read_slices(meaning: str) -> tuple[slice, ...]:
    """The slices in a description such as "recon[:, :, ::2, 1::8, 3::8] (unclamped)"."""
    found = re.search(r"recon\[([-\d:, ]+)\]", meaning)
    if found is None:
        raise ValueError(f"no slices in {meaning!r}")
    return tuple(
        slice(*(int(part) if part else None for part in text.strip().split(":")))
        for text in found[1].split(",")
    )


def _unit_steps(fsq: Fsq) -> np.ndarray:
    """Quantized channels of the codes with one digit 1 and the others 0."""
    half = np.array(fsq.levels) // 2
    return (np.eye(fsq.channels) - half) / half


def _channels_first(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


KINDS: dict[str, Callable[[Case, Arrays], list[Comparison]]] = {
    "tokenizer": check_tokenizer,
    "fsq": check_fsq,
}
