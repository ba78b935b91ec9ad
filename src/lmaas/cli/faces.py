"""`lmaas faces create|list|rm|enrol|subjects|forget|identify|verify|audit`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmaas.cli.output import home_options, json_option, server_options, show, show_table
from lmaas.cli.target import server_or_none

if TYPE_CHECKING:
    from lmaas.client import Client
    from lmaas.codecs.marks import Mark
    from lmaas.face_types import Identified

PAGE = 1000
IMAGE = click.Path(exists=True, dir_okay=False, path_type=Path)


@contextmanager
def _client(flags: dict[str, Any]) -> "Iterator[Client]":
    """The server that is named or lives; else one of this home, as long as the command."""
    with server_or_none(flags) as client:
        if client is not None:
            yield client
            return
    from lmaas.config import load_settings
    from lmaas.own_server import local

    with local(load_settings(flags).home_path) as client:
        yield client


@click.group()
def command() -> None:
    """Manage galleries of faces, and ask whose face an image shows.

    Enrol only people who have agreed to it. A picture cannot prove that somebody is alive.
    """


@command.command()
@click.argument("gallery")
@click.option("--model", required=True, metavar="MODEL", help="Model for face recognition.")
@click.option("--far", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="False-accept rate; the model must be calibrated at it.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Least similarity of one person.")
@json_option
@home_options
@server_options
@click.pass_obj
def create(
    flags: dict[str, Any],
    gallery: str,
    model: str,
    far: float | None,
    threshold: float | None,
    as_json: bool,
) -> None:
    """Make the gallery NAME for the vectors of one version of a model."""
    with _client(flags) as client:
        made = client.create_gallery(gallery, model, false_accept_rate=far, threshold=threshold)
    known = _limits(made.threshold, made.false_accept_rate)
    show(made, as_json, [f"{made.name} has vectors of {made.model}. {known}"])


@command.command("list")
@json_option
@home_options
@server_options
@click.pass_obj
def list_(flags: dict[str, Any], as_json: bool) -> None:
    """List the galleries."""
    with _client(flags) as client:
        found = client.galleries()
    rows = [
        (
            each.name,
            each.model,
            str(each.subjects),
            str(each.photos),
            "none" if each.threshold is None else f"{each.threshold:.3f}",
            "unknown" if each.false_accept_rate is None else f"{each.false_accept_rate:g}",
        )
        for each in found
    ]
    columns = ("gallery", "model", "subjects", "photos", "threshold", "false accepts")
    show_table(found, as_json, columns, rows)


@command.command()
@click.argument("gallery")
@json_option
@home_options
@server_options
@click.pass_obj
def rm(flags: dict[str, Any], gallery: str, as_json: bool) -> None:
    """Delete GALLERY with all its subjects and vectors."""
    with _client(flags) as client:
        gone = client.delete_gallery(gallery)
    show(gone, as_json, [f"Deleted {gallery}: {gone.subjects} subjects, {gone.photos} photos."])


@command.command()
@click.argument("gallery")
@click.argument("subject")
@click.argument("images", nargs=-1, required=True, type=IMAGE)
@json_option
@home_options
@server_options
@click.pass_obj
def enrol(
    flags: dict[str, Any], gallery: str, subject: str, images: tuple[Path, ...], as_json: bool
) -> None:
    """Enrol SUBJECT with IMAGES, each of one face. The images are not kept."""
    with _client(flags) as client:
        photos = [client.enrol(gallery, subject, image) for image in images]
    show(photos, as_json, [f"{photo.id}  {photo.subject}" for photo in photos])


@command.command()
@click.argument("gallery")
@json_option
@home_options
@server_options
@click.pass_obj
def subjects(flags: dict[str, Any], gallery: str, as_json: bool) -> None:
    """List who is in GALLERY."""
    with _client(flags) as client:
        found = more = client.subjects(gallery, limit=PAGE)
        while len(more) == PAGE:
            more = client.subjects(gallery, after=more[-1].name, limit=PAGE)
            found = found + more
    rows = [(each.name, each.tag, str(each.photos), _at(each.created_at)) for each in found]
    show_table(found, as_json, ("subject", "tag", "photos", "made"), rows)


@command.command()
@click.argument("gallery")
@click.argument("subject")
@json_option
@home_options
@server_options
@click.pass_obj
def forget(flags: dict[str, Any], gallery: str, subject: str, as_json: bool) -> None:
    """Delete SUBJECT from GALLERY: nothing of them stays."""
    with _client(flags) as client:
        gone = client.delete_subject(gallery, subject)
    show(gone, as_json, [f"Deleted {subject} with {gone.photos} photos."])


@command.command()
@click.argument("gallery")
@click.argument("image", type=IMAGE)
@click.option("--most", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Most subjects to tell of each face.")  # fmt: skip
@click.option("--draw", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the image with names and boxes to this file.")  # fmt: skip
@json_option
@home_options
@server_options
@click.pass_obj
def identify(
    flags: dict[str, Any], gallery: str, image: Path, most: int, draw: Path | None, as_json: bool
) -> None:
    """Tell whose faces IMAGE shows."""
    with _client(flags) as client:
        found = client.identify(gallery, image, most=most)
    rows = [
        (
            f"{face.box.xmin:.0f},{face.box.ymin:.0f}-{face.box.xmax:.0f},{face.box.ymax:.0f}",
            match.subject,
            f"{match.similarity:.3f}",
            "yes" if match.same else "no",
        )
        for face in found.faces
        for match in face.matches
    ]
    if draw is not None:
        from lmaas.codecs.drawing import FORMATS
        from lmaas.codecs.drawing import draw as drawn

        if draw.suffix.lower() not in FORMATS:
            raise click.UsageError(f"--draw writes {', '.join(FORMATS)}; received {draw.name!r}.")
        draw.write_bytes(
            drawn(image.read_bytes(), [_mark(face) for face in found.faces], draw.suffix)
        )
    columns = ("face", "subject", "similarity", "same person")
    show_table(found, as_json, columns, rows)
    if not as_json:
        click.echo(_limits(found.threshold, found.false_accept_rate))


@command.command()
@click.argument("gallery")
@click.argument("subject")
@click.argument("image", type=IMAGE)
@json_option
@home_options
@server_options
@click.pass_obj
def verify(flags: dict[str, Any], gallery: str, subject: str, image: Path, as_json: bool) -> None:
    """Tell whether the one face in IMAGE is SUBJECT's."""
    with _client(flags) as client:
        found = client.verify(gallery, subject, image)
    told = "yes" if found.same else "no"
    lines = [
        f"{told} (similarity {found.similarity:.3f})",
        _limits(found.threshold, found.false_accept_rate),
    ]
    show(found, as_json, lines)


@command.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
@home_options
@server_options
@click.pass_obj
def audit(flags: dict[str, Any], limit: int, as_json: bool) -> None:
    """List who changed galleries and when, the newest first. Subjects are told by their tags."""
    with _client(flags) as client:
        found = client.audit(limit=limit)
    rows = [(_at(each.at), each.key_id, each.action, each.object, each.detail) for each in found]
    show_table(found, as_json, ("at", "key", "action", "gallery", "detail"), rows)


def _mark(face: "Identified") -> "Mark":
    from lmaas.codecs.marks import Mark

    box = face.box
    known = [match for match in face.matches if match.same]
    text = f"{known[0].subject} {known[0].similarity:.2f}" if known else "unknown"
    return Mark((box.xmin, box.ymin, box.xmax, box.ymax), text, "known" if known else "unknown")


def _limits(threshold: float | None, rate: float | None) -> str:
    if threshold is None:
        return "The model is not calibrated: no similarity is known to be one person's."
    known = "nobody has measured how often strangers reach it"
    if rate is not None:
        known = f"of pairs of strangers, {rate:.4%} reached it when it was calibrated"
    return f"One person from a similarity of {threshold:.3f} on; {known}."


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
