# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of evaluation and data: I3D, FVD preparation, Frechet, PSNR, filters, schedules."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.data.video.decode import VideoInfo, choose_frames, resample_frames
from nbp.interop.feature_networks import i3d_rules, i3d_shapes
from nbp.interop.mapping import convert_tensors
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.fvd import (
    prepare_styleganv,
    prepare_videogpt,
    prepare_videogpt_crop,
    resize_short_side,
)
from nbp.metrics.psnr_ssim import psnr_per_clip, ssim_per_clip
from nbp.models.i3d import STAGES, I3dNetwork, I3dSpec
from nbp.nn.conv3d import taps_conv
from nbp.sampling.filtering import keep_top_k, keep_top_p
from nbp.shapes import PyTree
from nbp.training.optimizer import paper_learning_rate
from tests.official_parity.comparison import Comparison, Reader, compare
from tests.official_parity.weights import make_weight

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]

_CASE_KEYS = ("name", "kind", "file", "arrays", "measured", "notes")  # read by people, not by us


def check_i3d(case: Case, arrays: Arrays) -> list[Comparison]:
    """Preparation, every stage, averages and logits of the full network."""
    with open_case(case, arrays, "i3d") as (config, tolerances, read):
        video = _read_video(config, read["video"])
        spec = I3dSpec(classes=config["num_classes"])
        network = I3dNetwork(spec, taps_conv)
        logits_tolerance, stage_names = tolerances["logits"], config["endpoints"]

        @jax.jit
        def run(params: PyTree, video: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                prepared = prepare_videogpt(video)
                module = network.bind(params)
                stages = module.endpoints(prepared)
                return prepared, stages, module.pool(prepared), network.features(params, prepared)

        prepared, stages, pooled, features = jax.device_get(run(_make_params(spec), video))
        meaning = case["arrays"]["input_sub"]["meaning"]
        results = _compare_slices(
            "input", prepared, read, meaning=meaning, tolerance=tolerances["input_sub"]
        )
        results += _compare_stages(stages, stage_names, read, tolerance=logits_tolerance)
        pooled = _channels_first(pooled)
        results.append(compare("pooled", pooled, read["pooled"], tolerances["pooled"]))
        results.append(compare("logits", features, read["logits"], logits_tolerance))
    return results


def check_fvd_preprocess(case: Case, arrays: Arrays) -> list[Comparison]:
    """The three published preparations and the small size of the K600 evaluation."""
    with open_case(case, arrays, None) as (config, tolerances, read):
        video = _read_video(config, read["video"])
        small = config["small_resolution"]
        variants: dict[str, Callable[[Any], Any]] = {
            "nbp_fvd": prepare_videogpt,
            "styleganv": prepare_styleganv,
            "videogpt_eval": prepare_videogpt_crop,
            "small": lambda pixels: resize_short_side(pixels, small),
        }
        results = []
        for name, prepare in variants.items():
            output = np.asarray(jax.jit(prepare)(video))
            shape = np.array(_channels_first(output).shape)
            results.append(compare(f"{name}_shape", shape, read[f"{name}_shape"], "exact"))
            meaning = case["arrays"][f"{name}_sub"]["meaning"]
            results += _compare_slices(
                name, output, read, meaning=meaning, tolerance=tolerances["sub"]
            )
    return results


def check_frechet(case: Case, arrays: Arrays) -> list[Comparison]:
    """Distances of regenerated feature sets.

    The float64 results of the official formulas must agree as well as the exact ones; the float32
    one is on file to show how far off it is and is nobody's target.
    """
    with open_case(case, arrays, None) as (config, tolerances, read):
        tolerance, results = tolerances["exact"], []
        if config["feature_rule"] != _FEATURE_RULE:
            raise ValueError(f"{case['name']}: unknown feature_rule {config['feature_rule']!r}")
        for values in config["sets"]:
            with Reader("frechet set", values) as item:
                index, dim = item["index"], item["dim"]
                pair = [
                    _make_features(
                        item[f"seed_{which}"],
                        (item[f"n_{which}"], dim),
                        shift=item[f"shift_{which}"],
                        scale=item[f"scale_{which}"],
                    )
                    for which in ("first", "second")
                ]
            sums = [features.astype(np.float64).sum() for features in pair]
            first, second = (Moments.of(features) for features in pair)
            means = float(np.square(first.mean - second.mean).sum())
            distance = frechet_distance(first, second)
            fine = {"atol": 1e-9, "rtol": 1e-9}
            results += [
                compare(f"feats_sum_{index}", sums, read[f"feats_sum_{index}"], fine),
                compare(f"mean_term_{index}", means, read[f"mean_term_{index}"], fine),
            ]
            for name in ("exact", "torch_svd_f64", "scipy_sqrtm_f64"):
                key = f"{name}_{index}"
                results.append(compare(key, distance, read[key], tolerance))
            if not np.isfinite(read[f"torch_svd_f32_{index}"]):
                raise ValueError(f"{case['name']}: torch_svd_f32_{index} is not a number")
    return results


def check_psnr_ssim(case: Case, arrays: Arrays) -> list[Comparison]:
    """Per clip, both measures."""
    with open_case(case, arrays, None) as (config, tolerances, read):
        _ = config["seed"]
        real, fake = read["real"], read["fake"]
        _check_shape(case["name"], real, config["shape"])
        real, fake = (np.moveaxis(clips, 1, -1) for clips in (real, fake))
        return [
            compare("psnr", psnr_per_clip(real, fake), read["psnr"], tolerances["psnr"]),
            compare("ssim", ssim_per_clip(real, fake), read["ssim"], tolerances["ssim"]),
        ]


def check_clip_sampling(case: Case, arrays: Arrays) -> list[Comparison]:
    """Source frame numbers after resampling, and the centred window; -1 is a black frame."""
    with open_case(case, arrays, None, plain_tolerance="exact") as (config, _, read):
        window, results = config["num_frames"], []
        for values in config["clips"]:
            with Reader("clip", values) as clip:
                index, frames = clip["index"], clip["n_frames"]
                native = float(clip["native_fps"])
                fps = None if clip["fps"] == -1 else float(clip["fps"])
                info = VideoInfo(frames, native, height=1, width=1)
                everything = resample_frames(frames, native, fps)
                results.append(
                    compare(f"resampled_{index}", len(everything), clip["resampled"], "exact")
                )
            centre = choose_frames(info, frames=window, fps=fps)
            for name, numbers in (("center", centre), ("all", everything)):
                padded = np.pad(numbers, (0, max(window - len(numbers), 0)), constant_values=-1)
                key = f"{name}_{index}"
                results.append(compare(key, padded, read[key], "exact"))
    return results


def check_filters(case: Case, arrays: Arrays) -> list[Comparison]:
    """Which tokens survive top-k and top-p, and the distribution that is left."""
    with open_case(case, arrays, None) as (config, tolerances, read):
        _ = config["seed"]
        results = []
        keep_tolerance, probs_tolerance = tolerances["keep"], tolerances["probs"]
        for values in config["combos"]:
            with Reader("combination", values) as combo:
                index, logits = combo["index"], read[combo["source"]]
                _check_shape(case["name"], logits, [config["rows"], config["V"]])
                kept = keep_top_p(keep_top_k(jnp.asarray(logits), combo["top_k"]), combo["top_p"])
            keep = np.isfinite(np.asarray(kept))
            probs = jax.nn.softmax(kept, axis=-1)
            results += [
                compare(f"keep_{index}", keep, read[f"keep_{index}"], keep_tolerance),
                compare(f"probs_{index}", probs, read[f"probs_{index}"], probs_tolerance),
            ]
    return results


def check_lr_schedule(case: Case, arrays: Arrays) -> list[Comparison]:
    """The official schedule, in float64; the official code counts micro-batches."""
    with open_case(case, arrays, None) as (config, tolerances, read):
        tolerance, results = tolerances["lr"], []
        for name in sorted(case["config"]):
            with Reader(name, config[name]) as recipe, jax.enable_x64(True):
                if recipe["lr_min"] or recipe["warmup_lr_init"]:
                    raise ValueError(f"{name}: only lr_min 0 and warmup_lr_init 0 are known")
                rates = paper_learning_rate(
                    jnp.asarray(read[f"{name}_update"]),
                    peak=recipe["base_lr"],
                    warmup=recipe["warmup_steps"],
                    total=recipe["max_steps"],
                    accumulate=recipe["grad_accumulates"],
                )
            results.append(compare(name, rates, read[f"{name}_lr"], tolerance))
    return results


# Reading cases -----------------------------------------------------------------------------------


@contextmanager
def open_case(
    case: Case, arrays: Arrays, weights: str | None, *, plain_tolerance: str | None = None
) -> Iterator[tuple[Reader, Reader, Reader]]:
    """Readers of a case's config, tolerances and arrays; whatever stays unread is an error."""
    name = case["name"]
    with Reader(name, case) as fields:
        for key in _CASE_KEYS:
            _ = fields[key]
        if fields["weights"] != weights:
            raise ValueError(f"{name}: weights {case['weights']!r}, expected {weights!r}")
        tolerances = fields["suggested_tolerance"]
        if plain_tolerance is not None:
            if tolerances != plain_tolerance:
                raise ValueError(f"{name}: tolerance {tolerances!r}, not {plain_tolerance!r}")
            tolerances = {}
        if set(case["arrays"]) != set(arrays):
            raise ValueError(f"{name}: the file's arrays are not those that the case describes")
        with (
            Reader(f"{name} config", fields["config"]) as config,
            Reader(f"{name} tolerances", tolerances) as allowed,
            Reader(f"{name} arrays", arrays) as values,
        ):
            yield config, allowed, values


def _read_video(config: Reader, video: np.ndarray) -> np.ndarray:
    """A uint8 clip [b t h w c] as floats in [0, 1]; the seed it was drawn with is not needed."""
    _ = config["seed"]
    _check_shape("video", video, config["shape_uint8"])
    return video.astype(np.float32) / np.float32(255)


def _check_shape(name: str, array: np.ndarray, shape: list[int]) -> None:
    if list(array.shape) != list(shape):
        raise ValueError(f"{name}: array of shape {array.shape}, config says {shape}")


def _read_slices(meaning: str) -> tuple[slice, ...]:
    """The slices that a description names, e.g. "result[:, ::3, 4::11]"."""
    found = re.search(r"(?:preprocessed|result)\[([-\d:, ]+)\]", meaning)
    if found is None:
        raise ValueError(f"no slices in {meaning!r}")
    return tuple(
        slice(*(int(part) if part else None for part in text.strip().split(":")))
        for text in found.group(1).split(",")
    )


# Parts of comparisons ----------------------------------------------------------------------------


def _compare_slices(
    name: str, output: Any, read: Reader, *, meaning: str, tolerance: Any
) -> list[Comparison]:
    """A prepared clip [b t h w c] against the stored slices and checksums of [b c t h w].

    Checksums are sum, sum of squares, least and largest value; the sums are compared as means, for
    which the tolerance of single values holds.
    """
    values = _channels_first(np.asarray(output, np.float64))
    checksum = [values.mean(), np.square(values).mean(), values.min(), values.max()]
    wanted = np.array(read[f"{name}_checksum"]) / [values.size, values.size, 1, 1]
    return [
        compare(f"{name}_sub", values[_read_slices(meaning)], read[f"{name}_sub"], tolerance),
        compare(f"{name}_checksum", checksum, wanted, tolerance),
    ]


def _compare_stages(
    stages: Mapping[str, Any], wanted: list[str], read: Reader, *, tolerance: Any
) -> list[Comparison]:
    """Shape, mean, root mean square and a few values of every stage, in the listed order."""
    shapes, moments, samples = [], [], []
    count = read["endpoint_samples"].shape[1]
    for name in STAGES:  # jax returns dictionaries sorted by name
        values = _channels_first(np.asarray(stages[name], np.float64))
        shapes.append(f"{name}:{'x'.join(map(str, values.shape))}")
        moments.append([values.mean(), np.sqrt(np.square(values).mean())])
        samples.append(values.reshape(-1)[np.arange(count) * values.size // count])
    if shapes != wanted:
        raise ValueError(f"stages {shapes}, expected {wanted}")
    return [
        compare("endpoint_stats", moments, read["endpoint_stats"], tolerance),
        compare("endpoint_samples", samples, read["endpoint_samples"], tolerance),
    ]


def _channels_first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def _make_params(spec: I3dSpec) -> PyTree:
    """Parameters rebuilt from official names, through the rules that convert published files."""
    network = I3dNetwork(spec, taps_conv)
    tensors = {name: make_weight("i3d", name, s) for name, s in i3d_shapes(spec).items()}
    template = jax.eval_shape(network.init, jax.random.key(0))
    return convert_tensors(tensors, i3d_rules(), template=template, origin="rebuilt I3D weights")


_FEATURE_RULE = (
    "rng = default_rng(seed); x = rng.standard_normal((n, d)); "
    "s = exp(0.5*rng.standard_normal(d)); m = rng.standard_normal(d); "
    "y = x + 0.5*roll(x,1,axis=1) + 0.25*roll(x,7,axis=1); "
    "feats = (y*s*scale + m*shift) in float64, then float32"
)


def _make_features(seed: int, shape: tuple[int, int], *, shift: float, scale: float) -> np.ndarray:
    """Features by `_FEATURE_RULE`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    spread = np.exp(0.5 * rng.standard_normal(shape[1]))
    centre = rng.standard_normal(shape[1])
    mixed = x + 0.5 * np.roll(x, 1, axis=1) + 0.25 * np.roll(x, 7, axis=1)
    return (mixed * spread * scale + centre * shift).astype(np.float32)


KINDS: dict[str, Callable[[Case, Arrays], list[Comparison]]] = {
    "i3d": check_i3d,
    "fvd_preprocess": check_fvd_preprocess,
    "frechet": check_frechet,
    "psnr_ssim": check_psnr_ssim,
    "clip_sampling": check_clip_sampling,
    "topk_topp_filter": check_filters,
    "lr_schedule": check_lr_schedule,
}
