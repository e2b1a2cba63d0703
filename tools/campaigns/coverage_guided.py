"""Coverage-guided fuzzing of the parsers (reliability goal R10), with atheris (`pip install atheris`, Python 3.11 and later).

    python tools/campaigns/coverage_guided.py mp4 --seconds 3600 --corpus FOLDER

One parser a process: configs, manifest, json, checkpoint, shapes (the table of a safetensors file), tfrecord, mp4, matroska, avi.
Whatever the bytes, it takes them or raises the error of ours; any other exception, 10 s or 1 GiB ends the campaign with the input
in a file. FOLDER keeps what reached new code; a later run begins with it.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wfm_ar"]):
    import parsers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=parsers.TARGETS)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--corpus", type=Path, required=True)
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(parsers.seeds(options.target)):
        (options.corpus / f"seed-{number}").write_bytes(content)
    limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup(
        [sys.argv[0], *limits, f"-artifact_prefix={options.corpus}.", str(options.corpus)],
        lambda content: parsers.check(options.target, content),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
