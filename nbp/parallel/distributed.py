# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes as one job: how they find each other, who writes files, how they stop together.

A launcher says who is who: NBP_COORDINATOR=HOST:PORT, NBP_PROCESSES=N and NBP_PROCESS=I, or
NBP_DISTRIBUTED=auto where JAX finds out by itself (Cloud TPU). A step of SLURM with several tasks
and a slice of several hosts on GKE are recognised without them; NBP_DISTRIBUTED=off forbids that.
A job of one process never comes here further than reading these variables.

A lost process ends the others: they miss its heartbeat after NBP_HEARTBEAT_SECONDS (60), or its
connections break before, and exit with code 42 or 134. The launcher starts all of them again.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from nbp.errors import ConfigError, RestartError

T = TypeVar("T")

COORDINATOR, PROCESSES, PROCESS = "NBP_COORDINATOR", "NBP_PROCESSES", "NBP_PROCESS"
DETECTION = "NBP_DISTRIBUTED"
HEARTBEAT, HEARTBEAT_SECONDS = "NBP_HEARTBEAT_SECONDS", 60
# Hosts boot at different times, and the first process may write previews when the others are done.
START_SECONDS = 300
END_SECONDS = 300
# Long, for compilation takes different times; a process that is gone ends the waiting long before.
WAIT_SECONDS = 3600
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# What JAX asks for before it takes a process for a task of SLURM.
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
SLURM_TASKS = "SLURM_STEP_NUM_TASKS"
GPUS, PER_NODE = "SLURM_GPUS_ON_NODE", "SLURM_STEP_TASKS_PER_NODE"


def initialize(environment: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of this job, if there are any. Call it before JAX is used.

    Raises:
        ConfigError: the variables contradict each other, or JAX cannot find the other processes.
        RestartError: the other processes did not come in time.
    """
    arguments = choose_arguments(os.environ if environment is None else environment)
    if arguments is None:
        return
    import jax  # here: a job of one process need not wait for it before its configuration is read

    try:
        jax.distributed.initialize(**arguments)
    except ValueError as error:
        raise ConfigError(
            f"{DETECTION}=auto: JAX finds no cluster that this machine is part of ({error}). "
            f"Name the processes with {COORDINATOR}, {PROCESSES} and {PROCESS}."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise RestartError(
            f"the processes of this job did not find each other within {START_SECONDS} s: "
            f"{str(error).splitlines()[0]}"
        ) from error


def choose_arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`; None for a job of one process.

    Raises ConfigError where the variables are incomplete or no numbers.
    """
    limits = {
        "initialization_timeout": START_SECONDS,
        "heartbeat_timeout_seconds": _read_number(environment, HEARTBEAT, HEARTBEAT_SECONDS),
        "shutdown_timeout_seconds": END_SECONDS,
    }
    detection = environment.get(DETECTION, "")
    if detection not in ("", "auto", "off"):
        raise ConfigError(f"{DETECTION}={detection}: use auto, off, or leave it out")
    named = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name in environment]
    if named:
        return _read_names(environment, named, limits)
    if detection == "off":
        return None
    if detection == "auto":
        return limits
    if all(name in environment for name in SLURM):
        known = SLURM_TASKS in environment
        tasks = _read_number(environment, SLURM_TASKS if known else "SLURM_NTASKS", None)
        for name in ("SLURM_PROCID", "SLURM_LOCALID"):  # JAX reads them
            _read_number(environment, name, None)
        gpus = choose_slurm_gpus(environment)
        return {**limits, "num_processes": tasks, "local_device_ids": gpus} if tasks > 1 else None
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    return limits if len(hosts) > 1 or slices not in ("", "1") else None


def choose_slurm_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of a task of SLURM, as positions among those that it sees; None without GPUs.

    JAX alone would take the one with the number of the task on its node, which is right only where
    every task sees all GPUs of the node and there are as many tasks. A task that has GPUs of its
    own (--gpus-per-task), or the node for itself, takes all that it sees.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:  # chosen by the user; JAX reads it
        return None
    seen = [entry for entry in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    given = {**environment, GPUS: environment.get(GPUS) or "0"}
    gpus = len(seen) or _read_number(given, GPUS, None)
    if not gpus:
        return None
    # "4(x2),3": four tasks on each of the first two nodes. Nodes of a job are filled evenly.
    per_node = environment.get(PER_NODE, "1").split(",")[0].split("(")[0]
    tasks = _read_number({PER_NODE: per_node}, PER_NODE, None)
    if "SLURM_GPUS_PER_TASK" in environment or tasks == 1 or gpus < tasks:
        return list(range(gpus))
    share, task = gpus // tasks, _read_number(environment, "SLURM_LOCALID", None)
    return list(range(task * share, (task + 1) * share))


def _read_names(
    environment: Mapping[str, str], named: list[str], limits: dict[str, Any]
) -> dict[str, Any] | None:
    missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in named]
    if missing:
        raise ConfigError(f"{', '.join(named)} without {', '.join(missing)}: set all three or none")
    address = environment[COORDINATOR]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{COORDINATOR}={address}: write HOST:PORT")
    count, index = (_read_number(environment, name, None) for name in (PROCESSES, PROCESS))
    if not 0 <= index < count:
        raise ConfigError(f"{PROCESS}={index} of {PROCESSES}={count}: count from 0 to {count - 1}")
    if count == 1:
        return None
    arguments = {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
        **limits,
    }
    if host in LOOPBACK:  # the service has no passwords: other machines must not reach it
        arguments["coordinator_bind_address"] = address
    return arguments


def _read_number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        hint = f", or set {DETECTION}=off for a single process" if name.startswith("SLURM") else ""
        raise ConfigError(f"{name}={text}: write a whole number{hint}")
    return int(text)


_decisions = itertools.count()


def is_main() -> bool:
    """Whether this process writes the files that a job has once, and talks to the user."""
    import jax

    return jax.process_index() == 0


def find_place() -> tuple[int, int]:
    """The index of this process and the number of all."""
    import jax

    return jax.process_index(), jax.process_count()


def refuse_several(flag: str) -> None:
    """ConfigError in a job of several processes, which divide the work without the flag."""
    if find_place()[1] > 1:
        raise ConfigError(
            f"{flag} is for jobs of one process: the {find_place()[1]} of this job divide the work "
            "without it. Leave it out"
        )


def wait_for_all(name: str) -> None:
    """Returns once every process of the job has called this with the same `name`.

    No device takes part. The first collective operation of a program fails where a process comes
    more than half a minute after the others, so they meet here before it.
    """
    from jax._src.distributed import global_state  # jax.distributed shows no barrier

    if global_state.client is not None:
        global_state.client.wait_at_barrier(f"nbp {name}", WAIT_SECONDS * 1000)


def decide(value: T) -> T:
    """What process 0 says, on all of them: file systems do not show every host the same at once.

    Args:
        value: of JSON. Every process calls this, the same number of times.
    """
    from jax._src.distributed import global_state  # jax.distributed shows no store

    if global_state.client is None:
        return value
    key = f"nbp/decision/{next(_decisions)}"
    if global_state.process_id == 0:
        global_state.client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(global_state.client.blocking_key_value_get(key, WAIT_SECONDS * 1000))


def check_agreement(values: Mapping[str, str]) -> None:
    """Makes sure that all processes were started for the same work.

    Args:
        values: texts that must be the same everywhere, by what they are.

    Raises:
        ConfigError: on every process, if one of them has another text; it says which process and
            what. Also where JAX sees other hosts that this process was not told of.
    """
    import jax

    if jax.process_count() == 1:
        return
    if not jax.distributed.is_initialized():
        raise ConfigError(
            f"this host is one of {jax.process_count()} of a slice, and was started alone. Start "
            f"all of them with launch/tpu_pod.sh or launch/gke.sh, or set {DETECTION}=auto"
        )
    from jax.experimental import multihost_utils

    mine = [hashlib.sha256(text.encode()).digest() for text in values.values()]
    rows = np.stack([np.frombuffer(digest, np.uint8) for digest in mine])
    everyone = multihost_utils.process_allgather(rows)
    for process, theirs in enumerate(everyone):
        for name, first, other in zip(values, everyone[0], theirs, strict=True):
            if not np.array_equal(first, other):
                raise ConfigError(
                    f"process {process} has another {name} than process 0: start every process "
                    "with the same arguments, code and data"
                )


def find_rows(sharding: Any, global_batch: int) -> list[int]:
    """The rows of a global batch that lie on devices of this process, in rising order.

    They need not be neighbours, nor this process's alone: that is the mesh's business.

    Args:
        sharding: the `jax.sharding.Sharding` of the batch.
        global_batch: rows over all processes.
    """
    slices = {
        index[0].indices(global_batch)[:2]
        for index in sharding.addressable_devices_indices_map((global_batch,)).values()
    }
    return sorted(row for start, stop in slices for row in range(start, stop))
