# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""launch/gke.sh with stand-ins of gcloud, kubectl, xpk and docker: calls, manifest, reactions."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.stage import ROOT, Stage

ASKED = (
    *("--name", "nbp-1", "--type", "v5p-64", "--cluster", "c-1", "--zone", "us-east5-a"),
    *("--project", "p-1", "--image", "us-docker.pkg.dev/p-1/r/nbp:7"),
)
JOB = ("configs/quickstart.py:smoke", "/data/my run", '--config.name=a"b', "--config.x=(1,2)")
TRAINING = ["python", "-u", "-m", "nbp.train", "--config", JOB[0], "--workdir", *JOB[1:]]
PINNED = "us-docker.pkg.dev/p-1/r/nbp@sha256:" + "0" * 64
DIGEST = ("docker inspect", [{"out": f"{PINNED}\n"}])
BUILD = ["docker build", "docker push", "docker inspect"]
WATCH = ["kubectl logs", "kubectl get jobset"]


def ended(*states: str) -> tuple[str, list[dict[str, Any]]]:
    return ("terminalState", [{"out": state} for state in states])


def launch(stage: Stage, *options: str) -> subprocess.CompletedProcess[str]:
    return stage.run("gke.sh", *ASKED, "--poll", "0", *options, *JOB)


def test_a_jobset_is_built_submitted_watched_and_deleted(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s", DIGEST, ended("", "Completed"), ("logs", [{"out": "step 1\n"}, {}])
    )
    done = launch(stage, "--delete", "--claim", "data-1", "--queue", "q-1")
    assert done.returncode == 0, done.stderr
    assert stage.verbs() == [
        "gcloud container clusters get-credentials",
        "kubectl get jobset",
        *BUILD,
        "kubectl apply",
        *WATCH * 2,
        "kubectl delete jobset",
    ]
    assert "step 1" in done.stdout
    assert not list(stage.home.rglob("*config*"))  # the access went to a file that is gone
    build = stage.calls()[2]
    assert {"ACCELERATOR=tpu", "us-docker.pkg.dev/p-1/r/nbp:7", str(ROOT)} <= set(build)

    [text] = stage.piped()
    jobset = yaml.safe_load(text)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["metadata"]["name"] == "nbp-1"
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q-1"}
    assert jobset["spec"]["failurePolicy"] == {
        "maxRestarts": 50,
        "rules": [
            {
                "name": "notCured",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    [slices] = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (1, 8, 8)
    assert (job["backoffLimit"], job["completionMode"]) == (0, "Indexed")
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert (codes["containerName"], codes["operator"]) == ("nbp", "NotIn")
    assert set(codes["values"]) == {42, *range(127, 256)}
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x4x4",
    }
    [container] = pod["containers"]
    assert container["name"] == "nbp"
    assert container["image"] == PINNED
    assert container["command"] == TRAINING
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {"name": "NBP_DISTRIBUTED", "value": "auto"} in container["env"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"shm": "/dev/shm", "data": "/data"}
    [claim] = [v for v in pod["volumes"] if v["name"] == "data"]
    assert claim["persistentVolumeClaim"]["claimName"] == "data-1"


@pytest.mark.parametrize(
    "type_, topology, hosts, chips",
    [
        ("v5litepod-8", "2x4", 1, 8),
        ("v5litepod-16", "4x4", 4, 4),
        ("v5litepod-256", "16x16", 64, 4),
        ("v6e-64", "8x8", 16, 4),
        ("v5p-8", "2x2x1", 1, 4),
        ("v5p-512", "4x8x8", 64, 4),
    ],
)
def test_types_of_tpus(tmp_path: Path, type_: str, topology: str, hosts: int, chips: int) -> None:
    stage = Stage(tmp_path / "s")
    done = stage.run("gke.sh", *ASKED, "--type", type_, "--dry-run", *JOB)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("apiVersion"))
    last = next(i for i, line in enumerate(lines) if line.startswith("kubectl logs"))
    [slices] = yaml.safe_load("\n".join(lines[first:last]))["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert job["parallelism"] == hosts
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    sizes = [int(size) for size in topology.split("x")]
    product = 1
    for size in sizes:
        product *= size
    assert product == hosts * chips
    assert product * (2 if type_.startswith("v5p") else 1) == int(type_.split("-")[1])
    assert not stage.calls()


def test_a_preempted_node_is_restarted_by_the_cluster_and_watched_on(tmp_path: Path) -> None:
    """The pod that is followed vanishes; there is none for a while; then the next start's."""
    logs = [{"out": "step 1\n", "code": 1}, {"code": 1}, {"out": "resumes after step 1\n"}]
    stage = Stage(tmp_path / "s", DIGEST, ended("", "", "Completed"), ("logs", logs))
    done = launch(stage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["step 1", "resumes after step 1"]
    assert stage.verbs().count("kubectl apply") == 1


@pytest.mark.parametrize("codes, expected", [("3 134 ", 3), ("134 2 ", 2), ("42 42 ", 42), ("", 1)])
def test_a_workload_that_failed_tells_its_code(tmp_path: Path, codes: str, expected: int) -> None:
    stage = Stage(tmp_path / "s", DIGEST, ended("Failed"), ("get pods", [{"out": codes}]))
    done = launch(stage)
    assert done.returncode == expected
    assert f"failed with exit code {expected}" in done.stderr
    assert "to delete it: kubectl delete jobset nbp-1" in done.stderr


def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    refused = {"code": 1, "err": "error: no matches for kind JobSet in jobset.x-k8s.io/v1alpha2\n"}
    stage = Stage(tmp_path / "s", DIGEST, ("apply", [refused]))
    done = launch(stage)
    assert done.returncode == 1
    assert stage.verbs()[-2:] == ["kubectl apply", "kubectl delete jobset"]
    assert "nothing is left running" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("step", ["docker build", "docker push", "get-credentials"])
def test_an_early_failure_creates_nothing(tmp_path: Path, step: str) -> None:
    stage = Stage(tmp_path / "s", (step, [{"code": 1}]), DIGEST)
    done = launch(stage, "--delete")
    assert done.returncode == 1
    assert "kubectl apply" not in stage.verbs()
    assert "created" in done.stderr.splitlines()[-1]


def test_a_workload_that_is_there_is_watched(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s",
        ("output=name", [{"out": "jobset.jobset.x-k8s.io/nbp-1\n"}]),
        ended("Completed"),
    )
    done = launch(stage)
    assert done.returncode == 0
    assert stage.verbs() == [
        "gcloud container clusters get-credentials",
        "kubectl get jobset",
        *WATCH,
    ]


def test_xpk(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", DIGEST)
    done = launch(stage, "--engine", "xpk", "--delete", "--restarts", "9")
    assert done.returncode == 0, done.stderr
    assert stage.verbs() == [
        "xpk config set",
        *BUILD,
        "xpk workload create",
        "xpk workload list",
        "xpk workload delete",
    ]
    create = stage.calls()[4]
    flags = dict(zip(create[3::2], create[4::2], strict=True))
    assert flags["--command"].strip() == (
        r"exec python -u -m nbp.train --config configs/quickstart.py:smoke "
        r"--workdir /data/my\ run --config.name=a\"b --config.x=\(1\,2\)"
    )
    assert flags["--docker-image"] == PINNED
    assert flags["--max-restarts"] == "9"
    assert flags["--tpu-type"] == "v5p-64"
    shown = subprocess.run(
        ["bash", "-c", f"exec() {{ printf '%s\\n' \"$@\"; }}; {flags['--command']}"],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.splitlines() == TRAINING


def test_xpk_that_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", DIGEST, ("workload create", [{"code": 1}]))
    done = launch(stage, "--engine", "xpk")
    assert done.returncode == 1
    assert stage.verbs()[-1] == "xpk workload delete"
    assert "nothing is left running" in done.stderr.splitlines()[-1]

    stage = Stage(tmp_path / "later", DIGEST, ("workload list", [{"code": 125}]))
    done = launch(stage, "--engine", "xpk")
    assert done.returncode == 125
    assert "to delete it: xpk workload delete" in done.stderr


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"--zone": None}, "--zone is missing; nothing was created"),
        ({"--project": None}, "--project is missing; nothing was created"),
        ({"--cluster": None}, "--cluster is missing; nothing was created"),
        ({"--name": "a b; rm -rf $HOME"}, "use lower-case letters"),
        ({"--image": "us-docker.pkg.dev/p/nbp:latest"}, "a tag other than latest"),
        ({"--image": "us-docker.pkg.dev/p/nbp"}, "a tag other than latest"),
        ({"--type": "v5p-24"}, "no slice has this size"),
        ({"--type": "h100-8"}, "use v5litepod-N"),
        ({"--engine": "helm"}, "use jobset or xpk"),
        ({"--engine": "xpk", "--claim": "data"}, "are for --engine jobset"),
        ({"--poll": "soon"}, "--poll needs a number"),
    ],
)
def test_wrong_usage_is_one_line_and_calls_nothing(
    tmp_path: Path, changed: dict[str, str | None], message: str
) -> None:
    options = {**dict(zip(ASKED[::2], ASKED[1::2], strict=True)), **changed}
    arguments = [word for pair in options.items() if pair[1] is not None for word in pair]
    stage = Stage(tmp_path / "s")
    done = stage.run("gke.sh", *map(str, arguments), *JOB)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not stage.calls()


SWEEP = ("configs/sweeps/scaling.py", "/data/my run")


def launch_sweep(stage: Stage, *options: str) -> subprocess.CompletedProcess[str]:
    asked = {**dict(zip(ASKED[::2], ASKED[1::2], strict=True)), "--type": "v5p-8", "--poll": "0"}
    words = [word for pair in asked.items() for word in pair]
    return stage.run("gke.sh", *words, *options, *SWEEP)


def test_a_sweep_is_one_job_whose_pods_have_a_share_each(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", DIGEST, ended("Completed"))
    done = launch_sweep(stage, "--sweep", "4", "--claim", "data-1", "--restarts", "7")
    assert done.returncode == 0, done.stderr
    [text] = stage.piped()
    jobset = yaml.safe_load(text)
    assert "annotations" not in jobset["metadata"], "its pods may lie in any node pool"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 0
    [slices] = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (1, 4, 4)
    assert (job["completionMode"], job["backoffLimitPerIndex"]) == ("Indexed", 7)
    assert "backoffLimit" not in job
    preempted, failed = job["podFailurePolicy"]["rules"]
    assert preempted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert (failed["action"], failed["onExitCodes"]["operator"]) == ("FailIndex", "NotIn")
    assert set(failed["onExitCodes"]["values"]) == {42, *range(127, 256)}
    [container] = job["template"]["spec"]["containers"]
    assert {"name": "NBP_DISTRIBUTED", "value": "off"} in container["env"], "each works alone"
    command = [*container["command"][:2], container["command"][2].replace("exec", "printf '%s|'")]
    shown = subprocess.run(
        [*command, *container["command"][3:]],
        env={"JOB_COMPLETION_INDEX": "2", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert shown.stdout == (
        f"python|-u|-m|nbp.sweep|{SWEEP[0]}|--workdir|{SWEEP[1]}|--of|4|--index|2|"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (("--sweep", "two"), "--sweep needs a number"),
        (("--sweep", "0"), "--sweep needs a number from 1"),
        (("--sweep", "2", "--type", "v5p-64"), "--type v5p-64 has 8 hosts: a share of a sweep"),
        (("--sweep", "2", "--engine", "xpk"), "--sweep is for --engine jobset"),
    ],
)
def test_sweeps_that_cannot_be_launched(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    stage = Stage(tmp_path / "s")
    done = launch_sweep(stage, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not stage.calls()


ENCODE = ("nbp.encode", "--workdir", "/data/my run", "--out", "/data/t")


def launch_array(
    stage: Stage, *options: str, command: tuple[str, ...] = ENCODE
) -> subprocess.CompletedProcess[str]:
    asked = {**dict(zip(ASKED[::2], ASKED[1::2], strict=True)), "--type": "v5p-8", "--poll": "0"}
    words = [word for pair in asked.items() for word in pair]
    return stage.run("gke.sh", *words, *options, *command)


def test_an_array_is_one_job_whose_pods_have_a_share_each(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", DIGEST, ended("Completed"))
    done = launch_array(stage, "--array", "4", "--claim", "data-1")
    assert done.returncode == 0, done.stderr
    [text] = stage.piped()
    [slices] = yaml.safe_load(text)["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (job["completions"], job["backoffLimitPerIndex"]) == (4, 50)
    [container] = job["template"]["spec"]["containers"]
    assert {"name": "NBP_DISTRIBUTED", "value": "off"} in container["env"]
    command = [*container["command"][:2], container["command"][2].replace("exec", "printf '%s|'")]
    shown = subprocess.run(
        [*command, *container["command"][3:]],
        env={"JOB_COMPLETION_INDEX": "2", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert shown.stdout == f"python|-u|-m|{'|'.join(ENCODE)}|--shard|2/4|"


@pytest.mark.parametrize(
    "options, command, message",
    [
        (("--array", "0"), ENCODE, "--array needs a number from 1"),
        (("--array", "2", "--type", "v5p-64"), ENCODE, "has 8 hosts: a share of a sweep or an"),
        (("--array", "2", "--sweep", "2"), ENCODE, "--sweep and --array: give one of them"),
        (("--array", "2"), SWEEP, "--array is for nbp.prepare, nbp.encode and nbp.evaluate"),
        (("--array", "2"), (*ENCODE, "--shard=0/2"), "--shard comes from --array"),
        (("--array", "2"), (*ENCODE[:-1], "tokens"), "name absolute paths on storage"),
        ((), ENCODE, "nbp.encode needs --array N"),
    ],
)
def test_arrays_that_cannot_be_launched(
    tmp_path: Path, options: tuple[str, ...], command: tuple[str, ...], message: str
) -> None:
    stage = Stage(tmp_path / "s")
    done = launch_array(stage, *options, command=command)
    assert done.returncode == 2
    assert message in done.stderr
    assert not stage.calls()


def test_the_image_holds_what_the_dockerfile_copies() -> None:
    """The build context is a short list; each file that the image needs must be on it."""
    text = (ROOT / "Dockerfile").read_text()
    copied = [line.split()[1] for line in text.splitlines() if line.startswith("COPY")]
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    base = next(line for line in text.splitlines() if line.startswith("FROM"))
    assert ":" in base
    assert "latest" not in base
    user = [line for line in text.splitlines() if line.startswith(("ARG RUN_AS", "USER"))]
    assert user == ["ARG RUN_AS=nbp", "USER $RUN_AS"]
    assert json.loads(text.splitlines()[-1].removeprefix("CMD "))[:4] == TRAINING[:4]
