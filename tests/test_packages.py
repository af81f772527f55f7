# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What texts tell people to install is what the project names, never a stranger's package."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from nbp.parallel.compiler_messages import find_wanted
from tests.texts import DOCUMENTS, LAUNCHERS, ROOT, list_strings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
LOCKS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
# Of an environment of its own, in which some packages are older.
BEAM = ROOT / "requirements-beam.txt"
# Versions of a package by the Pythons that they are for: "" for all.
LOCKED: dict[str, dict[str, str]] = {}
for lock in LOCKS:
    for line in lock.read_text(encoding="utf8").splitlines():
        if not line.startswith("#"):
            pin, _, marker = line.partition(" ; ")
            name, _, version = pin.partition("==")
            LOCKED.setdefault(name, {})[marker] = version
OLD, NEW = "python_full_version < '3.12'", "python_full_version >= '3.12'"
# uv: brings a newer Python to images of TPUs (tpu_host.sh). jupyterlab: opens the notebook.
# tensorboard: reads what tensorboardX wrote, for a test (.ci/run). torch, safetensors: read weights
# that were published.
TOOLS = {"uv", "jupyterlab", "tensorboard", "torch", "safetensors"}
TRACKERS = {"wandb", "mlflow", "trackio"}  # as the extras of these names have them
VALUES = {"--python", "-p", "--target"}  # flags of pip whose value is no package
FILES = {"-r", "--requirement"}
HOLE = "{version of jax}"


def list_texts() -> Iterator[tuple[str, str]]:
    """Every document, script, and string of the code, with its place."""
    plain = [
        *DOCUMENTS,
        *LAUNCHERS,
        ROOT / "Dockerfile",
        *sorted((ROOT / ".ci").iterdir()),
        *LOCKS,
        BEAM,
    ]
    for path in [*plain, ROOT / "pyproject.toml"]:
        yield path.name, re.sub(r"\\\n\s*", "", path.read_text(encoding="utf8"))
    for folder in ("nbp", "configs", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, text in list_strings(path):
                yield f"{path.relative_to(ROOT)}:{line}", text.replace("\x00", HOLE)


def find_installed(text: str) -> Iterator[str]:
    """What follows `pip install` in a text: names of packages, files and folders."""
    for found in re.finditer(
        r"pip3? install((?:[ \t]+(?:\"[^\"\n]+\"|'[^'\n]+'|[^\s`;&|#(]+))+)", text
    ):
        words = re.findall(r"\"[^\"]+\"|'[^']+'|\S+", found[1])
        values = {i + 1 for i, word in enumerate(words) if word in VALUES}
        for i, word in enumerate(words):
            if i in values or (word.startswith("-") and word not in FILES):
                continue
            if i and words[i - 1] in FILES:
                made = word.startswith('"$')  # by a script, from pyproject.toml
                assert made or word.strip("'\"") in {lock.name for lock in (*LOCKS, BEAM)}, word
            elif word not in FILES:
                yield word.strip("'\"").rstrip("'\".,:").replace('"', "")


TEXTS = list(list_texts())


def test_commands_are_found() -> None:
    shell = 'pip install "jax[tpu]==0.1" and `pip install -r requirements.txt nbp` # no more'
    assert list(find_installed(shell)) == ["jax[tpu]==0.1", "and", "nbp"]
    assert len([place for place, text in TEXTS for _ in find_installed(text)]) >= 6


def test_texts_install_nothing_but_what_the_project_names() -> None:
    allowed = set(LOCKED) | TOOLS | TRACKERS
    for place, text in TEXTS:
        for word in find_installed(text):
            if word in ("", ".", "$@", f".[{HOLE}]") or re.fullmatch(r"\.\[(\w+)\]", word):
                extra = re.fullmatch(r"\.\[(\w+)\]", word)
                assert not extra or extra[1] in PROJECT["project"]["optional-dependencies"], place
                continue
            found = re.fullmatch(r"([a-zA-Z0-9-]+)(?:\[(\w+)\])?(?:==(.+))?", word)
            assert found, (place, word)
            assert found[1] in allowed, f"{place}: pip install {word}"
            pins = LOCKED.get(found[1], {}).values()
            assert found[3] in (None, HOLE, *pins), f"{place}: another version"


def test_the_distribution_has_a_name_that_is_not_the_strangers() -> None:
    """`nbp` on the package index is another project; so no text may ask pip for it."""
    assert PROJECT["project"]["name"] == "nbp-video"
    extras = {"beam", "cuda", "tpu", "wandb", "mlflow", "trackio"}
    assert set(PROJECT["project"]["optional-dependencies"]) == extras
    for place, text in TEXTS:
        assert not re.search(r"\bnbp(-video)?\[|pip install [^\n`]*\bnbp\b", text), place


def test_extras_of_trackers_are_the_packages_of_these_names() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for name in TRACKERS:
        assert [re.split(r"[><=]", line)[0] for line in extras[name]] == [name]


def test_the_configurations_are_part_of_the_package() -> None:
    """By a link in a folder that setuptools takes for a package: the wheel holds copies."""
    link = ROOT / "nbp" / "shipped" / "configs"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / "configs"
    assert [path.name for path in link.parent.iterdir()] == ["configs"]
    # Folders without __init__.py count: `namespaces` is on unless it is turned off.
    assert PROJECT["tool"]["setuptools"]["packages"]["find"] == {"include": ["nbp*"]}


def test_the_image_has_the_extra_for_gpus() -> None:
    """By name: the code, of which `.[cuda]` is an extra, comes later."""
    extra = {
        line.split(";")[0].split(">=")[0]
        for line in PROJECT["project"]["optional-dependencies"]["cuda"]
    }
    image = re.search(r"cuda\) set -- (.*) ;;", (ROOT / "Dockerfile").read_text(encoding="utf8"))
    assert image
    assert {word.strip("'") for word in image[1].split()} == extra


def test_each_python_has_one_version_of_everything() -> None:
    """Python 3.11 has the last JAX that supports it, later ones the newest."""
    for name, pins in LOCKED.items():
        assert set(pins) in ({""}, {OLD, NEW}) or "sys_platform" in "".join(pins), name
    assert LOCKED["jax"][OLD].startswith("0.10.")
    assert LOCKED["jax"] == LOCKED["jaxlib"]
    old, new = (tuple(map(int, LOCKED["jax"][marker].split("."))) for marker in (OLD, NEW))
    assert old < new
    this = OLD if sys.version_info < (3, 12) else NEW
    assert jax.__version__ == LOCKED["jax"][this]


@pytest.mark.parametrize("package, version", [("jax", r"jax\[\w+\]==([0-9.]+)")])
def test_versions_in_documents_are_those_of_the_lock(package: str, version: str) -> None:
    found = {v for p in DOCUMENTS for v in re.findall(version, Path(p).read_text(encoding="utf8"))}
    assert found <= set(LOCKED[package].values())


def test_the_document_of_precompile_names_the_locked_jax() -> None:
    text = " ".join((ROOT / "docs/scaling.md").read_text(encoding="utf8").split())
    named = re.search(
        r"goes with one libtpu: (\S+) \(Python 3\.11\) with (\S+), (\S+) \(.*?\) with (\S+);", text
    )
    assert named
    assert (named[1], named[3]) == (LOCKED["jax"][OLD], LOCKED["jax"][NEW])
    this = named[2] if sys.version_info < (3, 12) else named[4]
    assert find_wanted() == f"{this}.*"
