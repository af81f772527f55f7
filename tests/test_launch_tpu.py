# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""launch/tpu_pod.sh against a stand-in of gcloud: what it calls, in which order, how it reacts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.stage import LAUNCH, Stage

ASKED = ("--name", "nbp-1", "--type", "v5litepod-16", "--zone", "us-west4-a", "--project", "p-1")
JOB = ("configs/quickstart.py:smoke", "/mnt/nbp/my run", "--config.generator.block=(1,2,2)")
ABSENT = {
    "code": 1,
    "err": "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: no\n",
}
NOT_RUNNING = ("tpu_host.sh running", [{"code": 1}])
DONE = {"out": "nbp-exit 0\nnbp-exit 0\n"}
INSTALL = ["scp all", "ssh unpack all", "ssh prepare all"]
TRAIN = ["ssh start all", "ssh follow 0", "ssh finish all"]


def state(name: str) -> dict[str, Any]:
    return {"out": f"{name}\n"}


def states(*names: str) -> tuple[str, list[dict[str, Any]]]:
    return ("describe", [ABSENT if name == "ABSENT" else state(name) for name in names])


def launch(stage: Stage, *options: str) -> subprocess.CompletedProcess[str]:
    return stage.run("tpu_pod.sh", *ASKED, "--poll", "0", *options, *JOB)


def test_requests_installs_trains_and_deletes(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s",
        states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"),
        NOT_RUNNING,
        ("follow", [{"out": "[tokenizer] 1/2 loss 0.1\n"}]),
        ("finish", [DONE]),
    )
    done = launch(stage, "--spot", "--delete", "--nfs", "10.0.0.2:/vol", "--valid-for", "6h")
    assert done.returncode == 0, done.stderr
    looks = ["describe"] * 3
    assert stage.verbs() == [
        "describe",
        "create",
        *looks,
        "ssh running 0",
        *INSTALL,
        *TRAIN,
        "delete",
    ]
    create = stage.calls()[1]
    assert create[5] == "nbp-1"
    assert {"--spot", "--node-id=nbp-1", "--accelerator-type=v5litepod-16"} <= set(create)
    assert {"--runtime-version=v2-alpha-tpuv5-lite", "--valid-until-duration=6h"} <= set(create)
    for call in stage.calls():
        assert {"--zone=us-west4-a", "--project=p-1"} <= set(call)
    assert "[tokenizer] 1/2 loss 0.1" in done.stdout
    assert "--force" in stage.calls()[-1]
    start = next(call for call in stage.calls() if "tpu_host.sh start" in " ".join(call))
    command = next(word for word in start if word.startswith("--command="))
    assert command.endswith(
        r"start python -u -m nbp.train --config configs/quickstart.py:smoke "
        r"--workdir /mnt/nbp/my\ run --config.generator.block=\(1\,2\,2\)"
    )


def test_without_delete_it_says_how(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", [DONE]))
    done = launch(stage)
    assert done.returncode == 0
    assert "delete" not in stage.verbs()
    assert (
        "to delete it: gcloud compute tpus queued-resources delete nbp-1 --zone=us-west4-a "
        "--project=p-1 --force --quiet" in done.stderr
    )


def test_a_preempted_node_is_requested_again_and_the_training_goes_on(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s",
        # While the output is followed the node is taken away.
        states("ABSENT", "ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"),
        NOT_RUNNING,
        ("follow", [{"code": 255, "err": "Connection closed\n"}, {}]),
        ("finish", [DONE]),
    )
    done = launch(stage, "--spot", "--delete")
    assert done.returncode == 0, done.stderr
    first = ["describe", "create", "describe", "ssh running 0", *INSTALL, *TRAIN[:2], "describe"]
    again = ["describe", "describe", "delete", "describe", "create", "describe"]
    assert stage.verbs() == [
        *first,
        *again,
        "ssh running 0",
        *INSTALL,
        *TRAIN,
        "delete",
    ]
    starts = [c for c in stage.calls() if any("tpu_host.sh start" in word for word in c)]
    assert starts[0] == starts[1]  # the same workdir: it resumes
    assert "restart 1 of 50" in done.stderr


def test_a_broken_connection_does_not_disturb_the_training(tmp_path: Path) -> None:
    follow = [{"code": 255}, {"code": 255}, {"out": "step 9\n"}]
    stage = Stage(
        tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("follow", follow), ("finish", [DONE])
    )
    done = launch(stage)
    assert done.returncode == 0, done.stderr
    assert stage.verbs().count("ssh start all") == 1
    assert stage.verbs().count("ssh follow 0") == 3
    assert stage.verbs()[-1] == "ssh finish all"


def test_the_same_command_watches_a_training_that_runs(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", states("ACTIVE"), ("running", [{}]), ("finish", [DONE]))
    assert launch(stage).returncode == 0
    assert stage.verbs() == ["describe", "ssh running 0", *TRAIN]


@pytest.mark.parametrize(
    "codes, expected, starts",
    [
        (["nbp-exit 3\nnbp-exit 134\n"], 3, 1),
        (["nbp-exit 134\nnbp-exit 2\n"], 2, 1),
        (["nbp-exit 5\nnbp-exit 5\n"], 5, 1),
        (["nbp-exit 1\nnbp-exit 134\n"], 1, 1),
        (["nbp-exit 42\nnbp-exit 134\n", "nbp-exit 0\nnbp-exit 0\n"], 0, 2),
        (["nbp-exit 143\nnbp-exit 143\n", "nbp-exit 0\nnbp-exit 0\n"], 0, 2),
        (["nbp-exit 0\nnbp-exit none\n", "nbp-exit 0\nnbp-exit 0\n"], 0, 2),
    ],
)
def test_exit_codes_decide(tmp_path: Path, codes: list[str], expected: int, starts: int) -> None:
    replies = [{"out": text} for text in codes]
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", replies))
    done = launch(stage)
    assert done.returncode == expected, done.stderr
    assert stage.verbs().count("ssh start all") == starts


def test_a_host_that_does_not_answer_counts_as_lost(tmp_path: Path) -> None:
    replies = [{"out": "nbp-exit 0\n", "code": 255}, DONE]
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", replies))
    done = launch(stage)
    assert done.returncode == 0
    assert stage.verbs().count("ssh start all") == 2
    assert "exit code 137, or hosts lost; restart 1 of 50" in done.stderr


def test_restarts_are_limited(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", [{"out": "nbp-exit 42\n"}])
    )
    done = launch(stage, "--restarts", "2", "--delete")
    assert done.returncode == 42
    assert stage.verbs().count("ssh start all") == 3
    assert "2 restarts are used up" in done.stderr
    assert stage.verbs()[-1] == "delete"


def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    quota = {"code": 1, "err": "ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProject'\n"}
    stage = Stage(tmp_path / "s", states("ABSENT", "FAILED"), ("create", [quota]))
    done = launch(stage)
    assert done.returncode == 1
    assert stage.verbs() == ["describe", "create", "describe", "delete"]
    assert done.stderr.splitlines()[-2:] == [
        quota["err"].strip(),
        "tpu_pod.sh: nbp-1 could not be created (gcloud says why above); nothing is left running",
    ]

    stage = Stage(tmp_path / "never", states("ABSENT"), ("create", [quota]))
    assert launch(stage).returncode == 1
    assert stage.verbs() == ["describe", "create", "describe"]


def test_a_request_that_fails_later_is_deleted(tmp_path: Path) -> None:
    reason = ("failedData", [{"out": "no capacity before the end of validity\n"}])
    stage = Stage(tmp_path / "s", reason, states("ABSENT", "WAITING_FOR_RESOURCES", "FAILED"))
    done = launch(stage)
    assert done.returncode == 1
    assert stage.verbs()[-1] == "delete"
    assert "no capacity" in done.stderr
    assert "nothing is left running" in done.stderr.splitlines()[-1]


def test_a_deletion_that_fails_is_said_loudly(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", [DONE]), ("delete", [{"code": 1}])
    )
    done = launch(stage, "--delete")
    assert "NOT DELETED, it may still be billed: gcloud compute tpus" in done.stderr


def test_a_failed_installation_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("prepare", [{"code": 1}]))
    done = launch(stage, "--delete")
    assert done.returncode == 1
    assert "ssh start all" not in stage.verbs()
    assert stage.verbs()[-1] == "delete"


def test_gcloud_that_does_not_work_ends_with_its_reason(tmp_path: Path) -> None:
    denied = {"code": 1, "err": "ERROR: (gcloud) You do not currently have an active account\n"}
    stage = Stage(tmp_path / "s", ("describe", [denied]))
    done = launch(stage)
    assert done.returncode == 1
    assert stage.verbs() == ["describe"]
    assert "You do not currently have an active account" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"--zone": None}, "--zone is missing; nothing was created"),
        ({"--project": None}, "--project is missing; nothing was created"),
        ({"--name": None}, "--name is missing; nothing was created"),
        ({"--name": "a b; rm -rf $HOME"}, "use lower-case letters"),
        ({"--name": "Nbp"}, "use lower-case letters"),
        ({"--type": "v9-8"}, "--runtime"),
        ({"--poll": "soon"}, "--poll needs a number"),
        ({"--setup": "none.sh"}, "no script none.sh"),
        ({"--fast": "1"}, "unknown option --fast"),
    ],
)
def test_wrong_usage_is_one_line_and_calls_nothing(
    tmp_path: Path, changed: dict[str, str | None], message: str
) -> None:
    options = {**dict(zip(ASKED[::2], ASKED[1::2], strict=True)), **changed}
    arguments = [word for pair in options.items() if pair[1] is not None for word in pair]
    stage = Stage(tmp_path / "s")
    done = stage.run("tpu_pod.sh", *map(str, arguments), *JOB)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not stage.calls()


@pytest.mark.parametrize("job", [("c.py", "/w"), ("configs/quickstart.py", "runs/a"), ()])
def test_a_wrong_job_calls_nothing(tmp_path: Path, job: tuple[str, ...]) -> None:
    stage = Stage(tmp_path / "s")
    assert stage.run("tpu_pod.sh", *ASKED, *job).returncode == 2
    assert not stage.calls()


def test_zone_and_project_may_come_from_the_environment(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("finish", [DONE]))
    done = stage.run(
        "tpu_pod.sh",
        *ASKED[:4],
        *JOB,
        variables={"CLOUDSDK_COMPUTE_ZONE": "us-west4-a", "CLOUDSDK_CORE_PROJECT": "p-1"},
    )
    assert done.returncode == 0
    assert {"--zone=us-west4-a", "--project=p-1"} <= set(stage.calls()[0])


@pytest.mark.parametrize("delete", [True, False])
def test_an_interruption_leaves_no_doubt(tmp_path: Path, delete: bool) -> None:
    waits = {"out": "[tokenizer] 1/9\n", "sleep": 30}
    stage = Stage(tmp_path / "s", states("ACTIVE"), NOT_RUNNING, ("follow", [waits]))
    process = subprocess.Popen(
        [str(LAUNCH / "tpu_pod.sh"), *ASKED, *(["--delete"] if delete else []), *JOB],
        env=stage.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while "ssh follow 0" not in stage.verbs() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert (stage.verbs()[-1] == "delete") == delete
    assert ("to delete it: gcloud" in error) == (not delete)


# On the hosts -------------------------------------------------------------------------------------


def on_host(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LAUNCH / "tpu_host.sh"), *arguments],
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_host_starts_once_shows_and_tells_the_code(tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = (
        "import os, sys, time, pathlib\n"
        "print(os.environ['NBP_DISTRIBUTED'], sys.argv[1:], flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\n"
        "sys.exit(3)"
    )
    python = (sys.executable, "-c", command, "a b; rm -rf $HOME", "(1,2)")
    assert on_host(tmp_path, "running").returncode == 1
    assert on_host(tmp_path, "start", *python).returncode == 0
    assert on_host(tmp_path, "running").returncode == 0
    assert on_host(tmp_path, "start", *python).returncode == 0  # not a second one
    go.touch()
    shown = on_host(tmp_path, "follow", "all")
    assert shown.returncode == 0
    assert shown.stdout == "auto ['a b; rm -rf $HOME', '(1,2)']\n"
    assert on_host(tmp_path, "finish", "30").stdout == "nbp-exit 3\n"
    assert on_host(tmp_path, "running").returncode == 1


def test_a_host_kills_what_hangs(tmp_path: Path) -> None:
    hang = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    on_host(tmp_path, "start", sys.executable, "-c", hang)
    pid = int((tmp_path / "nbp-run" / "pid").read_text())
    assert on_host(tmp_path, "finish", "0").stdout == "nbp-exit 137\n"
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_host_that_was_started_anew_has_no_training(tmp_path: Path) -> None:
    (tmp_path / "nbp-run").mkdir()
    (tmp_path / "nbp-run" / "pid").write_text(str(os.getpid()))  # now another process's number
    (tmp_path / "nbp-run" / "boot").write_text("an earlier one\n")
    assert on_host(tmp_path, "running").returncode == 1
    assert on_host(tmp_path, "finish", "0").stdout == "nbp-exit none\n"


def test_end_to_end_with_hosts_on_this_machine(tmp_path: Path) -> None:
    """The commands that ssh carries do what they should, through every layer of quoting."""
    stage = Stage(
        tmp_path / "s",
        states("ACTIVE"),
        ("tpu_host.sh prepare", [{}]),  # no network
        ("unpack|tar -xzf|tpu_host.sh", [{"run": "ssh"}]),
    )
    # The copy that scp would have made, and the interpreter that `prepare` would have installed.
    (stage.home / "nbp").symlink_to(LAUNCH.parent)
    bin_folder = stage.home / "nbp-venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(
        "#!/bin/sh\n"
        f"exec {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n"
    )
    (bin_folder / "python").chmod(0o755)
    rules = json.loads((stage.folder / "rules.json").read_text())
    rules.insert(0, ("tar -xzf", [{}]))
    (stage.folder / "rules.json").write_text(json.dumps(rules))
    done = launch(stage, "--delete")
    assert done.returncode == 0, done.stderr
    shown = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    assert shown == ["-u", "-m", "nbp.train", "--config", JOB[0], "--workdir", *JOB[1:]]
