"""A table as banks have them: does a loan default, from numbers with gaps and names.

    python recipes/finance_table.py [--quick] [--home DIR]

The loans are drawn here, by a rule that the models do not see: debt against income, age of the
account, what the loan is for, and that a missing income is itself a bad sign. One in five defaults,
and chance decides much of it, so no model can be right always: the line "the rule itself" is the
best that anybody could do. Exit code 0 only when trees and net come near to it, and answer as they
were trained. Needs `lmaas[train]`.
"""

import sys
from typing import Any

import numpy as np

from tables import Table, line, main, split, worth

JOBS = {"employed": -0.5, "self-employed": 0.4, "retired": -0.2, "student": 0.5, "none": 1.0}
PURPOSES = {"car": -0.3, "home": -0.6, "study": 0.0, "business": 0.7, "medical": 0.3, "travel": 0.4}


def draw(size: int) -> Table:
    """`size` loans."""
    random = np.random.default_rng(11)
    rows: list[dict[str, Any]] = []
    risks = []
    for _ in range(size):
        job, purpose = str(random.choice(list(JOBS))), str(random.choice(list(PURPOSES)))
        age, income = float(random.integers(19, 80)), float(random.lognormal(7.8, 0.5))
        amount, months = float(random.lognormal(8.8, 0.8)), float(random.exponential(40))
        told = random.random() > (0.25 if job in ("self-employed", "none") else 0.05)
        debt = amount / (12 * income)
        odds = -0.9 + 2.2 * np.tanh(2 * debt - 1) + JOBS[job] + PURPOSES[purpose]
        odds += 0.9 * (not told) - 0.8 * (months > 24) + 0.7 * (age < 25) * (debt > 0.3)
        risk = float(1 / (1 + np.exp(-1.5 * odds)))
        risks.append(risk)
        rows.append(
            {
                "age": age,
                "income": round(income, 2) if told else None,
                "job": job if random.random() > 0.1 else None,
                "purpose": purpose,
                "amount": round(amount, 2),
                "account_months": round(months, 1) if random.random() > 0.15 else None,
                "region": f"region {random.integers(12)}",
                "defaults": "yes" if random.random() < risk else "no",
            }
        )
    risk_of = {id(row): risk for row, risk in zip(rows, risks, strict=True)}
    _, held = split(rows)
    scores = [{"yes": risk_of[id(row)], "no": 1 - risk_of[id(row)]} for row in held]
    best = ["yes" if score["yes"] > 0.5 else "no" for score in scores]
    line("the rule itself", worth([row["defaults"] for row in held], best, scores), "")
    return Table("finance", rows, "defaults", "auc", 0.25)


if __name__ == "__main__":
    sys.exit(main(__doc__, draw, (1500, 8000)))
