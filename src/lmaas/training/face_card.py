"""What a card says of similarities of faces: which are one person's, how often that is wrong."""

from lmaas.types import FaceSpec


def similarities(face: FaceSpec | None) -> list[str]:
    """A section of a card; none for a model that makes no vectors of faces."""
    if face is None:
        return []
    if not face.rates:
        return [
            "## Similarities",
            "Nobody has measured how similar two people's faces are to this model, so none are "
            "called one person's without a threshold of the caller's.",
        ]
    rows = [
        f"| {each.threshold:.4f} | {each.false_accept_rate:g} | {each.true_accept_rate:.4f} |"
        for each in sorted(face.rates, key=lambda each: -each.false_accept_rate)
    ]
    return [
        "## Similarities",
        f"Measured on {face.pairs:,} pairs of faces of two people whom the model has not learned, "
        "and on all pairs of one of them. For other people, cameras and light the rates are other "
        "ones. An image cannot prove that somebody is alive.",
        "\n".join(
            (
                "| similarity from | strangers' pairs that reach it | one person's pairs |",
                "|--:|--:|--:|",
                *rows,
            )
        ),
    ]
