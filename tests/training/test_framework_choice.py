"""Which framework and which networks a recipe can name."""

import pytest

from lmaas import tasks
from lmaas.errors import InvalidInput
from lmaas.recipe import recipe_of
from lmaas.training.problems.architectures import resolve
from lmaas.training.problems.frameworks import check, framework_of

OTHERS = sorted({name for each in tasks.trained().values() for name in each.architectures})


@pytest.mark.parametrize("task", list(tasks.trained()))
def test_an_architecture_of_another_task_is_refused_by_name(task: str) -> None:
    for name in OTHERS:
        given = {"name": "m", "task": task, "data": {"train": "x"}, "epochs": 3}
        recipe = recipe_of(given | {"model": {"architecture": name}})
        if name in tasks.trained()[task].architectures:
            assert resolve(task, recipe.model)[0] == name
            continue
        assert framework_of(recipe, None)
        check(recipe, None)
        with pytest.raises(InvalidInput, match=f"{task} knows no architecture '{name}'; known: "):
            resolve(task, recipe.model)
