# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a configuration may not ask for, although each key for itself is in order."""

from collections.abc import Callable
from typing import Any

from nbp.config.grids import find_batches, find_grid_problems, name_clips
from nbp.config.schema import ROOTS, Config, StageConfig, StageName
from nbp.errors import ConfigError
from nbp.layout import latent_borders
from nbp.protocols import find_protocol, needs_features

# Least sides of frames, px, that a score can be measured of: `nbp.metrics.psnr_ssim` and
# `nbp.models.lpips` say the same.
SSIM_LEAST, LPIPS_LEAST = 11, 16


def validate(config: Config) -> None:
    """Raises ConfigError naming every problem of a configuration, each with its remedy."""
    problems: list[str] = []

    def check(path: str, derive: Callable[[], Any]) -> None:
        try:
            derive()
        except ValueError as error:
            text = f"{path}: {error}"
            if not any(text.endswith(known.split(": ", 1)[1]) for known in problems):
                problems.append(text)

    def require(fits: bool, path: str, text: str) -> None:
        if not fits:
            problems.append(f"{path}: {text}")

    check("tokenizer", config.tokenizer.make_quantizer)
    check("data", lambda: config.grid)
    if not problems:
        check("generator.block", lambda: config.block)
        check("generator.opening", lambda: config.plan)
    if not problems:
        check("generator.corruption", lambda: config.corruption)
        check("generator.blocks", lambda: config.further_plans)
        check("generator.head", lambda: config.head)
    if not problems:
        problems += find_block_problems(config)
        problems += find_grid_problems(config)
    generator, data = config.generator, config.data
    require(
        generator.width % generator.heads == 0,
        "generator.heads",
        f"width {generator.width} is not a multiple of {generator.heads} heads",
    )
    problems += find_position_problems(config)
    problems += find_change_problems(config)
    require(bool(config.stages), "stages", "name at least one of tokenizer, generator")
    if data.kind == "moving_shapes":
        check("data.moving_shapes", lambda: config.shapes_spec)
    else:
        require(
            bool(data.root), "data.root", f"name the {ROOTS[data.kind]}: --config.data.root=DIR"
        )
    if data.kind == "tokens":
        text = "the tokenizer learns from clips, not tokens: --config.stages=\"('generator',)\""
        require("tokenizer" not in config.stages, "stages", text)
        text = (
            'scores clips, which tokens are not: --config.evaluation.protocol="", and later '
            "nbp.evaluate --data DIR"
        )
        require(not config.evaluation.protocol, "evaluation.protocol", text)
    elif config.evaluation.protocol:
        evaluation = config.evaluation
        check("evaluation.protocol", lambda: find_protocol(evaluation.protocol, data.kind))
        text = f"{evaluation.protocol} needs I3D features: --config.evaluation.features=DIR"
        needed = needs_features(evaluation.protocol)
        require(bool(evaluation.features) or not needed, "evaluation.features", text)
    if data.kind == "tokens":
        text = "compares clips, which tokens are not: --config.evaluation.every=0"
        require(not config.evaluation.every, "evaluation.every", text)
    problems += find_mix_problems(config)
    images = config.images
    if images.batch:
        text = "only the tokenizer stage learns from images: --config.images.batch=0"
        require("tokenizer" in config.stages, "images.batch", text)
        accumulate = config.train.tokenizer.accumulate
        text = f"{images.batch} images do not split into {accumulate} micro-batches"
        require(images.batch % accumulate == 0, "images.batch", text)
    text = "a folder of images, of which none are taken: --config.images.batch=N, or leave it empty"
    require(bool(images.batch) or not images.root, "images.root", text)
    problems += find_head_problems(config)
    problems += find_draft_problems(config) if not problems else []
    if "tokenizer" in config.stages:
        problems += find_objective_problems(config)
    problems += find_batch_problems(config)
    for name in config.stages if not problems else ():
        problems += find_score_problems(config, name)
    if problems:
        raise ConfigError("; ".join(problems))


def find_mix_problems(config: Config) -> list[str]:
    """What is wrong with the further data sets."""
    problems, seen = [], {(config.data.kind, config.data.root)}
    tokens = config.data.kind == "tokens"
    for i, one in enumerate(config.data.mix):
        path, kind = f"data.mix[{i}]", one.kind or config.data.kind
        if kind == "moving_shapes" and one.root:
            problems.append(f"{path}.root: moving shapes have no folder: leave it out")
        elif kind != "moving_shapes" and not one.root:
            problems.append(f"{path}.root: name the {ROOTS[kind]}")
        elif (kind, one.root) in seen:
            what = one.root or "moving shapes"
            problems.append(f"{path}: {what} is mixed in already: name each set once")
        if (kind == "tokens") != tokens:
            problems.append(
                f"{path}.kind: {kind} and {config.data.kind} do not mix: a batch holds tokens or "
                "clips. Make a token cache of each set with nbp.encode"
            )
        seen.add((kind, one.root))
    if config.data.mix and any(each.labels_change for each in config.each_set):
        problems.append("data.mix: labels change in these moving shapes, and other clips have one")
    return problems


def list_scores(config: Config, stage: StageName) -> list[str]:
    """What evaluations during training measure of which one knows what is better."""
    generator, side = config.generator, min(config.data.sides)
    grids = [name_clips(clip) for clip in config.data.grids]
    if stage == "tokenizer":
        names = ["psnr", "gms", "gmsd", "psnr_worst", "code_usage", "code_perplexity"]
        names += ["ssim"] * (side >= SSIM_LEAST)
        names += ["lpips"] * (bool(config.losses.lpips_root) and side >= LPIPS_LEAST)
        names += [f"psnr_{grid}_clips" for grid in grids]
    else:
        names = ["loss", "bits_per_token", "bits_self_drawn", "accuracy"]
        names += ["accuracy_top5"] * (generator.head == "vocabulary")
        names += ["draft_bits_per_token"] * generator.draft
        names += [f"bits_{plan.name}_blocks" for plan in config.further_plans]
        names += [f"bits_{grid}_clips" for grid in grids]
    found = [f"validation/{name}" for name in names] if config.train.evaluate_every else []
    if stage == "generator" and config.evaluation.every:
        found.append("evaluation/fvd")
    return found


def find_score_problems(config: Config, name: StageName) -> list[str]:
    """Scores that are not measured, and an early stop without one."""
    stage: StageConfig = getattr(config.train, name)
    known = list_scores(config, name)
    if not stage.keep_best:
        if stage.early_stop:
            example = f"--config.train.{name}.keep_best={(known or ['validation/loss'])[0]}"
            return [f"train.{name}.early_stop: name the score that must improve: {example}"]
        return []
    if stage.keep_best in known:
        return []
    if not known:
        return [f"train.{name}.keep_best: nothing is measured: --config.train.evaluate_every=N"]
    return [
        f"train.{name}.keep_best: {stage.keep_best} is not measured; use one of {', '.join(known)}"
    ]


def find_batch_problems(config: Config) -> list[str]:
    """Batches that do not split into their micro-batches."""
    problems = []
    for name in config.stages:
        stage: StageConfig = getattr(config.train, name)
        for key, batches in (("batch", (stage.batch,)), ("grid_batches", stage.grid_batches)):
            problems += [
                f"train.{name}.{key}: {batch} clips do not split into {stage.accumulate} "
                "micro-batches"
                for batch in batches
                if batch % stage.accumulate
            ]
    return problems


def find_position_problems(config: Config) -> list[str]:
    """What rotary positions ask of the network, if in vain."""
    generator, problems = config.generator, []
    if generator.positions == "learned":
        return problems
    if generator.recipe == "paper":
        problems.append(
            "generator.positions: the paper recipe has a learned row of each position: use "
            "learned, or generator.recipe=modern"
        )
    width = generator.width // generator.heads
    if width % 2 or width < 6:  # pairs of channels for three axes
        problems.append(
            f"generator.heads: rotary positions need heads of an even width of 6 or more, not "
            f"{width}: use fewer heads, or another generator.width"
        )
    return problems


def find_change_problems(config: Config) -> list[str]:
    """Labels that change within a latent frame of a training clip: of which label would it be?"""
    if not config.labels_change or "generator" not in config.stages:
        return []
    frames = max(clip[0] for clip in (config.data.clip, *config.data.grids))
    borders = latent_borders(frames, config.tokenizer.stride[0])
    wrong = [
        frame
        for frame in config.data.moving_shapes.world.list_changes(frames)
        if frame not in borders
    ]
    if not wrong:
        return []
    return [
        f"data.moving_shapes.world: the label changes at frame {wrong[0]}, within a latent frame: "
        f"let it change at some of {', '.join(map(str, borders))}, or behind frame {frames - 1}"
    ]


def find_block_problems(config: Config) -> list[str]:
    """What is wrong with several blocks in one run, and with the one that is drawn in."""
    problems = []
    plans = (config.plan, *config.further_plans)
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        problems.append(f"generator.blocks: {', '.join(names)}: name each block once")
    if config.generator.draft and any(p.first_joint >= p.grid.size for p in plans[1:]):
        problems.append(
            "generator.blocks: a block of one token has nothing to refine: leave out token, or "
            "generator.draft"
        )
    if config.sampling.block:
        try:
            config.with_block(config.sampling.block)
        except ValueError as error:
            problems.append(f"sampling.block: {error}")
    return problems


def find_head_problems(config: Config) -> list[str]:
    """What a head of digits does not go with."""
    generator, problems = config.generator, []
    if generator.head == "vocabulary":
        return []
    if generator.recipe == "paper":
        problems.append(
            f"generator.head: recipe paper is the official network, which has no {generator.head} "
            "head: use generator.recipe=modern, or generator.head=vocabulary"
        )
    if generator.draft:
        problems.append(
            "generator.draft: drafts are accepted by probabilities of whole codes, which "
            f"generator.head={generator.head} does not have: leave out one of the two"
        )
    size = generator.joint_head
    if generator.head == "joint" and size.width % size.heads:
        problems.append(
            f"generator.joint_head.heads: width {size.width} is not a multiple of {size.heads} "
            "heads"
        )
    return problems


def find_draft_problems(config: Config) -> list[str]:
    """What the draft channel and its passes ask of the rest of the configuration, if in vain."""
    problems = []
    if not config.generator.draft:
        if config.sampling.refinements > 1:
            problems.append(
                f"sampling.refinements: {config.sampling.refinements} passes over a block need a "
                "model with the draft channel: --config.generator.draft=True, or 1 pass"
            )
        return problems
    plan, stage = config.plan, config.train.generator
    if plan.first_joint >= plan.grid.size:
        problems.append(
            "generator.draft: no block is drawn at once, so there is nothing to refine: use "
            "generator.block=row or a larger one, or generator.draft=False"
        )
    least = min(find_batches(config, stage))
    if least // stage.accumulate < 2:
        key = "batch" if least == stage.batch else "grid_batches"
        problems.append(
            f"train.generator.{key}: generator.draft needs micro-batches of 2 clips or more, one "
            "to be plain and one to show drafts"
        )
    return problems


def find_objective_problems(config: Config) -> list[str]:
    """What the losses of the tokenizer stage ask of the rest of the configuration, if in vain."""
    losses, size = config.losses, min(side for c in config.each_grid for side in c.data.sides)
    problems = []
    if losses.perceptual == "lpips" and not losses.lpips_root:
        problems.append(
            "losses.lpips_root: name the folder that `python -m nbp.convert lpips --out DIR` wrote:"
            " --config.losses.lpips_root=DIR; losses.perceptual=structure needs no weights"
        )
    least = {"none": 1, "structure": 8, "lpips": LPIPS_LEAST}[losses.perceptual]
    if size < least:
        problems.append(
            f"losses.perceptual: {losses.perceptual} compares frames of at least {least} px, "
            f"data.size is {size}. Use larger clips, or none"
        )
    widths, stride = config.adversarial.widths, 2 ** max(0, len(config.adversarial.widths) - 1)
    if config.adversarial.weight and not widths:
        problems.append("adversarial.widths: a discriminator needs at least one width")
    if config.adversarial.weight and size < stride:
        problems.append(
            f"adversarial.widths: {len(widths)} widths halve the frame {len(widths) - 1} times, "
            f"and data.size is {size}. Use fewer widths"
        )
    return problems
