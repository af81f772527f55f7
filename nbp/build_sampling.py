# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration and requests become what draws clips: samplers, filters, given frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import jax
import numpy as np
from jax.sharding import Mesh

from nbp.build import (
    Trained,
    check_tokenizer,
    load_generator,
    load_tokenizer,
    make_generator_network,
    make_tokenizer_network,
)
from nbp.build_data import (
    NO_DRAFTS,
    check_given_anywhere,
    choose_given_frames,
    read_conditions,
)
from nbp.config import expand_path
from nbp.config.schema import Config
from nbp.data.prompts import load_prompts
from nbp.errors import CheckpointError, ConfigError
from nbp.layout import Box, SequencePlan
from nbp.parallel import mesh
from nbp.ranges import Checkpoint
from nbp.sampling.fixed_noise import FixedNoiseJacobi
from nbp.sampling.long_video import Slide, plan_slide
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Opener, Sampler, find_opened
from nbp.sampling.self_speculative import SelfSpeculative, check_plans
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, Decoding, RelaxedJacobi, SpeculativeJacobi
from nbp.sampling.story import NONE, Line, Scene, Story, read_story
from nbp.trees import check_parameters
from nbp.workdir import find_label, has_begun, read_config, read_labels


def draw_in_block(config: Config, block: str | Box = "") -> Config:
    """The configuration as `block` of a request says, else `sampling.block`: its model draws so.

    Raises ConfigError where the model was not trained with that block.
    """
    wanted = block or config.sampling.block
    try:
        return config.with_block(wanted) if wanted else config
    except ValueError as error:
        raise ConfigError(
            f"sampling in {error}. Train it with more: --config.generator.blocks"
        ) from error


def draw_as_asked(config: Config, request: SampleRequest) -> Config:
    """As `draw_in_block` for a request; self-speculative decoding draws the clips of token blocks.

    These clips' further blocks begin with the one that drafts.
    """
    chosen = draw_in_block(config, request.sampling.get("block", ""))
    if request.decoder.decoding != "self_speculative" or chosen.plan.block_size == 1:
        return chosen
    try:
        return chosen.with_block("token")
    except ValueError as error:
        raise ConfigError(
            f"--decoding self_speculative checks blocks token by token: {error}. Train it with "
            "token blocks, too: --config.generator.blocks=\"('token',)\""
        ) from error


def find_frames(request: SampleRequest) -> int | None:
    """Frames of the videos that a request asks for, of its story if it has one; None: a clip's."""
    if request.story is None:
        return request.long.num_frames
    return sum(line.frames for line in read_story(request.story))


def read_opener(config: Config, labels: Sequence[str], sampling: SamplingConfig) -> Config | None:
    """The configuration of the opener that a sampling names; None where there is none.

    Raises CheckpointError where it is not trained, ConfigError where it has another grid, other
    codes or other conditions.
    """
    if not sampling.opener:
        return None
    place = find_opener(sampling)
    opener = draw_in_block(read_config(place))
    if not has_begun(place, "generator"):
        raise CheckpointError(f"sampling.opener: {place} holds no trained generator")
    here, there = ((c.grid.shape, c.tokenizer.make_quantizer().codes) for c in (config, opener))
    if (here, config.generator.prompt) != (there, opener.generator.prompt):
        sides = [
            f"a grid of {grid} with {codes} codes and prompt {c.generator.prompt}"
            for (grid, codes), c in ((there, opener), (here, config))
        ]
        raise ConfigError(f"sampling.opener {place} has {sides[0]}, this model {sides[1]}")
    if config.generator.prompt != "none" and tuple(read_labels(place)) != tuple(labels):
        raise ConfigError(f"sampling.opener {place} was trained with other classes than this model")
    return opener


def find_opener(sampling: SamplingConfig) -> Path:
    """The workdir of the opener; ConfigError where its path has a variable that is not set."""
    try:
        return Path(expand_path(sampling.opener))
    except ValueError as error:
        raise ConfigError(f"sampling.opener: {error}") from error


def check_opener(
    config: Config, labels: Sequence[str], sampling: SamplingConfig, *, given: int
) -> None:
    """As `read_opener`; ConfigError too where its frames behind `given` ones do not fit."""
    opener = read_opener(config, labels, sampling)
    if opener is None:
        return
    try:
        find_opened(config.plan, opener.plan, given, sampling)
    except ValueError as error:
        raise ConfigError(f"sampling.opener {sampling.opener}: {error}") from error


def load_opener(
    config: Config, labels: Sequence[str], sampling: SamplingConfig, *, tokenizer: Trained
) -> tuple[Opener | None, dict[str, Any]]:
    """The opener that a sampling names, if any, and the provenance of its parameters.

    Errors as in `read_opener`; CheckpointError where its codes are those of another tokenizer.
    """
    opener = read_opener(config, labels, sampling)
    if opener is None:
        return None, {}
    place, network = find_opener(sampling), make_generator_network(opener, labels)
    trained = load_generator(opener, place, network)
    codes = trained.meta.get("tokenizer_sha256") or load_tokenizer(opener, place).sha256
    if codes != tokenizer.sha256:
        raise CheckpointError(
            f"sampling.opener {place} was trained on the tokenizer {codes[:16]}, but this model's "
            f"(step {tokenizer.step}) is {tokenizer.sha256[:16]}: its codes mean something else. "
            "Train both generators on copies of one tokenizer."
        )
    origin = {"opener_step": trained.step, "opener_sha256": trained.sha256}
    return Opener(network, trained.params), origin


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
    loaded: Trained | None = None,
    step: Checkpoint | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of a trained workdir, and the provenance of its parameters.

    loaded: its tokenizer, where that is in memory already. step: of the generator, as in
    `nbp.build.load_generator`.
    """
    tokenizer = make_tokenizer_network(config)
    generator = make_generator_network(config, labels)
    trained_tokenizer = loaded or load_tokenizer(config, workdir)
    trained_generator = load_generator(config, workdir, generator, step=step)
    sampler = Sampler(
        generator,
        trained_generator.params,
        tokenizer,
        trained_tokenizer.params,
        sampling=sampling,
        decoding=decoding,
    )
    check_tokenizer(trained_generator, trained_tokenizer)
    opener, opened = load_opener(config, labels, sampling, tokenizer=trained_tokenizer)
    sampler = replace(sampler, opener=opener)
    origin = {
        "tokenizer_step": trained_tokenizer.step,
        "tokenizer_sha256": trained_tokenizer.sha256,
        "generator_step": trained_generator.step,
        "generator_sha256": trained_generator.sha256,
        **opened,
    }
    return sampler, origin


@dataclass(frozen=True)
class RequestPlan:
    """A request for samples that was checked against the configuration of its workdir.

    request: with `per_class` written as conditions, and the length of a story. ids: class of each
    condition, None without. given_frames: latent frames that are kept. slide: how windows move,
    None where no video is longer than a clip. story: of each video, in place of `ids`.
    """

    request: SampleRequest
    sampling: SamplingConfig
    decoding: Decoding
    ids: list[int] | None
    given_frames: int
    slide: Slide | None
    story: Story | None = None

    @property
    def count(self) -> int:
        """Clips in all."""
        return self.request.count * self.request.samples_per_condition

    def name_clips(self, labels: Sequence[str]) -> list[str]:
        """What each clip shows."""
        ids, copies = self.ids, self.request.samples_per_condition
        if self.story is not None:
            return [" then ".join(name for _, name in self.story_script(labels))] * self.count
        names = ["clip"] * self.request.count if ids is None else [labels[i] for i in ids]
        return [name for name in names for _ in range(copies)]

    def story_script(self, labels: Sequence[str]) -> tuple[tuple[int, str], ...]:
        """(first frame, label) of each scene of the story, () without one."""
        if self.story is None:
            return ()
        shown = [NONE if s.label is None else labels[s.label] for s in self.story.scenes]
        return tuple(zip(self.story.first_frames, shown, strict=True))


def plan_request(config: Config, labels: Sequence[str], request: SampleRequest) -> RequestPlan:
    """Checks a request before anything is read or computed; ConfigError where it cannot be."""
    story = plan_story(config, labels, request)
    if story is not None:
        request = replace(request, long=replace(request.long, num_frames=story.frames))
    request = count_conditions(config, labels, request)
    check_given_anywhere(config, request)
    sampling, given = make_sampling(config, request.sampling), choose_given_frames(config, request)
    check_opener(config, labels, sampling, given=given)
    plan = RequestPlan(
        request,
        sampling,
        make_decoding(config, request),
        ids=choose_labels(config, labels, request),
        given_frames=given,
        slide=plan_slide(
            request,
            config.plan,
            clip=config.data.frames,
            rotary=config.generator.positions == "rotary",
        ),
        story=story,
    )
    if story is None or plan.slide is None:
        return plan
    story.check(depth=config.plan.block[0], least=max(plan.slide.keep, plan.given_frames + 1))
    first = story.scenes[0].label
    return replace(plan, ids=None if first is None else [first] * request.count)


def plan_story(config: Config, labels: Sequence[str], request: SampleRequest) -> Story | None:
    """The story of a request with the ids of its labels; ConfigError where it cannot be told."""
    if request.story is None:
        return None
    if config.generator.prompt == "none":
        raise ConfigError("--story: this model was trained without labels (prompt none)")
    others = {"label": request.label, "per_class": request.per_class, "mask": request.mask}
    others |= {"unconditional": request.unconditional or None, "between": request.between}
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"--story tells the labels of a long video: leave out --{name}")
    texts = {}
    if config.generator.prompt == "text":
        texts = {text: name for name, (text, _) in load_prompts().items()}

    def find(number: int, line: Line) -> int | None:
        try:
            return find_label(labels, texts.get(line.label, line.label))
        except ConfigError as error:
            if line.label == NONE:
                return None
            raise ConfigError(f"--story, scene {number}: {error}") from error

    lines = read_story(request.story)
    scenes = [Scene(x.frames, find(i, x), x.guidance) for i, x in enumerate(lines, start=1)]
    story, asked = Story(tuple(scenes), config.tokenizer.stride[0]), request.long.num_frames
    if asked is not None and asked != story.frames:
        raise ConfigError(
            f"--story has {story.frames} frames, --num_frames {asked}: leave out --num_frames, or "
            "change a scene"
        )
    return story


def read_drawing(config: Config, plan: RequestPlan) -> dict[str, Any]:
    """The arguments of `Sampler.sample` and `Rollout.sample` for a request, but the counts."""
    copies = plan.request.samples_per_condition
    anywhere = plan.request.mask is not None or plan.request.between is not None
    conditions = read_conditions(config, plan.request) if plan.given_frames or anywhere else {}
    return {
        **{name: rows.repeat(copies, 0) for name, rows in conditions.items()},
        "seed": plan.request.seed,
        "given_frames": plan.given_frames,
        "labels": None if plan.ids is None else np.repeat(plan.ids, copies).tolist(),
    }


def load_request_sampler(
    config: Config,
    workdir: Path,
    labels: Sequence[str],
    plan: RequestPlan,
    *,
    loaded: Trained | None = None,
) -> Sampler:
    """The sampler of a workdir as a request wants it, laid out on the devices of this process.

    loaded: its tokenizer, where that is in memory already. Raises NonFiniteError where weights are
    no numbers.
    """
    sampler, _ = load_sampler(
        config,
        workdir,
        labels=labels,
        sampling=plan.sampling,
        decoding=plan.decoding,
        loaded=loaded,
        step=plan.request.checkpoint,
    )
    check_parameters(sampler.params)
    return replace(sampler, mesh=make_sampling_mesh(config)).laid_out()


def make_sampling(config: Config, changes: Mapping[str, Any] | None = None) -> SamplingConfig:
    """The configuration's settings, some of them replaced; ConfigError where they do not fit."""
    try:
        sampling = replace(config.sampling, **(changes or {}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if sampling.guidance and config.generator.prompt == "none":
        raise ConfigError("guidance needs a label-conditional model; this one has no prompt")
    if sampling.refinements > 1 and config.generator.head != "vocabulary":
        raise ConfigError(
            f"refinements {sampling.refinements}: a model with generator.head="
            f"{config.generator.head} has no drafts and draws a block in 1 pass"
        )
    if sampling.refinements > 1 and not config.generator.draft:
        raise ConfigError(f"refinements {sampling.refinements}: {NO_DRAFTS}")
    if "opener_frames" in (changes or {}) and not sampling.opener:
        raise ConfigError("--opener_frames: name the model that draws them with --opener DIR")
    return sampling


def make_decoding(config: Config, request: SampleRequest) -> Decoding:
    """How the passes are made; ConfigError where the request or the tokenizer does not allow it."""
    chosen = request.decoder
    asked = {"window": chosen.window, "radius": chosen.radius, "delta": chosen.delta}
    given = {name: value for name, value in asked.items() if value is not None}
    takes = {"plain": (), "jacobi": ("window",), "relaxed": ("window", "radius", "delta")}
    takes["self_speculative"] = ()
    for name in given:
        if name not in takes[chosen.decoding]:
            fitting = " or ".join(kind for kind, names in takes.items() if name in names)
            raise ConfigError(f"--{name} is for --decoding {fitting}, not {chosen.decoding}")
    refinements = make_sampling(config, request.sampling).refinements
    if refinements > 1 and chosen.decoding != "plain":
        raise ConfigError(
            f"--decoding {chosen.decoding} draws each block in one pass, not {refinements}: use "
            "--refinements 1"
        )
    whole_codes = config.generator.head == "vocabulary"
    if not whole_codes and chosen.decoding not in ("plain", "jacobi"):
        raise ConfigError(
            f"--decoding {chosen.decoding} compares probabilities of whole codes, which a model "
            f"with generator.head={config.generator.head} does not have: use jacobi"
        )
    levels = find_levels(config) if chosen.decoding == "relaxed" else ()
    if request.long.anchor and chosen.decoding != "plain":
        raise ConfigError(f"--anchor draws pass by pass: leave out --decoding {chosen.decoding}")
    try:
        match chosen.decoding:
            case "plain":
                return AUTOREGRESSIVE
            case "jacobi":
                return SpeculativeJacobi(**given) if whole_codes else FixedNoiseJacobi(**given)
            case "relaxed":
                return RelaxedJacobi(levels, **given)
            case "self_speculative":
                return SelfSpeculative(find_drafts(config))
            case _ as never:
                assert_never(never)
    except ValueError as error:
        raise ConfigError(f"--decoding {chosen.decoding}: {error}") from error


def find_drafts(config: Config) -> SequencePlan:
    """The plan of the blocks that draft for token blocks; ConfigError where there is none."""
    if not config.generator.blocks:
        raise ConfigError(
            "--decoding self_speculative drafts in blocks, and this model knows none but "
            f"{config.plan.name}: train it with more, --config.generator.blocks=\"('row',)\""
        )
    drafts = config.plan_of(config.generator.blocks[0])
    check_plans(config.plan, drafts)
    return drafts


def find_levels(config: Config) -> tuple[int, ...]:
    """Levels of the digits of a code: neighbours are near each other. Else ConfigError."""
    if not (digits := config.tokenizer.digits):
        raise ConfigError(
            "--decoding relaxed needs codes that are near each other, as those of fsq and lfq; "
            f"this tokenizer has {config.tokenizer.quantizer}. Use --decoding jacobi."
        )
    return digits


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


def choose_labels(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> list[int] | None:
    """Class id per condition: those asked for, else all, in turn; None for no condition.

    A class called none wins over the meaning of `--label none`, which `--unconditional` has always.
    """
    if request.unconditional and request.label is not None:
        raise ConfigError("--label and --unconditional: give one of them")
    if config.generator.prompt == "none":
        if request.label is not None:
            raise ConfigError("--label: this model was trained without labels (prompt none)")
        return None
    if request.unconditional:
        return None  # drawn from the trained null condition
    asked = (request.label,) if isinstance(request.label, str) else request.label
    try:
        ids = range(len(labels)) if asked is None else [find_label(labels, text) for text in asked]
    except ConfigError:
        if asked == ("none",):  # no class has this name
            return None
        raise
    return [ids[i % len(ids)] for i in range(request.count)]
