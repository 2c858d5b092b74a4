"""Hostile PyTorch files: nothing is executed, every refusal is one line, and time and memory are bounded."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import archive, name, number, save, text, view

from ckptsurgeon.errors import CkptSurgeonError, DamagedError, UnsupportedError
from ckptsurgeon.formats.torch import unpickling
from ckptsurgeon.formats.torch.reading import Torch

ROOM = 1 << 22
HOOKS = name("collections.OrderedDict") + b")R"
FLOATS = name("torch.FloatStorage")
V2 = name("torch._utils._rebuild_tensor_v2")


class Evil:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> object:
        """The call."""
        return os.system, ("touch /tmp/ckptsurgeon-was-executed",)


def storage(count: bytes = number(4), kind: bytes = FLOATS, key: bytes = text("0")) -> bytes:
    """A storage."""
    return b"(" + text("storage") + kind + key + text("cpu") + count + b"tQ"


def tensor(
    stored: bytes = storage(), offset: int = 0, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    """A tensor."""
    return V2 + b"(" + stored + number(offset) + size + stride + b"\x89" + HOOKS + b"tR"


def opened(path: Path, body: bytes) -> Torch:
    """The checkpoint of a pickle with these opcodes, beside a storage of 16 bytes."""
    path.write_bytes(archive(b"\x80\x02" + body + b".", {"0": bytes(16)}))
    return Torch(str(path), [str(path)])


BIG = (1 << 61).to_bytes(8, "little")
UNSUPPORTED = {
    "system": (pickle.dumps(Evil(), 2)[2:-1], "opcode GLOBAL of posix.system at byte 2 of the pickle"),
    "system_4": (pickle.dumps(Evil(), 4)[2:-1], "opcode STACK_GLOBAL of posix.system"),
    "within": (b"}" + text("a") + name("builtins.eval") + text("1") + b"\x85Rs", "GLOBAL of builtins.eval"),
    "getattr": (name("builtins.getattr") + b")R", "GLOBAL of builtins.getattr"),
    "module": (name("torch.nn.modules.linear.Linear") + b")\x81", "GLOBAL of torch.nn.modules.linear.Linear"),
    "load": (name("torch.load") + text("x") + b"\x85R", "GLOBAL of torch.load"),
    "quantized": (name("torch._utils._rebuild_qtensor") + b")R", "GLOBAL of torch._utils._rebuild_qtensor"),
    "inst": (b"(iposix\nsystem\n", "opcode INST at byte 3 of the pickle"),
    "obj": (b"(" + name("torch.Size") + b"o", "opcode OBJ"),
    "ext": (b"\x82\x01", "opcode EXT1"),
    "persid": (b"Pabc\n", "opcode PERSID"),
    "long4": (b"\x8b\xff\xff\xff\x7f", "opcode LONG4"),
    "newobj_ex": (b")}\x92", "opcode NEWOBJ_EX"),
    "buffer": (b"\x97", "opcode NEXT_BUFFER"),
    "class": (name("torch.FloatStorage") + b")R", "opcode REDUCE of torch.FloatStorage"),
    "build": (b"]}b", "opcode BUILD of an unknown object"),
    "complex32": (name("torch._utils._rebuild_tensor_v3") + b"(" + storage() + b"K\x00))\x89" + HOOKS
                  + name("torch.complex32") + b"tR", "a tensor of dtype torch.complex32"),
    "qint8": (tensor(storage(kind=name("torch.QInt8Storage"))), "a storage of class torch.QInt8Storage"),
    "key": (b"}N" + tensor() + b"s", "a tensor whose key is neither text nor a number"),
}  # fmt: skip
DAMAGED = {
    "empty": (b"", "empty|does not end"),
    "two objects": (b"NN", "does not end with its one object"),
    "mark left": (b"N(", "does not end with its one object"),
    "unknown": (b"\xff", "0xff at byte 2 of the pickle is not an opcode"),
    "no mark": (b"t", "without a MARK"),
    "empty stack": (b"\x85", "empty stack"),
    "beyond the mark": (b"N(\x85", "empty stack"),
    "long text": (b"X\xff\xff\xff\xffabc", "cut short"),
    "longer text": (b"\x8d" + BIG + b"abc", "cut short"),
    "not text": (b"X\x01\x00\x00\x00\xff", "not UTF-8"),
    "long frame": (b"\x95" + BIG, "frame of the pickle is cut short"),
    "huge memo": (b"Nr\xff\xff\xff\xff", "memo with a gap"),
    "no such memo": (b"j\xff\xff\xff\xff", "has not made"),
    "endless name": (b"c" + b"a" * 300, "GLOBAL without a name"),
    "append": (b"}Na", "appends to what is not a list"),
    "set": (b"]NNs", "not a dictionary"),
    "odd": (b"}(Nu", "not a dictionary"),
    "call of text": (text("a") + b")R", "opcode REDUCE of something other"),
    "call of a list": (name("torch.Size") + b"]R", "opcode REDUCE of something other"),
    "stack global": (b"NN\x93", "STACK_GLOBAL without a name"),
    "pid": (b"NQ", "something other than a storage"),
    "pid class": (storage(kind=name("torch.float32")), "without a class"),
    "pid count": (storage(b"N"), "without a key or a length"),
    "pid negative": (storage(number(-1)), "without a key or a length"),
    "pid true": (storage(b"\x88"), "without a key or a length"),
    "no storage": (tensor(b"N"), "without a storage"),
    "few arguments": (V2 + b")R", "too few arguments"),
    "shape": (tensor(size=b"N"), "invalid shape"),
    "negative": (tensor(size=number(-1) + b"\x85"), "invalid shape"),
    "strides": (tensor(stride=b")"), "invalid offset or strides"),
    "negative stride": (tensor(stride=number(-1) + b"\x85"), "invalid strides"),
    "rank": (tensor(size=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t"), "invalid shape"),
    "beyond": (tensor(offset=1), "reaches beyond its storage 0; expected at most 16 bytes, found 20"),
    "wide": (tensor(stride=number(1 << 60) + b"\x85"), "reaches beyond its storage"),
    "huge": (tensor(size=number(1 << 40) + number(1 << 40) + b"\x86", stride=b"K\x00K\x00\x86"), "impossible shape"),
    "storage": (b"}" + text("a") + tensor(storage(number(5))) + b"s", "wrong size of storage 0; expected 20 bytes"),
    "no member": (b"}" + text("a") + tensor(storage(key=text("7"))) + b"s", "without its member; found data/7"),
    "parameter": (name("torch._utils._rebuild_parameter") + b")R", "parameter without a tensor"),
    "pairs": (name("collections.OrderedDict") + b"](Ne\x85R", "invalid pairs"),
    "from type": (name("torch._tensor._rebuild_from_type_v2") + b")R", "rebuilt by an unknown function"),
    "type in type": (name("torch._tensor._rebuild_from_type_v2") + b"q\x00(h\x00" + name("torch.Tensor") + b")NtR",
                     "rebuilt by an unknown function"),
    "twice": (b"}(" + text("1") + tensor() + b"K\x01" + tensor() + b"u", "two tensors with the same name; found 1"),
    "itself": (b"]q\x00h\x00a", "hold each other too often|within each other"),
    "deep": (b"]" * 5000 + b"a" * 4999, "within each other"),
    "deep tuples": (b")" + b"\x85" * 100_000, "within each other"),
    "long name": (b"}" + text("x" * 70_000) + tensor() + b"s", "impossible length of a name"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_tensors_do_not_need_is_refused(tmp_path: Path, case: str) -> None:
    """The opcode and the global are named, in one line with the one that converts; nothing is executed."""
    body, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        opened(tmp_path / "m.pt", body)
    assert str(caught.value).count("\n") == 0
    where = "where PyTorch is installed, and if you trust the file, whose code this runs: python -c"
    is_safe = case in ("key", "quantized", "complex32", "qint8")  # PyTorch's restricted loading takes these pickles
    if is_safe:
        where = "where PyTorch is installed: python -c"
    assert where in str(caught.value)
    assert ("weights_only=True" in str(caught.value)) == is_safe
    assert str(tmp_path / "m.pt") in str(caught.value)
    assert not os.path.exists("/tmp/ckptsurgeon-was-executed")


@pytest.mark.parametrize("case", DAMAGED)
def test_what_contradicts_itself_is_damaged(tmp_path: Path, case: str) -> None:
    """Every count, length and place is bounded; the error is one line that names the file."""
    body, message = DAMAGED[case]
    with pytest.raises(DamagedError, match=message) as caught:
        opened(tmp_path / "m.pt", body)
    assert str(caught.value).startswith(f"{tmp_path / 'm.pt'}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_protocols(tmp_path: Path) -> None:
    """Protocols 2 to 5 are read, as Python writes them; text pickles and later ones are refused."""
    value = {"a": [1, 2.5, True, None, "x" * 300, -5, 1 << 70], "b": (1, 2, 3, 4), "c": collections.OrderedDict(d=())}
    for protocol in (2, 3, 4, 5):
        found = unpickling.load(pickle.dumps(value, protocol), ROOM)
        items = dict(found.items)  # type: ignore[attr-defined]
        assert items["a"] == value["a"]
        assert items["b"] == value["b"]
        assert items["c"].items == [("d", ())]
    with pytest.raises(DamagedError, match="protocol's number"):
        unpickling.load(pickle.dumps(value, 0), ROOM)
    with pytest.raises(UnsupportedError, match="another protocol; expected 2 to 5, found 06"):
        unpickling.load(b"\x80\x06N.", ROOM)


@pytest.mark.parametrize("body", [b"]", b"}", b"(", b"M\x01\x01", HOOKS, b")\x85", b"Nq\x00", tensor()])
def test_memory_is_bounded(body: bytes) -> None:
    """A pickle of nothing but objects stops where its room ends."""
    data = b"\x80\x02" + body * (2_000_000 // len(body)) + b"."
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match=r"far more objects|one object|empty"):
            unpickling.load(data, ROOM)
        assert tracemalloc.get_traced_memory()[1] < 3 * ROOM + (2 << 20)
    finally:
        tracemalloc.stop()


def test_shared_lists_take_no_longer_than_the_file(tmp_path: Path) -> None:
    """Lists that hold the one before twice, forty times: refused, long before 2 to the 40th."""
    body = b"]q\x00"
    for at in range(40):
        body += b"](h" + bytes([at]) + b"h" + bytes([at]) + b"eq" + bytes([at + 1])
    with pytest.raises(DamagedError, match="too often"):
        opened(tmp_path / "m.pt", b"(" + body + b"t")


def test_equal_keys_take_no_longer_than_others(tmp_path: Path) -> None:
    """Numbers with one hash are no slow dictionary: keys are not hashed."""
    keys = b"".join(number(k * ((1 << 61) - 1)) + b"N" for k in range(1, 20_000))
    with opened(tmp_path / "m.pt", b"}(" + keys + b"u") as checkpoint:
        assert len(checkpoint) == 0


def test_an_expanded_tensor_is_not_a_bomb(tmp_path: Path) -> None:
    """One number that is expanded to many is listed; to read it is refused where it would take far more memory."""
    body = b"}(" + text("a") + tensor(size=number(1 << 40) + b"\x85", stride=b"K\x00\x85") + text("b")
    with opened(tmp_path / "m.pt", body + tensor(size=number(1000) + b"\x85", stride=b"K\x00\x85") + b"u") as found:
        assert found["a"].shape == (1 << 40,)
        with pytest.raises(UnsupportedError, match="expanded more than 100-fold"):
            found.read("a")
        assert found.read("b").shape == (1000,)


def test_a_packed_member_is_refused(tmp_path: Path) -> None:
    """A zip file that somebody packed again is refused, with what to do."""
    import zipfile

    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(UnsupportedError, match=r"data.pkl is packed, .* 'zip -0 -r'"):
        Torch(str(path), [str(path)])


@pytest.mark.parametrize("order", ["little", "big"])
def test_every_truncation_and_bits(tmp_path: Path, order: str) -> None:
    """A small file cut anywhere or with a bit of any byte flipped: a checkpoint, or one error of ours."""
    data = save({"a": view(np.ones((2, 2), np.float32)), "b": {"c": [view(np.ones((2, 1)).T)]}}, order)
    changed = [data[:at] for at in range(len(data))]
    changed += [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]
    path = tmp_path / "m.pt"
    for each in changed:
        path.write_bytes(each)
        _use(path)


CODES = [
    *(b"(", b"}", b"]", b")", b"t", b"\x85", b"u", b"s", b"e", b"a", b"R", b"\x81", b"b", b"Q", b"N", b"K\x01"),
    *(b"q\x00", b"h\x00", text("a"), HOOKS, V2, FLOATS, storage(), tensor(), struct.pack("<BI", 0x72, 1)),
]


@given(st.lists(st.sampled_from(CODES), max_size=30))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_opcodes(tmp_path: Path, codes: list[bytes]) -> None:
    """Known opcodes in any order: a checkpoint, or one error of ours."""
    path = tmp_path / "m.pt"
    path.write_bytes(archive(b"\x80\x02" + b"".join(codes) + b".", {"0": bytes(16)}))
    _use(path)


def _use(path: Path) -> None:
    told = ""
    try:
        with Torch(str(path), [str(path)]) as checkpoint:
            for each in checkpoint.values():
                checkpoint.check(each)
                checkpoint.read(each.name)
    except CkptSurgeonError as error:
        told = str(error)
    assert "\n" not in told
