"""One target under atheris, which keeps the inputs that reach new code.

`python -m fuzz.coverage TARGET SECONDS FOLDER` starts from the target's samples and what earlier
runs left in FOLDER. What fails stays there as a file `crash-…`.
"""

import sys
from pathlib import Path

import atheris


def main(name: str, seconds: str, folder: str) -> None:
    """Look for so long; does not return."""
    with atheris.instrument_imports(include=["lmaas", "httptools"]):
        from fuzz.samples import SAMPLES, WORDS
        from fuzz.targets import LONGEST, TARGETS, checked

    corpus = Path(folder) / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(SAMPLES[name]):
        (corpus / f"sample-{number}").write_bytes(sample)
    words = Path(folder) / "words"
    told = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS]
    words.write_text("".join(f'"{word}"\n' for word in told))
    options = [
        f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-dict={words}", "-timeout=60",
        "-rss_limit_mb=4096", "-verbosity=0", f"-artifact_prefix={folder}/{name}-",
    ]  # fmt: skip
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: checked(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
