# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizer: sizes, causality of encoder and decoder by gradient, pixels in and out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.layout import LatentGrid
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork, TokenizerSpec, scale_pixels
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
            "decoded latents": model.decode_latents(SPEC.make_quantizer().lookup(codes, {})),
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
    network = TokenizerNetwork(OFFICIAL_SPEC, lax_conv)
    model = nnx.eval_shape(lambda: network.build(jax.random.key(0)))
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part)))
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert sizes == {"encoder": 144_886_790, "decoder": 225_485_315}
    assert len(jax.tree.leaves(nnx.state(model))) == 434
    assert OFFICIAL_SPEC.stride == (4, 8, 8)
    video = jax.ShapeDtypeStruct((1, 17, 128, 128, 3), jnp.float32)
    codes = jax.eval_shape(lambda m, x: m.encode(x), model, video)
    assert codes.shape == (1, 5, 16, 16)
    assert jax.eval_shape(lambda m, x: m.decode(x), model, codes).shape == video.shape


def test_grid():
    assert OFFICIAL_SPEC.grid(17, 128, 128) == LatentGrid(5, 16, 16)
    assert OFFICIAL_SPEC.grid(1, 8, 24) == LatentGrid(1, 1, 3)
    with pytest.raises(ValueError, match=r"16 frames.*4\*m \+ 1 frames. Use 13 or 17"):
        OFFICIAL_SPEC.grid(16, 128, 128)
    with pytest.raises(ValueError, match="Use 1 or 5"):
        OFFICIAL_SPEC.grid(0, 128, 128)
    with pytest.raises(ValueError, match=r"128x132 px.*multiples of 8 and 8"):
        OFFICIAL_SPEC.grid(17, 128, 132)


def test_inconsistent_specs_are_refused():
    with pytest.raises(ValueError, match="3 widths needs 3 units and 2 strides, has 4 and 3"):
        dataclasses.replace(OFFICIAL_SPEC, widths=(32, 32, 32))
    with pytest.raises(ValueError, match=r"widths \[48\] are not multiples of 32 groups"):
        dataclasses.replace(OFFICIAL_SPEC, widths=(32, 48), units=(1, 1), strides=((2, 2, 2),))


# Other quantizers, and tokenizers of images ----------------------------------------------------

KINDS = {
    "lfq": {"quantizer": "lfq", "levels": (), "codes": 16},
    "vq": {"quantizer": "vq", "levels": (), "codes": 12, "code_channels": 3},
}


def make_other(kind: str) -> TokenizerNetwork:
    small = {"widths": (4, 6), "units": (1, 0), "strides": ((2, 4, 4),)}
    return TokenizerNetwork(dataclasses.replace(SPEC, **small, **KINDS[kind]), taps_conv)


@pytest.fixture(scope="module", params=KINDS)
def other(request):
    """A tokenizer with another quantizer, and all that it does to a clip."""
    network = make_other(request.param)

    @jax.jit
    def run(params, video):
        def compute(params):
            found = network.bind(params).reconstruct(scale_pixels(video))
            return jnp.sum(found.output) + found.penalty, found

        gradient, found = jax.grad(compute, has_aux=True)(params)
        codes = network.encode(params, video)
        pixels = jnp.round(jnp.clip(found.output, 0.0, 1.0) * 255)
        moved = network.update_codebook(params, found.statistics)
        return {
            "found": (found.codes, found.penalty, found.metrics, pixels),
            "coded": (codes, network.decode(params, codes)),
            "gradient": gradient,
            "moved": moved,
        }

    params = jax.jit(network.init)(jax.random.key(1))
    return network, params, run(params, CLIP)


def test_other_quantizers_encode_and_decode_what_they_train(other):
    network, _, results = other
    codes, penalty, metrics, pixels = results["found"]
    assert codes.shape == (2, 5, 4, 2)
    assert codes.max() < network.spec.make_quantizer().codes
    assert penalty != 0
    assert metrics
    np.testing.assert_array_equal(results["coded"][0], codes)
    assert np.abs(pixels - results["coded"][1].astype(float)).max() <= 1  # rounding at the half


def test_only_vq_has_a_codebook_which_statistics_move_and_gradients_do_not(other):
    network, params, results = other
    kinds = {name: set(tree) for name, tree in (("before", params), ("after", results["moved"]))}
    codebook = {"quantizer"} if network.spec.quantizer == "vq" else set()
    assert kinds == dict.fromkeys(("before", "after"), {"encoder", "decoder"} | codebook)
    gradient = results["gradient"]
    if codebook:
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient.pop("quantizer")))
        old, new = params["quantizer"], results["moved"]["quantizer"]
        assert (np.asarray(old["shares"]) != new["shares"]).all()
    first, last = gradient["encoder"][0]["kernel"], gradient["decoder"][0]["kernel"]
    assert np.abs(first).max() > 0
    assert np.abs(last).max() > 0
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, params[part], results["moved"][part])


def test_an_average_takes_the_codebook_as_it_is(other):
    network, params, results = other
    moved, average = results["moved"], jax.tree.map(lambda x: x + 1.0, params)
    shared = network.share_codebook(moved, average)
    jax.tree.map(np.testing.assert_array_equal, shared["encoder"], average["encoder"])
    wanted = moved.get("quantizer", {})
    jax.tree.map(np.testing.assert_array_equal, shared.get("quantizer", {}), wanted)
    assert network.share_codebook(moved, {}) == {}


def test_every_quantizer_starts_from_the_same_encoder():
    spec = make_other("vq").spec
    changes = {"quantizer": "fsq", "levels": (4, 3, 3), "codes": 0, "code_channels": 0}
    fsq = TokenizerNetwork(dataclasses.replace(spec, **changes), taps_conv)
    one, two = (jax.jit(n.init)(jax.random.key(4)) for n in (fsq, make_other("vq")))
    assert "quantizer" not in one
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, one[part], two[part])


def test_one_tap_looks_at_each_frame_alone():
    spec = dataclasses.replace(SPEC, strides=((1, 2, 2), (1, 2, 2), (1, 2, 2)), taps=1)
    network = TokenizerNetwork(spec, taps_conv)
    params = draw_params(network)
    kernels = {leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 5}
    assert kernels == {1}
    assert spec.grid(2, 16, 8) == LatentGrid(2, 2, 1)
    run = jax.jit(lambda v: network.bind(params).reconstruct(scale_pixels(v)).output)
    apart = CLIP[:1, [3, 7]].reshape(2, 1, 16, 8, 3)
    together = np.asarray(run(CLIP[:1, [3, 7]]))
    np.testing.assert_allclose(together[0], np.asarray(run(apart))[:, 0], atol=1e-5)
    assert np.ptp(together) > 0.1


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"taps": 1}, r"taps 1 with time stride 4.*Use strides \(1, h, w\)"),
        ({"taps": 0}, "at least 1 frame"),
        ({"quantizer": "lfq", "codes": 16}, r"lfq is made of codes alone, not of levels \(4, 3\)"),
        ({"quantizer": "vq", "levels": (), "codes": 16}, "VQ with 16 codes of 0 channels"),
        ({"quantizer": "lfq", "levels": (), "codes": 12}, "power of two"),
        (
            {"quantizer": "lfq", "levels": (), "codes": 8, "code_channels": 3},
            "not of code_channels 3",
        ),
        ({"codes": 12}, "fsq is made of levels alone, not of codes 12"),
    ],
)
def test_quantizers_and_taps_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        assert dataclasses.replace(SPEC, **changes).make_quantizer()


@pytest.mark.slow
def test_recomputed_units_give_the_same_gradients_and_keep_less():
    spec = TokenizerSpec(widths=(4,), units=(2,), strides=(), levels=(4, 3), groups=2)
    params = draw_params(TokenizerNetwork(spec, taps_conv))
    pixels = scale_pixels(CLIP[:1, :3, :8])

    def compare(remat: str):
        network = TokenizerNetwork(dataclasses.replace(spec, remat=remat), taps_conv)

        def loss(params):
            return jnp.mean((network.bind(params).reconstruct(pixels).output - pixels) ** 2)

        kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return jax.jit(jax.value_and_grad(loss))(params), sum(a.size for a in jax.tree.leaves(kept))

    (loss, gradients), kept = compare("none")
    (same_loss, same_gradients), kept_less = compare("units")
    np.testing.assert_allclose(same_loss, loss, rtol=1e-6)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(same_gradients), strict=True)
    for gradient, same in pairs:
        np.testing.assert_allclose(same, gradient, rtol=1e-4, atol=1e-6)
    parameters = sum(a.size for a in jax.tree.leaves(params))
    assert kept_less - parameters < 0.5 * (kept - parameters)
