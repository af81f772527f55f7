# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Who a process is, from the variables of launchers; the rows that it loads. Two real processes
are in tests/test_launch_processes.py."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nbp import errors
from nbp.errors import ConfigError, DataError, Preempted, RestartError
from nbp.parallel import distributed
from nbp.parallel.mesh import make_mesh, shard_batch

ROOT = Path(__file__).resolve().parent.parent.parent
NAMED = {"NBP_COORDINATOR": "10.0.0.1:4711", "NBP_PROCESSES": "4", "NBP_PROCESS": "3"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**NAMED, "NBP_PROCESSES": "1", "NBP_PROCESS": "0"},
        {"NBP_DISTRIBUTED": "off", **SLURM},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},  # one task of a larger allocation
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"},  # beside the tasks: salloc, a batch script
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"MEGASCALE_NUM_SLICES": "1"},
    ],
)
def test_a_job_of_one_process_stays_as_it_is(environment: dict[str, str]) -> None:
    assert distributed.choose_arguments(environment) is None
    distributed.initialize(environment)
    assert not jax.distributed.is_initialized()


def test_named_processes() -> None:
    arguments = distributed.choose_arguments(NAMED)
    assert arguments == {
        "coordinator_address": "10.0.0.1:4711",
        "num_processes": 4,
        "process_id": 3,
        "cluster_detection_method": "deactivate",
        "initialization_timeout": 300,
        "heartbeat_timeout_seconds": 60,
        "shutdown_timeout_seconds": 300,
    }
    # Inside a job of SLURM the names still count.
    assert distributed.choose_arguments({**SLURM, **NAMED}) == arguments


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_coordinator_of_this_machine_listens_to_it_only(host: str) -> None:
    address = f"{host}:4711"
    arguments = distributed.choose_arguments({**NAMED, "NBP_COORDINATOR": address})
    assert arguments is not None
    assert arguments["coordinator_bind_address"] == address


@pytest.mark.parametrize(
    "environment",
    [
        {"NBP_DISTRIBUTED": "auto"},
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"},
    ],
)
def test_what_jax_finds_out_by_itself(environment: dict[str, str]) -> None:
    arguments = distributed.choose_arguments({**environment, "NBP_HEARTBEAT_SECONDS": "15"})
    assert arguments is not None
    assert arguments["heartbeat_timeout_seconds"] == 15
    assert "num_processes" not in arguments


@pytest.mark.parametrize(
    "changes, gpus",
    [
        ({}, None),  # no GPUs
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [3]),  # all of the node: the task's own
        ({"SLURM_GPUS_ON_NODE": "8"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "0"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, [0, 1, 2, 3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [6, 7]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "1"}, None),  # JAX reads it
    ],
)
def test_tasks_of_slurm_and_their_gpus(changes: dict[str, str], gpus: list[int] | None) -> None:
    arguments = distributed.choose_arguments({**SLURM, **changes})
    assert arguments is not None
    assert arguments["num_processes"] == 16
    assert arguments["local_device_ids"] == gpus


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"NBP_PROCESS": "0"}, "NBP_PROCESS without NBP_COORDINATOR, NBP_PROCESSES"),
        ({**NAMED, "NBP_PROCESS": "4"}, "count from 0 to 3"),
        ({**NAMED, "NBP_PROCESSES": "many"}, "NBP_PROCESSES=many: write a whole number"),
        ({**NAMED, "NBP_COORDINATOR": "10.0.0.1"}, "write HOST:PORT"),
        ({"NBP_DISTRIBUTED": "yes"}, "use auto, off, or leave it out"),
        ({"NBP_HEARTBEAT_SECONDS": "-1"}, "write a whole number"),
    ],
)
def test_wrong_variables_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        distributed.choose_arguments(environment)


@pytest.mark.parametrize(
    "raised, expected",
    [
        (ValueError("coordinator_address should be defined."), ConfigError),
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nmore"), RestartError),
    ],
)
def test_processes_that_do_not_meet(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def refuse(**arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(expected) as caught:
        distributed.initialize({"NBP_DISTRIBUTED": "auto"})
    assert "\n" not in str(caught.value)


def test_reading_the_variables_needs_no_jax() -> None:
    code = """
import sys
from nbp.parallel import distributed
distributed.initialize({})
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_one_process_agrees_with_itself() -> None:
    distributed.check_agreement({"configuration": "a"})
    distributed.wait_for_all("here")
    assert distributed.is_main()
    assert distributed.find_place() == (0, 1)
    assert [distributed.decide(value) for value in (True, False)] == [True, False]


def test_a_host_of_a_slice_that_was_started_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match="one of 4 of a slice, and was started alone"):
        distributed.check_agreement({})


def test_one_process_loads_all_rows() -> None:
    assert distributed.find_rows(shard_batch(make_mesh()), 16) == list(range(16))
    assert distributed.find_rows(shard_batch(make_mesh(fsdp=2, tensor=4)), 6) == list(range(6))
    replicated = NamedSharding(make_mesh(), PartitionSpec())
    assert distributed.find_rows(replicated, 5) == list(range(5))


@pytest.mark.parametrize(
    "shape, order, mine, rows",
    [
        # data, fsdp, tensor; which devices are this process's
        ((8, 1, 1), range(8), range(4, 8), [8, 9, 10, 11, 12, 13, 14, 15]),
        ((2, 4, 1), range(8), range(4), [0, 1, 2, 3, 4, 5, 6, 7]),
        # A tensor axis over both processes: each needs every row.
        ((1, 2, 4), [0, 1, 4, 5, 2, 3, 6, 7], range(4), list(range(16))),
        # Neighbours on the machine that are none in the mesh, as on a TPU.
        ((8, 1, 1), [0, 4, 1, 5, 2, 6, 3, 7], range(4), [0, 1, 4, 5, 8, 9, 12, 13]),
    ],
)
def test_each_process_loads_the_rows_of_its_devices(
    shape: tuple[int, int, int], order: Any, mine: Any, rows: list[int]
) -> None:
    devices = np.asarray(jax.devices())[list(order)].reshape(shape)
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))
    sharding = shard_batch(mesh)
    own = {jax.devices()[number] for number in mine}
    places = sharding.devices_indices_map((16,))
    seen = SimpleNamespace(
        addressable_devices_indices_map=lambda shape: {d: places[d] for d in own}
    )
    assert distributed.find_rows(seen, 16) == rows


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes this process one of several, and keeps the codes with which it ended at once."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(errors, "_is_one_of_several", lambda: True)
    monkeypatch.setattr(errors.os, "_exit", end)
    return codes


@pytest.mark.parametrize(
    "raised, code",
    [
        (DataError("no clips"), 3),
        (RestartError("stalled"), 42),
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection reset"), 42),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: heartbeat timeout"), 42),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 1),
        (RuntimeError("a connection in our own code"), 1),
    ],
)
def test_errors_end_the_process_at_once(several: list[int], raised: Exception, code: int) -> None:
    def main(argv: list[str] | None) -> None:
        raise raised

    with pytest.raises(Ended):
        errors.run_main(main)
    assert several == [code]


def test_preempted_processes_say_goodbye(several: list[int]) -> None:
    def main(argv: list[str] | None) -> None:
        raise Preempted("saved")

    with pytest.raises(SystemExit) as ended:
        errors.run_main(main)
    assert ended.value.code == 143
    assert not several


@pytest.mark.parametrize("value", ["4(x2)", "", "four", "-1", "1.5", "\u0664"])
@pytest.mark.parametrize(
    "name",
    ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_GPUS_ON_NODE"],
)
def test_variables_of_slurm_that_are_no_numbers(name: str, value: str) -> None:
    if name == "SLURM_GPUS_ON_NODE" and not value:
        return  # none
    environment = {key: text for key, text in SLURM.items() if key != "SLURM_STEP_NUM_TASKS"}
    with pytest.raises(ConfigError, match=f"{name}=.*write a whole number.*NBP_DISTRIBUTED=off"):
        distributed.choose_arguments({**environment, name: value})


def test_tasks_per_node_that_are_no_number() -> None:
    changes = {"SLURM_STEP_TASKS_PER_NODE": "x4", "SLURM_GPUS_ON_NODE": "8"}
    with pytest.raises(ConfigError, match="SLURM_STEP_TASKS_PER_NODE=x4: write a whole number"):
        distributed.choose_arguments({**SLURM, **changes})
