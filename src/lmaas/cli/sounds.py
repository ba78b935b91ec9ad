"""`lmaas predict` for models that hear: files written down one after the other."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import click

from lmaas.cli.output import is_quiet, printable, progress
from lmaas.errors import InvalidInput

if TYPE_CHECKING:
    from lmaas.client.calls import TranscribeOptions
    from lmaas.transcription_types import Transcript

FORMATS: Final = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json",
                  "verbose_json": ".json"}  # fmt: skip
"""What a transcript is written as, and how its file ends."""


class Wanted(NamedTuple):
    """What is said on the command line about sounds."""

    format: str | None = None
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    words: bool = False

    def check_unused(self) -> None:
        """Raise UsageError for an option that only models that hear honour."""
        for name, value in self._asdict().items():
            if value not in (None, False):
                raise click.UsageError(f"--{name} works with models that hear only.")


class Hear(Protocol):
    """How a sound is written down: `told` hears which share of it is done."""

    def __call__(
        self, audio: bytes, options: "TranscribeOptions", told: Callable[[float], None]
    ) -> "Transcript":
        """Its transcript."""
        ...


def write_down(
    files: tuple[Path, ...], hear: Hear, wanted: Wanted, out: Path | None, as_json: bool
) -> None:
    """Write down each file, to standard output or to `out`: a file, or for many a folder.

    Raises InvalidInput naming the file that cannot be read.
    """
    kind = wanted.format or ("verbose_json" if as_json and wanted.words else None)
    kind = kind or ("json" if as_json else "text")
    if as_json and kind not in ("json", "verbose_json"):
        raise click.UsageError(f"--json and --format {kind} contradict each other.")
    folder = None
    if out is not None and (len(files) > 1 or out.is_dir()):
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
        _check_names(files)
    for file in files:
        data = sys.stdin.buffer.read() if str(file) == "-" else _content(file)
        with _bar(file.name) as told:
            text = told_as(hear(data, _options(wanted, kind), told), kind)
        if folder is not None:
            target = folder / f"{file.stem}{FORMATS[kind]}"
        elif out is not None:
            target = out
        else:
            if len(files) > 1:
                click.echo(f"==> {printable(file.name)} <==", err=kind != "text")
            click.echo(text.rstrip("\n"))
            continue
        target.write_text(text, "utf-8")
        progress(f"Wrote {target}.")


def told_as(transcript: "Transcript", kind: str) -> str:
    """A transcript in a format of `FORMATS`."""
    import msgspec

    from lmaas.subtitles import srt, vtt

    match kind:
        case "text":
            return f"{printable(transcript.text)}\n"
        case "srt":
            return srt(transcript.segments or ())
        case "vtt":
            return vtt(transcript.segments or ())
        case "json":
            return msgspec.json.encode({"text": transcript.text}).decode() + "\n"
        case _:
            return msgspec.json.format(msgspec.json.encode(transcript)).decode() + "\n"


def _options(wanted: Wanted, kind: str) -> "TranscribeOptions":
    words = wanted.words or False
    return {
        "language": wanted.language,
        "prompt": wanted.prompt,
        "temperature": wanted.temperature,
        "words": words,
        "segments": kind in ("srt", "vtt", "verbose_json"),
    }


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", param="FILE") from None


def _check_names(files: tuple[Path, ...]) -> None:
    stems = [file.stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise InvalidInput(
            f"Two files are called {twice[0]}: one would be written over the other.", param="FILE"
        )


@contextmanager
def _bar(name: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal's stderr that shows how much of a sound is heard."""
    if is_quiet() or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(printable(name), total=1.0)
        yield lambda done: bar.update(shown, completed=done)


def over_http(client: Any, model: str) -> Hear:
    """As a server hears."""

    def hear(
        audio: bytes, options: "TranscribeOptions", told: Callable[[float], None]
    ) -> "Transcript":
        found: Transcript = client.transcribe(
            model, audio, heard=lambda piece: told(piece.done), **options
        )
        return found

    return hear


def in_process(service: Any, runner: Any, tenant: str, model: str) -> Hear:
    """As a service of this process hears."""

    def hear(
        audio: bytes, options: "TranscribeOptions", told: Callable[[float], None]
    ) -> "Transcript":
        import msgspec

        from lmaas.transcription_types import TranscribeRequest

        given = {name: value for name, value in options.items() if value is not None}
        request = msgspec.convert({**given, "audio": audio, "stream": True}, TranscribeRequest)

        async def run() -> Any:
            transcription = await service.calls.transcribe_here(tenant, model, request)
            async for _ in transcription:
                told(transcription.done)
            return transcription.transcript

        found: Transcript = runner.run(run())
        return found

    return hear
