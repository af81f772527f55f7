# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Counts of operations, collectives and traffic against programs whose counts are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec

from nbp.parallel.hlo import Program, count_flops, measure, measure_program, sum_collectives
from nbp.parallel.mesh import make_mesh

N = 16


def layer(x, w):
    return jnp.tanh(x @ w), None


def test_operations_of_loops_branches_and_recomputation():
    x, stack = jnp.ones((4, N)), jnp.ones((5, N, N))
    product = 2 * 4 * N * N

    def scanned(x, stack):
        return jax.lax.scan(layer, x, stack)[0]

    assert count_flops(jax.make_jaxpr(scanned)(x, stack)) == 5 * product
    again = jax.checkpoint(lambda x, w: layer(x, w)[0])

    def loss(x, w):
        return jnp.sum(again(x, w))

    # Forward, once more for the backward pass, and the gradients of both factors.
    graded = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, stack[0])
    assert count_flops(graded) == 4 * product
    branched = jax.make_jaxpr(lambda p: jax.lax.cond(p, lambda: x @ stack[0], lambda: x))(True)
    assert count_flops(branched) == product
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    convolved = jax.make_jaxpr(
        lambda i, k: jax.lax.conv_general_dilated(
            i, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )(image, kernel)
    assert count_flops(convolved) == 2 * (2 * 6 * 6 * 5) * 27


def test_the_body_of_a_shard_map_runs_on_every_device():
    mesh = make_mesh(data=4, devices=jax.devices()[:4])
    run = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    jaxpr = jax.make_jaxpr(run)(jnp.ones((8, N)), jnp.ones((N, N)))
    assert count_flops(jaxpr) == 2 * 8 * N * N


def test_a_kernel_counts_at_every_place_of_its_grid_or_as_it_says():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def call(x, y, **options):
        shape = jax.ShapeDtypeStruct((4 * N, N), jnp.float32)
        rows = pl.BlockSpec((N, N), lambda i: (i, 0))
        whole = pl.BlockSpec((N, N), lambda i: (0, 0))
        return pl.pallas_call(
            kernel, grid=(4,), in_specs=[rows, whole], out_specs=rows, out_shape=shape, **options
        )(x, y)

    x, y = jnp.ones((4 * N, N)), jnp.ones((N, N))
    assert count_flops(jax.make_jaxpr(call)(x, y)) == 4 * 2 * N**3
    estimate = pl.CostEstimate(flops=77, transcendentals=0, bytes_accessed=0)
    stated = jax.make_jaxpr(lambda x, y: call(x, y, cost_estimate=estimate))
    assert count_flops(stated(x, y)) == 77
    unwanted = jax.make_jaxpr(lambda x, y: (call(x, y), x @ y)[1])
    assert count_flops(unwanted(x, y)) == 4 * 2 * N**3


@pytest.fixture(scope="module")
def compiled():
    """Four devices: five rounds of a product whose halves are summed, then all is gathered."""
    mesh = make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])

    def put(shape, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    def local(x, stack):
        def one(x, w):
            return jax.lax.psum(x @ w, "fsdp"), None

        return jax.lax.all_gather(jax.lax.scan(one, x, stack)[0], "data", axis=0, tiled=True)

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(run).lower(put((8, N), "data"), put((5, N, N))).compile()


def test_collectives_and_their_bytes(compiled):
    sizes, program = measure_program(compiled, 4)
    found = {c.kind: c for c in program.collectives()}
    assert set(found) == {"all-reduce", "all-gather"}
    reduced, gathered = found["all-reduce"], found["all-gather"]
    assert (reduced.bytes, reduced.group, reduced.repeats) == (4 * N * 4, 2, 5)
    assert reduced.wire_bytes == 5 * 2 * (4 * N * 4) / 2
    assert (gathered.bytes, gathered.group, gathered.repeats) == (8 * N * 4, 2, 1)
    assert gathered.wire_bytes == 8 * N * 4 / 2
    table = sum_collectives(program.collectives())
    assert table["all-reduce"] == {
        "count": 1,
        "runs": 5,
        "wire_bytes": 5 * 4 * N * 4,
        "largest_bytes": 4 * N * 4,
    }
    assert sizes["arguments"] == 4 * (4 * N + 5 * N * N)
    assert sizes["peak"] >= sizes["arguments"] + sizes["outputs"]
    # Five products read a matrix each; not five times the stack.
    assert 5 * N * N * 4 <= program.memory_traffic() < 5 * (5 * N * N * 4)


TPU = """
%cond (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%fused (a: bf16[2,4], b: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[2,4]{1,0:T(2,128)S(1)} parameter(0)
  ROOT %ag.1 = bf16[8,4]{1,0} all-gather(%a), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y'}
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %x = bf16[2,4]{1,0} constant({...})
  %part1 = bf16[8,4]{1,0} fusion(%x, %x), kind=kCustom, calls=%fused
  %rs = f32[2]{0} reduce-scatter(%x), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
  %ag.2 = bf16[8,4]{1,0} all-gather(%x), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y'}
  ROOT %t = (s32[], f32[8]) tuple(%q, %q)
}

ENTRY %main (z: f32[8]) -> f32[8] {
  %z = f32[8]{0} parameter(0)
  %w = (s32[]{:T(128)}, f32[8]{0:T(8)}) while(%z), condition=%cond, body=%body
  %ar = (f32[4]{0}, bf16[4]{0}) all-reduce(%z, %z), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %cp = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%z), source_target_pairs={{0}}
}
"""


def test_the_text_of_the_tpu_compiler():
    """Loops without a stated length, three notations of groups, a collective in parts."""
    program = Program(TPU, 8)
    assert program.repeats == {"cond": 7, "fused": 7, "body": 7, "main": 1}
    found = {c.kind: c for c in program.collectives()}
    assert len(program.collectives()) == 4
    gathered = found["all-gather"]  # both parts are one collective
    assert (gathered.bytes, gathered.group, gathered.repeats) == (64, 4, 7)
    scattered = found["reduce-scatter"]
    assert scattered.wire_bytes == 7 * 8 * 3  # three quarters of 32 bytes, each time
    assert (found["all-reduce"].bytes, found["all-reduce"].group) == (24, 2)
    assert found["collective-permute"].bytes == 36
    assert measure("(f32[4]{0:T(128)}, bf16[8]{0:T(128)S(1)}, pred[3]{0})") == 16 + 3
