"""Tables as people have them: formatted numbers, dates, ids, codes, constants, leaks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaas.errors import InvalidInput
from lmaas.recipe import DataChoice, Recipe
from lmaas.tasks.tabular.columns import Category, Columns, Date, Number
from lmaas.tasks.tabular.training.problem import Tabular
from lmaas.training import cautions, problems

ROWS = 200


def opened(folder: Path, rows: list[str], **data: Any) -> Tabular:
    path = folder / "table.csv"
    path.write_text("\n".join(rows))
    choice = DataChoice(train=str(path), **{"columns": {"target": "y"}, **data})
    recipe = Recipe(name="t", task="tabular", data=choice, framework="pytorch")
    problem = problems.open(recipe, folder / "job")
    assert isinstance(problem, Tabular)
    return problem


def column(columns: Columns, name: str) -> Any:
    return next(each for each in columns.columns if each.name == name)


@pytest.mark.parametrize("form", ["{:.2f}", "comma", "${:,.2f}", "{:,.0f} km", "({:.1f})"])
def test_a_formatted_target_is_a_number(tmp_path: Path, form: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=ROWS), random.uniform(900, 9000, ROWS)
    written = [f"{v:.2f}".replace(".", ",") if form == "comma" else form.format(v) for v in y]
    rows = [f'{a:.4f};"{b}"' for a, b in zip(x, written, strict=True)]
    problem = opened(tmp_path, ["x;y", *rows])
    assert not problem.classifies
    assert abs(problem.columns.mean) == pytest.approx(float(y.mean()), rel=0.05)
    facts = problem.facts()
    assert "is a number (regression)" in facts["target"]
    assert ("It is read with" in facts["target"]) == (form != "{:.2f}")


def test_formatted_features_are_the_same_numbers_when_the_model_is_asked(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    pay, share = random.uniform(500, 9000, ROWS), random.uniform(0, 1, ROWS)
    rows = [
        f'"{a:,.0f}","{100 * b:.1f} %",{"ab"[int(a > 3000)]}'
        for a, b in zip(pay, share, strict=True)
    ]
    problem = opened(tmp_path, ["pay,share,y", *rows])
    assert all(isinstance(each, Number) for each in problem.columns.columns)
    assert any("'pay' is read as numbers" in text for text in problem.facts()["read"])
    forms = [
        {"pay": 2883, "share": 12.5},
        {"pay": "2,883", "share": "12.5 %"},
        {"pay": "2883", "share": "12.5%", "y": "a"},
    ]
    encoded = problem.columns.encode(problem.columns.read(forms), 3)
    assert (encoded == encoded[0]).all()
    for bad in ("2.883,00", "28 83", "12 kg"):
        with pytest.raises(InvalidInput, match=r"'pay' must be a number .* a decimal point"):
            problem.columns.read([{"pay": bad, "share": None}])


def test_a_class_for_nearly_each_row_is_asked_about(tmp_path: Path) -> None:
    rows = [f"{i},{i % 7}-{i}" for i in range(ROWS)]
    with pytest.raises(InvalidInput, match=r"200 different values in 200 rows.*regression\)\?"):
        opened(tmp_path, ["x,y", *rows])
    problem = opened(tmp_path, ["x,y", *rows], options={"kind": "classification"}, validation=0.1)
    facts = problem.facts()
    told = " ".join(cautions.of_data(problem._recipe, facts))
    assert "No validation samples could be held out" in told
    assert "200 of 200 classes have fewer than 5" in told


def test_what_is_left_out_is_told_and_may_stand_in_a_row(tmp_path: Path) -> None:
    rows = [
        f"u{i:04},{i % 5},7,{'' if i % 3 else 7},0{i % 4}001,2024-0{1 + i % 9}-1{i % 10},{i % 2}"
        for i in range(ROWS)
    ]
    header = "id,x,same,holes,zip,day,y"
    problem = opened(tmp_path, [header, *rows], options={"ignore": ["x"]})
    assert problem.facts()["left_out"] == {
        "id": "every row has another value",
        "x": "as data.options.ignore says",
        "same": "one value only",
        "holes": "one value only",
    }
    assert isinstance(column(problem.columns, "zip"), Category)
    assert isinstance(column(problem.columns, "day"), Date)
    row = dict(zip(header.split(","), rows[0].split(","), strict=True))
    problem.columns.read([row, row | {"same": 9000, "day": None}])
    with pytest.raises(InvalidInput, match="unknown column 'other'"):
        problem.columns.read([row | {"other": 1}])
    with pytest.raises(InvalidInput, match="'day' must be a date as 2024-01-31"):
        problem.columns.read([row | {"day": "soon"}])


@pytest.mark.parametrize("form", ["dense", "trees", "stack"])
def test_a_date_is_its_parts(tmp_path: Path, form: Any) -> None:
    days = np.arange("2021-01-01", "2023-12-31", 7, dtype="datetime64[D]").tolist()
    rows = [f"{day:%d.%m.%Y},{int(day.month in (6, 7, 8))}" for day in days]
    problem = opened(tmp_path, ["day,y", *rows])
    import msgspec

    columns = msgspec.structs.replace(problem.columns, form=form)
    given = columns.read([{"day": "2022-07-14"}, {"day": "14.07.2022"}, {"day": None}])
    encoded = columns.encode(given, 3)
    assert encoded.shape == (3, columns.width)
    np.testing.assert_array_equal(encoded[0], encoded[1])
    if form != "dense":
        np.testing.assert_array_equal(encoded[0, :5], [2022, 7, 14, 3, 19187])
        assert np.isnan(encoded[2, :5]).all()
    if form != "trees":
        assert not np.isnan(encoded[:, -22:]).any()
    columns.save(tmp_path)
    assert Columns.load(tmp_path) == columns


def test_what_was_chosen_is_said(tmp_path: Path) -> None:
    for count, word in ((20, "one of classes: 20 whole"), (21, "regression): 21 different whole")):
        rows = [f"{i % 13},{i % count}" for i in range(ROWS)]
        assert word in opened(tmp_path / str(count), ["x,y", *rows]).facts()["target"]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in ("20", "21", "number", "classes"):
        (tmp_path / name).mkdir()


def test_a_column_that_tells_the_target_is_told(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    y = random.uniform(0, 100, ROWS)
    rows = [f"{v * 1.8 + 32:.6f},{random.normal():.3f},{v:.6f}" for v in y]
    (told,) = opened(tmp_path / "number", ["f,x,y", *rows]).facts()["doubts"]
    assert "'f' tells the target 'y' all by itself" in told
    rows = [f"{'abc'[i % 3]},{random.normal():.3f},{i % 3}" for i in range(ROWS)]
    (told,) = opened(tmp_path / "classes", ["f,x,y", *rows]).facts()["doubts"]
    assert "'f' tells the target 'y'" in told


def test_numbers_that_should_make_one_doubt() -> None:
    facts = {"samples": {"train": 1000, "test": 100}, "labels": {"no": 995, "yes": 5}}
    recipe = Recipe(name="t", task="tabular", data=DataChoice(train="x.csv"))
    told = cautions.of_data(recipe, facts)
    assert any("'yes' has 0.50%" in text for text in told)
    trivial = {"test_accuracy": 0.995, "test_macro_f1": 0.4987}
    assert "no better than the answer 'no'" in cautions.of_result(facts, trivial)[0]
    assert cautions.of_result(facts, {"test_accuracy": 0.999, "test_macro_f1": 0.9}) == []
    assert "not one answer" in cautions.of_result(facts, {"test_accuracy": 0.0})[0]
    assert "their mean" in cautions.of_result(facts, {"test_r2": -0.1})[0]
    small = cautions.of_data(recipe, {"samples": {"train": 27, "validation": 3}})
    assert ["only 27 samples" in small[0], "only 3 validation" in small[1]] == [True, True]
    assert json.dumps(small)
