"""`lmaas fsck`."""

from typing import Any

import click

from lmaas.cli.output import home_options, json_option, service_of, show


@click.command()
@click.option("--repair", is_flag=True, help="Delete unreferenced files and interrupted downloads.")
@json_option
@home_options
@click.pass_obj
def command(flags: dict[str, Any], repair: bool, as_json: bool) -> int:
    """Verify the digest of every stored file."""
    with service_of(flags) as service:
        report = service.fsck(repair=repair)
    lines = [f"{d.model} {d.path}: {d.problem} (sha256:{d.sha256})" for d in report.damaged]
    lines += list(report.database)
    done = "deleted" if repair else "of a pull; the next one continues it, --repair deletes it"
    lines += [f"{download} ({done})." for download in report.downloads]
    lines.append(
        f"{report.num_files} files, {len(report.damaged)} damaged, {len(report.orphans)} orphans."
    )
    show(report, as_json, lines)
    return 0 if report.ok else 1
