# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Composition root: a configuration becomes networks, tasks and samplers.

Each choice that a configuration names is made here, or for its data in `nbp.build_data`, once, by
choosing an object. Only commands, what serves them, and tests import this module.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nbp import build_data
from nbp.config.schema import Config
from nbp.data.prompts import PADDING, find_texts
from nbp.data.token_cache import TokenCache
from nbp.errors import CheckpointError
from nbp.hub.folder import is_published, read_stage
from nbp.metrics.label_agreement import ShapeTracker
from nbp.models.discriminator import DiscriminatorNetwork, DiscriminatorSpec
from nbp.models.generator import GeneratorNetwork, Recipe, modern_recipe, paper_recipe
from nbp.models.lpips import VGG16, LpipsNetwork
from nbp.models.tokenizer import TokenizerNetwork
from nbp.nn.attention.choose import make_attention_backend
from nbp.nn.attention.reference import AttentionBackend
from nbp.nn.conv3d import ConvBackend, mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.parallel import mesh
from nbp.parallel.distributed import decide
from nbp.ranges import Checkpoint
from nbp.shapes import PyTree
from nbp.tasks.adversary import Adversary
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import TokenizerTask
from nbp.training.checkpoint import Checkpointer
from nbp.training.optimizer import OptimizerSpec, ParamGroup, find_storage
from nbp.training.precision import cast_shapes_to_storage

TOKENIZER_GROUPS = (
    ParamGroup(".*kernel", matrix="conv"),
    ParamGroup(".*(bias|scale|beta)", decay=False),
)
# Follows the latents as a moving average (`TokenizerNetwork.update_codebook`), not gradients.
CODEBOOK_GROUP = ParamGroup("quantizer/.*", decay=False, learning_rate_scale=0.0)
GENERATOR_GROUPS = (
    ParamGroup("transformer/.*qkv/kernel", matrix="joined"),
    ParamGroup("transformer/.*(proj|up|down)/kernel", matrix="dense"),
    ParamGroup("head/kernel"),
    ParamGroup("tokens|drafts", decay=False),
    ParamGroup(".*(bias|scale)|null_prompt|positions/.*", decay=False),
)
# In the place of head/kernel where the head is joint.
JOINT_HEAD_GROUPS = (
    ParamGroup("head/transformer/.*qkv/kernel", matrix="joined"),
    ParamGroup("head/(transformer/.*(proj|up|down)|enter|mix)/kernel", matrix="dense"),
    ParamGroup("head/out/kernel"),
    ParamGroup("head/(previous|begin|places|earlier|slots)", decay=False),
)


def make_conv() -> ConvBackend:
    """The fastest exact formulation of 3D convolution for the backend that JAX uses.

    The same one for all: measured on CPUs, by the compiler's estimates for TPUs, and on GPUs, not
    measured yet, because XLA keeps half-precision 2D convolutions alone in the layout of their
    matrix units (docs/tokenizer_training.md, Speed).
    """
    return mixed_conv


def make_attention(config: Config, platform: str = "") -> AttentionBackend:
    """`platform`: cpu, gpu or tpu where the program will run; by default where JAX runs."""
    generator = config.generator
    return make_attention_backend(
        generator.attention, platform=platform or jax.default_backend(), dtype=generator.dtype
    )


def make_tokenizer_network(config: Config) -> TokenizerNetwork:
    return TokenizerNetwork(config.tokenizer, make_conv())


def make_recipe(config: Config, platform: str = "") -> Recipe:
    attention = make_attention(config, platform)
    match config.generator.recipe:
        case "modern":
            generator = config.generator
            return modern_recipe(attention, layers=generator.layers, positions=generator.positions)
        case "paper":
            return paper_recipe(attention, context=config.generator.context)
        case _ as never:
            assert_never(never)


def make_generator_network(
    config: Config, labels: Sequence[str], *, platform: str = ""
) -> GeneratorNetwork:
    """`labels`: class names of the data; unused without prompts. `platform`: see `make_attention`.

    Raises ConfigError for text prompts and a class that has none.
    """
    generator = config.generator
    spec = TransformerSpec(
        layers=generator.layers,
        heads=generator.heads,
        width=generator.width,
        dropout=generator.dropout,
        dtype=jnp.dtype(generator.dtype),
        remat=config.memory.remat,
    )
    text = generator.prompt == "text"
    return GeneratorNetwork(
        spec,
        config.plan,
        config.vocabulary(len(labels)),
        make_recipe(config, platform),
        texts=find_texts(labels) if text else None,
        padding=PADDING if text and generator.padding == "hidden" else None,
        draft=generator.draft,
        head=config.head,
    )


def make_generator_groups(config: Config) -> tuple[ParamGroup, ...]:
    """Matrices are stored as the configuration says, the few other values in float32."""
    *matrices, vectors = GENERATOR_GROUPS
    if config.generator.head == "joint":
        kept = [group for group in matrices if group.pattern != "head/kernel"]
        matrices = [*kept, *JOINT_HEAD_GROUPS]
    storage = config.memory.parameters
    return (*(dataclasses.replace(group, storage=storage) for group in matrices), vectors)


def make_mesh(
    config: Config, stage: Literal["tokenizer", "generator"], devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of a stage. Raises ConfigError where it does not fit the devices."""
    chosen = config.mesh
    total = len(jax.devices() if devices is None else devices)
    fsdp = chosen.fsdp
    if not fsdp:
        left = max(1, total // (chosen.tensor * max(1, chosen.data)))
        generator = config.generator
        widths = [generator.width] if stage == "generator" else []
        widths += [generator.joint_head.width] if widths and generator.head == "joint" else []
        fsdp = math.gcd(left, *widths)
    return mesh.make_mesh(
        data=chosen.data or None, fsdp=fsdp, tensor=chosen.tensor, devices=devices
    )


def make_tokenizer_task(config: Config, *, read_weights: bool = True) -> TokenizerTask:
    """With the weights of LPIPS where that is the perceptual loss; CheckpointError without them.

    read_weights: False puts their shapes in the place of the weights, and reads nothing.
    """
    codebook = (CODEBOOK_GROUP,) if config.tokenizer.quantizer == "vq" else ()
    optimizer = OptimizerSpec.of(config.train.tokenizer, TOKENIZER_GROUPS + codebook)
    frozen = {}
    if config.losses.perceptual == "lpips" and read_weights:
        frozen["lpips"] = load_lpips(config.losses.lpips_root)
    elif config.losses.perceptual == "lpips":
        frozen["lpips"] = jax.eval_shape(VGG16.init, jax.random.key(0))
    return TokenizerTask(
        make_tokenizer_network(config),
        optimizer,
        config.losses,
        adversary=make_adversary(config, optimizer),
        frozen=frozen,
    )


def make_adversary(config: Config, optimizer: OptimizerSpec) -> Adversary | None:
    """The discriminator of the tokenizer stage, whose `optimizer` is given; None at weight 0.

    Its learning rate rises and falls like the tokenizer's, over the updates that it makes.
    """
    adversarial = config.adversarial
    if not adversarial.weight:
        return None
    steps = max(1, optimizer.steps - max(0, adversarial.start - adversarial.warmup))
    own = dataclasses.replace(
        optimizer,
        optimizer="adamw",
        learning_rate=adversarial.learning_rate,
        steps=steps,
        b1=adversarial.b1,
        b2=adversarial.b2,
        weight_decay=0.0,
        groups=(ParamGroup(".*"),),
    )
    spec = DiscriminatorSpec(adversarial.widths, dtype=jnp.dtype(config.tokenizer.dtype))
    return Adversary(DiscriminatorNetwork(spec, make_conv()), own, adversarial)


def make_generator_task(
    config: Config, labels: Sequence[str], tokenizer_params: PyTree, *, platform: str = ""
) -> GeneratorTask:
    """The step of token data has no tokenizer in it: its batches hold codes."""
    on_tokens = config.data.kind == "tokens"
    task = GeneratorTask(
        network=make_generator_network(config, labels, platform=platform),
        tokenizer=make_tokenizer_network(config),
        optimizer=OptimizerSpec.of(config.train.generator, make_generator_groups(config)),
        frozen={} if on_tokens else {"tokenizer": tokenizer_params},
        null_probability=config.generator.null_probability,
        corruption=config.corruption,
        further=config.further_plans,
        further_share=config.generator.blocks_share,
        loss_tokens=config.memory.loss_tokens,
        draft=config.generator.draft_training if config.generator.draft else None,
    )

    def on(other: Config) -> GeneratorTask:
        network = dataclasses.replace(task.network, plan=other.plan)
        plans: dict[str, Any] = {"further": other.further_plans, "corruption": other.corruption}
        return dataclasses.replace(task, network=network, **plans)

    return dataclasses.replace(task, grids=tuple(map(on, config.each_grid[1:])))


def stage_directory(workdir: Path, stage: str) -> Path:
    return workdir / stage


@dataclass(frozen=True)
class Trained:
    """Parameters of a stage (averaged ones where the stage keeps an average) and their origin."""

    params: PyTree
    step: int
    sha256: str
    meta: Mapping[str, Any]


def load_trained(
    workdir: Path,
    stage: Literal["tokenizer", "generator", "lpips", "i3d", "c3d"],
    *,
    network: Any,
    ema: bool,
    step: Checkpoint | None = None,
    groups: tuple[ParamGroup, ...] = (),
) -> Trained:
    """Reads `step` of a stage, by default its newest good one; CheckpointError without it.

    A published stage has one step, and its parameters are what they are, whatever `ema` says.
    best: the one with the best score, of a stage that was trained with `keep_best`.
    `groups`: those of the optimizer, where they store parameters in another type than float32.
    """
    directory = stage_directory(workdir, stage) / "checkpoints"
    published = not directory.is_dir() and is_published(workdir, stage)
    if not (directory.is_dir() or published):
        raise CheckpointError(
            f"{workdir} holds no trained {stage}: run python -m nbp.train --workdir {workdir}"
        )
    template = jax.eval_shape(network.init, jax.random.key(0))
    if published:
        params, record = read_stage(workdir, stage, template)
        return Trained(params, record.step, record.sha256, record.meta)
    if groups and not ema:  # averages are always float32
        template = cast_shapes_to_storage(template, find_storage(groups, template))
    with Checkpointer(directory, read_only=True, optional=network.optional) as checkpointer:
        step = checkpointer.find_best() if step == "best" else step
        params = checkpointer.restore_params(template, use_ema=ema, step=step)
        step = decide(checkpointer.latest_step()) if step is None else step
        assert step is not None
        meta = checkpointer.read_meta(step)
        return Trained(params, step, checkpointer.checkpoint_hash(step), meta)


def load_tokenizer(config: Config, workdir: Path, *, step: Checkpoint | None = None) -> Trained:
    """The trained or converted tokenizer of a workdir; step and errors as in `load_trained`."""
    network, ema = make_tokenizer_network(config), config.train.tokenizer.ema > 0
    return load_trained(workdir, "tokenizer", network=network, ema=ema, step=step)


def load_generator(
    config: Config, workdir: Path, network: GeneratorNetwork, *, step: Checkpoint | None = None
) -> Trained:
    """The trained or converted generator of a workdir; step and errors as in `load_trained`."""
    return load_trained(
        workdir,
        "generator",
        network=network,
        ema=config.train.generator.ema > 0,
        groups=make_generator_groups(config),
        step=step,
    )


def load_lpips(root: str | Path, network: LpipsNetwork = VGG16) -> PyTree:
    """The parameters of LPIPS in a folder of `nbp.convert lpips`; CheckpointError without them."""
    if not (stage_directory(Path(root), "lpips") / "checkpoints").is_dir():
        raise CheckpointError(
            f"{root} holds no LPIPS weights. Make them from the published files: python -m "
            f"nbp.convert lpips --source vgg16-397923af.pth --linear vgg.pth --out {root}. "
            "Training also goes without weights: --config.losses.perceptual=structure"
        )
    return load_trained(Path(root), "lpips", network=network, ema=False).params


def check_tokenizer(generator: Trained, tokenizer: Trained) -> None:
    """Refuses a generator whose codes mean something else: CheckpointError names both hashes."""
    expected = generator.meta.get("tokenizer_sha256", tokenizer.sha256)
    if expected != tokenizer.sha256:
        raise CheckpointError(
            f"the generator (step {generator.step}) was trained on the tokenizer {expected[:16]}, "
            f"but this workdir's tokenizer (step {tokenizer.step}) is {tokenizer.sha256[:16]}. "
            "Put the old tokenizer back, or train the generator again in another workdir."
        )


def check_cache(cache: TokenCache, tokenizer: Trained) -> None:
    """Refuses tokens of another tokenizer: CheckpointError names both hashes."""
    made = cache.provenance["tokenizer"]
    if made["sha256"] != tokenizer.sha256:
        raise CheckpointError(
            f"{cache.directory} holds tokens of the tokenizer {made['sha256'][:16]} (step "
            f"{made['step']}), but this workdir's tokenizer (step {tokenizer.step}) is "
            f"{tokenizer.sha256[:16]}. Make a new cache with nbp.encode, or use that tokenizer's "
            "workdir."
        )


def make_tracker(config: Config) -> ShapeTracker:
    """The check of moving shapes against their labels."""
    return ShapeTracker(**build_data.make_shapes_spec(config).tracking)
