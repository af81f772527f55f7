# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
r"""The paper's video tokenizer on UCF101: 370,372,105 parameters, 64,000 codes.

    python -m nbp.train --config configs/ucf101/tokenizer.py \
        --workdir DIR --config.data.root=VIDEOS

The architecture is the published one. The release holds neither its training code nor its
hyper-parameters, so those are ours, and plain reconstruction stands in for adversarial training.
Hardware: 8 or more devices of 40 GB. Published weights: rFVD 15.5 (release, all 17 frames); to use
them, convert them instead (docs/official_parity.md).
"""

from ml_collections import ConfigDict

from configs.paper import make_config


def get_config() -> ConfigDict:
    config = make_config("ucf101/tokenizer", fps=8.0)
    config.stages = ("tokenizer",)
    return config
