# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""Kinetics-600 frame prediction, opening by given frames: the paper's "700M" (base) generator.

    python -m nbp.train --config configs/k600/generator_700m.py \
        --workdir DIR --config.data.root=VIDEOS

DIR already holds the tokenizer: trained with configs/k600/tokenizer.py, or converted.
884,431,872 trained parameters. Hardware of the release: 32 devices x 2 clips.
Expected: gFVD 25.5 (paper; 50,000 samples at 64 px, 5 given frames).
"""

from ml_collections import ConfigDict

from configs.paper import make_config, set_generator, set_training


def get_config() -> ConfigDict:
    config = make_config("k600/generator_700m", fps=16.0)  # release: parser default of training
    set_generator(
        config,
        "700m",
        opening="prefix",  # release: trained on all frames, 2 latent frames given when sampling
        prompt="none",
        dtype="float32",  # release: fp32
    )
    set_training(
        config,
        learning_rate=1e-3,  # release, not scaled by the batch
        steps=4_000_000,  # release
        warmup=10_000,  # release
        batch=64,  # release: 32 devices x 2 clips
    )
    config.evaluation = dict(given_frames=2, clips=50_000)  # release
    return config
