# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of real videos, one sub-folder per class, at 64 x 64 pixels; sized for a CPU.

    python -m nbp.train --config configs/folder.py --workdir runs/folder --config.data.root=DIR

With a handful of videos it learns them by heart, which shows that everything works on your data.
The generator continues given first frames: each clip starts from one latent frame (one real
frame) and the rest is generated in row blocks (opening `prefix`).
Other blocks: --config.generator.block=row (default), frame, token, or a box such as (1,2,2).
Held-out videos: set --config.data.validation=0.1 once there are dozens of videos.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "folder"
    config.data = dict(
        kind="folder",
        root="",
        frames=9,
        size=64,
        fps=8.0,
        spatial="crop",
        validation=0.0,  # 0: a few videos, used for training and for evaluation
        validation_clips=64,
    )
    # 9x64x64 pixels -> 5x16x16 tokens of 15,625 codes: a quarter of the paper's, because on a CPU
    # most of the generator's time would go into their logits.
    config.tokenizer = dict(
        widths=(8, 16, 48),
        units=(0, 1, 2),
        strides=((1, 2, 2), (2, 2, 2)),
        levels=(5, 5, 5, 5, 5, 5),
        groups=4,
    )
    config.losses = dict(reconstruction="l2")
    config.generator = dict(
        recipe="modern",
        layers=4,
        heads=4,
        width=128,
        block="row",
        opening="prefix",
        prompt="none",
    )
    config.train = dict(
        tokenizer=dict(
            steps=1350,
            batch=1,
            optimizer="muon",
            learning_rate=3e-3,
            warmup=50,
            weight_decay=0.0,
            ema=0.99,
        ),
        generator=dict(
            steps=1500,
            batch=1,
            optimizer="muon",
            learning_rate=2e-3,
            warmup=50,
            weight_decay=0.01,
            ema=0.99,
        ),
        log_every=50,
        checkpoint_every=500,
        evaluate_every=500,
        preview_every=500,
        preview_clips=6,
    )
    config.evaluation = dict(protocol="folder", clips=6, samples=6, given_frames=1)
    # Tokens of a row are drawn without knowing each other: after this little training a rare one
    # spoils what follows.
    config.sampling = dict(top_p=0.6, fps=8.0)
    return config
