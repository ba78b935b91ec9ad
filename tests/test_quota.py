"""The disk of a tenant: models and data count, and what is beyond is refused."""

from functools import partial
from pathlib import Path

import pytest

from ir_models import Models, add_one
from lmaas.errors import InsufficientQuota
from lmaas.registry.data_files import Files
from lmaas.service.quota import Quota
from lmaas.types import TENANT


def test_models_and_data_count_together_but_not_the_operators(tmp_path: Path) -> None:
    models = Models(tmp_path)
    files = Files(tmp_path / "home")
    made = models.make("add", partial(add_one, amount=1.0))
    size = sum(file.size_bytes for file in made.files)
    quota = Quota(size + 100, models, files)
    try:
        assert quota.used_bytes(TENANT) == size
        assert quota.used_bytes("other") == 0
        quota.check(TENANT, 10 * size)
        quota.check("other", size + 100)
        with pytest.raises(InsufficientQuota, match="other"):
            quota.check("other", size + 101)
        data = tmp_path / "home" / "data.csv"
        data.write_bytes(bytes(60))
        files.add("other", data, purpose="fine-tune")
        assert quota.used_bytes("other") == 60
        with pytest.raises(InsufficientQuota):
            quota.check("other", size + 41)
        Quota(0, models, files).check("other", 1 << 50)
    finally:
        models.close()
