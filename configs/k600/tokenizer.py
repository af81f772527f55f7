# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""The paper's video tokenizer on Kinetics-600: 370,372,105 parameters, 64,000 codes.

    python -m nbp.train --config configs/k600/tokenizer.py \
        --workdir DIR --config.data.root=VIDEOS

The architecture is the published one. The release holds neither its training code nor its
hyper-parameters, so those are ours, and plain reconstruction stands in for adversarial training.
Hardware: 8 or more devices of 40 GB. Published weights: rFVD 6.7 (release, all 17 frames); to use
them, convert them instead (docs/official_parity.md).
"""

from ml_collections import ConfigDict

from configs.paper import make_config


def get_config() -> ConfigDict:
    config = make_config("k600/tokenizer", fps=16.0)
    config.stages = ("tokenizer",)
    return config
