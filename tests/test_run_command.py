# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How a command starts: flags before imports, and processes that do not import it again."""

import subprocess
import sys
from pathlib import Path

COMMAND = """
import argparse
from nbp.errors import ConfigError, run_command

def make_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    return parser

if __name__ == "__main__":
    run_command("command", make_parser)

import multiprocessing, pathlib
place = pathlib.Path("imported")
place.write_text(place.read_text() + __name__ + " " if place.exists() else __name__ + " ")

class Item:
    pass

def main(argv=None):
    print(Item.__module__, make_parser().parse_args(argv).count)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(abs, [-3]))
    raise ConfigError("one line")
"""


def test_a_command_reads_its_flags_first_and_is_imported_once(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND, encoding="utf8")
    root = Path(__file__).resolve().parent.parent

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "command", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{root}:{tmp_path}", "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("--help").returncode == 0
    assert run("--count", "x").returncode == 2
    assert not (tmp_path / "imported").exists()
    done = run("--count", "2")
    assert done.stdout.split() == ["command", "2", "[3]"]
    assert done.stderr == "nbp: ConfigError: one line\n"
    assert done.returncode == 2
    assert (tmp_path / "imported").read_text(encoding="utf8") == "command "
