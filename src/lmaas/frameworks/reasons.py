"""Why a model could not be converted, in one line: which operation, where, what a library said."""

import re
from collections.abc import Mapping
from typing import Final

NO_RULE: Final = re.compile(r"No conversion rule found for operations: (.+)")
UNHINTED: Final = re.compile(r"Could not (?:guard on|extract specialized)")
NOISE: Final = re.compile(
    r"^(Check '.*' failed|FrontEnd API failed|Exception from|Model wasn't fully|Summary:|"
    r"Exception:|Couldn't get TorchScript|-- prim::|Traceback|The above exception|For more info)"
)
MOST: Final = 200
MOST_IN_ALL: Final = 600


def reason(error: BaseException, places: Mapping[str, str]) -> str:
    """What a converter's error says. `places` tells where in the model an operation is used."""
    told = str(error)
    rules = NO_RULE.findall(told)
    if rules:
        ops = list(dict.fromkeys(op.strip() for line in rules for op in line.split(",")))
        named = [f"{op} ({places[op]})" if op in places else op for op in ops[:5]]
        return f"no conversion rule for {', '.join(named)}"
    if UNHINTED.search(told):
        return "Python decides by values, which an exported graph cannot keep"
    lines = [line.strip() for line in told.splitlines()]
    lines = [line for line in lines if line and not NOISE.match(line)]
    said = lines[0][:MOST].rstrip(".:") if lines else "no reason given"
    return f"{type(error).__name__}: {said}"


def together(failures: list[str]) -> str:
    """Several reasons as one text of a bounded length, none of them twice."""
    told = "; ".join(dict.fromkeys(failures))
    return told if len(told) <= MOST_IN_ALL else f"{told[:MOST_IN_ALL]} …"
