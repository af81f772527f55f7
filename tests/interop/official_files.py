# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Weight files with the structure of the published ones, at any size, with random values."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from nbp.interop.mapping import export_tensors
from nbp.interop.official import make_generator_rules, make_tokenizer_rules
from nbp.layout import LatentGrid, Opening, OpeningKind, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, paper_recipe
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.attention.reference import dense_attention
from nbp.nn.conv3d import taps_conv
from nbp.nn.transformer import TransformerSpec
from tests.interop.torch_files import Foreign, Lazy, write_torch

TINY_TOKENIZER = TokenizerSpec(
    widths=(32, 32, 64), units=(1, 1, 1), strides=((1, 2, 2), (2, 2, 2)), levels=(8, 5)
)


def make_network(
    *,
    layers: int = 2,
    heads: int = 2,
    width: int = 16,
    grid: LatentGrid = LatentGrid(3, 2, 4),  # noqa: B008 - frozen
    opening: OpeningKind = "prefix",
    prompt_length: int = 0,
    prompts: int = 0,
    codes: int = 40,
    context: int = 64,
) -> GeneratorNetwork:
    """A generator in the paper recipe with row blocks."""
    plan = SequencePlan(grid, (1, 1, grid.w), Opening(opening), prompt_length)
    return GeneratorNetwork(
        TransformerSpec(layers, heads, width),
        plan,
        Vocabulary(codes, prompts, plan.special_count),
        paper_recipe(dense_attention, context=context),
    )


def generator_shapes(network: GeneratorNetwork) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of all tensors of a generator, the empty null prompt included."""
    template = jax.eval_shape(network.init, jax.random.key(0))
    rules, _ = make_generator_rules(network.spec.layers, prompt=network.plan.prompt_length > 0)
    shapes = {name: value.shape for name, value in export_tensors(template, rules).items()}
    return {"uncond_embedding": (0, network.spec.width), **shapes}


def tokenizer_shapes(spec: TokenizerSpec) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of all tensors of a tokenizer."""
    template = jax.eval_shape(TokenizerNetwork(spec, taps_conv).init, jax.random.key(0))
    rules, _ = make_tokenizer_rules(spec)
    return {name: value.shape for name, value in export_tensors(template, rules).items()}


def draw(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Values that keep activations moderate: scaled by fan-in, norms and betas about 1."""
    rng = np.random.default_rng([seed, *name.encode()])
    values = rng.standard_normal(shape, np.float32)
    if (len(shape) == 1 and name.endswith("weight")) or name.endswith("beta"):
        return 1 + 0.1 * values
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
    return values / np.float32(max(fan, 1)) ** 0.5


def lazy_tensors(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, Lazy]:
    """Tensors that are drawn when they are written."""
    return {
        prefix + name: Lazy(shape, lambda n=name, s=shape: draw(n, s))
        for name, shape in shapes.items()
    }


def write_lightning(path: Path, state: Mapping[str, Lazy | np.ndarray], **flags: object) -> None:
    """A Lightning checkpoint around a state dict, with an argparse namespace and callbacks."""
    arguments = Foreign("argparse.Namespace", **flags)
    name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    content = {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "1.5.4",
        "callbacks": {name: Foreign(name, best_model_score=1.5)},
        "hyper_parameters": {"args": arguments},
        "state_dict": state,
    }
    write_torch(path, content)
