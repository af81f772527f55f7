# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for a command of the cloud: `stand_in.py FOLDER NAME ARGUMENTS...`.

Notes the call in FOLDER/calls, and does what the first fitting rule of FOLDER/rules.json says:
[pattern, [reply, ...]], of whose replies each is used once and the last one for ever.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.launch.syntax import find_unknown


def main() -> int:
    folder, call = Path(sys.argv[1]), sys.argv[2:]
    piped = sys.stdin.read() if "--filename=-" in call else ""
    with (folder / "calls").open("a") as file:
        file.write(json.dumps([call, piped]) + "\n")
    unknown = find_unknown(call)
    if unknown is not None:
        print(f"ERROR: unrecognized arguments: {unknown}", file=sys.stderr)
        return 2
    rules = json.loads((folder / "rules.json").read_text())
    text = " ".join(call)
    for number, (pattern, replies) in enumerate(rules):
        if not re.search(pattern, text):
            continue
        used = folder / f"used.{number}"
        count = int(used.read_text()) if used.exists() else 0
        used.write_text(str(count + 1))
        return reply(replies[min(count, len(replies) - 1)], call)
    return 0


def reply(answer: dict, call: list[str]) -> int:
    print(answer.get("out", ""), end="")
    print(answer.get("err", ""), end="", file=sys.stderr, flush=True)
    time.sleep(answer.get("sleep", 0))
    if answer.get("run") == "ssh":  # on this machine, as the shell of a host would run it
        command = next(a for a in call if a.startswith("--command=")).removeprefix("--command=")
        return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL).returncode
    if answer.get("run") == "srun":
        return subprocess.run(call[2:]).returncode
    return answer.get("code", 0)


if __name__ == "__main__":
    sys.exit(main())
