"""Verify finds damage wherever it is, and nothing where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import models
import numpy as np
import pytest
from handmade import HandMade
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptsurgeon import compare, formats
from ckptsurgeon.errors import NotFoundError
from ckptsurgeon.formats.v1 import writing as v1_writing
from ckptsurgeon.plan import Plan
from ckptsurgeon.verbs import changing, looking


def _problems(path: Path, finite: bool = False) -> list[tuple[str | None, str | None]]:
    return [(finding.name, finding.problem) for finding in looking.verify(str(path), finite) if not finding.ok]


def _data(path: Path) -> Path:
    return path.with_name(path.name + ".data-00000-of-00001")


def test_a_sound_checkpoint_is_sound(tmp_path: Path) -> None:
    """Every variable is looked at, and nothing is found."""
    arrays = models.write(tmp_path / "m", 1)
    findings = looking.verify(str(tmp_path / "m"))
    assert {finding.name for finding in findings} == set(arrays)
    assert all(finding.ok and finding.problem is None for finding in findings)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_flipped_bit_of_the_data_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """One bit anywhere in the shard is one wrong checksum, of the variable that holds it."""
    models.write(tmp_path / "m", 1)
    content = bytearray(_data(tmp_path / "m").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    before = _data(tmp_path / "m").stat()
    _data(tmp_path / "m").write_bytes(content)
    os.utime(_data(tmp_path / "m"), ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk would
    with formats.open(str(tmp_path / "m")) as checkpoint:
        holder = next(
            variable.name
            for variable in checkpoint.variables.values()
            if variable.extents[0].offset <= at < variable.extents[0].offset + variable.extents[0].length
        )
    [(name, problem)] = _problems(tmp_path / "m")
    assert name == holder
    assert problem is not None
    assert problem.startswith("damaged: wrong checksum")


def test_a_short_or_missing_shard_is_found(tmp_path: Path) -> None:
    """Variables beyond the end are named one by one; a missing shard is named once."""
    arrays = models.write(tmp_path / "m", 1)
    content = _data(tmp_path / "m").read_bytes()
    _data(tmp_path / "m").write_bytes(content[:-1])
    [(name, problem)] = _problems(tmp_path / "m")
    assert name == max(arrays)
    assert problem == f"cut short; expected at least {len(content)} bytes, found {len(content) - 1}"
    _data(tmp_path / "m").unlink()
    assert _problems(tmp_path / "m") == [(None, "missing")]


def test_a_missing_shard_hides_no_damage_in_another(tmp_path: Path) -> None:
    """A partitioned variable with one shard missing: what is damaged in the other shard is still found."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")  # b has two shards now
    first, second = sorted(tmp_path.glob("b.data-*"))
    second.unlink()
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert [name for name, _ in _problems(tmp_path / "b")] == [max(models.skflow_arrays(2)), None]


def test_an_index_that_does_not_open_is_damage(tmp_path: Path) -> None:
    """A truncated index is a finding and no error; a checkpoint that is not there is an error."""
    models.write(tmp_path / "m", 1)
    index = tmp_path / "m.index"
    index.write_bytes(index.read_bytes()[:-20])
    [finding] = looking.verify(str(tmp_path / "m"))
    assert finding.file == str(index)
    assert not finding.ok
    assert "cut short" in str(finding.problem)
    with pytest.raises(NotFoundError):
        looking.verify(str(tmp_path / "nothing"))


def test_not_finite_values_are_found_on_request(tmp_path: Path) -> None:
    """--finite counts NaN and infinite values, bfloat16's too."""
    import ml_dtypes

    arrays = {
        "a": np.array([1, np.nan, np.inf, -np.inf], np.float32),
        "b": np.array([np.nan, 1], ml_dtypes.bfloat16),
        "c": np.array([1, 2], np.int32),
        "d": np.array([b"text"], object),
    }
    formats.write(str(tmp_path / "m"), arrays)
    assert _problems(tmp_path / "m") == []
    assert _problems(tmp_path / "m", finite=True) == [
        ("a", "1 NaN and 2 infinite of 4 values"),
        ("b", "1 NaN of 2 values"),
    ]


def test_unreferenced_bytes_are_counted_and_are_no_damage(tmp_path: Path) -> None:
    """What a linking graft leaves unreferenced is counted; it is worth knowing, and not damage."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    for path in (tmp_path / "a", tmp_path / "b"):
        with formats.open(str(path)) as checkpoint:
            assert compare.unreferenced(checkpoint) == 0
    size = _data(tmp_path / "a").stat().st_size
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0", link=True)
    with formats.open(str(tmp_path / "b")) as checkpoint:
        grafted = sum(checkpoint[f"dnn/layer0/Linear/{role}"].extents[0].length for role in ("Matrix", "Bias"))
        assert compare.unreferenced(checkpoint) == size  # the donor's other bytes, and the old ones of layer 0
        assert grafted < size
    findings = looking.verify(str(tmp_path / "b"))
    assert [finding for finding in findings if not finding.ok] == []
    assert sum("no variable refers to" in str(finding.problem) for finding in findings) == 2


def test_every_sample_is_sound(samples: Path) -> None:
    """Checkpoints by other people's programs verify; one without its data says that they are missing."""
    for name in ("estimator-linear/model.ckpt-1", "gpt2-toy/model.ckpt", "object-based-two-shards", "savedmodel"):
        assert _problems(samples / name) == []
    assert _problems(samples / "snappy-index-only/minigo") == [(None, "missing")]


def test_values_are_looked_at_while_their_checksum_is_computed(tmp_path: Path) -> None:
    """--finite counts over all chunks of a large variable, and tells damage as it is told without."""
    values = np.zeros(300_000, np.complex64)
    values[[0, 32_768, 299_999]] = np.nan, complex(0, np.inf), np.nan
    formats.write(str(tmp_path / "m"), {"a": values, "b": np.zeros(300_000)})
    assert _problems(tmp_path / "m", finite=True) == [("a", "2 NaN and 1 infinite of 300000 values")]
    content = bytearray(_data(tmp_path / "m").read_bytes())
    content[-1] ^= 1
    content[8] ^= 1
    _data(tmp_path / "m").write_bytes(content)
    found = _problems(tmp_path / "m", finite=True)
    assert [name for name, _ in found] == ["a", "b"]
    assert found == _problems(tmp_path / "m")


def test_not_finite_values_are_found_in_partitions_and_in_v1(tmp_path: Path) -> None:
    """--finite sees the slices of a partitioned variable, and the values of a V1 checkpoint."""
    values = np.asarray([[1, np.nan], [np.inf, 1]], np.float32)
    made = HandMade(2)
    made.add_sliced("w", values, (((0, 1), (0, -1)), ((1, 1), (0, -1))))
    made.write(tmp_path / "m")
    with formats.open(str(tmp_path / "m")) as checkpoint:
        v1_writing.save_as(Plan(checkpoint, []), str(tmp_path / "v1"), False, False, 0.0)
    for name in ("m", "v1"):
        assert _problems(tmp_path / name) == []
        assert _problems(tmp_path / name, finite=True) == [("w", "1 NaN and 1 infinite of 4 values")]


def test_a_missing_shard_is_told_once_when_values_are_looked_at(tmp_path: Path) -> None:
    """A shard that is missing is told once with --finite too."""
    models.write(tmp_path / "m", 1)
    _data(tmp_path / "m").unlink()
    assert _problems(tmp_path / "m", finite=True) == [(None, "missing")]
