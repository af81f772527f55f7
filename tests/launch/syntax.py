# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Flags that the commands of the cloud document, of those that concern us.

From the reference of the Google Cloud CLI (SDK 528), the parser of xpk (src/xpk/parser), `srun(1)`,
`squeue(1)`, `scontrol(1)`, the reference of kubectl, and that of docker. A stand-in refuses others.
"""

GCLOUD = {"--zone", "--project", "--quiet", "--format"}
SSH = {"--worker", "--internal-ip", "--tunnel-through-iap", "--ssh-key-file", *GCLOUD}
XPK = {"--cluster", "--project", "--zone", "--dry-run", "--skip-validation"}

# Command -> flags. The longest name that a call begins with counts.
FLAGS = {
    "gcloud compute tpus queued-resources create": {
        "--node-id",
        "--accelerator-type",
        "--runtime-version",
        "--spot",
        "--internal-ips",
        "--service-account",
        "--valid-until-duration",
        "--async",
        *GCLOUD,
    },
    "gcloud compute tpus queued-resources describe": GCLOUD,
    "gcloud compute tpus queued-resources delete": {"--force", "--async", *GCLOUD},
    "gcloud compute tpus tpu-vm ssh": {"--command", "--output-directory", *SSH},
    "gcloud compute tpus tpu-vm scp": {"--recurse", "--compress", *SSH},
    "gcloud container clusters get-credentials": {
        "--location",
        "--internal-ip",
        "--dns-endpoint",
        "--project",
    },
    "kubectl apply": {"--filename", "--dry-run"},
    "kubectl delete jobset": {"--ignore-not-found", "--wait"},
    "kubectl get": {"--output", "--ignore-not-found", "--selector"},
    "kubectl logs": {"--follow", "--selector", "--tail", "--container"},
    "xpk config set": {"--dry-run"},
    "xpk workload create": {
        "--workload",
        "--tpu-type",
        "--num-slices",
        "--docker-image",
        "--max-restarts",
        "--termination-grace-period-seconds",
        "--restart-on-exit-codes",
        "--env",
        "--command",
        "--priority",
        *XPK,
    },
    "xpk workload list": {"--wait-for-job-completion", "--timeout", *XPK},
    "xpk workload delete": {"--workload", "--force", *XPK},
    "docker build": {"--build-arg", "--tag", "--file"},
    "docker push": set(),
    "docker inspect": {"--format"},
    "srun": {"--kill-on-bad-exit", "--label", "--ntasks"},
    "squeue": {"--noheader", "--jobs", "--format"},
    "scontrol requeue": set(),
}


def find_unknown(call: list[str]) -> str | None:
    """What the real command would not understand of a call, None if it does."""
    name = next(
        (n for n in sorted(FLAGS, key=len, reverse=True) if call[: len(n.split())] == n.split()),
        None,
    )
    if name is None:
        return " ".join(call[:4])
    for argument in call[len(name.split()) :]:
        if name == "srun" and not argument.startswith("-"):
            return None  # the rest is the command of the task
        if argument.startswith("--") and argument.split("=")[0] not in FLAGS[name]:
            return argument
    return None
