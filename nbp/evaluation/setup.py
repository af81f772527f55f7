# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""All that an evaluation needs, found and checked before anything is computed."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbp import build, build_data, build_sampling
from nbp.build_sampling import (
    check_opener,
    choose_given_frames,
    draw_in_block,
    make_sampling,
)
from nbp.config import from_dict, to_json
from nbp.config.grids import draw_clips, name_clips
from nbp.config.parsing import set_overrides
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.evaluation.chunk_store import CHUNK
from nbp.evaluation.real_clips import KEYS, RealClips, choose_rule, open_clips, read_prepared
from nbp.evaluation.real_pixels import list_losses
from nbp.evaluation.score_reconstruction import SHOWN, Codec, Devices
from nbp.layout import frames_of_latents, latents_of_frames
from nbp.metrics.feature_statistics import check_counts
from nbp.metrics.inception_score import ClassProbabilities
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.stream import FrameFeatures, make_random_frames, make_vgg_frames
from nbp.models.lpips import LEAST_SIZE, VGG16, LpipsNetwork
from nbp.protocols import PROTOCOLS, find_protocol
from nbp.protocols.protocol import GenerationRule, Protocol
from nbp.ranges import Checkpoint
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.weights import (
    Features,
    MakeC3d,
    MakeI3d,
    load_c3d,
    load_features,
    load_lpips,
    make_c3d,
    make_i3d,
)
from nbp.workdir import has_begun, read_config, read_labels

FEATURE_BATCH = 16  # clips at a time through I3D and VGG
CACHE = "cache"  # below the report: features of real and of generated clips

Report = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationSetup:
    """What every evaluation stands on, whatever is asked for.

    protocols: by their names. i3d, c3d, lpips: the networks that weights are for. chunk: clips in a
    file of rows. shown: clips in the picture of reconstructions. Another chunk or network is
    another place in the cache.
    """

    protocols: Mapping[str, Protocol] = field(default_factory=lambda: PROTOCOLS)
    i3d: MakeI3d = make_i3d
    c3d: MakeC3d = make_c3d
    lpips: LpipsNetwork = VGG16
    chunk: int = CHUNK
    shown: int = SHOWN


STANDARD = EvaluationSetup()


@dataclass(frozen=True)
class EvaluateRequest:
    """What `nbp.evaluate` was asked for; None and "" leave a choice to the workdir's configuration.

    clips: generated clips where the protocol generates some, else clips to score, which then are
      not all that the protocol wants. seed: of the generated clips, by default the protocol's.
    data, overrides: other clips than the configured ones; needed after training from tokens.
    Keys of `sampling` draw otherwise. num_frames, size: of clips of another grid than the main one.
    features, lpips, c3d: folders that `nbp.convert` wrote, or `random-i3d`. statistics: names of
    `nbp.metrics.feature_statistics`. folder: of pictures and clips to look at, by default the
    workdir's `report`. cache: folder for features, by default in that one. checkpoint: step of the
    last stage that is trained, or the best; None: the newest.
    """

    workdir: Path
    protocol: str
    clips: int | None = None
    seed: int | None = None
    num_frames: int | None = None
    size: Sequence[int] | None = None
    data: Path | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    features: str = ""
    lpips: str = ""
    c3d: str = ""
    statistics: tuple[str, ...] = ()
    folder: Path | None = None
    cache: Path | None = None
    checkpoint: Checkpoint | None = None
    setup: EvaluationSetup = STANDARD

    @property
    def report_folder(self) -> Path:
        return self.folder or self.workdir / "report"

    @property
    def cache_folder(self) -> Path:
        return self.cache or self.report_folder / CACHE


@dataclass(frozen=True)
class Model:
    """What is scored. sampler: None where the workdir has no generator, or it is not wanted."""

    network: Any
    params: Any
    sampler: Sampler | None
    labels: tuple[str, ...]
    origin: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """An evaluation under one protocol.

    config: how the real clips are read; model_config: as the model has them, which differs in size
    for some protocols. given: latent frames that are given, `pixels` frames. generated: clips to
    generate, 0 for none.
    """

    request: EvaluateRequest
    config: Config
    model_config: Config
    protocol: Protocol
    model: Model
    devices: Devices
    codec: Codec
    clips: RealClips
    features: Features | None
    frames: FrameFeatures | None
    lpips: tuple[LpipsScorer | None, dict[str, Any] | None]
    c3d: tuple[ClassProbabilities | None, dict[str, Any] | None]
    given: int
    generated: int

    @property
    def pixels(self) -> int:
        return frames_of_latents(self.given, self.config.tokenizer.stride[0])

    @property
    def seed(self) -> int:
        asked = self.request.seed
        return self.protocol.seed if asked is None else asked

    @property
    def setup(self) -> EvaluationSetup:
        return self.request.setup


def plan_evaluation(request: EvaluateRequest, report: Report, others: Sequence[Plan] = ()) -> Plan:
    """Finds and checks what an evaluation needs, the cheap and the likely mistakes first.

    others: plans for the same workdir, whose model is used again.
    """
    setup = request.setup
    find_protocol(request.protocol, known=setup.protocols)
    drawing, reading_keys = split_overrides(request.overrides)
    trained_on = draw_in_block(change_sampling(read_config(request.workdir), drawing))
    trained_on = draw_whole_clips(trained_on, request, report)
    config = build_data.change_data(trained_on, request.data, reading_keys, report=report)
    protocol = find_protocol(request.protocol, config.data.kind, known=setup.protocols)
    protocol, reading = choose_rule(protocol, config, reading_keys)
    model_config = choose_model_config(trained_on, reading)
    given = check_generation(model_config, protocol, request)
    devices = Devices()
    on_devices: dict[str, Any] = {"place": devices.place, "copy": devices.copy}
    choice = request.features or (config.evaluation.features if protocol.features else "")
    features = load_features(
        choice, protocol, frames=config.data.frames, make_network=setup.i3d, **on_devices
    )
    if protocol.features and features is None and protocol.name == "reconstruction":
        report("rFVD is left out: give --features DIR, or --features random-i3d for trends")
    folder = choose_lpips(request, reading, report)
    lpips, lpips_origin = load_lpips(folder, network=setup.lpips, **on_devices)
    alike = [p.model for p in others if p.protocol.reconstruction == protocol.reconstruction]
    model = alike[0] if alike else load_model(model_config, request, protocol, report)
    clips = open_clips(reading, protocol, find_limit(request, protocol, model))
    if model.sampler is not None and (given or protocol.likelihood or _pairs(protocol)):
        check_classes(config, protocol, model.labels, clips.label_names)
    generated = count_generated(request, protocol, model, config=model_config, clips=clips)
    if features is not None and (len(clips.rows) < 2 or generated == 1):
        raise ConfigError("a Frechet distance needs at least 2 clips: --clips 2 or more")
    check_classifier(request, protocol, model_config, generated=generated)
    classifier, classifier_origin = load_c3d(request.c3d, make_network=setup.c3d, **on_devices)
    if request.statistics and (features is None or not generated):
        raise ConfigError(
            f"--statistics {', '.join(request.statistics)}: these compare features of generated "
            "and real clips: give --features, and a protocol and a workdir that generate clips"
        )
    if request.statistics and features is not None:
        check_counts(
            request.statistics,
            real=len(clips.rows),
            made=generated,
            dimensions=features.extractor.dimensions,
            frames=config.data.frames,
        )
    tell_reading(trained_on, reading, report)
    for loss in list_losses(protocol, read_prepared(reading)):
        report(f"not the whole protocol: {loss}")
    batch = devices.round_up(min(config.sampling.batch, len(clips.rows)))
    # More clips at a time would fill memory, not the devices.
    small = devices.round_up(min(batch, FEATURE_BATCH))
    if features is not None:
        extractor = dataclasses.replace(features.extractor, batch=small)
        features = dataclasses.replace(features, extractor=extractor)
    if lpips is not None:
        lpips = dataclasses.replace(lpips, batch=small)
    if classifier is not None:
        preparation = protocol.inception.preparation
        classifier = dataclasses.replace(classifier, batch=small, preparation=preparation)
    codec = Codec(model.network, model.params, devices, batch=batch)
    return Plan(
        request=request,
        config=reading,
        model_config=model_config,
        protocol=protocol,
        model=model,
        devices=devices,
        codec=codec,
        clips=clips,
        features=features,
        frames=load_frames(request, lpips, batch=small, devices=devices),
        lpips=(lpips, lpips_origin),
        c3d=(classifier, classifier_origin),
        given=given,
        generated=generated,
    )


def draw_whole_clips(config: Config, request: EvaluateRequest, report: Report) -> Config:
    """The configuration whose model draws clips as they are asked for; ConfigError for parts."""
    if request.clips is not None and request.clips < 1:
        raise ConfigError(f"--clips {request.clips}: score at least 1 clip")
    drawn = draw_clips(config, frames=request.num_frames, size=request.size)
    made, (_, height, width) = drawn.config.data.clip, drawn.clip
    if made != drawn.clip:
        raise ConfigError(
            f"--num_frames, --size: a protocol scores whole clips, and {name_clips(drawn.clip)} "
            f"would be cut from {name_clips(made)} or go on behind it: use {name_clips(made)}"
        )
    if height != width:
        raise ConfigError(f"--size {height} {width}: protocols score squares: give one side")
    for note in drawn.notes:
        report(note)
    return drawn.config


def split_overrides(overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of `sampling`, and all others."""
    drawing = {key: text for key, text in overrides.items() if key.startswith("sampling.")}
    return drawing, {key: text for key, text in overrides.items() if key not in drawing}


def change_sampling(config: Config, overrides: Mapping[str, str]) -> Config:
    """The configuration with keys of `sampling` overridden; ConfigError names every mistake."""
    values = json.loads(to_json(config))
    if problems := set_overrides(values, Config, overrides):
        raise ConfigError("; ".join(problems))
    return from_dict(values) if overrides else config


def _pairs(protocol: Protocol) -> bool:
    return protocol.generation is not None and protocol.generation.labels == "paired"


def choose_model_config(trained_on: Config, reading: Config) -> Config:
    """The configuration of the model's own clips: as they are read, at the size it has."""
    data = dataclasses.replace(reading.data, size=trained_on.data.size)
    return dataclasses.replace(reading, data=data)


def find_limit(request: EvaluateRequest, protocol: Protocol, model: Model) -> int | None:
    """How many real clips are wanted: all, but where `--clips` means real ones."""
    ours = protocol.generation is not None and protocol.reconstruction
    return None if ours and model.sampler is not None else request.clips


def count_generated(
    request: EvaluateRequest,
    protocol: Protocol,
    model: Model,
    *,
    config: Config,
    clips: RealClips,
) -> int:
    """Clips to generate: as many as real ones under a published protocol; 0 for none."""
    rule = protocol.generation
    if rule is None or model.sampler is None:
        return 0
    if rule.clips is None:
        return request.clips or config.evaluation.clips
    return min(rule.clips, len(clips.rows), request.clips or rule.clips)


def tell_reading(trained_on: Config, reading: Config, report: Report) -> None:
    """Says where clips are read otherwise than in training."""
    for key in KEYS:
        before, now = getattr(trained_on.data, key), getattr(reading.data, key)
        if before != now:
            report(f"clips are read with {key} {now}; the workdir was trained with {before}")


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


def check_classifier(
    request: EvaluateRequest, protocol: Protocol, config: Config, *, generated: int
) -> None:
    """Refuses `--c3d` where there is nothing that it could score."""
    parts = max(protocol.inception.parts)
    if request.c3d and generated < parts:
        raise ConfigError(
            f"--c3d: an inception score needs at least {parts} generated clips, there would be "
            f"{generated}: give --clips, and a protocol and a workdir that generate clips"
        )
    frames = request.setup.c3d().spec.frames
    if request.c3d and config.data.frames < frames:
        raise ConfigError(f"--c3d: clips of {config.data.frames} frames, {frames} are needed")


def load_frames(
    request: EvaluateRequest, lpips: LpipsScorer | None, *, batch: int, devices: Devices
) -> FrameFeatures | None:
    """Features of frames, where STREAM is asked for: VGG's where its weights are given."""
    if "stream" not in request.statistics:
        return None
    if lpips is not None:
        return make_vgg_frames(lpips.params, batch=batch, place=devices.place)
    frames = make_random_frames(batch=batch, place=devices.place)
    return dataclasses.replace(frames, params=devices.copy(frames.params))


def load_model(
    config: Config, request: EvaluateRequest, protocol: Protocol, report: Report
) -> Model:
    """The tokenizer, and the generator where there is one that the protocol has scores for."""
    workdir, step = request.workdir, request.checkpoint
    wanted, generates = (
        protocol.likelihood or protocol.generation is not None,
        has_begun(workdir, "generator"),
    )
    if not wanted or not generates:
        trained = build.load_tokenizer(config, workdir, step=None if generates else step)
        if wanted:
            report(f"{workdir} has no trained generator: its scores are left out")
        origin = {"tokenizer_step": trained.step, "tokenizer_sha256": trained.sha256}
        return Model(build.make_tokenizer_network(config), trained.params, None, (), origin)
    labels = read_labels(workdir)
    sampling = make_sampling(config)
    sampler, origin = build_sampling.load_sampler(
        config, workdir, labels=labels, sampling=sampling, step=step
    )
    if not protocol.likelihood:
        sampler = sampler.laid_out()
    return Model(sampler.tokenizer, sampler.tokenizer_params, sampler, labels, origin)


def share_sampler(plan: Plan) -> tuple[Sampler, int]:
    """The sampler on all devices of this host, and how many clips it draws at a time."""
    sampler, devices = plan.model.sampler, plan.devices
    assert sampler is not None
    batch = devices.round_up(min(sampler.sampling.batch, plan.setup.chunk, plan.generated))
    opener = sampler.opener
    if opener is not None:
        opener = dataclasses.replace(opener, params=devices.copy(opener.params))
    shared = dataclasses.replace(
        sampler.in_batches(batch),
        generator_params=devices.copy(sampler.generator_params),
        tokenizer_params=devices.copy(sampler.tokenizer_params),
        place=devices.place,
        opener=opener,
    )
    return shared, batch


def check_generation(config: Config, protocol: Protocol, request: EvaluateRequest) -> int:
    """The same as `check_model` for the model in the request's workdir.

    Raises CheckpointError where there is no generator, but the protocol scores nothing else.
    """
    given, workdir = check_model(config, protocol, request.setup.protocols), request.workdir
    if not (protocol.reconstruction or has_begun(workdir, "generator")):
        raise CheckpointError(
            f"protocol {protocol.name} scores generated clips, and {workdir} has no trained "
            f"generator: python -m nbp.train --config FILE --workdir {workdir}"
        )
    if protocol.generation is not None and has_begun(workdir, "generator"):
        check_opener(config, read_labels(workdir), config.sampling, given=given)
    return given


def check_model(config: Config, protocol: Protocol, known: Mapping[str, Protocol]) -> int:
    """The latent frames that a generated clip continues. config: of the model.

    known: protocols that the message may name in place of this one. Raises ConfigError, naming
    every problem, where the model cannot generate the protocol's clips.
    """
    rule = protocol.generation
    if rule is None:
        return 0
    given, problems = find_given(config, rule)
    problems += check_labels(config, protocol, rule)
    if problems:
        raise ConfigError(
            f"protocol {protocol.name}: {'; '.join(problems)}. "
            f"{name_way_out(config, protocol, known)}"
        )
    return given


def find_given(config: Config, rule: GenerationRule) -> tuple[int, list[str]]:
    """Latent frames for the given frames of a rule, and why that cannot be."""
    plan, stride = config.plan, config.tokenizer.stride[0]
    if rule.given_frames is None:
        return choose_given_frames(config, SampleRequest(1)), []
    given = latents_of_frames(rule.given_frames, stride)
    if frames_of_latents(given, stride) != rule.given_frames:
        return 0, [
            f"it gives {rule.given_frames} frames, which are no whole latent frames of this "
            f"tokenizer (1 and {stride} each)"
        ]
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        does = f"gives {rule.given_frames} frames" if given else "gives no frames to continue"
        return 0, [f"it {does}, and this model was not trained for that ({error})"]
    return given, []


def check_labels(config: Config, protocol: Protocol, rule: GenerationRule) -> list[str]:
    """Whether the model takes the labels that the protocol gives, or goes without."""
    prompt = config.generator.prompt
    if rule.labels in ("paired", "in turn") and prompt == "none":
        return ["it asks for clips of given classes, and this model was trained without labels"]
    if rule.labels == "none" and prompt != "none" and not config.generator.null_probability:
        return [
            f"it gives no labels, and this model always had one in training (prompt {prompt}, "
            "null_probability 0)"
        ]
    return []


def name_way_out(config: Config, protocol: Protocol, known: Mapping[str, Protocol]) -> str:
    """Protocols of the same data that this model could be scored under."""
    fitting = []
    wanted = {rule.dataset for rule in protocol.clips}
    for other in known.values():
        rule = other.generation
        if rule is None or other.reconstruction or other.name == protocol.name:
            continue
        sizes = {rule.size or clips.size for clips in other.clips}
        fits = config.data.size in sizes and wanted & {clips.dataset for clips in other.clips}
        if fits and not find_given(config, rule)[1] and not check_labels(config, other, rule):
            fitting.append(other.name)
    return f"Use {' or '.join(fitting)}" if fitting else "Use another workdir"


def check_classes(
    config: Config, protocol: Protocol, labels: Sequence[str], there: Sequence[str]
) -> None:
    """Refuses real clips of other classes than the model's where their labels are used.

    Of a mixture of data sets they are of the first one, whose classes are the model's first.
    """
    if config.generator.prompt == "none" or protocol.generation is None:
        return
    known = labels[: len(there)] if config.data.mix else labels
    if tuple(known) != tuple(there):
        raise ConfigError(
            f"the held-out clips have {len(there)} classes and not the {len(labels)} that the "
            "model was trained with: use the same dataset"
        )
