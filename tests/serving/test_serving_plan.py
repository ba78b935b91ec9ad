from typing import Literal

import pytest

from lmaas.errors import ConfigError, DoesNotFit, ParityFailed, Quarantined
from lmaas.runtime import cpu
from lmaas.serving.metrics import Metrics
from lmaas.serving.plan import MIB, LoadedModel, make_plan
from lmaas.serving.precision import BF16_WORTH_BYTES, choose_precision
from lmaas.serving.quarantine import Quarantine
from lmaas.types import JSON, ParityCheck, ParityReport, Payload


def held(
    key: str, mib: int, used: float, *, busy: bool = False, pinned: bool = False
) -> LoadedModel[str]:
    return LoadedModel(key=key, memory_bytes=mib * MIB, last_used=used, busy=busy, pinned=pinned)


def test_nothing_is_evicted_when_there_is_room() -> None:
    plan = make_plan("m:1", 100 * MIB, [held("a", 100, 1)], 200 * MIB)
    assert plan.enough
    assert plan.evict == ()


def test_least_recently_used_makes_room_and_no_more_than_needed() -> None:
    models = [held("new", 100, 9), held("old", 100, 1), held("middle", 100, 5)]
    assert make_plan("m:1", 150 * MIB, models, 350 * MIB).evict == ("old",)
    assert make_plan("m:1", 150 * MIB, models, 300 * MIB).evict == ("old", "middle")


def test_busy_and_pinned_models_stay() -> None:
    models = [held("pinned", 100, 1, pinned=True), held("busy", 100, 2, busy=True)]
    plan = make_plan("m:1", 100 * MIB, models, 200 * MIB)
    assert not plan.enough
    assert plan.evict == ()
    with pytest.raises(DoesNotFit, match="pinned models hold 100 MiB"):
        make_plan("m:1", 150 * MIB, models, 200 * MIB)


def parity(*, bf16: bool) -> ParityReport:
    check = ParityCheck(
        precision="bf16", batch_size=1, max_abs_error=0, max_scaled_error=0, passed=bf16
    )
    return ParityReport(tolerance={}, checks=(check,))


def chosen(
    setting: Literal["auto", "f32", "bf16"],
    *,
    cpu: bool = True,
    gains: bool = True,
    passed: bool = True,
    size: int = 1,
) -> tuple[str, str]:
    return choose_precision(
        setting,
        model="m:1",
        has_bf16=cpu,
        gains=gains,
        parity=parity(bf16=passed),
        compiled_bytes=size,
    )


@pytest.mark.parametrize(
    ("cpu", "gains", "passed", "size", "expected"),
    [
        (True, True, True, BF16_WORTH_BYTES, "bf16"),
        (True, True, True, BF16_WORTH_BYTES - 1, "f32"),
        (True, True, False, BF16_WORTH_BYTES, "f32"),
        (True, False, True, BF16_WORTH_BYTES, "f32"),
        (False, False, True, BF16_WORTH_BYTES, "f32"),
    ],
)
def test_auto_takes_bf16_where_it_is_allowed_and_helps(
    cpu: bool, gains: bool, passed: bool, size: int, expected: str
) -> None:
    precision, reason = chosen("auto", cpu=cpu, gains=gains, passed=passed, size=size)
    assert precision == expected
    assert "bf16" in reason


def test_forced_bf16_that_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(ParityFailed, match="m:1"):
        chosen("bf16", passed=False)
    with pytest.raises(ConfigError, match="CPU"):
        chosen("bf16", cpu=False)


def test_forced_precision_is_taken() -> None:
    for setting in ("f32", "bf16"):
        precision, reason = chosen(setting, gains=False)
        assert precision == setting
        assert setting in reason


@pytest.mark.parametrize(
    ("vendor", "flag", "gains"),
    [
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16", True),
        ("AuthenticAMD", "avx512_bf16", True),
        ("AuthenticAMD", "avx512f", False),
    ],
)
def test_bf16_gains_by_amx_and_on_amd(
    monkeypatch: pytest.MonkeyPatch, vendor: str, flag: str, gains: bool
) -> None:
    told = {"vendor_id": vendor, "flags": flag}
    monkeypatch.setattr(cpu, "_told", told.__getitem__)
    assert cpu.gains_from_bf16() is gains


def test_quarantine_knows_the_payload_and_the_model() -> None:
    quarantine = Quarantine()
    bad, good = Payload(media_type=JSON, body=b"bad"), Payload(media_type=JSON, body=b"good")
    quarantine.add("default", "m:1", bad)
    with pytest.raises(Quarantined):
        quarantine.check("default", "m:1", bad)
    quarantine.check("default", "m:1", good)
    quarantine.check("default", "m:2", bad)
    quarantine.check("other", "m:1", bad)


def test_metrics_render_what_they_were_told() -> None:
    metrics = Metrics()
    metrics.request("m:1", "/models/{name}", 200, 0.01)
    metrics.batches("m:1", (1, 3))
    metrics.restart("m:1")
    metrics.watch(lambda: {"m:1": (4, 0.5)})
    text = metrics.render().decode()
    for line in (
        'lmaas_requests_total{model="m:1",route="/models/{name}",status="200"} 1.0',
        'lmaas_batch_size_count{model="m:1"} 2.0',
        'lmaas_worker_restarts_total{model="m:1"} 1.0',
        'lmaas_queue_depth{model="m:1"} 4.0',
        'lmaas_kv_cache_used{model="m:1"} 0.5',
        "lmaas_loaded_models 1.0",
    ):
        assert line in text
