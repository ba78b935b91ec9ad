"""`lmaas demo`: the main job."""

import os
from typing import Any

import click
import msgspec

from lmaas.cli.output import home_options, json_option, service_of, show
from lmaas.config import load_settings
from lmaas.types import TENANT

SNIPPETS = """
curl {url}/models/digits-keras -H 'Authorization: Bearer {key}' -H 'Content-Type: image/png' \\
     --data-binary @digit.png

from huggingface_hub import InferenceClient
client = InferenceClient(model="{url}/models/digits-pytorch", token="{key}")
client.image_classification("digit.png")

import lmaas                      # your own nn.Module, keras.Model or tf.Module:
lmaas.publish(model, name="mine", task="image-classification", labels=[...], sample=x[:4])
"""


@click.command()
@click.option("--serve", is_flag=True, help="Leave the server running in the foreground.")
@json_option
@home_options
@click.pass_obj
def command(flags: dict[str, Any], serve: bool, as_json: bool) -> int:
    """Train, publish, serve and call three models."""
    # TensorFlow reads these when it is imported: quiet, and on the CPU as everything here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from lmaas import demo

    settings = load_settings(flags)
    data = demo.load_digits()
    published = []
    for name in demo.MAKERS:
        click.echo(f"Training and publishing {name} …", err=True)
        published.append(demo.train_and_publish(settings, data, name))
    with service_of(flags) as service:
        record, key = service.create_key(TENANT, "demo", ("admin", "call"))
    url, process = demo.ensure_server(settings)
    try:
        results = [demo.measure(url, key, data, version, own) for version, own in published]
        good = all(result.answers_equal for result in results)
        show(
            {"models": msgspec.to_builtins(results), "url": url, "key": key if serve else None},
            as_json,
            [*_table(results), SNIPPETS.format(url=url, key=key) if serve else ""],
        )
        if serve and process:
            click.echo(f"Serving on {url}; Ctrl-C stops.", err=True)
            process.wait()
    except KeyboardInterrupt:
        if process:
            process.wait()
        raise
    finally:
        if process and process.poll() is None:
            process.terminate()
            process.wait()
        if not serve:
            with service_of(flags) as service:
                service.revoke_key(TENANT, record.id)
    return 0 if good else 1


def _table(results: list[Any]) -> list[str]:
    head = ("framework", "parameters", "accuracy", "served", "same", "parity", "size", "p50")
    rows = [
        (
            r.framework,
            f"{r.parameters:,}",
            f"{r.accuracy:.4f}",
            f"{r.served_accuracy:.4f}",
            "yes" if r.answers_equal else "NO",
            f"{r.parity_max_abs_error:.1e}",
            f"{r.size_bytes / 1024:.0f} KiB",
            f"{r.p50_ms:.1f} ms",
        )
        for r in results
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [head, *rows]
    ]
