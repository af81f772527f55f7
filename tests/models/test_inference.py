# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters laid out for decoding: the same numbers, once in memory, in pieces on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np

from nbp.layout import LatentGrid, Opening
from nbp.models.inference import (
    PackedParams,
    bind_inference_model,
    make_inference_model,
    pack_params,
)
from nbp.parallel.mesh import make_mesh
from tests.models.toy import draw_params, make_network

NETWORK = make_network(LatentGrid(2, 2, 2), (1, 1, 2), Opening("bov"), prompt=1, codes=16)


def copy_params() -> dict:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0, draw_params(NETWORK))


def test_laid_out_parameters_are_those_of_the_program():
    inside = make_inference_model(NETWORK.bind(copy_params()))
    params = copy_params()
    laid = pack_params(NETWORK, params)
    outside = bind_inference_model(NETWORK, laid)
    for one, other in zip(
        jax.tree.leaves((inside.layers, inside.head)),
        jax.tree.leaves((outside.layers, outside.head)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert outside.head is not None
    np.testing.assert_array_equal(outside.head.rows, draw_params(NETWORK)["head"]["kernel"].T)
    kernels = (params["head"]["kernel"], params["transformer"]["layers"]["qkv"]["kernel"])
    assert all(kernel.is_deleted() for kernel in kernels)
    assert not params["tokens"].is_deleted()


def test_integers_take_a_quarter():
    def measure(laid: PackedParams) -> int:
        return sum(m.rows.nbytes for layer in laid.layers for m in (layer.qkv, layer.up))

    whole = measure(pack_params(NETWORK, copy_params()))
    assert measure(pack_params(NETWORK, copy_params(), weights="int8")) * 4 == whole


def test_a_mesh_splits_heads_mlps_and_vocabulary():
    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    laid = pack_params(NETWORK, copy_params(), mesh=mesh)
    layer, head = laid.layers[0], laid.head
    assert head is not None
    pieces = {
        "qkv": (layer.qkv.rows, (24, 16)),
        "proj": (layer.proj.rows, (16, 8)),
        "up": (layer.up.rows, (32, 16)),
        "down": (layer.down.rows, (16, 32)),
        "down bias": (layer.down.bias, (16,)),
        "head": (head.rows, (8, 16)),
        "norm": (layer.norm1.scale, (16,)),
    }
    for name, (array, shape) in pieces.items():
        assert {piece.data.shape for piece in array.addressable_shards} == {shape}, name
