# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The published PyTorch checkpoints: their key names, their sizes, the rules into our parameters.

Generator files (`*.ckpt`) mix the generator (`transformer.`) with the frozen tokenizer
(`first_stage_model.`); tokenizer files (`*.pt`) prefix every key with `module.` (REFERENCE 7).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nbp.errors import CheckpointError
from nbp.interop.mapping import (
    Drop,
    Rule,
    Tensor,
    Tensors,
    drop_batch,
    flatten_channels,
    transpose_conv3d,
    transpose_linear,
)
from nbp.interop.states import State, clean_names, find_state
from nbp.layout import Opening
from nbp.models.tokenizer import TokenizerSpec
from nbp.nn.conv3d import Stride

GROUPS = 32  # of every group normalisation (REFERENCE 4.1)
HEADS = {1536: 16, 2048: 32, 3072: 32}  # of the published widths (REFERENCE 1.6)
UNET_STRIDES: dict[int, Stride] = {2: (2, 1, 1), 4: (1, 2, 2), 8: (2, 2, 2)}

GENERATOR_ROOTS = ("tok_emb.", "pos_emb", "uncond_embedding", "blocks.", "ln_f.", "head.")
TOKENIZER_ROOTS = ("encoder_layers.", "decoder_layers.")
MASKS = Drop(r".*mask.*", "attention masks are computed here")


# Names -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfficialState:
    """The tensors of a file by network, under the names of its root module; the rest as it is.

    notes: what a person should know of the choice, see `nbp.interop.states`.
    """

    generator: dict[str, Tensor]
    tokenizer: dict[str, Tensor]
    other: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def split_state(tensors: Mapping[str, Tensor]) -> OfficialState:
    """Finds the generator and the tokenizer in a file, however they are nested."""
    generator = find_state(tensors, lambda name: name.startswith(GENERATOR_ROOTS))
    tokenizer = find_state(tensors, lambda name: name.startswith(TOKENIZER_ROOTS))
    taken = generator.names | tokenizer.names
    return OfficialState(
        _without(generator, tokenizer, TOKENIZER_ROOTS),
        _without(tokenizer, generator, GENERATOR_ROOTS),
        {name: t for name, t in clean_names(tensors).items() if name not in taken},
        generator.notes + tokenizer.notes,
    )


def _without(state: State, other: State, roots: tuple[str, ...]) -> dict[str, Tensor]:
    """A network's tensors without those of the other one, which may lie among its names."""
    if state.prefix is None or other.prefix is None:
        return state.tensors
    if state.prefix != other.prefix:
        inside = other.prefix.startswith(state.prefix)
        roots = (other.prefix.removeprefix(state.prefix),) if inside else ()
    return {name: tensor for name, tensor in state.tensors.items() if not name.startswith(roots)}


# Generator ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorSizes:
    """What the shapes of a generator's tensors say.

    Attributes:
        layers, width: of the transformer.
        ids: rows of the embedding: special, prompt and video ids together.
        context: rows of the position table.
        prompt_length: rows of the unconditional embedding; 0 without a condition.
    """

    layers: int
    width: int
    ids: int
    context: int
    prompt_length: int


def infer_generator(tensors: Tensors, *, origin: str) -> GeneratorSizes:
    """Reads sizes off the shapes; CheckpointError where this is no generator."""
    tokens = _find(tensors, "tok_emb.weight", axes=2, what="generator", origin=origin)
    positions = _find(tensors, "pos_emb", axes=3, what="generator", origin=origin)
    null = tensors.get("uncond_embedding")
    return GeneratorSizes(
        layers=_count(tensors, "blocks", what="generator", origin=origin),
        width=tokens[1],
        ids=tokens[0],
        context=positions[1],
        prompt_length=0 if null is None else int(null.shape[0]),
    )


def infer_opening(special: int, block_size: int | None, *, origin: str) -> Opening:
    """The opening that a number of special ids means: none prefix, 1 bov, a whole block hybrid.

    With blocks of one token hybrid and bov are the same sequence. `block_size`: None if unknown.
    """
    if special == 0:
        return Opening("prefix")
    if special == 1:
        return Opening("bov")
    if special > 1 and block_size in (special, None):
        return Opening("hybrid")
    raise CheckpointError(
        f"{origin}: tok_emb.weight leaves {special} special ids beside codes and prompt, but "
        f"blocks of {block_size} tokens need 0 (prefix), 1 (bov) or {block_size} (hybrid). "
        "Check --block, --classes and --levels."
    )


def make_generator_rules(layers: int, *, prompt: bool) -> tuple[list[Rule], list[Drop]]:
    """The table for a generator of `layers` layers, with a null prompt where it is conditional."""
    root = "transformer/layers"
    linear = transpose_linear
    qkv = ("query", "key", "value")
    rules = [
        Rule("tok_emb.weight", "tokens"),
        Rule("pos_emb", "positions/table", drop_batch),
        Rule("ln_f.weight", "transformer/norm/scale"),
        Rule("ln_f.bias", "transformer/norm/bias"),
        Rule("head.weight", "head/kernel", linear),
        Rule(
            tuple(f"blocks.{{i}}.attn.{part}.weight" for part in qkv),
            f"{root}/qkv/kernel",
            linear,
            layers,
        ),
        Rule(
            tuple(f"blocks.{{i}}.attn.{part}.bias" for part in qkv),
            f"{root}/qkv/bias",
            layers=layers,
        ),
    ]
    for theirs, ours in (("ln1", "norm1"), ("ln2", "norm2")):
        rules.append(Rule(f"blocks.{{i}}.{theirs}.weight", f"{root}/{ours}/scale", layers=layers))
        rules.append(Rule(f"blocks.{{i}}.{theirs}.bias", f"{root}/{ours}/bias", layers=layers))
    for theirs, ours in (("attn.proj", "proj"), ("mlp.0", "mlp/up"), ("mlp.2", "mlp/down")):
        rules.append(Rule(f"blocks.{{i}}.{theirs}.weight", f"{root}/{ours}/kernel", linear, layers))
        rules.append(Rule(f"blocks.{{i}}.{theirs}.bias", f"{root}/{ours}/bias", layers=layers))
    drops = [MASKS]
    if prompt:
        rules.append(Rule("uncond_embedding", "null_prompt"))
    else:
        drops.append(Drop("uncond_embedding", "empty: the model has no condition"))
    return rules, drops


# Tokenizer ---------------------------------------------------------------------------------------


def infer_tokenizer(
    tensors: Tensors, *, levels: tuple[int, ...], groups: int = GROUPS, origin: str
) -> TokenizerSpec:
    """Widths, units and strides off the shapes; levels and groups leave no trace in them.

    Raises CheckpointError where this is no tokenizer or `levels` do not fit its latent channels.
    """
    down = _list_layers(tensors, "encoder_layers", origin=origin)
    up = _list_layers(tensors, "decoder_layers", origin=origin)
    widths: list[int] = []
    units: list[int] = []
    width, stage_units = down[0].outputs, 0
    for layer in down[1:]:
        if layer.residual:
            width, stage_units = layer.outputs, stage_units + 1
        else:  # a strided convolution ends a stage, the norm behind the last unit the last one
            widths.append(width)
            units.append(stage_units)
            stage_units = 0
            if not layer.convolution:
                break
    strides: list[Stride] = []
    inner = [layer for layer in up[1:-1] if layer.convolution and not layer.residual]
    for layer in reversed(inner):
        factor = layer.outputs // layer.inputs
        if factor not in UNET_STRIDES or layer.outputs % layer.inputs:
            raise CheckpointError(
                f"{origin}: {layer.name} {layer.inputs} -> {layer.outputs} channels is no "
                "up-sampling by 2, 4 or 8"
            )
        strides.append(UNET_STRIDES[factor])
    channels = down[-1].outputs
    if channels != len(levels):
        raise CheckpointError(
            f"{origin}: {down[-1].name} has {channels} latent channels, --levels names "
            f"{len(levels)}: {levels}"
        )
    try:
        return TokenizerSpec(tuple(widths), tuple(units), tuple(strides), levels, groups)
    except ValueError as error:
        raise CheckpointError(f"{origin}: {error}") from error


def make_tokenizer_rules(spec: TokenizerSpec) -> tuple[list[Rule], list[Drop]]:
    """The table for a tokenizer: the entries of both layer lists, in order."""
    encoder: list[str] = ["conv"]
    width = spec.widths[0]
    for stage, outputs in enumerate(spec.widths):
        for _ in range(spec.units[stage]):
            encoder.append("unit" if width == outputs else "projected")
            width = outputs
        encoder += ["conv"] if stage < len(spec.strides) else ["norm", "swish", "bare"]
    decoder: list[str] = ["conv"]
    for stage in reversed(range(len(spec.widths))):
        for _ in range(spec.units[stage]):
            decoder.append("unit" if width == spec.widths[stage] else "projected")
            width = spec.widths[stage]
        decoder += ["up"] if stage else ["norm", "swish", "conv"]
    rules: list[Rule] = []
    for half, kinds in (("encoder", encoder), ("decoder", decoder)):
        theirs = 0
        for ours, kind in enumerate(kinds):
            rules += _make_layer_rules(f"{half}_layers.{theirs}", f"{half}/{ours}", kind)
            theirs += 2 if kind == "up" else 1  # depth-to-space is an entry of its own there
    return rules, [MASKS]


def _make_layer_rules(theirs: str, ours: str, kind: str) -> list[Rule]:
    """The rules of one entry of the encoder or decoder list."""

    def conv(source: str, target: str) -> list[Rule]:
        return [
            Rule(f"{source}.weight", f"{target}/kernel", transpose_conv3d),
            Rule(f"{source}.bias", f"{target}/bias"),
        ]

    def norm(source: str, target: str) -> list[Rule]:
        return [
            Rule(f"{source}.weight", f"{target}/scale"),
            Rule(f"{source}.bias", f"{target}/bias"),
        ]

    def swish(source: str, target: str) -> list[Rule]:
        return [Rule(f"{source}.beta", f"{target}/beta", flatten_channels)]

    simple = {
        "conv": conv(f"{theirs}.conv", ours),
        "up": conv(f"{theirs}.conv", f"{ours}/conv"),
        "bare": conv(theirs, ours),
        "norm": norm(theirs, ours),
        "swish": swish(theirs, ours),
    }
    if kind in simple:
        return simple[kind]
    rules: list[Rule] = []
    for part, first in ((1, 0), (2, 3)):
        rules += norm(f"{theirs}.fn.{first}", f"{ours}/norm{part}")
        rules += swish(f"{theirs}.fn.{first + 1}", f"{ours}/act{part}")
        rules += conv(f"{theirs}.fn.{first + 2}.conv", f"{ours}/conv{part}")
    if kind == "projected":
        rules += conv(f"{theirs}.residual_fn.0.conv", f"{ours}/shortcut")
    return rules


# Reading shapes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """One entry of `encoder_layers` or `decoder_layers`, as its shapes describe it."""

    name: str
    residual: bool
    convolution: bool
    inputs: int
    outputs: int


def _list_layers(tensors: Tensors, root: str, *, origin: str) -> list[_Layer]:
    layers = []
    for n in _find_indices(tensors, root):
        name = f"{root}.{n}"
        residual = f"{name}.fn.2.conv.weight" in tensors
        keys = [f"{name}.fn.2.conv.weight", f"{name}.conv.weight", f"{name}.weight"]
        found = next((key for key in keys if key in tensors), None)
        shape = () if found is None else tuple(tensors[found].shape)
        convolution = len(shape) == 5
        inputs, outputs = (shape[1], shape[0]) if convolution else (0, 0)
        layers.append(_Layer(name, residual, convolution, inputs, outputs))
    if len(layers) < 4 or not (layers[0].convolution and layers[-1].convolution):
        raise CheckpointError(f"{origin}: {root} does not begin and end with a convolution")
    return layers


def _count(tensors: Iterable[str], root: str, *, what: str, origin: str) -> int:
    """Number of entries `root.0.`, `root.1.`, ...; CheckpointError where one is missing."""
    found = _find_indices(tensors, root)
    gaps = sorted(set(range(max(found, default=0) + 1)) - set(found))
    if gaps:
        raise CheckpointError(
            f"{origin} is no official {what} checkpoint: no tensors {root}.{gaps[0]}.*"
        )
    return len(found)


def _find_indices(tensors: Iterable[str], root: str) -> list[int]:
    """All N of names `root.N.`, ascending."""
    matches = (re.match(rf"{root}\.(\d+)\.", name) for name in tensors)
    return sorted({int(match[1]) for match in matches if match})


def _find(tensors: Tensors, name: str, *, axes: int, what: str, origin: str) -> tuple[int, ...]:
    if name not in tensors:
        shown = ", ".join(list(tensors)[:3]) or "nothing"
        raise CheckpointError(
            f"{origin} is no official {what} checkpoint: it has no tensor {name}; it has {shown}"
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != axes:
        raise CheckpointError(f"{origin}: {name} is {list(shape)}, expected {axes} axes")
    return shape
