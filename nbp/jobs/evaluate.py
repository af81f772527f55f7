# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a trained workdir under a protocol: reconstruction, likelihood, label agreement."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import build, datasets
from nbp.config import Config
from nbp.errors import ConfigError
from nbp.evaluation.label_agreement import label_agreement
from nbp.evaluation.protocols import Protocol, find_protocol
from nbp.evaluation.scores import CodeCounter, ReconstructionScores
from nbp.jobs.sample import SampleRequest, draw_for_labels, make_drawing, write_grid
from nbp.jobs.workdir import read_config, read_labels
from nbp.sampling.sampler import Sampler
from nbp.tasks.generator import GeneratorTask

SHOWN = 8  # clips in a side-by-side GIF


def evaluate_workdir(
    workdir: Path,
    protocol_name: str,
    *,
    clips: int | None = None,
    seed: int = 0,
    data: Path | None = None,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Scores the workdir; returns the report: protocol, provenance, conditions, scores.

    clips: generated clips, by default the configuration's. data, overrides: other held-out clips
    than the configured ones; needed after training from tokens. Also writes GIFs into
    `workdir/report`: held-out clips beside their reconstructions, and generated clips.

    Raises ConfigError when the protocol is unknown or made for other data, before any computation.
    """
    find_protocol(protocol_name)
    config = datasets.change_data(read_config(workdir), data, overrides or {})
    protocol = find_protocol(protocol_name, config.data.kind)
    count = config.evaluation.clips if clips is None else clips
    if count < 1:
        raise ConfigError(f"--clips {count}: generate at least 1 clip")
    labels = read_labels(workdir)
    filtering, guidance = make_drawing(config, SampleRequest(1))
    sampler, origin = build.load_sampler(
        config, workdir, labels=labels, filtering=filtering, guidance=guidance
    )
    started = time.time()
    scores = score_held_out(config, sampler, labels, out=workdir / "report")
    generated: dict[str, Any] = {}
    if protocol.label_agreement and config.generator.prompt == "label":
        began = time.time()
        samples, names = draw_for_labels(sampler, labels, count=count, seed=seed)
        seconds = time.time() - began
        scores |= label_agreement(build.make_tracker(config), samples.videos, names)
        write_grid(
            workdir / "report" / "generated.gif", samples.videos[:64], fps=config.sampling.fps
        )
        frames = samples.videos.shape[0] * samples.videos.shape[1]
        generated = {
            "clips": count,
            "passes": config.plan.passes(),
            "seconds_with_compilation": round(seconds, 2),
            "frames_per_second_with_compilation": round(frames / seconds, 1),
        }
    return {
        "protocol": dataclasses.asdict(protocol),
        "workdir": workdir.name,
        "config": config.name,
        "held_out_clips": scores.pop("clips"),
        "seed": seed,
        "sampling": dataclasses.asdict(config.sampling),
        "generated": generated,
        "checkpoints": origin,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": round(time.time() - started, 1),
        "scores": scores,
    }


def score_held_out(
    config: Config, sampler: Sampler, labels: tuple[str, ...], *, out: Path
) -> dict[str, int | float]:
    """Reconstruction, code statistics and likelihood of the held-out clips, `clips` of them."""
    _, held_out = datasets.make_data(config)
    if config.generator.prompt != "none" and held_out.label_names != labels:
        raise ConfigError(
            f"the held-out clips have {len(held_out.label_names)} classes and not the "
            f"{len(labels)} that the model was trained with: use the same dataset"
        )
    task = GeneratorTask(
        network=sampler.generator,
        tokenizer=sampler.tokenizer,
        optimizer=build.make_generator_task(config, labels, {}).optimizer,
        frozen={"tokenizer": sampler.tokenizer_params},
    )
    evaluate = jax.jit(task.evaluate)
    decode = jax.jit(sampler.tokenizer.decode)
    reconstruction = ReconstructionScores()
    counter = CodeCounter(config.tokenizer_spec.quantizer.codes)
    sums: dict[str, float] = {}
    seen = 0
    for batch in datasets.iterate_clips(
        config, held_out, limit=config.data.validation_clips, batch=config.sampling.batch
    ):
        rows = {name: batch[name] for name in ("video", "label")}
        metrics, tokens = evaluate(sampler.generator_params, task.frozen, rows)
        outputs = np.asarray(decode(sampler.tokenizer_params, tokens))
        if seen == 0:
            pairs = np.stack([batch["video"][:SHOWN], outputs[:SHOWN]], axis=1)
            write_grid(
                out / "reconstructions.gif",
                pairs.reshape(-1, *pairs.shape[2:]),
                fps=config.sampling.fps,
                columns=4,
            )
        reconstruction.add(batch["video"], outputs)
        counter.add(np.asarray(tokens))
        count = len(batch["video"])
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
        seen += count
    means = {name: total / seen for name, total in sums.items()}
    return {"clips": seen, **reconstruction.result(), **counter.result(), **means}


def report_path(workdir: Path, protocol: Protocol | str) -> Path:
    name = protocol if isinstance(protocol, str) else protocol.name
    return workdir / "report" / f"{name}.json"
