# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the paper's experiments have in common; not a configuration of its own.

Sources: "paper" is arXiv 2502.07737; "release" the official PyTorch code at commit 421e936 (its
training scripts and argument parser); "ours" a value that neither of them states.
"""

from ml_collections import ConfigDict

# layers, heads, width (release, training scripts)
SIZES = {
    "700m": (24, 16, 1536),
    "1b": (24, 32, 2048),
    "3b": (32, 32, 3072),
    "10b": (32, 40, 5120),  # ours
}


def make_config(name: str, *, fps: float) -> ConfigDict:
    """Data and tokenizer, the same for both data sets: 17x128x128 -> 5x16x16 codes of 64,000."""
    config = ConfigDict()
    config.name = name
    config.seed = 1234  # release: seed_everything at training start
    config.data = dict(
        kind="folder",  # or records (nbp.prepare), tokens (nbp.encode): docs/data.md
        root="",  # --config.data.root=DIR, one sub-folder of videos per class
        frames=17,  # paper, release
        size=128,  # paper, release
        fps=fps,
        spatial="squash",  # release: frames are scaled without keeping their aspect
        flip=False,  # release
        validation=0.05,  # ours; the release has fixed lists of files
        check="headers",  # ours: decoding every file at start takes hours at this size
        workers=8,  # ours
    )
    config.tokenizer = dict(
        widths=(128, 256, 256, 512),  # release, as are units, strides, levels, groups
        units=(4, 4, 4, 8),
        strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        levels=(8, 8, 8, 5, 5, 5),  # paper: FSQ, 64,000 codes
        groups=32,
        dtype="float32",  # ours: bfloat16 is faster, and flips codes that lie near a boundary
    )
    # The release holds no tokenizer training; these numbers are ours.
    tokenizer = dict(
        steps=500_000,
        batch=64,
        learning_rate=1e-4,
        warmup=5000,
        b1=0.9,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema=0.999,
    )
    # A stage that a file does not train still has to be described.
    generator = dict(steps=1, batch=64, learning_rate=1e-3, warmup=0)
    config.train = dict(
        tokenizer=tokenizer,
        generator=generator,
        log_every=50,  # ours
        checkpoint_every=10_000,  # release
        evaluate_every=10_000,  # ours
        preview_every=10_000,  # ours
    )
    config.generator = dict(layers=24, heads=16, width=1536, recipe="paper", opening="prefix")
    # release: top_k 16000, top_p 0.9, temperature 1, no guidance
    config.sampling = dict(temperature=1.0, top_k=16_000, top_p=0.9, batch=8, fps=fps)
    return config


def set_generator(config: ConfigDict, size: str, **generator: object) -> None:
    """Makes `config` train a generator of the paper; the tokenizer comes from the same workdir."""
    layers, heads, width = SIZES[size]
    config.stages = ("generator",)
    network = dict(
        layers=layers,
        heads=heads,
        width=width,
        block="row",  # paper: 1x1x16 is the best block; release: block size 16
        context=5120,  # release: rows of the position table, most of them unused
        dropout=0.1,  # release: parser default of embedding and residual dropout
        null_probability=0.0,  # release: no script sets p_drop_cond
        **generator,
    )
    config.update(dict(generator=network))


def set_training(config: ConfigDict, **stage: object) -> None:
    """Optimizer of all generators of the release; `stage` holds what differs between them."""
    generator = dict(
        schedule="paper",  # release, quirks included; "cosine" is the corrected one
        b1=0.9,  # release
        b2=0.95,  # release
        weight_decay=0.01,  # release: weights of linear layers only
        clip_norm=1.0,  # release; under DeepSpeed most likely without effect (0 = off)
        **stage,
    )
    config.update(dict(train=dict(generator=generator)))
