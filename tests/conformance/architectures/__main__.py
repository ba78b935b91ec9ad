"""The whole sweep, or the rows that are named: `python -m conformance.architectures [NAME …]`."""

import sys
from importlib.metadata import version
from pathlib import Path

from conformance.architectures.sweep import Outcome, sweep
from conformance.architectures.table import ARCHITECTURES

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "architectures.md"
HEAD = """\
# Architectures

Written by `make sweep` (`tests/conformance/architectures`). A tiny checkpoint of each architecture
with random weights is pushed, asked through the engine that serves it, and held against
transformers' own forward pass in f32: prompts of 1, 40 and 200 tokens, before and beyond each
window, chunk and bound of positions that its config names, alone and at once, {answer} tokens each.

"exact": every token is the source's likeliest, or as likely, and its log probability is the
source's within 0.001. The largest error is told; the second one is with OpenVINO's 16-bit cache, as
it serves. "refused": nothing is registered, and the push says why. With transformers
{transformers}, optimum-intel {optimum} and OpenVINO {openvino}.

| architecture | engine | answers | error | as served | why not OpenVINO |
|---|---|---|---|---|---|
"""


def main(names: list[str]) -> int:
    """Sweep; 1 where an answer was wrong."""
    rows = [row for row in ARCHITECTURES if not names or row.name in names]
    outcomes = []
    for row in rows:
        try:
            outcome = sweep(row)
        except Exception as error:  # noqa: BLE001 - a row that cannot even be made is told
            outcome = Outcome(row.name, "broken", 0, 0, 1, f"{type(error).__name__}: {error}", 0)
        outcomes.append(outcome)
        print(line(outcome), f"{outcome.seconds:.0f} s", flush=True)  # noqa: T201
    if not names:
        write(outcomes)
    return int(any(outcome.verdict == "WRONG" for outcome in outcomes))


def line(outcome: Outcome) -> str:
    """A row of the page."""
    why = " ".join(outcome.why.replace("|", "/").split())[:400]
    errors = f"{outcome.exact_error:.1e} | {outcome.served_error:.1e}" if outcome.engine else " | "
    return f"| {outcome.name} | {outcome.engine} | {outcome.verdict} | {errors} | {why} |"


def write(outcomes: list[Outcome]) -> None:
    """The page."""
    from conformance.architectures.sweep import ANSWER

    head = HEAD.format(
        answer=ANSWER,
        transformers=version("transformers"),
        optimum=version("optimum-intel"),
        openvino=version("openvino"),
    )
    PAGE.write_text(head + "\n".join(map(line, outcomes)) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
