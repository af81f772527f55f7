# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration and requests become what draws clips: samplers, filters, given frames."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import jax
import numpy as np
from jax.sharding import Mesh

from nbp.build import (
    check_tokenizer,
    load_tokenizer,
    load_trained,
    make_generator_groups,
    make_generator_network,
    make_tokenizer_network,
)
from nbp.config.schema import Config
from nbp.errors import ConfigError
from nbp.parallel import mesh
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, Decoding, RelaxedJacobi, SpeculativeJacobi


def make_sampling_mesh(config: Config) -> Mesh | None:
    """All devices of this process, for sampling; None for one of them.

    `mesh.tensor` of them share a clip where that divides, as in training. A configuration that asks
    for a single device gets it.
    """
    devices, chosen = jax.local_devices(), config.mesh
    if len(devices) == 1 or chosen.data * chosen.fsdp * chosen.tensor == 1:
        return None
    tensor = chosen.tensor if len(devices) % chosen.tensor == 0 else 1
    return mesh.make_mesh(tensor=tensor, devices=devices)


def load_sampler(
    config: Config,
    workdir: Path,
    *,
    labels: Sequence[str],
    sampling: SamplingConfig,
    decoding: Decoding = AUTOREGRESSIVE,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of a trained workdir, and the provenance of its parameters."""
    tokenizer = make_tokenizer_network(config)
    generator = make_generator_network(config, labels)
    trained_tokenizer = load_tokenizer(config, workdir)
    trained_generator = load_trained(
        workdir,
        "generator",
        network=generator,
        ema=config.train.generator.ema > 0,
        groups=make_generator_groups(config),
    )
    sampler = Sampler(
        generator,
        trained_generator.params,
        tokenizer,
        trained_tokenizer.params,
        sampling=sampling,
        decoding=decoding,
    )
    check_tokenizer(trained_generator, trained_tokenizer)
    origin = {
        "tokenizer_step": trained_tokenizer.step,
        "tokenizer_sha256": trained_tokenizer.sha256,
        "generator_step": trained_generator.step,
        "generator_sha256": trained_generator.sha256,
    }
    return sampler, origin


def make_sampling(config: Config, changes: Mapping[str, Any] | None = None) -> SamplingConfig:
    """The configuration's settings, some of them replaced; ConfigError where they do not fit."""
    try:
        sampling = replace(config.sampling, **(changes or {}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if sampling.guidance and config.generator.prompt == "none":
        raise ConfigError("guidance needs a label-conditional model; this one has no prompt")
    return sampling


def make_decoding(config: Config, request: SampleRequest) -> Decoding:
    """How the passes are made; ConfigError where the request or the tokenizer does not allow it."""
    chosen = request.decoder
    asked = {"window": chosen.window, "radius": chosen.radius, "delta": chosen.delta}
    given = {name: value for name, value in asked.items() if value is not None}
    takes = {"plain": (), "jacobi": ("window",), "relaxed": ("window", "radius", "delta")}
    for name in given:
        if name not in takes[chosen.decoding]:
            fitting = " or ".join(kind for kind, names in takes.items() if name in names)
            raise ConfigError(f"--{name} is for --decoding {fitting}, not {chosen.decoding}")
    levels = find_levels(config) if chosen.decoding == "relaxed" else ()
    if request.long.anchor and chosen.decoding != "plain":
        raise ConfigError(f"--anchor draws pass by pass: leave out --decoding {chosen.decoding}")
    try:
        match chosen.decoding:
            case "plain":
                return AUTOREGRESSIVE
            case "jacobi":
                return SpeculativeJacobi(**given)
            case "relaxed":
                return RelaxedJacobi(levels, **given)
            case _ as never:
                assert_never(never)
    except ValueError as error:
        raise ConfigError(f"--decoding {chosen.decoding}: {error}") from error


def find_levels(config: Config) -> tuple[int, ...]:
    """Levels of the digits of a code: neighbours are near each other. Else ConfigError."""
    spec = config.tokenizer
    match spec.quantizer:
        case "fsq":
            return spec.levels
        case "lfq":
            return (2,) * spec.make_quantizer().channels
        case _:
            raise ConfigError(
                f"--decoding relaxed needs codes that are near each other, as those of fsq and lfq;"
                f" this tokenizer has {spec.quantizer}. Use --decoding jacobi."
            )


def count_conditions(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> SampleRequest:
    """The request with --per_class written as conditions and samples of each."""
    if request.count < 1:
        raise ConfigError(f"--num {request.count}: draw at least 1 clip")
    if request.samples_per_condition < 1:
        raise ConfigError(
            f"--samples_per_condition {request.samples_per_condition}: draw at least 1 clip of each"
        )
    if request.per_class is None:
        return request
    if request.per_class < 1:
        raise ConfigError(f"--per_class {request.per_class}: draw at least 1 clip of each class")
    if config.generator.prompt == "none":
        raise ConfigError("--per_class: this model was trained without labels (prompt none)")
    labelled = request.label is not None or request.unconditional
    if labelled or request.samples_per_condition > 1:
        raise ConfigError(
            "--per_class draws clips of every class: leave out --label, --unconditional and "
            "--samples_per_condition"
        )
    return replace(request, count=len(labels), samples_per_condition=request.per_class)


def choose_given_frames(config: Config, request: SampleRequest) -> int:
    """Latent frames to keep: asked for, else configured, else the fewest that the model needs."""
    plan = config.plan
    needed = -(-plan.first // plan.grid.frame)
    needed += -needed % plan.block[0]
    configured = max(config.evaluation.given_frames, needed)
    given = request.given_frames
    if given is None:
        given = max(configured, plan.block[0]) if request.frames else configured
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        raise ConfigError(f"given frames: {error}") from error
    return given


def take_examples(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` clips or codes of a batch in turn, as the argument of `Sampler.sample`."""
    rows = batch["codes"].astype(np.int32) if "codes" in batch else batch["video"]
    rows = np.resize(rows, (count, *rows.shape[1:]))
    return {"codes" if "codes" in batch else "clips": rows}
