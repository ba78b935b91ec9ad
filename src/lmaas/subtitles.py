"""Segments as subtitles: SubRip and WebVTT. Knows no transport."""

from collections.abc import Sequence

from lmaas.transcription_types import Segment


def srt(segments: Sequence[Segment]) -> str:
    """Segments as SubRip subtitles."""
    told = []
    for number, each in enumerate(_shown(segments), 1):
        times = f"{_clock(each.start, ',')} --> {_clock(each.end, ',')}"
        told.append(f"{number}\n{times}\n{_line(each.text)}\n")
    return "\n".join(told)


def vtt(segments: Sequence[Segment]) -> str:
    """Segments as WebVTT subtitles (W3C)."""
    told = ["WEBVTT\n"]
    for each in _shown(segments):
        text = _line(each.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        told.append(f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{text}\n")
    return "\n".join(told)


def _shown(segments: Sequence[Segment]) -> list[Segment]:
    return [each for each in segments if each.text.strip()]


def _line(text: str) -> str:
    """A text in one line that ends no subtitle."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    hours, minutes, whole = ms // 3_600_000, ms // 60_000 % 60, ms // 1000 % 60
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{ms % 1000:03d}"
