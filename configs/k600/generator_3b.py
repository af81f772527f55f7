# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""Kinetics-600 frame prediction, opening by given frames: the paper's 3B generator.

    python -m nbp.train --config configs/k600/generator_3b.py \
        --workdir DIR --config.data.root=VIDEOS

DIR already holds the tokenizer: trained with configs/k600/tokenizer.py, or converted.
4,034,107,392 trained parameters. Hardware of the release: 32 devices x 1 clip x 2 micro-batches.
Expected: gFVD 19.5 (paper; 50,000 samples at 64 px, 5 given frames).
"""

from ml_collections import ConfigDict

from configs.paper import make_config, set_generator, set_training


def get_config() -> ConfigDict:
    config = make_config("k600/generator_3b", fps=16.0)  # release: parser default of training
    set_generator(
        config,
        "3b",
        opening="prefix",  # release: trained on all frames, 2 latent frames given when sampling
        prompt="none",
        dtype="bfloat16",  # release: bf16 with DeepSpeed stage 1
    )
    set_training(
        config,
        learning_rate=2e-4,  # release, not scaled by the batch
        steps=2_000_000,  # release: 4,000,000 micro-batches
        warmup=5_000,  # release: 10,000 micro-batches
        batch=64,  # release: 32 devices x 1 clip x 2 micro-batches
        accumulate=2,  # release
        gradients="sum",  # release: micro-batches are summed, not averaged
    )
    config.evaluation = dict(given_frames=2, clips=50_000)  # release
    return config
