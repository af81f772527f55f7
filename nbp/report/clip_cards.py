# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The clips of the report page as HTML: transport, worst and best, gallery, sort and filters."""

from collections.abc import Iterable, Sequence
from html import escape

from nbp.report.records import KINDS, Page, ShownClip
from nbp.report.svg import format_number

EXTREMES = 3  # worst and best groups of clips


def show_clips(page: Page) -> str:
    """The transport, the worst and the best, and the gallery with its sort and filters."""
    if not page.clips:
        return ""
    groups: dict[str, list[int]] = {}
    for place, clip in enumerate(page.clips):
        groups.setdefault(clip.group, []).append(place)
    for members in groups.values():
        members.sort(key=lambda place: KINDS.index(page.clips[place].kind))
    cards = [show_group(page, members) for members in groups.values()]
    return (
        f"{show_transport(max(c.picture.frames for c in page.clips), page.clips[0].fps)}"
        f"{''.join(show_extremes(page, groups.values(), name) for name in list_protocols(page))}"
        f"<h3>All clips</h3>{show_filters(page)}"
        f'<div class="cards" id="gallery">{"".join(cards)}</div>'
        '<p class="more"><button type="button" id="more" hidden>Show more</button></p>'
    )


def show_previews(page: Page) -> str:
    """A strip for each stage: a row is a condition, a column a step of the training."""
    place, parts = len(page.clips), ""
    if page.previews and not page.clips:  # the controls are with the clips otherwise
        first = page.previews[0]
        parts = show_transport(
            max(p.frames for s in page.previews for _, p in s.columns), first.fps
        )
    for strip in page.previews:
        figures = ""
        for name, picture in strip.columns:
            figures += (
                f'<figure><canvas role="img" aria-label="{escape(f"{strip.stage}, {name}")}" '
                f'data-clip="{place}" width="{picture.width}" height="{picture.height}"></canvas>'
                f"<figcaption><b>{escape(name)}</b></figcaption></figure>"
            )
            place += 1
        parts += f'<h3>{escape(strip.stage)}</h3><div class="strip">{figures}</div>'
    return parts


def list_protocols(page: Page) -> list[str]:
    return list(dict.fromkeys(clip.protocol for clip in page.clips))


def show_transport(frames: int, fps: float) -> str:
    speeds = "".join(
        f'<option value="{speed}"{" selected" if speed == 1 else ""}>{speed:g}x</option>'
        for speed in (0.1, 0.25, 0.5, 1, 2, 4)
    )
    return (
        '<div class="transport" role="group" aria-label="Playback of all clips together">'
        '<button type="button" id="back" aria-label="One frame back">&#9664;&#65038;</button>'
        '<button type="button" id="play" aria-pressed="false">Play</button>'
        '<button type="button" id="forward" aria-label="One frame forward">&#9654;&#65038;'
        "</button>"
        f'<label class="scrub"><span class="hidden">Frame</span><input type="range" id="frame" '
        f'min="0" max="{frames - 1}" value="0" step="1"></label>'
        f'<output id="shown" for="frame">1 / {frames}</output>'
        f'<label title="1x is {fps:g} frames per second"><span class="word">Speed </span>'
        f'<select id="rate">{speeds}</select>'
        "</label></div>"
    )


def show_filters(page: Page) -> str:
    labels = sorted({clip.label for clip in page.clips if clip.label})
    sorts = [("order", "as evaluated")]
    if any(clip.feature_distance is not None for clip in page.clips):
        sorts += [("distance-down", f"{page.distance_name}, largest first")]
        sorts += [("distance-up", f"{page.distance_name}, smallest first")]
    if any(clip.psnr is not None for clip in page.clips):
        sorts += [("psnr-up", "PSNR, lowest first"), ("psnr-down", "PSNR, highest first")]
    if labels:
        sorts += [("label-up", "class, A to Z")]
    return show_form(sorts, labels, page.clips, protocols=list_protocols(page))


def show_form(
    sorts: Sequence[tuple[str, str]],
    labels: Sequence[str],
    clips: Sequence[ShownClip],
    *,
    protocols: Sequence[str] = (),
) -> str:
    """How the cards of a page are sorted and which of them are shown.

    sorts: (value for the script, text). labels: of cards, to choose one; () for no choice.
    """
    kinds = [kind for kind in KINDS if any(clip.kind == kind for clip in clips)]
    options = "".join(f'<option value="{v}">{escape(text)}</option>' for v, text in sorts)
    classes = "".join(f"<option>{escape(label)}</option>" for label in labels)
    boxes = "".join(
        f'<label class="chip kind-{kind}"><input type="checkbox" name="kind" value="{kind}" '
        f"checked> {kind}</label>"
        for kind in kinds
    )
    choice = (
        f'<label>Class <select id="label"><option value="">all {len(labels)}</option>{classes}'
        "</select></label>"
        if labels
        else ""
    )
    if len(protocols) > 1:  # one at a time: their distances do not compare
        names = "".join(f"<option>{escape(name)}</option>" for name in protocols)
        choice += f' <label>Protocol <select id="protocol">{names}</select></label>'
    return (
        f'<form class="filters" id="filters" aria-label="Sort and filter the clips">'
        f'<label>Sort by <select id="sort">{options}</select></label>{choice}'
        f"<fieldset><legend>Show</legend>{boxes}</fieldset>"
        '<output id="count" role="status"></output></form>'
    )


def show_group(page: Page, members: Sequence[int]) -> str:
    """A card: clips of one condition side by side."""
    clips = [page.clips[place] for place in members]
    label = next((clip.label for clip in clips if clip.label), "")
    title = label or clips[0].group
    figures = "".join(show_clip(page, place) for place in members)
    return (
        f'<article class="card" data-label="{escape(label)}" aria-label="{escape(title)}" '
        f'data-protocol="{escape(clips[0].protocol)}">'
        f'<h4>{escape(title)}</h4><div class="row">{figures}</div></article>'
    )


def show_clip(page: Page, place: int) -> str:
    clip = page.clips[place]
    values, data = [], ""
    if clip.feature_distance is not None:
        values.append(f"distance {format_number(clip.feature_distance, 3)}")
        data += f' data-distance="{clip.feature_distance:.6g}"'
    if clip.psnr is not None:
        values.append(f"{clip.psnr:.1f} dB")
        data += f' data-psnr="{clip.psnr:.6g}"'
    if not clip.paired:
        values.append(f"of another condition: {clip.label}" if clip.label else "without condition")
    return (
        f'<figure class="kind-{clip.kind}" data-kind="{clip.kind}"{data}>'
        f"{show_canvas(clip, place)}<figcaption><b>{clip.kind}</b>"
        f"{''.join(f'<span>{escape(value)}</span>' for value in values)}</figcaption></figure>"
    )


def show_canvas(clip: ShownClip, place: int, maker: str = "") -> str:
    """Where the script plays clip `place` of the page. maker: who made it, for those who hear."""
    facts = "; ".join(f"{name}: {value}" for name, value in clip.facts.items())
    by = f" by {maker}" if maker else ""
    spoken = f"{clip.kind} clip{by}, {clip.label or clip.group}, {clip.picture.frames} frames"
    return (
        f'<canvas role="img" aria-label="{escape(spoken)}" data-clip="{place}" '
        f'width="{clip.picture.width}" height="{clip.picture.height}" '
        f'title="{escape(facts or clip.name)}"></canvas>'
    )


def show_gallery(page: Page) -> str:
    """Clips for a model card: the generated ones alone, a class after the other, all playing."""
    places = [i for i, clip in enumerate(page.clips) if clip.kind == "generated"]
    if not places:
        return ""
    figures = "".join(
        f"<figure>{show_canvas(clip, place)}<figcaption>{escape(clip.label or clip.group)}"
        "</figcaption></figure>"
        for place in places
        for clip in [page.clips[place]]
    )
    longest = max(page.clips[place].picture.frames for place in places)
    fps = page.clips[places[0]].fps
    return f'{show_transport(longest, fps)}<div class="wall">{figures}</div>'


def rank_groups(
    page: Page, groups: Iterable[Sequence[int]]
) -> tuple[str, list[tuple[float, Sequence[int]]]]:
    """(what they are ranked by, groups from the best to the worst), by feature distance or PSNR.

    A group has the value of its generated clip, else of its reconstruction.
    """

    def find(members: Sequence[int], name: str) -> float | None:
        clips = [page.clips[place] for place in members]
        clips.sort(key=lambda clip: -KINDS.index(clip.kind))
        return next((v for clip in clips if (v := getattr(clip, name)) is not None), None)

    groups = list(groups)
    made = [m for m in groups if any(page.clips[place].kind != "real" for place in m)]
    for name, sign in (("feature_distance", 1), ("psnr", -1)):
        ranked = [(sign * v, m) for m in made if (v := find(m, name)) is not None]
        if ranked:
            ranked.sort(key=lambda pair: pair[0])
            return (page.distance_name if sign > 0 else "PSNR"), ranked
    return "", []


def show_extremes(page: Page, groups: Iterable[Sequence[int]], protocol: str) -> str:
    """Worst and best of a protocol; nothing where there are too few to tell them apart."""
    by, ranked = rank_groups(page, (m for m in groups if page.clips[m[0]].protocol == protocol))
    count = min(EXTREMES, len(ranked) // 2)
    if not count:
        return ""
    if len(list_protocols(page)) > 1:
        by = f"{by}, {protocol}"
    # The best reconstructions are not kept, so these are the best of the page.
    best_of = "Best of those shown" if by.startswith("PSNR") else "Best of all"
    worst = "".join(show_group(page, members) for _, members in ranked[::-1][:count])
    best = "".join(show_group(page, members) for _, members in ranked[:count])
    return (
        f'<div class="extremes"><div><h3>Worst of all by {escape(by)}</h3>'
        f'<div class="cards worst">{worst}</div></div><div><h3>{best_of} by {escape(by)}</h3>'
        f'<div class="cards best">{best}</div></div></div>'
    )
