# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nbp.errors import CheckpointError, ConfigError, RestartError
from nbp.parallel.mesh import make_mesh, place_state
from nbp.training.checkpoint import Checkpointer
from nbp.training.integrity import MANIFEST
from nbp.training.state import TrainState, make_state
from tests.training.toy import to_bytes

META = {"config": {"lr": 0.1, "name": "toy"}}


def make(value: float, *, ema: bool = True, size: int = 8) -> TrainState:
    params = {
        "a": {
            "kernel": jnp.full((size, 2), float(value)),
            "bias": jnp.full(3, value, jnp.bfloat16),
        },
    }
    state = make_state(params, optax.adam(1e-3), with_ema=ema)
    extra = {"count": jnp.int32(value), "key": jax.random.key(5)} if ema else {}
    return TrainState(jnp.int32(value), state.params, state.ema, state.opt_state, extra)


def save(directory, steps=(1, 2), *, ema=True, **options):
    with Checkpointer(directory, **options) as checkpointer:
        for step in steps:
            assert checkpointer.save(step, make(step, ema=ema), data={"next": 8 * step}, meta=META)


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    save(directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("ema", [True, False])
def test_what_is_saved_comes_back(tmp_path, ema):
    save(tmp_path, ema=ema)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        restored = checkpointer.restore(shapes(make(0, ema=ema)))
        assert restored.step == checkpointer.latest_step() == 2
        assert restored.data == {"next": 16}
        assert restored.meta == checkpointer.read_meta() == META
        expected = make(2, ema=ema)
        assert jax.tree.structure(restored.state) == jax.tree.structure(expected)
        pairs = zip(jax.tree.leaves(restored.state), jax.tree.leaves(expected), strict=True)
        for found, wanted in pairs:
            assert found.dtype == wanted.dtype
            assert (found == wanted).all()
        first = checkpointer.restore(shapes(make(0, ema=ema)), step=1)
        assert int(first.state.step) == 1


def test_parameters_alone(saved):
    with Checkpointer(saved, read_only=True) as checkpointer:
        for use_ema in (True, False):
            params = checkpointer.restore_params(shapes(make(0).params), use_ema=use_ema)
            assert to_bytes(params) == to_bytes(make(2).params)
        assert len(checkpointer.checkpoint_hash(2)) == 64
        assert checkpointer.checkpoint_hash(1) != checkpointer.checkpoint_hash(2)


def test_an_absent_average_is_named(tmp_path):
    save(tmp_path, ema=False)
    with (
        Checkpointer(tmp_path, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match="missing in the checkpoint: ema/a/bias"),
    ):
        checkpointer.restore_params(shapes(make(0).params), use_ema=True)


def test_restore_does_not_depend_on_the_devices(tmp_path):
    one, eight = make_mesh(data=1), make_mesh(data=8)
    for step, (here, there) in enumerate([(one, eight), (eight, one)], start=1):
        state = place_state(make(step), here)
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(step, state, data={}, meta={})
            checkpointer.wait()
            restored = checkpointer.restore(place_state(make(0), there))
        kernel = restored.state.params["a"]["kernel"]
        assert kernel.sharding.device_set == set(there.devices.flat)
        assert to_bytes(restored.state.params) == to_bytes(state.params)


def test_saved_values_are_those_before_the_donation(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    params = {"w": jnp.zeros(1_000_000)}
    state = TrainState(jnp.int32(0), params, {}, {}, {})
    with Checkpointer(tmp_path, keep=9) as checkpointer:
        for number in range(5):
            checkpointer.save(number, state, data={}, meta={})
            for _ in range(3):
                state = step(state)
        checkpointer.wait()
        for number in range(5):
            found = checkpointer.restore_params(params, use_ema=False, step=number)
            assert np.unique(found["w"]).tolist() == [3 * number]


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step):
    path = largest_file(step / "model")
    path.write_bytes(path.read_bytes()[:-20])


def flip_bit(step):
    path = largest_file(step / "opt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def unsealed(damage):
    def both(step):
        (step / MANIFEST).unlink()
        damage(step)

    return both


DAMAGES = {
    "truncate": truncate,
    "flip_bit": flip_bit,
    "zero_file": lambda step: largest_file(step / "ema").write_bytes(b""),
    "delete_manifest": lambda step: (step / "model" / "manifest.ocdbt").unlink(),
    "delete_item": lambda step: shutil.rmtree(step / "opt"),
    "delete_json": lambda step: shutil.rmtree(step / "data"),
    "garbled_list": lambda step: (step / MANIFEST).write_text("{"),
    "empty_step": empty,
    "unsealed_truncate": unsealed(truncate),
    "unsealed_delete_item": unsealed(lambda step: shutil.rmtree(step / "model")),
    "unsealed_garbled_meta": unsealed(lambda step: (step / "meta" / "metadata").write_text("{")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(copy, damage):
    damage(copy / "2")
    warnings = []
    with Checkpointer(copy, report=warnings.append) as checkpointer:
        restored = checkpointer.restore(make(0))
        assert restored.step == 1
        assert to_bytes(restored.state.params) == to_bytes(make(1).params)
        assert checkpointer.all_steps() == [1]
        assert any("2 is damaged (" in line and "not used" in line for line in warnings)
        assert len(list(copy.glob("corrupt-2-*"))) == 1
        assert checkpointer.save(2, make(2), data={"next": 16}, meta=META), "2 can be saved again"
    with Checkpointer(copy, read_only=True) as checkpointer:
        assert checkpointer.restore(make(0)).step == 2


def test_a_reader_moves_nothing(copy):
    flip_bit(copy / "2")
    with Checkpointer(copy, read_only=True, report=lambda line: None) as checkpointer:
        assert checkpointer.restore(make(0)).step == 1
    assert (copy / "2").is_dir()


def test_an_intact_step_without_hashes_is_used_with_a_warning(copy):
    (copy / "2" / MANIFEST).unlink()
    warnings = []
    with Checkpointer(copy, report=warnings.append) as checkpointer:
        assert checkpointer.restore(make(0)).step == 2
    assert "not verified" in warnings[0]


def test_nothing_good_left(copy):
    truncate(copy / "1")
    flip_bit(copy / "2")
    with Checkpointer(copy, report=lambda line: None) as checkpointer:
        assert not checkpointer.is_empty()
        with pytest.raises(CheckpointError, match=r"no good checkpoint is left .*\(2 damaged\)"):
            checkpointer.restore(make(0))
        with pytest.raises(CheckpointError, match="no good checkpoint is left"):
            checkpointer.restore(make(0))
        assert not checkpointer.is_empty(), "a rerun must not start from scratch unasked"


def test_a_named_step_is_not_replaced_by_another(copy):
    flip_bit(copy / "2")
    with Checkpointer(copy) as checkpointer:
        with pytest.raises(CheckpointError, match="2 is damaged"):
            checkpointer.restore(make(0), step=2)
        with pytest.raises(CheckpointError, match="no checkpoint 9"):
            checkpointer.restore(make(0), step=9)


def test_another_model_is_refused_with_the_differing_paths(copy):
    template = make(0, size=9)
    params = {"a": {**template.params["a"], "bias": jnp.zeros(3)}, "new": jnp.zeros(1)}
    template = TrainState(template.step, params, {}, template.opt_state, template.extra)
    with Checkpointer(copy) as checkpointer:
        with pytest.raises(CheckpointError) as caught:
            checkpointer.restore(template)
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert "missing in the checkpoint: model/new" in lines
        assert "only in the checkpoint: ema/a/bias" in lines
        assert (
            "different: model/a/kernel is float32[8, 2] in the checkpoint, float32[9, 2] here"
            in lines
        )
        assert "different: model/a/bias is bfloat16[3] in the checkpoint, float32[3] here" in lines
        assert checkpointer.all_steps() == [1, 2], "nothing is wrong with the files"


def test_retention_keeps_the_newest_and_the_best(tmp_path):
    losses = {1: 5.0, 2: 1.0, 3: 3.0, 4: float("nan"), 5: 4.0}

    def save_some(steps):
        with Checkpointer(tmp_path, keep=2, keep_best="validation/loss") as checkpointer:
            for step in steps:
                metrics = {"validation/loss": losses[step]}
                checkpointer.save(step, make(step), data={}, meta={}, metrics=metrics)

    save_some([1, 2, 3])
    save_some([4, 5])  # the scores are read back from disk
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == [2, 4, 5]
        assert not checkpointer.save(5, make(0), data={}, meta={}), "a step is written once"


def test_leftovers_of_a_killed_save_are_removed_but_not_by_readers(copy):
    leftover = copy / "3.orbax-checkpoint-tmp"
    (leftover / "model").mkdir(parents=True)
    Checkpointer(copy, read_only=True).close()
    assert leftover.exists()
    Checkpointer(copy).close()
    assert not leftover.exists()


def test_one_writer_at_a_time(copy):
    with Checkpointer(copy):
        with pytest.raises(ConfigError, match="another process trains in"):
            Checkpointer(copy)
        Checkpointer(copy, read_only=True).close()


def test_an_absent_directory(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpointer(tmp_path / "none", read_only=True)
    with Checkpointer(tmp_path / "new") as checkpointer:
        assert checkpointer.is_empty()
        assert checkpointer.latest_step() is None
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* Train first"):
            checkpointer.restore(make(0))


@contextlib.contextmanager
def limit_file_size(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big(step):
    noise = jax.random.normal(jax.random.key(step), (100_000,))  # 400 kB that do not compress
    return TrainState(jnp.int32(step), {"w": noise}, {}, {}, {})


def test_a_full_disk_loses_nothing_and_is_tried_again(tmp_path):
    warnings = []
    with Checkpointer(tmp_path, keep=1, report=warnings.append) as checkpointer:
        checkpointer.save(1, big(1), data={}, meta={})
        checkpointer.wait()
        with limit_file_size(50_000):
            checkpointer.save(2, big(2), data={}, meta={})
            checkpointer.wait()
        assert checkpointer.all_steps() == [1]
        assert "checkpoint 2 could not be written" in warnings[0]
        assert checkpointer.save(3, big(3), data={}, meta={})
        checkpointer.wait()
        assert checkpointer.all_steps() == [3]
        assert to_bytes(checkpointer.restore(big(0)).state) == to_bytes(big(3))
        assert not list(tmp_path.glob("*tmp*")), "the remains would keep the disk full"


def test_three_failures_ask_for_a_restart(tmp_path, monkeypatch):
    with Checkpointer(tmp_path, report=lambda line: None) as checkpointer:
        checkpointer.save(1, big(1), data={}, meta={})
        checkpointer.wait()
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        assert not checkpointer.save(2, big(2), data={}, meta={})
        assert not checkpointer.save(3, big(3), data={}, meta={})
        with pytest.raises(RestartError, match=r"3 failures in a row.*last good checkpoint is 1"):
            checkpointer.save(4, big(4), data={}, meta={})
        assert checkpointer.all_steps() == [1]
