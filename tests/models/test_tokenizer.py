# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizer: sizes, causality of encoder and decoder by gradient, pixels in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.layout import LatentGrid
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec, scale_pixels
from nbp.nn.conv3d import lax_conv, taps_conv
from tests.models.toy import draw_params

# The official strides at toy width: 4*m + 1 frames, 8 pixels per token.
SPEC = TokenizerSpec(
    widths=(4, 4, 6, 8),
    units=(1, 0, 1, 0),
    strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
    levels=(4, 3),
    groups=2,
)
NETWORK = TokenizerNetwork(SPEC, taps_conv)
CLIP = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def params():
    return draw_params(NETWORK)


@pytest.fixture(scope="module")
def encoded(params):
    """Latents and codes of the clip, and what decides the first two latents."""

    @jax.jit
    def run(video):
        model = NETWORK.bind(params)
        latents, pull = jax.vjp(model.encode_latents, scale_pixels(video))
        early = jnp.zeros_like(latents).at[:, :2].set(jnp.cos(latents[:, :2]))
        return latents, pull(early)[0], NETWORK.encode(params, video)

    return run(CLIP)


@pytest.fixture(scope="module")
def image(params):
    """All ways through the tokenizer for the first frames alone."""

    @jax.jit
    def run(video):
        model = NETWORK.bind(params)
        pixels = scale_pixels(video)
        codes = NETWORK.encode(params, video)
        return {
            "codes": codes,
            "codes of pixels": model.encode(pixels),
            "reconstruction": model.reconstruct(pixels),
            "decoded latents": model.decode_latents(SPEC.quantizer.lookup(codes, {})),
            "decoded": NETWORK.decode(params, codes),
        }

    return run(CLIP[:, :1])


def test_first_two_latents_see_the_first_five_frames_only(encoded):
    influence = np.abs(encoded[1]).max(axis=(0, 2, 3, 4))
    assert (influence[:5] > 0).all()
    assert (influence[5:] == 0).all()


def test_first_five_frames_come_from_the_first_two_latents_only(params):
    quantized = np.random.default_rng(1).uniform(-1, 1, (1, 3, 2, 1, 2)).astype(np.float32)

    @jax.jit
    def run(quantized):
        video, pull = jax.vjp(lambda x: NETWORK.bind(params).decode_latents(x), quantized)
        early = jnp.zeros_like(video).at[:, :5].set(jnp.cos(video[:, :5]))
        return video, pull(early)[0]

    video, gradient = run(quantized)
    assert video.shape == (1, 9, 16, 8, 3)
    influence = np.abs(gradient).max(axis=(0, 2, 3, 4))
    assert (influence[:2] > 0).all()
    assert influence[2] == 0


def test_codes_of_a_clip_begin_with_the_codes_of_its_beginning(encoded, image):
    whole = np.asarray(encoded[2])
    assert whole.shape == (2, 3, 2, 1)
    assert whole.min() >= 0
    assert whole.max() < 12
    assert len(np.unique(whole)) > 1
    assert image["codes"].shape == (2, 1, 2, 1)
    np.testing.assert_array_equal(image["codes"], whole[:, :1])


def test_decoded_pixels_are_clipped_and_rounded(image):
    video, floats = np.asarray(image["decoded"]), np.asarray(image["decoded latents"])
    assert video.shape == (2, 1, 16, 8, 3)
    assert video.dtype == np.uint8
    assert floats.min() < 0
    assert floats.max() > 1, "a case in which clipping matters"
    expected = np.clip(floats.astype(np.float64), 0, 1) * 255
    assert np.abs(video - expected).max() < 0.501


def test_reconstruct_is_encode_then_decode(image):
    found = image["reconstruction"]
    np.testing.assert_array_equal(found.codes, image["codes"])
    np.testing.assert_array_equal(found.codes, image["codes of pixels"])
    np.testing.assert_allclose(found.output, image["decoded latents"], atol=1e-4)
    assert (found.penalty, found.metrics, found.statistics) == (0.0, {}, {})


def test_pixels_are_scaled_to_one():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)
    expected = np.arange(256).reshape(every.shape) / 255
    np.testing.assert_allclose(scale_pixels(every), expected, atol=1e-7)


def test_backends_give_the_same_tokenizer(params, encoded):
    model = TokenizerNetwork(SPEC, lax_conv).bind(params)
    latents = jax.jit(model.encode_latents)(scale_pixels(CLIP))
    np.testing.assert_allclose(latents, encoded[0], atol=1e-4)


def test_official_size():
    network = TokenizerNetwork(TokenizerSpec(), lax_conv)
    model = nnx.eval_shape(lambda: network.build(jax.random.key(0)))
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part)))
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert sizes == {"encoder": 144_886_790, "decoder": 225_485_315}
    assert len(jax.tree.leaves(nnx.state(model))) == 434
    assert TokenizerSpec().stride == (4, 8, 8)
    video = jax.ShapeDtypeStruct((1, 17, 128, 128, 3), jnp.float32)
    codes = jax.eval_shape(lambda m, x: m.encode(x), model, video)
    assert codes.shape == (1, 5, 16, 16)
    assert jax.eval_shape(lambda m, x: m.decode(x), model, codes).shape == video.shape


def test_grid():
    assert TokenizerSpec().grid(17, 128, 128) == LatentGrid(5, 16, 16)
    assert TokenizerSpec().grid(1, 8, 24) == LatentGrid(1, 1, 3)
    with pytest.raises(ValueError, match=r"16 frames.*4\*m \+ 1 frames. Use 13 or 17"):
        TokenizerSpec().grid(16, 128, 128)
    with pytest.raises(ValueError, match="Use 1 or 5"):
        TokenizerSpec().grid(0, 128, 128)
    with pytest.raises(ValueError, match=r"128x132 px.*multiples of 8 and 8"):
        TokenizerSpec().grid(17, 128, 132)


def test_inconsistent_specs_are_refused():
    with pytest.raises(ValueError, match="3 widths needs 3 units and 2 strides, has 4 and 3"):
        TokenizerSpec(widths=(32, 32, 32))
    with pytest.raises(ValueError, match=r"widths \[48\] are not multiples of 32 groups"):
        TokenizerSpec(widths=(32, 48), units=(1, 1), strides=((2, 2, 2),))
