# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""Kinetics-600 frame prediction, opening by given frames: the paper's "1B" (xl) generator.

    python -m nbp.train --config configs/k600/generator_1b.py \
        --workdir DIR --config.data.root=VIDEOS

DIR already holds the tokenizer: trained with configs/k600/tokenizer.py, or converted.
1,481,232,384 trained parameters. Hardware of the release: 64 devices x 1 clip.
Expected: none published for this size; between gFVD 25.5 (700M) and 19.5 (3B).
"""

from ml_collections import ConfigDict

from configs.paper import make_config, set_generator, set_training


def get_config() -> ConfigDict:
    config = make_config("k600/generator_1b", fps=16.0)  # release: parser default of training
    set_generator(
        config,
        "1b",
        opening="prefix",  # release: trained on all frames, 2 latent frames given when sampling
        prompt="none",
        dtype="float32",  # release: fp32
    )
    set_training(
        config,
        learning_rate=5e-4,  # release, not scaled by the batch
        steps=4_000_000,  # release
        warmup=10_000,  # release
        batch=64,  # release: 64 devices x 1 clip
    )
    config.evaluation = dict(given_frames=2, clips=50_000)  # release
    return config
