"""Sets of files and folders as transformers, diffusers, KerasHub and the hub's cache write them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch_files
from strategies import Arrays, same

from ckptsurgeon import formats
from ckptsurgeon.cli import main
from ckptsurgeon.errors import (
    CkptSurgeonError,
    CkptSurgeonWarning,
    DamagedError,
    NotFoundError,
    RefusedError,
    UnsupportedError,
)
from ckptsurgeon.formats import locating
from ckptsurgeon.verbs import changing, looking, producing

ONE: Arrays = {
    "encoder.layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "encoder.layers.0.bias": np.ones(2),
}
TWO: Arrays = {"encoder.layers.1.weight": np.full((2, 3), 7, np.float32)}
WHOLE = ONE | TWO


def write_safetensors(path: Path, arrays: Arrays) -> None:
    """A file by the library."""
    safetensors.numpy.save_file(arrays, path)


def write_torch(path: Path, arrays: Arrays) -> None:
    """A file as `torch.save` writes it."""
    path.write_bytes(torch_files.save({name: torch_files.view(values) for name, values in arrays.items()}))


def write_h5(path: Path, arrays: Arrays) -> None:
    """A file as transformers writes the parts of a set: every weight is a dataset that `layer_names` lists."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs["layer_names"] = [name.encode() for name in arrays]


def write_npz(path: Path, arrays: Arrays) -> None:
    """A file by NumPy."""
    np.savez(path, **arrays)


Write = Callable[[Path, Arrays], None]
WRITERS: dict[str, Write] = {".safetensors": write_safetensors, ".bin": write_torch, ".h5": write_h5}


def write_set(folder: Path, form: str, index: str | None, write: Write, parts: list[Arrays]) -> list[Path]:
    """A set whose parts are named by a pattern, and its index; gives their paths, the index first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, where = [], {}
    for number, arrays in enumerate(parts, 1):
        paths.append(folder / form.format(number))
        write(paths[-1], arrays)
        where.update(dict.fromkeys(arrays, paths[-1].name))
    if index is None:
        return paths
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 999.0}, "weight_map": where}, indent=2))
    return [folder / index, *paths]


def holds(path: Path | str, arrays: Arrays) -> bool:
    """Whether a path means a checkpoint with just these values, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with formats.open(path) as checkpoint:
            return set(checkpoint) == set(arrays) and all(same(checkpoint.read(name), arrays[name]) for name in arrays)


SETS = [
    ("model-{:05d}-of-00002.safetensors", "model.safetensors.index.json"),
    ("model.fp16-{:05d}-of-00002.safetensors", "model.safetensors.index.fp16.json"),
    ("diffusion_pytorch_model-{:05d}-of-00002.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
    ("diffusion_pytorch_model.non_ema-{:05d}-of-00002.bin", "diffusion_pytorch_model.bin.index.non_ema.json"),
    ("part{}.safetensors", "consolidated.safetensors.index.json"),
    ("pytorch_model-{:05d}-of-00002.bin", "pytorch_model.bin.index.json"),
    ("pytorch_model-{:05d}-of-00002.fp16.bin", "pytorch_model.bin.index.fp16.json"),
    ("tf_model-{:05d}-of-00002.h5", "tf_model.h5.index.json"),
    ("model_0000{}.weights.h5", "model.weights.json"),
]


@pytest.mark.parametrize(("form", "index"), SETS)
def test_every_spelling_of_a_set(tmp_path: Path, form: str, index: str) -> None:
    """The index, the folder, each part, and the name as one file open the whole set."""
    write = WRITERS[os.path.splitext(form)[1]]
    paths = write_set(tmp_path / "model", form, index, write, [ONE, TWO])
    (tmp_path / "model" / "config.json").write_text("{}")
    for path in (*paths, tmp_path / "model", tmp_path):
        assert holds(path, WHOLE), path
    if ".index." in index:
        stem, _, variant = index.removesuffix(".json").partition(".index")
        stem, ending = os.path.splitext(stem)
        assert holds(tmp_path / "model" / f"{stem}{variant}{ending}", WHOLE)
    assert [row["checkpoint"] for row in formats.checkpoints(str(tmp_path / "model"))] == [str(paths[0])]
    assert all(finding.ok for finding in looking.verify(paths[0]))
    producing.convert(paths[1], tmp_path / "one.npz")
    assert holds(tmp_path / "one.npz", WHOLE)


@pytest.mark.parametrize(("form", "index"), SETS)
def test_a_set_of_which_a_file_is_missing(tmp_path: Path, form: str, index: str) -> None:
    """A part is never passed off as the whole, by whatever spelling, nor is the folder called empty."""
    paths = write_set(tmp_path, form, index, WRITERS[os.path.splitext(form)[1]], [ONE, TWO])
    paths[2].unlink()
    for path in (paths[0], paths[1], tmp_path):
        with pytest.raises(DamagedError, match=f"a file of the checkpoint is missing: .*{paths[2].name}"):
            formats.open(path)


@pytest.mark.parametrize("form", ["tf_model-{:05d}-of-00002.h5", "model_0000{}.weights.h5"])
def test_a_part_without_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """It opens, with a warning that names the index."""
    index = {"t": "tf_model.h5.index.json", "m": "model.weights.json"}[form[0]]
    _, part, _ = write_set(tmp_path, form, index, write_h5, [ONE, TWO])
    (tmp_path / index).unlink()
    with pytest.warns(CkptSurgeonWarning, match=f"{part.name}: only a part of a set of files, whose index {index} is"):
        assert len(formats.open(part)) == 2
    assert main(["ls", str(part)]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 2
    assert said.err.startswith(f"ckptsurgeon: warning: {part}: only a part")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("form", ["pytorch_model-{:05d}-of-00002.bin", "x.fp16-{:05d}-of-00002.safetensors"])
def test_parts_without_an_index(tmp_path: Path, form: str) -> None:
    """The numbers in the names make a set, if all of them are there."""
    paths = write_set(tmp_path, form, None, WRITERS[os.path.splitext(form)[1]], [ONE, TWO])
    for path in (*paths, tmp_path):
        assert holds(path, WHOLE)
    paths[0].unlink()
    with pytest.raises(DamagedError, match=r"is missing.*expected 2 files, found 1"):
        formats.open(paths[1])


def test_an_index_that_contradicts_pytorchs_files(tmp_path: Path) -> None:
    """A variable that is not where the index says is damage; one that it does not list is an oddity."""
    index, *_ = write_set(tmp_path, "m-{:05d}-of-00002.bin", "m.bin.index.json", write_torch, [ONE, TWO])
    text = index.read_text()
    index.write_text(text.replace('"encoder.layers.0.bias"', '"other"'))
    with pytest.raises(DamagedError, match="does not hold other, as the index says"):
        formats.open(index)
    known = json.loads(text)
    del known["weight_map"]["encoder.layers.0.bias"]
    index.write_text(json.dumps(known))
    with formats.open(index) as checkpoint:
        assert checkpoint.oddities() == ["the index does not list encoder.layers.0.bias"]
    write_torch(tmp_path / "m-00002-of-00002.bin", ONE)
    with pytest.raises(DamagedError, match="two tensors with the same name"):
        formats.open(index)


def test_a_file_beside_a_set_that_does_not_name_it(tmp_path: Path) -> None:
    """It is a checkpoint of its own, also where the index is damaged."""
    index, *_ = write_set(tmp_path, *SETS[0], write_safetensors, [ONE, TWO])
    write_safetensors(tmp_path / "lora.safetensors", TWO)
    assert holds(tmp_path / "lora.safetensors", TWO)
    index.write_text("{")
    assert holds(tmp_path / "lora.safetensors", TWO)
    with pytest.raises(DamagedError, match=r"model\.safetensors\.index\.json: "):
        formats.open(tmp_path)


def test_edits_of_a_set(tmp_path: Path) -> None:
    """A change within one part is made in place; PyTorch's are refused; a copy is a set under new names."""
    write_set(tmp_path / "h", "tf_model-{:05d}-of-00002.h5", "tf_model.h5.index.json", write_h5, [ONE, TWO])
    changing.set(tmp_path / "h", "encoder.layers.1.weight", 1)
    assert holds(tmp_path / "h", ONE | {"encoder.layers.1.weight": np.ones((2, 3), np.float32)})
    form, index = SETS[2]
    write_set(tmp_path / "s", form, index, write_safetensors, [ONE, TWO])
    changing.set(tmp_path / "s", "encoder.layers.1.weight", 1)
    assert holds(tmp_path / "s", ONE | {"encoder.layers.1.weight": np.ones((2, 3), np.float32)})
    write_set(
        tmp_path / "t", "pytorch_model-{:05d}-of-00002.bin", "pytorch_model.bin.index.json", write_torch, [ONE, TWO]
    )
    with pytest.raises(RefusedError, match="read, and never written"):
        changing.set(tmp_path / "t", "encoder.layers.1.weight", 1)
    for name, out in (("h", "x.h5.index.json"), ("s", "x.safetensors.index.fp16.json"), ("t", "x.bin.index.json")):
        (tmp_path / f"{name}2").mkdir()
        producing.cp(tmp_path / name, tmp_path / f"{name}2" / out)
        with formats.open(tmp_path / name) as one, formats.open(tmp_path / f"{name}2") as other:
            assert all(same(one.read(each), other.read(each)) for each in WHOLE)
        assert all(each.startswith("x") for each in os.listdir(tmp_path / f"{name}2"))
        with pytest.raises(RefusedError, match="expected a name like OUT"):
            producing.cp(tmp_path / name, tmp_path / "m.json")


def link_into_cache(root: Path, revision: str, files: Path, main: str | None = None) -> Path:
    """A repository in the hub's cache: the files of a folder as blobs, and links to them; gives the snapshot."""
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted(each for each in files.rglob("*") if each.is_file())):
        blob = root / "blobs" / f"{revision}{number}"
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main is not None:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(main)
    return snapshot


@pytest.mark.parametrize(("form", "index"), SETS[:8])
def test_the_hubs_cache(tmp_path: Path, form: str, index: str) -> None:
    """The cache, a repository in it, and a snapshot open the revision of `refs/main`, through links to `blobs`."""
    write = WRITERS[os.path.splitext(form)[1]]
    write_set(tmp_path / "new" / "unet", form, index, write, [ONE, TWO])
    write_set(tmp_path / "old" / "unet", form, index, write, [{"old": np.ones(1)}, TWO])
    root = tmp_path / "hub" / "models--me--model"
    old = link_into_cache(root, "0a0a", tmp_path / "old")
    new = link_into_cache(root, "1b1b", tmp_path / "new", main="1b1b")
    for path in (tmp_path / "hub", root, new, new / "unet", new / "unet" / index):
        assert holds(path, WHOLE), path
    with formats.open(old) as checkpoint:
        assert "old" in checkpoint
    (root / "refs" / "main").unlink()
    with pytest.raises(
        NotFoundError, match=r"several checkpoints; name one: snapshots/0a0a/unet[^,]*, snapshots/1b1b/unet"
    ):
        formats.open(root)
    (root / "refs" / "main").write_text("../../..")
    with pytest.raises(NotFoundError, match="several checkpoints"):
        formats.open(root)


def test_a_link_out_of_the_cache(tmp_path: Path) -> None:
    """Links of a set lead to the blobs of its own repository, and nowhere else."""
    write_set(tmp_path / "files", *SETS[0], write_safetensors, [ONE, TWO])
    snapshot = link_into_cache(tmp_path / "hub" / "models--a", "1", tmp_path / "files", main="1")
    part = snapshot / "model-00002-of-00002.safetensors"
    elsewhere = tmp_path / "hub" / "models--b" / "blobs" / "x"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(part.read_bytes())
    part.unlink()
    part.symlink_to(elsewhere)
    with pytest.raises(DamagedError, match="a link that leads out of its folder"):
        formats.open(snapshot)


def test_presets_of_keras_hub(tmp_path: Path) -> None:
    """The weights of a preset, whole or as a set, before those of its task; also in Kaggle's cache."""
    whole = tmp_path / "models" / "keras" / "bert" / "keras" / "bert_tiny" / "2"
    whole.mkdir(parents=True)
    (whole / "assets" / "tokenizer").mkdir(parents=True)
    (whole / "assets" / "tokenizer" / "vocabulary.txt").write_text("[PAD]")
    for name in ("config.json", "metadata.json", "task.json", "tokenizer.json"):
        (whole / name).write_text("{}")
    write_h5(whole / "model.weights.h5", ONE)
    write_h5(whole / "task.weights.h5", TWO)
    for path in (whole, tmp_path / "models", tmp_path):
        assert holds(path, ONE)
    (whole / "model.weights.h5").unlink()
    write_set(whole, "model_0000{}.weights.h5", "model.weights.json", write_h5, [ONE, TWO])
    assert holds(tmp_path, WHOLE)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "tf_model.h5", "training_args.bin"], "model.safetensors"),
        (["pytorch_model.bin", "tf_model.h5"], "tf_model.h5"),
        (["pytorch_model.bin", "optimizer.bin", "scheduler.bin"], "pytorch_model.bin"),
        (["adapter_model.safetensors", "other.npz"], "adapter_model.safetensors"),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
         "diffusion_pytorch_model.safetensors"),
        (["x.npz"], "x.npz"), (["x.pt"], "x.pt"), (["x.h5"], "x.h5"), (["deep/er/still/x.npz"], "deep/er/still/x.npz"),
        (["diffusion_pytorch_model.fp16.safetensors"], "diffusion_pytorch_model.fp16.safetensors"),
    ],
)  # fmt: skip
def test_the_one_that_a_folder_means(tmp_path: Path, names: list[str], chosen: str) -> None:
    """The name that a library looks for, or else the only checkpoint, of whatever format."""
    writers = {".npz": write_npz, ".pt": write_torch, **WRITERS}
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        writers[os.path.splitext(name)[1]](tmp_path / name, {"a": np.full(2, number, np.float32)})
    assert holds(tmp_path, {"a": np.full(2, names.index(chosen), np.float32)})


def test_a_folder_with_several(tmp_path: Path) -> None:
    """All are listed in one line, by names that work; of many, the first."""
    write_safetensors(tmp_path / "x.safetensors", ONE)
    write_npz(tmp_path / "y.npz", ONE)
    formats.write(str(tmp_path / "z"), ONE)
    with pytest.raises(NotFoundError, match=r": a folder with several checkpoints; name one: x.safetensors, y.npz, z$"):
        formats.open(tmp_path)
    for name in ("unet", "vae", "text_encoder"):
        (tmp_path / "pipeline" / name).mkdir(parents=True)
        write_safetensors(tmp_path / "pipeline" / name / "model.safetensors", ONE)
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    text = "name one: text_encoder, unet, vae$"
    with pytest.raises(NotFoundError, match=text):
        formats.open(tmp_path / "pipeline")
    for number in range(20):
        write_npz(tmp_path / "pipeline" / f"{number:02}.npz", ONE)
    with pytest.raises(NotFoundError, match=r"name one: 00.npz, 01.npz, .*, 11.npz, and 8 more$"):
        formats.open(tmp_path / "pipeline")


def test_a_set_beside_a_single_file_of_its_name(tmp_path: Path) -> None:
    """Neither is chosen: transformers would load the file, diffusers the set."""
    write_set(tmp_path, *SETS[0], write_safetensors, [ONE, TWO])
    write_safetensors(tmp_path / "model.safetensors", ONE)
    text = r"several checkpoints; name one: model.safetensors.index.json, model.safetensors$"
    with pytest.raises(NotFoundError, match=text):
        formats.open(tmp_path)
    assert holds(tmp_path / "model.safetensors", ONE)
    assert holds(tmp_path / "model.safetensors.index.json", WHOLE)


def test_a_damaged_folder_beside_a_sound_one(tmp_path: Path) -> None:
    """It hides nothing; alone, it is named."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint").write_text("model_checkpoint_path: ")
    with pytest.raises(DamagedError, match="a/checkpoint: "):
        formats.open(tmp_path)
    (tmp_path / "b").mkdir()
    write_npz(tmp_path / "b" / "x.npz", ONE)
    assert holds(tmp_path, ONE)


def test_checkpoints_of_tensorflow_in_folders(tmp_path: Path) -> None:
    """The only one of a folder without a state file, and the latest of a folder below."""
    (tmp_path / "run").mkdir()
    formats.write(str(tmp_path / "run" / "m-1"), ONE)
    assert holds(tmp_path / "run", ONE)
    assert holds(tmp_path, ONE)
    formats.write(str(tmp_path / "run" / "m-2"), TWO)
    with pytest.raises(NotFoundError, match="name one: run/m-1, run/m-2"):
        formats.open(tmp_path)
    (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "m-2"\n')
    assert holds(tmp_path, TWO)


@pytest.mark.parametrize(
    ("name", "data", "error", "text"),
    [
        ("model.safetensors", b"version https://git-lfs", UnsupportedError, "model.safetensors: a Git LFS"),
        ("model.safetensors", b"", DamagedError, "model.safetensors: an empty file"),
        ("model.safetensors", b"hello", UnsupportedError, "model.safetensors: not a safetensors file"),
        ("x.gguf", b"GGUF\3\0\0\0" + bytes(99), NotFoundError, "without a checkpoint; found x.gguf, a GGUF file; "),
        ("pytorch_model.bin", b"\x80\x02}q\x00.", UnsupportedError, "a folder with a PyTorch file, which"),
        ("notes.txt", b"hello", NotFoundError, "a folder without a checkpoint$"),
    ],
)  # fmt: skip
def test_a_folder_without_any(tmp_path: Path, name: str, data: bytes, error: type[CkptSurgeonError], text: str) -> None:
    """What stands in the place of the checkpoint is named."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=text):
        formats.open(tmp_path)


def test_the_search_below_a_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to folders and hidden folders are not followed, and depth and number of entries have limits."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / ".hidden").mkdir()
    write_npz(tmp_path / "a" / ".hidden" / "x.npz", ONE)
    with pytest.raises(NotFoundError, match=r"a folder without a checkpoint$"):
        locating.locate(str(tmp_path))
    deep = tmp_path.joinpath("a", *"123456789")
    deep.mkdir(parents=True)
    write_npz(deep / "x.npz", ONE)
    with pytest.raises(NotFoundError, match=r"a folder without a checkpoint$"):
        locating.locate(str(tmp_path))
    assert holds(tmp_path / "a" / "1", ONE)
    monkeypatch.setattr(locating, "_MOST_ENTRIES", 5)
    with pytest.raises(NotFoundError, match="too large to search"):
        locating.locate(str(tmp_path / "a"))


def test_layouts_of_other_programs_below_a_folder(tmp_path: Path) -> None:
    """Files within them are not taken for checkpoints; the layout is named if there is nothing else."""
    (tmp_path / "run" / "dcp").mkdir(parents=True)
    write_torch(tmp_path / "run" / "dcp" / "__0_0.distcp", ONE)
    for path in (tmp_path, tmp_path / "run" / "dcp"):
        with pytest.raises(UnsupportedError, match=r"dcp: a distributed PyTorch checkpoint; .*dcp_to_torch_save"):
            formats.open(path)
    (tmp_path / "run" / "other").mkdir()
    write_npz(tmp_path / "run" / "other" / "x.npz", TWO)
    assert holds(tmp_path, TWO)
