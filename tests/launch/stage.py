# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of stand-ins for the commands of the cloud, in which a launch script is run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / "launch"
COMMANDS = ("gcloud", "kubectl", "xpk", "docker", "srun", "squeue", "scontrol")


class Stage:
    """Runs launch scripts with stand-ins for all `COMMANDS` first in PATH.

    rules: (pattern, replies) for their calls, in order; a reply has `out`, `err`, `code`, `sleep`.
    """

    def __init__(self, folder: Path, *rules: tuple[str, list[dict[str, Any]]]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "rules.json").write_text(json.dumps(rules))
        for name in COMMANDS:
            path = folder / "bin" / name
            path.write_text(
                f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec {sys.executable} -S "
                f"-m tests.launch.stand_in '{folder}' {name} \"$@\"\n"
            )
            path.chmod(0o755)
        python = folder / "bin" / "python"  # finds every configuration in order
        python.write_text("#!/bin/sh\nexit 0\n")
        python.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLOUDSDK", "SLURM"))}
        return {**kept, "PATH": f"{self.folder / 'bin'}:{kept['PATH']}", "HOME": str(self.home)}

    def run(
        self, script: str, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(LAUNCH / script), *arguments],
            cwd=self.home,
            env={**self.environment, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)[0] for line in lines]

    def piped(self) -> list[str]:
        """What calls read from their standard input."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [text for line in lines if (text := json.loads(line)[1])]

    def verbs(self) -> list[str]:
        """The calls in short: what they do, without to what."""
        return [shorten(call) for call in self.calls()]


def shorten(call: list[str]) -> str:
    """`create`, `ssh start all`, `kubectl get jobset`, ..."""
    if call[:3] != ["gcloud", "compute", "tpus"]:
        count = 4 if call[0] == "gcloud" else 2 if call[0] == "docker" else 3
        return " ".join(word for word in call[:count] if not word.startswith("-"))
    flags = {word.split("=")[0]: word.partition("=")[2] for word in call if word[:2] == "--"}
    command = flags.get("--command", "")
    step = re.search(r"tpu_host\.sh (\w+)", command)
    words = (call[4], step[1] if step else command and "unpack", flags.get("--worker"))
    return " ".join(word for word in words if word)
