# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Extension of Sphinx: docstrings are Markdown; what code in texts names in nbp becomes a link."""

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

SECTION = re.compile(r"(Args|Returns|Raises):")
# What a parameter or field is, `name: text` or `name, other: text`.
ITEM = re.compile(r"(\**[a-z_]\w*(?:, \**[a-z_]\w*)*|\w+Error): (.*)")
# A jaxtyping class as Python prints it: jaxtyping.Float[Any, 'b t d'].
SHAPED = re.compile(r"~?jaxtyping\.(\w+)\[[^\[\]']+, ('[^']*')\]")
# A setting's range: Annotated[float, Range(low=0.0, above=True, high=1.0, below=False)].
RANGED = re.compile(
    r"Annotated\[(\w+), ~?[\w.]*Range\(low=([^,]+), above=(\w+), high=([^,]+), below=(\w+)\)\]"
)
# A function or class as a default value.
VALUE = re.compile(r"<(?:function|class) '?(?:\w+\.)*(\w+)'?>")
NAMED = re.compile(r"nbp(\.\w+)+|nbp(/\w+)+\.py")


def to_markdown(lines: list[str]) -> list[str]:
    """A docstring with its parameters as a list: paragraphs that begin with `name: text`."""
    made: list[str] = []
    indent: int | None = None  # of the section that we are in
    begins = item = False  # a paragraph, the text of an item
    for line in lines:
        if SECTION.fullmatch(line):
            made += [f"**{line}**", ""]
            indent, begins, item = 0, True, False
            continue
        if indent is not None and line.strip():
            indent = indent or len(line) - len(line.lstrip())
            indent = indent if line.startswith(" ") else None
            line = line[indent or 0 :]
        found = ITEM.fullmatch(line) if begins or item else None
        item = bool(line) and (item or found is not None)
        if found:
            line = f"* **`{'`, `'.join(found[1].split(', '))}`** {found[2]}"
        elif item:
            line = f"  {line.strip()}"
        begins = not line
        made.append(line)
    return made


class Markdown(Directive):
    """Its content is Markdown."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        settings = self.state.document.settings
        document = new_document("docstring", settings)
        MystParser().parse("\n".join(self.content), document)
        link_code(document, **settings.env.ref_context)
        return document.children


def link_code(document: nodes.document, **context: Any) -> None:
    """Makes links of code that names a thing in full or, with a context, a thing beside it."""
    for code in list(document.findall(nodes.literal)):
        name = code.astext()
        named = NAMED.fullmatch(name) or (context and re.fullmatch(r"[\w.]+", name))
        if not named or isinstance(code.parent, nodes.title | nodes.reference | pending_xref):
            continue
        target = name.removesuffix(".py").replace("/", ".") if "/" in name else name
        link = pending_xref("", refdomain="py", reftype="obj", reftarget=target, **context)
        code.replace_self(link)
        link += code


def wrap_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    if lines[:1] == ["Call self as a function."]:  # Python's own, for a `__call__` without
        lines.clear()
    if any(lines):
        lines[:] = ["", ".. markdown::", "", *(f"   {line}" for line in to_markdown(lines)), ""]


def shorten_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str, returned: str
) -> tuple[str | None, ...]:
    """Float['b t d'] for jaxtyping.Float[Any, 'b t d'], f for <function f>, and intervals."""
    if what == "class" and (arguments or "").startswith("(*args"):  # that of nnx.Module's metaclass
        made = signature(thing.__init__, bound_method=True)
        arguments = stringify_signature(
            made, show_return_annotation=False, unqualified_typehints=True
        )
    texts = (text and SHAPED.sub(r"\1[\2]", text) for text in (arguments, returned))
    texts = (text and RANGED.sub(write_interval, text) for text in texts)
    return tuple(text and VALUE.sub(r"\1", text).replace("<factory>", "...") for text in texts)


def write_interval(found: re.Match[str]) -> str:
    """float['(0, 1]'] for a number above 0 and at most 1."""
    kind, low, above, high, below = (part.removesuffix(".0") for part in found.groups())
    opened = "(" if above == "True" or low == "-inf" else "["
    closed = ")" if below == "True" or high == "inf" else "]"
    return f"{kind}['{opened}{low}, {high}{closed}']"


def skip_member(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out fields of classes whose docstring is that of their value or of named tuples."""
    value = getattr(thing, "__name__", name) != name
    numbered = (getattr(thing, "__doc__", None) or "").startswith("Alias for field")
    return True if what == "class" and (value or numbered) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", wrap_docstring)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-read", lambda app, document: link_code(document))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
