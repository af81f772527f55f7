# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""A video tokenizer at 9x64x64 with every loss on, trained on a CPU in about 20 minutes.

    python -m nbp.train --config configs/tokenizer_small.py:shapes --workdir runs/shapes
    python -m nbp.train --config configs/tokenizer_small.py:clips --workdir runs/clips \
        --config.data.root=VIDEOS

`shapes` makes its own clips; `clips` takes a folder of videos, one sub-folder per class.
`shapes_reconstruction` and `clips_reconstruction` are the same runs with the reconstruction loss
alone: same seed, data, steps and optimizer, for comparison (docs/tokenizer_training.md).
"""

from ml_collections import ConfigDict

STEPS = {"shapes": 1500, "clips": 1000}


def get_config(variant: str = "") -> ConfigDict:
    variant = variant or "shapes"
    steps = STEPS.get(variant.partition("_")[0], 0)
    config = ConfigDict()
    config.name = f"tokenizer_small:{variant}"
    config.stages = ("tokenizer",)
    config.data = dict(frames=9, size=64, validation_clips=64)
    if variant == "shapes" or variant == "shapes_reconstruction":
        config.update(dict(data=SHAPES))
    elif variant == "clips" or variant == "clips_reconstruction":
        config.update(dict(data=FOLDER))
    else:
        raise KeyError("use shapes, clips, shapes_reconstruction or clips_reconstruction")
    # 9x64x64 pixels -> 5x16x16 tokens of 15,625 codes.
    config.tokenizer = dict(
        widths=(8, 16, 48),
        units=(0, 1, 2),
        strides=((1, 2, 2), (2, 2, 2)),
        levels=(5, 5, 5, 5, 5, 5),
        groups=4,
    )
    config.losses = dict(reconstruction="charbonnier")
    if variant == "shapes" or variant == "clips":
        config.update(EVERY_LOSS)
        config.update(dict(adversarial=dict(start=steps // 2, warmup=steps // 10)))
    config.generator = dict(layers=2, heads=2, width=64)  # not trained here
    config.train = dict(
        tokenizer=dict(
            steps=steps,
            batch=1,
            optimizer="muon",
            learning_rate=3e-3,
            warmup=50,
            weight_decay=0.0,
            ema=0.99,
        ),
        generator=dict(steps=1, batch=1, learning_rate=1e-3, warmup=0),
        log_every=50,
        checkpoint_every=250,
        evaluate_every=250,
        preview_every=500,
        preview_clips=6,
        guards=dict(non_finite="rollback", divergence="rollback"),
    )
    return config


SHAPES = dict(
    kind="moving_shapes",
    moving_shapes=dict(
        shapes=("square", "disk", "triangle", "cross", "star"),
        colours=("red", "green", "blue", "yellow", "magenta", "cyan", "white"),
        texture=30.0,  # fine structure, which blur would lose
        distractors=2,
        radius=(0.15, 0.2),
    ),
)

FOLDER = dict(
    kind="folder",
    root="",
    fps=8.0,
    spatial="crop",
    validation=0.0,  # a few videos serve for training and for evaluation
)

EVERY_LOSS = dict(
    losses=dict(perceptual="structure", perceptual_weight=0.1),
    adversarial=dict(
        weight=0.1,
        objective="non_saturating",
        adaptive=True,
        # Of one clip at a time, still blurred, a discriminator is soon sure; ten times the learning
        # rate and a tenth of the regularizer had it right in every patch after 200 updates.
        regularizer="lecam",
        regularizer_weight=0.1,
        widths=(16, 32, 64),
        learning_rate=1e-4,
    ),
)
