# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a trained workdir under a protocol: reconstruction, likelihood, label agreement."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, datasets
from nbp.config import Config
from nbp.errors import ConfigError
from nbp.evaluation.label_agreement import label_agreement
from nbp.evaluation.perceptual import LpipsScorer
from nbp.evaluation.protocols import Protocol, find_protocol
from nbp.jobs.clip_files import write_grid
from nbp.jobs.host_memory import keep_freed_memory
from nbp.jobs.real_clips import KEYS, RealClips, choose_rule, open_clips
from nbp.jobs.reconstruct import (
    Codec,
    Devices,
    Measures,
    list_deviations,
    name_rfvd,
    score_reconstruction,
    write_reconstruction,
)
from nbp.jobs.sample import draw_for_labels, make_drawing
from nbp.jobs.sample_request import SampleRequest
from nbp.jobs.weights import Features, load_features, load_lpips
from nbp.jobs.workdir import has_begun, read_config, read_labels
from nbp.models.lpips import LEAST_SIZE
from nbp.sampling.sampler import Sampler
from nbp.tasks.generator import GeneratorTask

FEATURE_BATCH = 16  # clips at a time through I3D and VGG

Report = Callable[[str], None]


@dataclass(frozen=True)
class EvaluateRequest:
    """What `nbp.evaluate` was asked for; None and "" leave a choice to the workdir's configuration.

    clips: generated clips where the protocol generates some, else clips to score, which then are
      not all that the protocol wants. seed: of the generated clips. data, overrides: other clips
      than the configured ones; needed after training from tokens. features, lpips: folders that
      `nbp.convert` wrote, or `random-i3d`.
    """

    workdir: Path
    protocol: str
    clips: int | None = None
    seed: int = 0
    data: Path | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    features: str = ""
    lpips: str = ""


@dataclass(frozen=True)
class _Model:
    """What is scored. sampler: None where the workdir has no generator, or it is not wanted."""

    network: Any
    params: Any
    sampler: Sampler | None
    labels: tuple[str, ...]
    origin: dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """All that an evaluation needs, found and checked."""

    config: Config
    protocol: Protocol
    model: _Model
    codec: Codec
    clips: RealClips
    features: Features | None
    lpips: tuple[LpipsScorer | None, dict[str, Any] | None]


def evaluate_workdir(request: EvaluateRequest, report: Report) -> dict[str, Any]:
    """Scores the workdir; returns the report: protocol, provenance, conditions, scores.

    Also writes pictures into `workdir/report`: see `write_reconstruction`; and generated clips.
    Everything that can be wrong with the request is found before anything is computed. Raises
    ConfigError where the protocol is unknown or does not fit the workdir or its data, or features
    are missing; CheckpointError without a trained tokenizer.
    """
    keep_freed_memory()
    plan = plan_evaluation(request, report)
    config, protocol, clips = plan.config, plan.protocol, plan.clips
    sampler, labels, features = plan.model.sampler, plan.model.labels, plan.features
    started = time.time()
    likelihood = None
    if protocol.likelihood and sampler is not None:
        likelihood = Likelihood(config, sampler, labels, clips)
    measures = Measures(
        frames=protocol.fidelity_frames,
        extractor=None if features is None else features.extractor,
        lpips=plan.lpips[0],
        also=likelihood,
    )
    found = score_reconstruction(clips, plan.codec, measures, report)
    scores, count = dict(found.scores), len(clips.rows)
    if found.rfvd is not None and features is not None:
        name = name_rfvd(count, clips.complete, published=features.published)
        scores = {name: found.rfvd, **scores}
    if likelihood is not None:
        scores |= likelihood.result()
    worst = write_reconstruction(
        found,
        clips,
        request.workdir / "report",
        name=protocol.name,
        fps=config.sampling.fps,
        stride=config.tokenizer_spec.stride[0],
    )
    generated: dict[str, Any] = {}
    if protocol.label_agreement and sampler is not None:
        generated, agreement = score_generated(config, sampler, labels, request)
        scores |= agreement
    other = "" if features is None or features.published else features.origin["detector"]
    deviations = list_deviations(count, clips.complete, clips.replaced, features=other)
    return {
        "protocol": dataclasses.asdict(protocol),
        "complete": not deviations,
        "deviations": deviations,
        "workdir": request.workdir.name,
        "config": config.name,
        "held_out_clips": count,
        "data": clips.provenance(),
        "features": None if features is None else features.origin,
        "lpips": plan.lpips[1],
        "seed": request.seed,
        "sampling": dataclasses.asdict(config.sampling),
        "generated": generated,
        "checkpoints": plan.model.origin,
        "averaged": config.train.tokenizer.ema > 0,
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "seconds": round(time.time() - started, 1),
        "scores": scores,
        "psnr_per_frame": [round(value, 4) for value in found.psnr_per_frame],
        "worst": worst,
    }


def plan_evaluation(request: EvaluateRequest, report: Report) -> _Plan:
    """Finds and checks what an evaluation needs, the cheap and the likely mistakes first."""
    find_protocol(request.protocol)
    trained_on = read_config(request.workdir)
    config = datasets.change_data(trained_on, request.data, request.overrides)
    protocol = find_protocol(request.protocol, config.data.kind)
    protocol, config = choose_rule(protocol, config, request.overrides)
    if request.clips is not None and request.clips < 1:
        raise ConfigError(f"--clips {request.clips}: score at least 1 clip")
    devices = Devices()
    on_devices: dict[str, Any] = {"place": devices.place, "copy": devices.copy}
    choice = request.features or (config.evaluation.features if protocol.features else "")
    features = load_features(choice, protocol, frames=config.data.frames, **on_devices)
    if protocol.features and features is None:
        report("rFVD is left out: give --features DIR, or --features random-i3d for trends")
    lpips, lpips_origin = load_lpips(choose_lpips(request, config, report), **on_devices)
    model = load_model(config, request.workdir, protocol, report)
    generates = model.sampler is not None and protocol.generation is not None
    clips = open_clips(config, protocol, None if generates else request.clips)
    if features is not None and len(clips.rows) < 2:
        raise ConfigError("a Frechet distance needs at least 2 clips: --clips 2 or more")
    for key in KEYS:
        before, now = getattr(trained_on.data, key), getattr(config.data, key)
        if before != now:
            report(f"clips are read with {key} {now}; the workdir was trained with {before}")
    batch = devices.round_up(min(config.sampling.batch, len(clips.rows)))
    # More clips at a time would fill memory, not the devices.
    small = devices.round_up(min(batch, FEATURE_BATCH))
    if features is not None:
        extractor = dataclasses.replace(features.extractor, batch=small)
        features = dataclasses.replace(features, extractor=extractor)
    if lpips is not None:
        lpips = dataclasses.replace(lpips, batch=small)
    codec = Codec(model.network, model.params, devices, batch=batch)
    return _Plan(config, protocol, model, codec, clips, features, (lpips, lpips_origin))


def choose_lpips(request: EvaluateRequest, config: Config, report: Report) -> str:
    """The folder of LPIPS's weights: the request's, else the one of training if it serves."""
    if config.data.size < LEAST_SIZE:
        if request.lpips:
            raise ConfigError(f"--lpips: frames of {config.data.size} px, {LEAST_SIZE} are needed")
        return ""
    folder = request.lpips or config.losses.lpips_root
    if folder and not request.lpips and not Path(folder).is_dir():
        report(f"LPIPS is left out: no folder {folder}; name another with --lpips DIR")
        return ""
    return folder


def load_model(config: Config, workdir: Path, protocol: Protocol, report: Report) -> _Model:
    """The tokenizer, and the generator where there is one that the protocol has scores for."""
    wanted = protocol.likelihood or protocol.generation is not None
    if not wanted or not has_begun(workdir, "generator"):
        trained = build.load_tokenizer(config, workdir)
        if wanted:
            report(f"{workdir} has no trained generator: its scores are left out")
        origin = {"tokenizer_step": trained.step, "tokenizer_sha256": trained.sha256}
        return _Model(build.make_tokenizer_network(config), trained.params, None, (), origin)
    labels = read_labels(workdir)
    filtering, guidance = make_drawing(config, SampleRequest(1))
    sampler, origin = build.load_sampler(
        config, workdir, labels=labels, filtering=filtering, guidance=guidance
    )
    return _Model(sampler.tokenizer, sampler.tokenizer_params, sampler, labels, origin)


class Likelihood:
    """What a generator gives to the codes of real clips: bits per token, accuracy, loss."""

    def __init__(
        self, config: Config, sampler: Sampler, labels: tuple[str, ...], clips: RealClips
    ) -> None:
        if config.generator.prompt != "none" and clips.label_names != labels:
            raise ConfigError(
                f"the held-out clips have {len(clips.label_names)} classes and not the "
                f"{len(labels)} that the model was trained with: use the same dataset"
            )
        task = GeneratorTask(
            network=sampler.generator,
            tokenizer=sampler.tokenizer,
            optimizer=build.make_generator_task(config, labels, {}).optimizer,
            frozen={},  # the codes are there already
        )
        self._evaluate = jax.jit(task.evaluate)
        self._params = sampler.generator_params
        self._sums: dict[str, float] = {}
        self._count = 0

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        """Takes "codes" and "label" of a batch."""
        metrics, _ = self._evaluate(self._params, {}, batch)
        count = len(batch["codes"])
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) * count
        self._count += count

    def result(self) -> dict[str, float]:
        """Means over clips."""
        return {name: total / self._count for name, total in self._sums.items()}


def score_generated(
    config: Config, sampler: Sampler, labels: tuple[str, ...], request: EvaluateRequest
) -> tuple[dict[str, Any], dict[str, float]]:
    """Draws clips for all labels in turn and checks what they show: (conditions, scores)."""
    if config.generator.prompt != "label":
        return {}, {}
    count = request.clips or config.evaluation.clips
    began = time.time()
    samples, names = draw_for_labels(sampler, labels, count=count, seed=request.seed)
    seconds = time.time() - began
    scores = label_agreement(build.make_tracker(config), samples.videos, names)
    shown = samples.videos[:64]
    write_grid(request.workdir / "report" / "generated.gif", shown, fps=config.sampling.fps)
    frames = samples.videos.shape[0] * samples.videos.shape[1]
    conditions = {
        "clips": count,
        "passes": config.plan.passes(),
        "seconds_with_compilation": round(seconds, 2),
        "frames_per_second_with_compilation": round(frames / seconds, 1),
    }
    return conditions, scores


def report_path(workdir: Path, protocol: Protocol | str) -> Path:
    name = protocol if isinstance(protocol, str) else protocol.name
    return workdir / "report" / f"{name}.json"
