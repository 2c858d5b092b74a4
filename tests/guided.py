"""Coverage-guided fuzzing: one target under Atheris, which keeps every case that reaches new lines of the library.

    scripts/fuzz --guided --seconds 600 journal

Atheris (libFuzzer for Python, on PyPI) is not among the requirements: install it where you fuzz. It was chosen over
Hypothesis because it measures which branches and comparisons of the library a case reaches, keeps its corpus on disk
and merges corpora to the smallest that reaches as much. Half of the mutations are its own, of the bytes of one file;
the others are those of `fuzzing`, which know tables, messages and checksums, and get behind the checks at the door.

A case is a few files (`pack`). tests/corpus holds a small set for each target, which tests/test_fuzz.py runs.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
_LENGTHS = struct.Struct("<HI")  # of a file's name, and of its content


def pack(files: dict[str, bytes]) -> bytes:
    """Return the files of a case as one file."""
    return b"".join(_LENGTHS.pack(len(name), len(data)) + name.encode() + data for name, data in sorted(files.items()))


def unpack(case: bytes) -> dict[str, bytes] | None:
    """Return the files of a case, or None if it is not one."""
    files, at = {}, 0
    while at < len(case):
        if len(case) < at + _LENGTHS.size:
            return None
        name_length, length = _LENGTHS.unpack_from(case, at)
        at += _LENGTHS.size
        name, data = case[at : at + name_length], case[at + name_length : at + name_length + length]
        at += name_length + length
        if at > len(case) or not name.isascii() or b"/" in name or name in (b"", b".", b"..") or b"\0" in name:
            return None
        files[name.decode()] = data
    return files


def main() -> None:
    """Fuzz: guided.py TARGET FOLDER SECONDS SEED, where FOLDER is for the corpus, failures and the case at hand."""
    import atheris  # type: ignore[import-not-found]

    name, folder, seconds, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    with atheris.instrument_imports(include=["ckptsurgeon"]):
        import fuzz_targets
        import fuzzing
    target = fuzz_targets.TARGETS[name]
    corpus, case = folder / "corpus", folder / "case"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, files in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(pack(files))

    def run(data: bytes) -> None:
        files = unpack(data)
        if files:
            fuzzing.write_case(files, case)
            fuzzing.run_case(target, case)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        files = unpack(data) or dict(rng.choice(target.seeds))
        if rng.random() < 0.5:
            with contextlib.suppress(Exception):  # the target's own mutations need a sound case
                return pack(target.mutate(rng, dict(files)))[:most]
        changed = rng.choice(sorted(files))
        files[changed] = bytes(atheris.Mutate(files[changed], max(1, most - len(data) + len(files[changed]))))
        return pack(files)

    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=60", "-rss_limit_mb=3000", "-max_len=200000"]
    options += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0", "-len_control=0"]
    corpora = [str(each) for each in (corpus, CORPUS / name) if each.is_dir()]
    atheris.Setup([sys.argv[0], *options, *corpora], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
