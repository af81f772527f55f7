# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which attention serves where, what refuses to, and how kernels are divided among devices."""

import sys
import types

import jax
import jax.experimental.pallas
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.nn.attention import choose as backends
from nbp.nn.attention.choose import PLATFORMS, choose_attention, make_attention_backend
from nbp.nn.attention.cudnn import CudnnAttention
from nbp.nn.attention.mosaic import MosaicAttention, is_installed
from nbp.nn.attention.pallas import PallasAttention
from nbp.nn.attention.reference import dense_attention, prefix_attention
from nbp.nn.attention.splash import SplashAttention
from nbp.nn.transformer import make_policy
from nbp.parallel.hlo import Program, count_flops
from nbp.parallel.mesh import make_mesh
from tests.nn.devices import Gpu, make_mosaic

KERNELS = {
    "pallas": PallasAttention(interpret=True, tiles=(16, 16), backward_tiles=(16, 16)),
    "splash": SplashAttention(interpret=True),
    "cudnn": CudnnAttention("xla"),
}
if is_installed():
    KERNELS["mosaic"] = make_mosaic()


def make_arrays(batch: int, dtype=np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, 20, 4, 8)).astype(dtype) for _ in range(4)]


def test_auto_is_the_kernel_of_the_platform():
    found = {p: choose_attention("auto", p, "bfloat16") for p in ("cpu", "gpu", "tpu")}
    assert found == {"cpu": "prefix", "gpu": "pallas", "tpu": "splash"}
    assert choose_attention("dense", "tpu", "bfloat16") == "dense"
    backend = make_attention_backend("auto", platform="tpu", dtype="bfloat16")
    assert backend == SplashAttention()
    assert make_attention_backend("auto", platform="gpu", dtype="float32") == PallasAttention()
    assert make_attention_backend("auto", platform="cpu", dtype="float32") is prefix_attention
    assert make_attention_backend("cudnn", platform="gpu", dtype="bfloat16") == CudnnAttention()


def make_gpu(monkeypatch, capability: str, *, installed: bool = True) -> None:
    devices = jax.devices

    def find(kind: str | None = None):
        return [Gpu(compute_capability=capability)] if kind == "gpu" else devices(kind)

    monkeypatch.setattr(jax, "devices", find)
    monkeypatch.setattr(backends, "is_installed", lambda: installed)


@pytest.mark.parametrize(
    "capability, dtype, installed, expected",
    [
        ("9.0", "bfloat16", True, "mosaic"),
        ("10.3", "float16", True, "mosaic"),
        ("8.0", "bfloat16", True, "pallas"),
        ("12.0", "bfloat16", True, "pallas"),
        ("gfx942", "bfloat16", True, "pallas"),
        ("9.0", "float32", True, "pallas"),
        ("9.0", "bfloat16", False, "pallas"),
    ],
)
def test_auto_on_a_gpu_is_tokamax_where_it_serves(
    monkeypatch, capability, dtype, installed, expected
):
    make_gpu(monkeypatch, capability, installed=installed)
    assert choose_attention("auto", "gpu", dtype) == expected
    backend = make_attention_backend("auto", platform="gpu", dtype=dtype)
    assert backend == {"mosaic": MosaicAttention(), "pallas": PallasAttention()}[expected]


@pytest.mark.parametrize(
    "capability, dtype, installed, told",
    [
        ("9.0", "float32", True, "half precision, not in float32.*dtype=bfloat16"),
        ("8.6", "bfloat16", True, "compute capability 9 and 10, not for this one: use auto"),
        ("9.0", "bfloat16", False, r"needs tokamax.*pip install.*\[cuda\].* or use auto"),
    ],
)
def test_mosaic_refuses_what_it_cannot_do(monkeypatch, capability, dtype, installed, told):
    make_gpu(monkeypatch, capability, installed=installed)
    with pytest.raises(ConfigError, match=f"attention=mosaic .*{told}"):
        make_attention_backend("mosaic", platform="gpu", dtype=dtype)


@pytest.mark.parametrize(
    "capability, dtype, expected",
    [
        ("8.0", "bfloat16", "prefix"),
        ("9.0", "float32", "prefix"),
        ("gfx942", "bfloat16", "prefix"),
        ("9.0", "bfloat16", "mosaic"),
    ],
)
@pytest.mark.parametrize("left", ["nothing", "a module without its contents"])
def test_auto_outlives_the_triton_backend_of_jax(monkeypatch, capability, dtype, expected, left):
    """JAX will remove it: then nothing of ours may import it, and other backends serve."""
    make_gpu(monkeypatch, capability)
    rest = None if left == "nothing" else types.ModuleType("triton")
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", rest)
    monkeypatch.delattr(jax.experimental.pallas, "triton", raising=False)
    for module in ("pallas", "pallas_kernels"):
        monkeypatch.delitem(sys.modules, f"nbp.nn.attention.{module}", raising=False)
    assert choose_attention("auto", "gpu", dtype) == expected
    backend = make_attention_backend("auto", platform="gpu", dtype=dtype)
    assert backend == {"mosaic": MosaicAttention(), "prefix": prefix_attention}[expected]
    with pytest.raises(ConfigError, match=r"attention=pallas needs .*Triton.* JAX \d.*: use auto"):
        make_attention_backend("pallas", platform="gpu", dtype=dtype)
    assert "nbp.nn.attention.pallas_kernels" not in sys.modules


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_kernel_on_another_platform_is_refused(name):
    with pytest.raises(ConfigError, match=f"attention={name} runs on a .PU.* for a CPU: use auto"):
        make_attention_backend(name, platform="cpu", dtype="bfloat16")


def test_cudnn_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="half precision, not in float32.*dtype=bfloat16"):
        make_attention_backend("cudnn", platform="gpu", dtype="float32")
    q, k, v, _ = (jnp.asarray(x, jnp.bfloat16) for x in make_arrays(1))
    with pytest.raises(ConfigError, match="cuDNN is not detected. Use auto"):
        CudnnAttention()(q, k, v, np.arange(1, 21))


@pytest.mark.parametrize("name", KERNELS)
def test_each_device_attends_with_its_own_samples_and_heads(name):
    """Values and gradients on eight devices, without a word between them."""
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    *qkv, weight = make_arrays(4)
    limits, shown = np.repeat(np.arange(4, 24, 4), 4), np.ones((4, 20), bool)
    shown[1, 2:7] = False

    def run(backend, q, k, v, weight, shown):
        out, pull = jax.vjp(lambda q, k, v: backend(q, k, v, limits, shown), q, k, v)
        return out, *pull(weight)

    expected = jax.jit(lambda *a: run(dense_attention, *a))(*qkv, weight, shown)
    with jax.set_mesh(mesh):
        spec = jax.sharding.PartitionSpec(("data", "fsdp"), None, "tensor")
        arrays = [jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in (*qkv, weight)]
        rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        compiled = (
            jax.jit(lambda *a: run(KERNELS[name], *a))
            .lower(*arrays, jax.device_put(shown, rows))
            .compile()
        )
        found = compiled(*arrays, jax.device_put(shown, rows))
    text = compiled.as_text()
    assert text
    assert not Program(text, mesh.size).collectives()
    for one, other in zip(found, expected, strict=True):
        assert one.addressable_shards[0].data.shape == (1, 20, 2, 8)
        np.testing.assert_allclose(one, other, atol=5e-6)


@pytest.mark.parametrize(
    "name, pairs, rows", [("pallas", 210 * 8, 20 * 8), ("splash", 128**3, 128**2)]
)
@pytest.mark.parametrize("remat, products", [("dots", 9), ("full", 11)])
def test_what_the_backward_pass_computes_again(name, pairs, rows, remat, products):
    """The kernels multiply 2, 3 and 4 times for a pair of positions and a channel.

    `dots` keeps what the first one gave, `full` runs it again. Splash has one tile of 128. The
    gradient starts with the products of outputs and their gradients.
    """
    *qkv, _ = make_arrays(2)
    limits = np.arange(1, 21)

    def loss(q, k, v):
        attend = jax.checkpoint(
            lambda q, k, v: KERNELS[name](q, k, v, limits), policy=make_policy(remat)
        )
        return jnp.sum(attend(q, k, v) ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*qkv)
    assert count_flops(jaxpr) == 2 * 2 * 4 * (products * pairs + rows)
