"""Where settings come from, in order, and what is refused."""

from pathlib import Path

import pytest

from lmaas.config import load_settings
from lmaas.errors import ConfigError


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "lmaas.toml"
    file.write_text('port = 1\nhost = "::1"\nmax_queue = 7\npinned = ["a", "b"]\n')
    environ = {"LMAAS_PORT": "2", "LMAAS_HOST": "127.0.0.2", "LMAAS_ALLOWED_HOSTS": "a.example,b"}
    settings = load_settings({"port": 3, "key": None}, environ=environ, file=file)
    assert (settings.port, settings.host, settings.max_queue) == (3, "127.0.0.2", 7)
    assert settings.pinned == ("a", "b")
    assert settings.allowed_hosts == ("a.example", "b")
    assert settings.max_batch_size == 32


@pytest.mark.parametrize(
    ("environ", "text", "named"),
    [
        ({"LMAAS_PROT": "1"}, "", "port"),
        ({}, "prot = 1", "port"),
        ({"LMAAS_PORT": "many"}, "", "port"),
        ({"LMAAS_PORT": "70000"}, "", "port"),
        ({"LMAAS_PRECISION": "f8"}, "", "precision"),
        ({}, "port = ", "lmaas.toml"),
        ({}, "drain_timeout_s = -1", "drain_timeout_s"),
    ],
)
def test_a_bad_setting_is_refused_by_name(
    tmp_path: Path, environ: dict[str, str], text: str, named: str
) -> None:
    file = tmp_path / "lmaas.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, environ=environ, file=file)
    assert named in str(caught.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings({}, environ={"LMAAS_CONFIG": str(tmp_path / "absent.toml")})
