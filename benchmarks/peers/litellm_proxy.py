"""How the LiteLLM proxy is started: as its manual has it for production, without a database.

`LITELLM_MODE=PRODUCTION`, log level ERROR (which silences the access log), not verbose, its own
event loop (uvloop), a master key, no callbacks; its table of prices from its own files, as there
may be no network. Its manual wants one worker process for each machine.
"""

import subprocess
from pathlib import Path
from typing import Final

KEY: Final = "sk-benchmark"
CONFIG: Final = """\
model_list:
  - model_name: behind
    litellm_params:
      model: openai/behind-1
      api_base: {url}
      api_key: {key}
general_settings:
  master_key: {master}
litellm_settings:
  set_verbose: false
  request_timeout: 600
"""
ENVIRON: Final = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
}


def argv(program: str, folder: Path, *, url: str, key: str, port: int, workers: int) -> list[str]:
    """The command line of a proxy before the service at `url`, asked with `key`."""
    config = folder / "litellm.yaml"
    config.write_text(CONFIG.format(url=url, key=key, master=KEY))
    return [
        program,
        *("--config", str(config)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--num_workers", str(workers)),
    ]


def version(program: str) -> str:
    """Of the program's environment."""
    python = Path(program).with_name("python")
    told = "from importlib.metadata import version; print(version('litellm'))"
    done = subprocess.run([python, "-c", told], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()
