# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that holds all it shows and asks no network for anything.

Scores, tables and curves are plain HTML and SVG: they are there without the script, which plays
clips, sorts, filters and shows values. The page's own policy forbids every request and every script
but this one, so that even a name that slipped through the escaping could not run.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from nbp.report.clip_cards import show_gallery
from nbp.report.records import Page, PreviewStrip, ShownClip
from nbp.report.sections import Section, fold, make_sections, show_header, show_scores


def build_page(page: Page) -> str:
    """The page of a workdir as one HTML document."""
    header, sections = show_header(page.title, page.facts, page.left_out), make_sections(page)
    return build_document(page.title, header, sections, clips=page.clips, strips=page.previews)


def build_gallery(page: Page) -> str:
    """The clips of a page for a model card, with its scores and how the clips were drawn."""
    found = [
        Section("clips", "Generated clips", show_gallery(page)),
        Section("scores", "Scores", "".join(show_scores(e) for e in page.evaluations)),
        Section("drawing", "How they were drawn", fold("Settings of sampling", page.config)),
    ]
    header = show_header(page.title, page.facts, page.left_out)
    sections = [section for section in found if section.html]
    return build_document(page.title, header, sections, clips=page.clips)


def build_document(
    title: str,
    header: str,
    sections: Sequence[Section],
    *,
    clips: Sequence[ShownClip] = (),
    strips: Sequence[PreviewStrip] = (),
    bar: str = "",
) -> str:
    """An HTML document. title: plain text. header, sections, bar: HTML. bar: always in view."""
    pictures = [_describe_picture(clip) for clip in clips]
    for strip in strips:
        silent = {"fps": strip.fps, "given": 0, "psnr": []}
        pictures += [{**dataclasses.asdict(picture), **silent} for _, picture in strip.columns]
    style, script = _read_part("page.css"), _read_part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode("ascii")
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    return Template(_read_part("page.html")).substitute(
        title=escape(title),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
        style=style,
        script=script,
        links=links,
        header=header,
        sections="\n".join(
            f'<section id="{s.anchor}" aria-labelledby="{s.anchor}-title">'
            f'<h2 id="{s.anchor}-title">{escape(s.title)}</h2>\n{s.html}\n</section>'
            for s in sections
        ),
        bar=bar,
        clips=_embed_json(pictures),
    )


def _describe_picture(clip: ShownClip) -> dict[str, Any]:
    """What the script needs to show a clip; the rest is in the HTML."""
    return {
        **dataclasses.asdict(clip.picture),
        "fps": clip.fps,
        "given": clip.given_frames,
        "psnr": [round(value, 1) for value in clip.psnr_per_frame],
    }


def _embed_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_part(name: str) -> str:
    return resources.files("nbp.report").joinpath(name).read_text(encoding="utf8")
