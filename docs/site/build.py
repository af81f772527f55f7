# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the site of the documentation: README and the other texts, the notebook, the library.

    python docs/site/build.py [FOLDER]

The pages go to FOLDER, build/site by default: open its index.html. Their texts stay where
code hosts show them; Sphinx gets copies in one folder, with pages of the other files that they link
to. Any warning, such as of a link to nothing, is an error. Needs no network.
"""

import ast
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from api import PAGES
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "examples/quickstart"
NAVIGATION = {
    "Begin": [
        "Getting started <start>",
        "First steps <docs/first_steps>",
        f"A notebook <{NOTEBOOK}>",
    ],
    "Models": [
        *("Layout <docs/layout>", "Blocks <docs/blocks>", "Sampling <docs/sampling>"),
        "Tokenizer training <docs/tokenizer_training>",
        "Parity with the official release <docs/official_parity>",
    ],
    "Data and training": [
        *("Data <docs/data>", "Guard rails <docs/guard_rails>", "Sweeps <docs/sweeps>"),
        *("Launching <docs/launching>", "Scaling <docs/scaling>"),
        *("Tracking <docs/tracking>", "Publishing <docs/publishing>"),
    ],
    "Scores": ["Protocols <docs/protocols>"],
    "Library": [f"api/{page}" for page in PAGES],
    "Project": ["Architecture <docs/architecture>", "CONTRIBUTING", "CHANGELOG"],
}
NEXT = """[Getting started](start.md) installs NBP and trains the first model. The reference of the
library begins with what `nbp.load` opens: [a trained run](api/run.rst).
"""
LANGUAGES = {".sh": "bash", ".sbatch": "bash", ".py": "python", "": "text", ".jsonl": "text"}
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(#?)")


def make_texts() -> dict[str, str]:
    """The pages by their names in the folder for Sphinx.

    The front page is README as far as its installation, with which the next page begins.
    """
    front, start = (ROOT / "README.md").read_text(encoding="utf8").split("\n## Install\n")
    lists = (
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in NAVIGATION.items()
    )
    texts = {
        "index.md": "\n".join((front, NEXT, *lists)),
        "start.md": f"# Getting started\n\n## Install\n{start}",
        f"{NOTEBOOK}.md": show_notebook(ROOT / f"{NOTEBOOK}.ipynb"),
    }
    for path in [*ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf8")
    for name in list(texts):
        texts[name] = LINK.sub(lambda link: _follow(name, *link.groups(), texts), texts[name])  # noqa: B023
    for name, page in PAGES.items():
        texts[f"api/{name}.rst"] = show_modules(*page)
    return texts


def _follow(name: str, link: str, part: str, texts: dict[str, str]) -> str:
    """What a link in a text becomes; adds a page of what it leads to where there is none.

    part: "#" where it leads to a section, all of which README has on its second page.
    """
    target = os.path.normpath(Path(name).parent / link)
    front = "start.md" if part else "index.md"
    page = {"README.md": front, f"{NOTEBOOK}.ipynb": f"{NOTEBOOK}.md"}.get(target, target)
    if page not in texts and (ROOT / target).exists() and not target.startswith("docs/images/"):
        page = f"files/{target}.md"
        texts[page] = show_file(target)
    return os.path.relpath(page, Path(name).parent) + part


def show_notebook(path: Path) -> str:
    """Its cells; it has no outputs (tested)."""
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(
        text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts
    )


def show_file(name: str) -> str:
    """A file, or the files of a folder with the first line of their docstrings."""
    path = ROOT / name
    if path.is_dir():
        trees = {p.name: ast.parse(p.read_text(encoding="utf8")) for p in sorted(path.glob("*.py"))}
        docs = {module: ast.get_docstring(tree) for module, tree in trees.items()}
        shown = "\n".join(f"* `{name}/{m}`: {d.splitlines()[0]}" for m, d in docs.items() if d)
    else:
        language = LANGUAGES.get(path.suffix, "text")
        shown = f"~~~~~~{language}\n{path.read_text(encoding='utf8')}\n~~~~~~"
    return f"---\norphan: true\nnosearch: true\n---\n\n# `{name}`\n\n{shown}\n"


def show_modules(title: str, about: str, modules: str) -> str:
    """A page of the reference, for Sphinx to fill in."""
    parts = [title, "=" * len(title), "", about]
    for module in modules.split():
        name = f"``nbp.{module}``"
        parts += ["", name, "-" * len(name), "", f".. automodule:: nbp.{module}"]
        parts += ["   :undoc-members:"] * (module == "run")  # keywords, whose types say enough
    return "\n".join([*parts, ""])


def main(folder: Path) -> int:
    """Returns 0, or another number where Sphinx has warned."""
    with tempfile.TemporaryDirectory(prefix="nbp-site-") as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(ROOT / "docs" / "images", source / "docs" / "images")
        for name, text in make_texts().items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text, encoding="utf8")
        options = ["--quiet", "--fail-on-warning", "--jobs", "auto", "--builder", "html"]
        places = ["--conf-dir", str(Path(__file__).parent), "--doctree-dir", f"{scratch}/doctrees"]
        return build_main([*options, *places, str(source), str(folder)])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
