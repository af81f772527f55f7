# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which passes the flags of `nbp.sample` make, and which are refused."""

from typing import Any

import pytest

from nbp.build_sampling import make_decoding
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import ConfigError
from nbp.sampling.request import DecodingRequest, SampleRequest
from nbp.sampling.speculative import Autoregressive, RelaxedJacobi, SpeculativeJacobi


def load(**changes: str) -> Config:
    return load_config("configs/quickstart.py", {f"tokenizer.{k}": v for k, v in changes.items()})


def test_flags_make_decodings():
    config = load()

    def make(**asked: Any) -> object:
        return make_decoding(config, SampleRequest(1, decoder=DecodingRequest(**asked)))

    assert make() == Autoregressive()
    assert make(decoding="jacobi") == SpeculativeJacobi()
    assert make(decoding="jacobi", window=7) == SpeculativeJacobi(7)
    assert make(decoding="relaxed") == RelaxedJacobi((8, 5, 5, 5))
    relaxed = make(decoding="relaxed", window=2, radius=3, delta=0.5)
    assert relaxed == RelaxedJacobi((8, 5, 5, 5), 2, 3, 0.5)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"window": 4}, "--window is for --decoding jacobi or relaxed, not plain"),
        ({"decoding": "jacobi", "delta": 0.1}, "--delta is for --decoding relaxed, not jacobi"),
        ({"decoding": "jacobi", "window": 0}, "--decoding jacobi: window 0"),
        ({"decoding": "relaxed", "radius": 0}, "--decoding relaxed: radius 0"),
        ({"decoding": "relaxed", "delta": -0.1}, "--decoding relaxed: delta -0.1"),
    ],
)
def test_wrong_flags_are_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        make_decoding(load(), SampleRequest(1, decoder=DecodingRequest(**asked)))


def test_near_codes_are_those_of_the_tokenizer():
    request = SampleRequest(1, decoder=DecodingRequest(decoding="relaxed"))
    bits = load(quantizer="lfq", codes="16", levels="()")
    assert make_decoding(bits, request) == RelaxedJacobi((2, 2, 2, 2))
    vectors = load(quantizer="vq", codes="6", code_channels="2", levels="()")
    with pytest.raises(ConfigError, match="this tokenizer has vq. Use --decoding jacobi"):
        make_decoding(vectors, request)
