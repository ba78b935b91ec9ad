"""A table as carriers have them: how many hours does a delivery take.

    python recipes/logistics_table.py [--quick] [--home DIR]

The deliveries are drawn here: distance at the speed of a carrier, weekends, a queue at the depot in
the evening, snow in some regions, and noise of two hours. Weights and the weather are missing now
and then. Exit code 0 only when trees and net leave less than half the error of always telling the
mean, and answer as they were trained. Needs `lmaas[train]`.
"""

import sys
from typing import Any

import numpy as np

from tables import Table, main

CARRIERS = {"north": 55.0, "swift": 80.0, "budget": 35.0, "rail": 65.0}
WEATHERS = ("clear", "rain", "snow")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NOISE_H = 2.0


def draw(size: int) -> Table:
    """`size` deliveries."""
    random = np.random.default_rng(12)
    rows: list[dict[str, Any]] = []
    for _ in range(size):
        carrier, weather = str(random.choice(list(CARRIERS))), str(random.choice(WEATHERS))
        day, hour = str(random.choice(DAYS)), int(random.integers(24))
        distance, weight = float(random.gamma(2, 250)), float(random.lognormal(2, 1))
        hours = distance / CARRIERS[carrier] + 3 + 12 * (day in ("Sat", "Sun"))
        hours += 5 * (17 <= hour < 22) + 4 * (weight > 20) * (carrier != "rail")
        if weather == "snow" and carrier != "rail":
            hours *= 1.4
        rows.append(
            {
                "carrier": carrier,
                "distance_km": round(distance, 1),
                "weight_kg": round(weight, 2) if random.random() > 0.1 else None,
                "weather": weather if random.random() > 0.1 else None,
                "day": day,
                "hour": hour,
                "depot": f"depot {random.integers(20)}",
                "hours": round(hours + float(random.normal(0, NOISE_H)), 2),
            }
        )
    return Table("logistics", rows, "hours", "rmse", 0.5)


if __name__ == "__main__":
    sys.exit(main(__doc__, draw, (1500, 8000)))
