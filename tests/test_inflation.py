# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""An inflated image tokenizer does to each latent frame what the image tokenizer does to one."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from nbp.errors import CheckpointError
from nbp.init_from import inflate
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec, scale_pixels
from nbp.nn.conv3d import taps_conv
from tests.models.toy import draw_params

IMAGE = TokenizerSpec(
    widths=(4, 6), units=(1, 1), strides=((1, 2, 2),), levels=(8, 5), groups=2, taps=1
)
VIDEO = dataclasses.replace(IMAGE, strides=((2, 2, 2),), taps=3)
CLIPS = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def image_params() -> Any:
    return draw_params(TokenizerNetwork(IMAGE, taps_conv))


def reconstruct(spec: TokenizerSpec, params: Any, clips: np.ndarray) -> tuple[Any, Any]:
    network = TokenizerNetwork(spec, taps_conv)
    found = jax.jit(lambda p, x: network.bind(p).reconstruct(scale_pixels(x)))(params, clips)
    return np.asarray(found.codes), np.asarray(found.output)


def test_every_latent_frame_is_that_of_its_last_image(image_params: Any) -> None:
    codes, output = reconstruct(VIDEO, inflate(image_params, IMAGE, VIDEO), CLIPS)
    images = CLIPS[:, ::2].reshape(-1, 1, 8, 8, 3)
    expected = [a.reshape(2, 3, *a.shape[2:]) for a in reconstruct(IMAGE, image_params, images)]
    assert len(np.unique(codes)) > 4
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_allclose(output, expected[1][:, [0, 1, 1, 2, 2]], atol=1e-5)
    assert np.ptp(output) > 0.1


def test_a_single_frame_is_the_image(image_params: Any) -> None:
    params = inflate(image_params, IMAGE, VIDEO)
    codes, output = reconstruct(IMAGE, image_params, CLIPS[:, :1])
    inflated = reconstruct(VIDEO, params, CLIPS[:, :1])
    np.testing.assert_array_equal(inflated[0], codes)
    np.testing.assert_allclose(inflated[1], output, atol=1e-5)  # the compiler orders the sums


def test_a_codebook_is_taken_over() -> None:
    image = dataclasses.replace(IMAGE, quantizer="vq", levels=(), codes=6, code_channels=2)
    video = dataclasses.replace(image, taps=2)
    params = jax.jit(TokenizerNetwork(image, taps_conv).init)(jax.random.key(0))
    inflated = inflate(params, image, video)
    np.testing.assert_array_equal(inflated["quantizer"]["sums"], params["quantizer"]["sums"])
    kernel = params["encoder"][0]["kernel"]
    assert kernel.shape == (1, 3, 3, 3, 4)
    np.testing.assert_array_equal(inflated["encoder"][0]["kernel"][1], kernel[0])
    assert not np.any(inflated["encoder"][0]["kernel"][0])


@pytest.mark.parametrize(
    "source,target,message",
    [
        ({"widths": (8, 6)}, {}, r"widths \(8, 6\) there, \(4, 6\) here"),
        ({}, {"units": (1, 0)}, r"units \(1, 1\) there, \(1, 0\) here"),
        ({}, {"levels": (8, 8)}, r"levels \(8, 5\) there, \(8, 8\) here"),
        ({}, {"strides": ((2, 4, 2),)}, r"strides .* there, \(\(2, 4, 2\),\) here"),
        ({"taps": 3}, {}, "taps 3 there, 3 here: only taps 1"),
        ({}, {"taps": 1, "strides": IMAGE.strides}, "nothing to inflate to"),
    ],
)
def test_other_differences_are_refused(source: Any, target: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        inflate({}, dataclasses.replace(IMAGE, **source), dataclasses.replace(VIDEO, **target))
