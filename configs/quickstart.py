# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Quickstart: a tokenizer and a next-block generator on moving shapes, on two CPU cores.

    python -m nbp.train --config configs/quickstart.py --workdir runs/quickstart

Variants: `:smoke` (a minute or two, for CI: shows that everything runs, learns nothing worth
seeing), `:joint` (tokens of a row drawn together: better clips), `:grids` (clips of two sizes;
draws any size), `:stream` (the same in a world without borders, whose labels change: for long
videos and stories) and `:hard` (more shapes, colours, motions, texture and pixels; for a GPU).
Other blocks: --config.generator.block=row (default), frame, token, or a box such as (1,2,2).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "quickstart"
    config.seed = 0
    config.data = dict(
        kind="moving_shapes",
        frames=9,
        size=32,
        validation_clips=256,
        moving_shapes=dict(
            shapes=("square", "disk", "triangle"),
            colours=("red", "green", "blue"),
            motions=("right", "left", "down", "up"),
            texture=12.0,
            radius=(0.27, 0.27),
            speeds=(1 / 32,),  # one pixel per frame: one token per latent frame
            snap=4,
        ),
    )
    # 9x32x32 pixels -> 3x8x8 tokens of 1,000 codes.
    config.tokenizer = dict(
        widths=(8, 16, 48),
        units=(0, 1, 1),
        strides=((2, 2, 2), (2, 2, 2)),
        levels=(8, 5, 5, 5),
        groups=4,
    )
    config.losses = dict(reconstruction="l2")
    config.generator = dict(
        recipe="modern",
        layers=4,
        heads=4,
        width=128,
        block="row",
        opening="hybrid",
        opening_blocks="frame",  # a row block cannot place a shape that nothing has placed yet
        prompt="label",
        null_probability=0.1,
    )
    # Two cores make norms and GELUs again faster than they fetch kept ones from memory.
    config.memory = dict(remat="dots")
    config.train = dict(
        tokenizer=dict(
            steps=600,
            batch=4,
            optimizer="muon",
            learning_rate=3e-3,
            warmup=100,
            weight_decay=0.0,
            ema=0.99,
        ),
        generator=dict(
            steps=1000,
            batch=8,
            optimizer="muon",
            learning_rate=2e-3,
            warmup=100,
            weight_decay=0.01,
            ema=0.99,
        ),
        log_every=50,
        checkpoint_every=500,
        evaluate_every=500,
        preview_every=500,
    )
    config.sampling = dict(top_p=0.8, guidance=1.0)
    config.evaluation = dict(protocol="moving-shapes", clips=256, samples=16)
    if variant == "smoke":
        config.update(SMOKE)
    elif variant == "grids":
        config.update(GRIDS)
    elif variant == "joint":
        with config.ignore_type():
            config.update(JOINT)
    elif variant == "stream":
        config.update(GRIDS)
        config.update(STREAM)
    elif variant == "hard":
        config.update(HARD)
    elif variant:
        raise KeyError("use smoke, joint, grids, stream or hard")
    return config


SMOKE = dict(
    name="quickstart:smoke",
    data=dict(validation_clips=16),
    generator=dict(layers=2, width=64),
    train=dict(
        tokenizer=dict(steps=12, warmup=2),
        generator=dict(steps=12, warmup=2),
        log_every=4,
        checkpoint_every=6,
        evaluate_every=12,
        preview_every=12,
    ),
    evaluation=dict(clips=16, samples=4),
)

# The tokens of a row know each other: nearly all clips show their label, in as many passes. With
# --config.generator.opening_blocks=1 still more than in the quickstart, in 31. docs/blocks.md.
JOINT = dict(
    name="quickstart:joint",
    generator=dict(
        head="joint",
        joint_head=dict(width=128),
        corruption=dict(share=0.2),
    ),
)

# Half of the updates are of 9 frames of 48x48 px, with half as many clips: docs/data.md.
GRIDS = dict(
    name="quickstart:grids",
    data=dict(grids=((9, 48, 48),)),
    generator=dict(positions="rotary"),
)

# A rolling window sees what clips of training show: shapes that leave the frame and come back, and
# in half of the clips another label from one of two latent frames on. docs/sampling.md.
STREAM = dict(
    name="quickstart:stream",
    data=dict(
        moving_shapes=dict(
            world=dict(
                border="wrap",
                start="anywhere",
                changes=(1, 5),
                changing=("shape", "colour", "motion"),
                change_share=0.3,
                changing_share=0.6,
            )
        )
    ),
    generator=dict(
        head="joint",
        joint_head=dict(width=128),
        corruption=dict(share=0.2),  # errors of a stream add up
    ),
    train=dict(generator=dict(steps=2000)),
)

HARD = dict(
    name="quickstart:hard",
    data=dict(
        frames=17,
        size=64,
        workers=8,
        moving_shapes=dict(
            shapes=("square", "disk", "triangle", "cross", "star"),
            colours=("red", "green", "blue", "yellow", "magenta", "cyan", "white"),
            motions=("right", "left", "down", "up", "northeast", "southwest", "orbit"),
            texture=30.0,
            distractors=2,
            radius=(0.15, 0.2),
            speeds=(0.03, 0.045, 0.06),
            snap=0,
        ),
    ),
    tokenizer=dict(
        widths=(64, 128, 256),
        units=(2, 2, 4),
        strides=((2, 4, 4), (2, 2, 2)),
        levels=(8, 8, 8, 5, 5, 5),
        groups=32,
    ),
    generator=dict(layers=12, heads=8, width=512),
    train=dict(
        tokenizer=dict(steps=30_000, batch=32, learning_rate=1e-3, warmup=1000),
        generator=dict(steps=60_000, batch=64, learning_rate=1e-3, warmup=2000),
    ),
)
