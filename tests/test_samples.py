"""Other people's checkpoints, listed with digests as a user lists them, against what their own programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptsurgeon import cli
from ckptsurgeon.names import VALUE_SUFFIX

SAMPLES = (
    "estimator-linear/model.ckpt-1",
    "gpt2-toy/model.ckpt",
    "keras-pair/model.h5",
    "keras-pair/model.keras",
    "keras3-weights/model.weights.h5",
    "npz/weights.npz",
    "object-based-two-shards/model.ckpt",
    "safetensors/model.safetensors",
    "savedmodel/variables/variables",
    "skflow-2016/time16/model-200",
    "skflow-2016/time23/model-200",
    "snappy-index-only/minigo",
    "v1-sharded-name/export-00000-of-00001",
)


def expected_of(samples: Path, name: str) -> dict[str, list[object]]:
    """Of each variable, by the name that `ls` gives it: shape, dtype, and the beginning of its digest or None."""
    variables = json.loads((samples / "expected.json").read_text())[name]["variables"]
    return {
        key.removesuffix(VALUE_SUFFIX).removesuffix(".npy"): [shape, {"F32": "float32"}.get(dtype, dtype), digest]
        for key, (shape, dtype, digest) in variables.items()
    }


@pytest.mark.parametrize("name", SAMPLES)
def test_ls_with_digests_agrees_with_what_others_read(
    samples: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """`ls --json --sha256` gives every name, shape, dtype and digest; where there is no data, `ls` alone and exit 2."""
    expected = expected_of(samples, name)
    has_data = all(digest for _, _, digest in expected.values())
    status = cli.main(["ls", str(samples / name), "--json", "--sha256"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if not has_data:
        assert (status, rows) == (2, [])
        status = cli.main(["ls", str(samples / name), "--json"])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0
    found = {row["name"]: [row["shape"], row["dtype"], row["sha256"][:16] if has_data else None] for row in rows}
    assert found == expected


def test_the_table_above_has_every_sample(samples: Path) -> None:
    """No sample goes unlooked at."""
    assert set(json.loads((samples / "expected.json").read_text())) == set(SAMPLES)
