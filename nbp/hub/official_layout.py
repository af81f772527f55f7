# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Our parameters in the layout of the official PyTorch release: the way back of `nbp.convert`.

Names, shapes and values are those of the release's files (docs/official_parity.md); the rules are
the ones that read them, run backwards.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError, ConfigError
from nbp.interop.mapping import export_tensors
from nbp.interop.official import infer_tokenizer, make_generator_rules, make_tokenizer_rules
from nbp.layout import Box, LatentGrid
from nbp.shapes import PyTree

Tensors = dict[str, np.ndarray]
ROOTS = {"generator": "transformer.", "tokenizer": "module."}  # of a stage's file
FIRST_STAGE = "first_stage_model."  # of the tokenizer in the generator's file

README = """\
# {name}, in the layout of the official release

{files}

These are the `state_dict`s of the official PyTorch code, float32. PyTorch files of them:

```python
{snippet}
```

`python -m nbp.convert` reads these files as they are. Heads and FSQ levels leave no trace in the
tensors: {traces}.
"""
SNIPPETS = {
    "tokenizer": 'torch.save({"model_state_dict": load_file("tokenizer.safetensors")},'
    ' "tokenizer.pt")',
    "generator": 'torch.save({"state_dict": load_file("generator.safetensors")}, "generator.ckpt")',
}


def check_counterpart(config: Config, *, generator: bool) -> None:
    """ConfigError, in one line, where the official code has no such model.

    generator: whether there is one beside the tokenizer. Sizes are looked at in
    `make_tokenizer_tensors`.
    """
    _require("tokenizer.quantizer", config.tokenizer.quantizer, "fsq")
    if not generator:
        return
    chosen, opening = config.generator, config.opening
    _require("generator.recipe", chosen.recipe, "paper")
    _require("generator.head", chosen.head, "vocabulary")
    _require("generator.draft", chosen.draft, False)
    _require("generator.partition", chosen.partition, "box")
    _require("generator.blocks", chosen.blocks, ())
    _require("generator.special_ids", config.vocabulary(0).special, config.plan.special_count)
    if not _is_run(config.block, config.grid):
        raise _refuse("generator.block", config.block, "a run of tokens, such as row or frame")
    if opening.kind == "hybrid":
        _require("generator.opening_blocks", opening.blocks, 1)
    if chosen.prompt == "text":
        padding = "hidden" if opening.kind == "bov" else "visible"
        _require("generator.padding", chosen.padding, padding)


def _require(key: str, value: object, wanted: object) -> None:
    if value != wanted:
        raise _refuse(key, value, wanted)


def _refuse(key: str, value: object, needs: object) -> ConfigError:
    return ConfigError(
        f"--format official: the release has no model with {key}={value} (it has {needs}); "
        "use --format safetensors"
    )


def _is_run(block: Box, grid: LatentGrid) -> bool:
    """Whether a block is a run of places in raster order, as all official ones are."""
    (bt, bh, bw), (_, h, w) = block, grid.shape
    return (bt, bh) == (1, 1) or (bt, bw) == (1, w) or (bh, bw) == (h, w)


def make_generator_tensors(params: PyTree) -> Tensors:
    """The official tensors of a generator of the recipe `paper`, without the file's prefix."""
    layers = params["transformer"]["layers"]["qkv"]["kernel"].shape[0]
    rules, _ = make_generator_rules(layers, prompt="null_prompt" in params)
    tensors = export_tensors(params, rules)
    if "null_prompt" not in params:  # the release stores an empty buffer
        tensors["uncond_embedding"] = np.zeros((0, params["tokens"].shape[1]), np.float32)
    return tensors


def make_tokenizer_tensors(config: Config, params: PyTree) -> Tensors:
    """The official tensors of a tokenizer, without the file's prefix.

    Raises ConfigError where reading them back would not give the same network.
    """
    spec = dataclasses.replace(config.tokenizer, remat="none", dtype="float32")
    tensors = export_tensors(params, make_tokenizer_rules(spec)[0])
    try:
        found = infer_tokenizer(tensors, levels=spec.levels, origin="the tokenizer")
    except CheckpointError as error:
        raise ConfigError(f"--format official: {error}; use --format safetensors") from error
    fields = [field.name for field in dataclasses.fields(spec)]
    wrong = [name for name in fields if getattr(found, name) != getattr(spec, name)]
    if wrong:
        key = wrong[0]
        raise _refuse(f"tokenizer.{key}", getattr(spec, key), getattr(found, key))
    return tensors


def describe_files(config: Config, params: Mapping[StageName, PyTree]) -> dict[StageName, Tensors]:
    """The files of a model by their names without ending: full official names, and tensors.

    As in the release, the generator's file has the tokenizer too. Errors as above.
    """
    check_counterpart(config, generator="generator" in params)
    files: dict[StageName, Tensors] = {}
    bare: Tensors = {}
    if "tokenizer" in params:
        bare = make_tokenizer_tensors(config, params["tokenizer"])
        root = ROOTS["tokenizer"]
        files["tokenizer"] = {root + name: tensor for name, tensor in bare.items()}
    if "generator" in params:
        own = make_generator_tensors(params["generator"])
        root = ROOTS["generator"]
        files["generator"] = {root + name: tensor for name, tensor in own.items()}
        files["generator"] |= {FIRST_STAGE + name: tensor for name, tensor in bare.items()}
    return files


def make_readme(config: Config, files: Mapping[StageName, Tensors]) -> str:
    """What the folder says of itself, with the lines that make PyTorch files."""
    snippet = ["import torch", "from safetensors.torch import load_file", ""]
    snippet += [SNIPPETS[stage] for stage in files]
    traces = [f"levels {','.join(map(str, config.tokenizer.levels))}"]
    if "generator" in files:
        traces.insert(0, f"{config.generator.heads} heads")
        traces.append(f"block {config.generator.block}, opening {config.generator.opening}")
    listed = [
        f"* `{stage}.safetensors`: {len(tensors):,} tensors, "
        f"{sum(tensor.size for tensor in tensors.values()):,} numbers"
        for stage, tensors in files.items()
    ]
    return README.format(
        name=config.name,
        files="\n".join(listed),
        snippet="\n".join(snippet),
        traces="; ".join(traces),
    )
