# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which container a file is, by its first bytes, and which of its tracks is the video."""

from collections.abc import Sequence
from typing import Any

from av.stream import Disposition

# As many first bytes as `recognize` wants: five packets of a transport stream behind a cut one.
HEAD = 1200

# FFmpeg demuxers of the formats that are read.
READ = {
    "avi": "avi",
    "gif": "gif",
    "matroska": "mkv or webm",
    "mov": "mp4 or mov",
    "mpegts": "MPEG-TS",
}
# ISO/IEC 14496-12 and QuickTime: boxes that a file or one of its segments starts with.
_BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot styp moof sidx ssix emsg prft pdin uuid meta".split()
)
# The same, of a segment that says nothing of the codec: that is in another file.
_SEGMENT_BOXES = frozenset((b"styp", b"moof", b"sidx", b"ssix", b"emsg", b"prft"))
# Formats that are told from damage, but not read: every demuxer is one more for hostile input.
_REFUSED = (
    (b"FLV\x01", "Flash video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (asf, wmv)"),
    (b"\x00\x00\x01\xba", "an MPEG program stream (mpg, vob)"),
    (b"OggS", "Ogg"),
    (b".RMF", "RealMedia"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
_PICTURE_CODECS = ("bmp", "gif", "mjpeg", "png", "tiff", "webp")
# A track with at most this share of the largest one's pixels is a thumbnail of it.
_THUMBNAIL = 0.25


def recognize(head: bytes) -> str | None:
    """The FFmpeg demuxer for a file that starts with `head`, None for anything not read."""
    if head[4:8] in _BOXES:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return "mpegts" if _has_packets(head) else None


def _has_packets(head: bytes) -> bool:
    """Whether the sync bytes of a transport stream (ISO/IEC 13818-1) recur, from anywhere on.

    Packets are 188 bytes; cameras and discs put a time stamp before each (192), some receivers a
    check sum behind it (204).
    """
    for length in (188, 192, 204):
        for start in range(length):
            marks = head[start::length]
            if len(marks) >= 5 and marks.count(0x47) == len(marks):
                return True
    # A short file, whole from its first packet on.
    whole = len(head) < HEAD and len(head) % 188 == 0
    return whole and set(head[::188]) == {0x47}


def explain_refusal(head: bytes) -> str:
    """What a file that `recognize` does not know is, as far as its first bytes tell."""
    name = next((name for magic, name in _REFUSED if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        name = "a WebP image"
    if name is None:
        return f"it starts with {head[:12]!r}"
    return f"it is {name}; read are {', '.join(READ.values())}: convert it with FFmpeg"


def is_segment(head: bytes) -> bool:
    """Whether the file starts as a segment of a stream, whose codec another file describes."""
    return head[4:8] in _SEGMENT_BOXES


def choose_track(streams: Sequence[Any]) -> Any | None:
    """The video track to read, None if no track is one.

    Cover art is none. Of several: thumbnails (at most a quarter of the largest one's pixels) and
    single pictures are passed over, then the one marked as default is taken, else the largest,
    else the first, which is what players show.
    """
    tracks = [stream for stream in streams if not _is_still(stream)]
    known = [track for track in tracks if track.codec_context is not None]
    if not known:
        return tracks[0] if tracks else None
    largest = max(map(_count_pixels, known))

    def rank(track: Any) -> tuple[bool, bool, bool, int]:
        # 0 frames: the container does not say, and a cover need not be marked as one.
        moves = track.frames > 1 or (
            track.frames == 0 and track.codec_context.name not in _PICTURE_CODECS
        )
        full = _count_pixels(track) > _THUMBNAIL * largest
        return moves, full, bool(track.disposition & Disposition.default), _count_pixels(track)

    return max(known, key=rank)  # the first of equals


def count_tracks(streams: Sequence[Any]) -> int:
    """Video tracks without cover art."""
    return sum(not _is_still(stream) for stream in streams)


def _is_still(stream: Any) -> bool:
    stills = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return bool(stream.disposition & stills)


def _count_pixels(track: Any) -> int:
    return track.codec_context.height * track.codec_context.width
