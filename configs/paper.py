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
    # A stage that a file does not train still has to be described.
    tokenizer = dict(steps=1, batch=64, learning_rate=1e-4, warmup=0, ema=0.999)
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


def set_tokenizer(config: ConfigDict, *, steps: int) -> None:
    """Makes `config` train the tokenizer, by a recipe of ours: the release holds none.

    Sources: "Open-MAGVIT2" is TencentARC/SEED-Voken, configs/Open-MAGVIT2/gpu/
    ucf101_lfqfan_128_L.yaml and what it names, the nearest published training: widths, 17x128x128
    clips and rFVD (16 on UCF101) are like the paper's, the quantizer is another. Its pixels lie in
    [-1, 1], ours in [0, 1], which halves L1. "LARP" is hywang66/LARP, cfgs/larp_tokenizer.yaml;
    "OmniTokenizer" FoundationVision/OmniTokenizer, scripts/recons/train.sh, its joint stage;
    "MAGVIT" arXiv 2212.05199 and google-research/magvit; "VQGAN" CompVis/taming-transformers,
    configs/custom_vqgan.yaml; "Open-Sora" hpcaitech/Open-Sora, configs/vae/train/stage1.py.
    """
    config.stages = ("tokenizer",)
    network = dict(
        dtype="bfloat16",  # ours; Open-MAGVIT2 has 16 bits as well
        remat="units",  # ours: to have 8 clips on a device
    )
    config.losses = dict(
        reconstruction="l1",  # Open-MAGVIT2, LARP
        reconstruction_weight=2.0,  # Open-MAGVIT2: 1 on pixels in [-1, 1]
        perceptual="lpips",  # Open-MAGVIT2, LARP, OmniTokenizer
        perceptual_weight=1.0,  # Open-MAGVIT2, LARP
        lpips_root="",  # --config.losses.lpips_root=DIR, from nbp.convert lpips
    )
    config.adversarial = dict(
        weight=0.3,  # Open-MAGVIT2, LARP
        objective="non_saturating",  # MAGVIT; Open-MAGVIT2 for the tokenizer's side
        adaptive=False,  # Open-MAGVIT2, LARP, MAGVIT; VQGAN adapts
        start=20_000,  # ours, as we start from scratch; VQGAN 10,000; Open-MAGVIT2, from images, 0
        warmup=10_000,  # ours: the discriminator learns alone from step 10,000 on
        regularizer="lecam",  # Open-MAGVIT2, LARP; MAGVIT has R1
        regularizer_weight=0.05,  # Open-MAGVIT2; LARP 0.001
        widths=(64, 128, 256, 512),  # paper: PatchGAN; Open-MAGVIT2: in 3D, 64 channels, 3 strides
        learning_rate=1e-4,  # Open-MAGVIT2, LARP: that of the tokenizer
        b1=0.5,  # LARP
        b2=0.9,  # LARP
    )
    # Open-Sora: every fifth example is an image. Here a frame of the same videos, unless
    # --config.images.root=DIR names a folder of images (OmniTokenizer, MAGVIT: ImageNet).
    config.images = dict(batch=32)
    tokenizer = dict(
        steps=steps,
        batch=128,  # Open-MAGVIT2: 64 devices x 2 clips
        learning_rate=1e-4,  # Open-MAGVIT2, LARP
        optimizer="adamw",  # without decay Adam, as everywhere
        weight_decay=0.0,
        b1=0.5,  # LARP
        b2=0.9,  # LARP
        schedule="cosine",  # Open-MAGVIT2
        warmup=2000,  # ours; Open-MAGVIT2 two epochs, which are 150 steps
        final_fraction=0.01,  # Open-MAGVIT2
        clip_norm=1.0,  # OmniTokenizer
        ema=0.999,  # MAGVIT
    )
    # ours: back to the last checkpoint with half the adversarial weight, three times at most
    guards = dict(non_finite="rollback", divergence="rollback", rollbacks=3, soften=0.5)
    config.update(dict(tokenizer=network, train=dict(tokenizer=tokenizer, guards=guards)))


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
