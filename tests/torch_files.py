"""PyTorch files made from the format's description, without PyTorch: a pickle emitted opcode by opcode, in a zip file.

`save` writes what `torch.save` writes: protocol 2, memo numbers and all. `REAL` are files that PyTorch 2.13 itself
wrote, packed and in base64, with the values that it read back from them.
"""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# dtype -> the storage class that has it; the others are kept in storages of bytes
STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
UNTYPED = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
           "float8_e8m0fnu")  # fmt: skip
DTYPES = (*STORAGES, *UNTYPED)


class Raw(bytes):
    """Opcodes that stand for a value as they are."""


@dataclass(eq=False)
class View:
    """A tensor: a view of an array of one dimension, which is its storage and may be shared."""

    storage: NDArray[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    parameter: bool = False
    marks: dict[str, bool] = field(default_factory=dict)


def view(values: NDArray[Any], *, parameter: bool = False) -> View:
    """A tensor of an array, in C order or transposed as the array is."""
    if values.flags.c_contiguous or not values.flags.f_contiguous:
        values = np.ascontiguousarray(values).reshape(values.shape)
        flat = values.reshape(-1)
    else:
        flat = values.T.reshape(-1)
    strides = tuple(step // values.itemsize for step in values.strides)
    return View(flat, values.shape, strides, parameter=parameter)


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(whole: str) -> bytes:
    """GLOBAL."""
    module, _, last = whole.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def number(value: int) -> bytes:
    """BININT1, BININT2, BININT or LONG1, as Python chooses."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -1 << 31 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


class Emitter:
    """Writes the pickle of nested dictionaries, lists and tensors, and collects the storages."""

    def __init__(self) -> None:
        self.storages: list[NDArray[Any]] = []
        self._memo = 0

    def pickle(self, value: object) -> bytes:
        """The whole of it."""
        return b"\x80\x02" + self.value(value) + b"."

    def put(self) -> bytes:
        """BINPUT or LONG_BINPUT of the next number."""
        self._memo += 1
        at = self._memo - 1
        return b"q" + bytes([at]) if at < 256 else b"r" + struct.pack("<I", at)

    def value(self, value: object) -> bytes:
        """The opcodes of a value."""
        if isinstance(value, Raw):
            return bytes(value)
        if isinstance(value, View):
            return self.tensor(value)
        if isinstance(value, dict):
            start = b"}" + self.put()
            items = b"".join(self.value(key) + self.value(each) for key, each in value.items())
            return start + (b"(" + items + b"u" if items else b"")
        if isinstance(value, list):
            start = b"]" + self.put()
            return start + (b"(" + b"".join(map(self.value, value)) + b"e" if value else b"")
        if isinstance(value, tuple):
            body = b"".join(map(self.value, value))
            code = (b")", b"\x85", b"\x86", b"\x87")[len(value)] if len(value) < 4 else b""
            return body + code + (self.put() if value else b"") if code else b"(" + body + b"t" + self.put()
        if isinstance(value, str):
            return text(value) + self.put()
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        assert isinstance(value, int)
        return number(value)

    def tensor(self, tensor: View) -> bytes:
        """The call that rebuilds a tensor."""
        at = next((n for n, each in enumerate(self.storages) if each is tensor.storage), len(self.storages))
        if at == len(self.storages):
            self.storages.append(tensor.storage)
        dtype = tensor.storage.dtype.name
        typed = STORAGES.get(dtype)
        kind = name(f"torch.{typed}" if typed else "torch.storage.UntypedStorage")
        count = tensor.storage.size if typed else tensor.storage.nbytes
        hooks = name("collections.OrderedDict") + b")R"
        pid = b"(" + text("storage") + kind + text(str(at)) + text("cpu") + number(count) + b"tQ"
        function = name("torch._utils._rebuild_tensor_v2" if typed else "torch._utils._rebuild_tensor_v3")
        view = number(tensor.offset) + self.value(tensor.shape) + self.value(tensor.strides)
        last = (b"" if typed else name(f"torch.{dtype}")) + (self.value(tensor.marks) if tensor.marks else b"")
        made = function + b"(" + pid + view + b"\x89" + hooks + last + b"tR"
        if tensor.parameter:
            return name("torch._utils._rebuild_parameter") + b"(" + made + b"\x88" + hooks + b"tR"
        return made


def archive(pickle: bytes, storages: dict[str, bytes], order: str | None = "little", root: str = "archive") -> bytes:
    """The zip file of a pickle and of storages by their keys."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo(f"{root}/data.pkl"), pickle)
        if order is not None:
            file.writestr(zipfile.ZipInfo(f"{root}/byteorder"), order)
        for key, data in storages.items():
            file.writestr(zipfile.ZipInfo(f"{root}/data/{key}"), data)
        file.writestr(zipfile.ZipInfo(f"{root}/version"), "3\n")
    return out.getvalue()


def save(value: object, order: str | None = "little") -> bytes:
    """The file that `torch.save` would write of dictionaries, lists and tensors."""
    emitter = Emitter()
    pickle = emitter.pickle(value)
    swap = order == "big"
    stored = {str(at): (each.byteswap() if swap else each).tobytes() for at, each in enumerate(emitter.storages)}
    return archive(pickle, stored, order)


def real(packed: str) -> bytes:
    """A file of `REAL`."""
    return zlib.decompress(base64.b64decode(packed))


# name -> (the file, name of a tensor -> (dtype, values as PyTorch read them))
REAL: dict[str, tuple[str, dict[str, tuple[str, Any]]]] = {
    "state_dict": (
        "eNqlVc9P01Acf123AhX55Q9+iKj4aygM2m3dkAhmIfXQg3NEXbwsZausoTC+6xtGExITAkY9mRgv/rgb4sGTJgokJB486sHExHDxol78"
        "Bzz4XguzLYHpeEnXdH2fH33v8/2+pML6EaqtRVtGE2pBajGb12e1/pyK1dDMpCEnGtB117jjy2YLhqFlsV6YNvlLxZxW1HKjehbzgHpS"
        "wATTlHsgdFPTJ/IYfFlcIKShTAnrhslnitp4STdyGaxNm4ViZlbkgQ0G0zUEY5KZ6oQGfhvCy0ZBxWP2nzwE0gzlBS7Nknt2pgQ1Coeh"
        "9rKCFFbxLUKd4lOYReDv5amPPRjqU7A3zVlmxnXVhIY8Ucr78zaTAI35GoXF0GQxLECzwixAi43eh2F/Cg5YnyJsfspBF16EVhvfRvGM"
        "wi5COzFCHHTYHIcwdKbgsOVAsB10uRjCcIQwMBiOWgwLcIz+dNvo4xhOpOBkaQ5OpevI5MyUhlW6LXDaek/WjG4a9MzBGWv1ZrWiSbYE"
        "ziqMubFUvXPQly8/CxCag37ruWSOh5JKTS3/ZCz5gbyjV3LbYLQisRyM0I1CcUrFmQ01ORHy5KPSEKju619f56klem2v24Fif3U3wpFR"
        "DX1iekqbxnIi/J/S1pAi1MDITfjhIxK+HQ00o5GygfFbWCvQsMuJoWp0N4ehY2xo1MPC+W/tNBvcjh4a0LCrKvsH5MS5XRjovvXy7VNp"
        "bfjV7/2rh+OB1c8zD1aWziSGqaNnX1bX24hmWwVHvW5HgpwI/rOja/e1dxfuNo6sz99ZpprJMbm7nrDWV9CMuzVFORGpahU+zXQOP18S"
        "V35Ofrf0Axffv6hCP1yt/nJ47yrVXVtjOCKG/DvqNjoSWC65XeUvzFP1j88nrlTOf5ez8K3PNrWiTirwtkq7f0bPVVH/A7FYXBJj4mBs"
        "cDAejQiSGBUEKRqNhCUpFh8ID4oRSRLi1CW6Gh0NEh9ByyVDzZZ9OltX0xbn3nPMi3Y2oFYXst2Htmt2XhJnE+lwkTx0kmzpXF4eZyNo"
        "dvG0sGhrA/LCnVXb4II/ZpGnd3ixzupzY4N+D1bwYp2V48Y+9WJFL9aZfje2M+DBhr1YZ3YbXdhHDuw2e+aMVJd7rTlUIexJheN6N0uD"
        "7Ssjec993mff33Abi6xw9IBGQ3X2s33qBTgbw1vz7bl/AFBIIw4=",
        {
            "0.weight": (
                "float32",
                [
                    [-0.005293981172144413, 0.37932288646698],
                    [-0.5819807648658752, -0.5203874707221985],
                    [-0.27234524488449097, 0.1896158903837204],
                ],
            ),
            "0.bias": ("float32", [-0.014010033570230007, 0.5606575012207031, -0.06275151669979095]),
            "1.weight": ("float32", [[0.1527741253376007, -0.1744827926158905, -0.11348707973957062]]),
            "1.bias": ("float32", [-0.55157071352005]),
        },
    ),
    "checkpoint": (
        "eNqlVVtoHFUYPnvJbjLG3KxJGttY66Ubk272kmR3kzRbtrp5GIwxIgyFMszunOxOnc3sP3M2TYILhZLIghQE8U1BoaDgi760D/VFEVRU"
        "1BcRfBDFB6Gwig++VPScM+lmZkK6sT1w9iwz5/v+77/OshgIItTZifatPjSAFLNY1tbxpKoQJVp9Wc/netB517rsrwOKSB0UgKtGsQw+"
        "MSBRRqQblgX+xezPNpvUR38qhop12SIKwbKqFQkE6hCUQvRNLFrQFAs6isSgJqNyjWi6JcgmLtQ0XZUJXrMMU15PCBCKRKQwRVj0plLC"
        "ELYhQl43FPKi/VCATsnHWKFLCtCzWK2BIAYIPPCCiMTANnSLvm14sFEsGrqOi0Qz1izheVPFJlafoboE6BlbgV4CfSvQb0ldlMKoEq2i"
        "bWETBurwkO0wdwSO1OFhEdVhMML9tgiuwlCZyiyHy7aMOAyXBdFH4Cg1PzbWKDP2EQKPrMAx7gveqMrKegmOu2AJGKWwEIFHuWrRvwMn"
        "RL/o24HHbIqTBB5fgSckYY9CtgCedLEk4Smb5VSLJWKz7Ap5msD4CkzULKmbXq8qplKRS6ZRq1pw+gJE6zAZkfwsoSbEFrPLhee+//P9"
        "29z/AiY0Z/HF7K2v2Pp6Mdv8+5sfB18d34EEjzumHMnFhWc3r/4Se22W81/CWqlMZBUXlU2YEhH3X6lYJVNRYbohsUKsKBs81jDT4K9X"
        "DRMrtLRSS9zVolIlNVMp6BjSDamHPlG11VWauzWi8aeZBpe3WrOwCrNL0iC7govUJR2rskvBXIOXH/fagvkLcCZCo+SjAQrgmlLjGV0z"
        "aJYXeDA3IFuLLovhzrc+u/3HXzQqbC8f2EJDqLPVQlHqRUUh8jo2LVpv+VyQd1KcsV1v/nSF0bN9MNsISu2x7Za/rOhaaa1CXc/nkp7W"
        "PNSamWICspfgd5Zj/10F9KNsS0Bhk2CDdUw+N3cvdu8sXSNEx0zD9plfj7JchO6qoQctuKbSZCyfm70PAddu1W5+8Xlvdqz5ysdMxSc/"
        "1LtYnXa3UZF2q4jnc1P3pAKhy1lm9+LFdz5gxRZsY/es224in5u/n/CfP760Nc/2R82rN9luNjN8M02xf769NkytDrfRNOHWlMznIofW"
        "dOLLT1Ns7xT+5fvsEYlvZv838UOjvf1eNN6y32quU4cVkBSYpe/eLr3Uvv5HUWKvAbmrFjY12oFbCvuEyJqaz0X/ZzbisVQqPZNIJTKp"
        "TCY9PRWfSUzHUul0Ij6dytBXU6mZTCI2zeNB3r1+MkJ1RLhKHxPb0ukcSH37lHu/4160cwANuZDnAuigEeYlcQ6RERfJ606SfZPLy+Mc"
        "BP0unoEg2j+AvHBnB/e44G8GkWd2eLHOLnRjj3V4sHEv1tktbuwbXmzCi3VWuhsbCXmwSS/WWbu9Lux7DuwBOXOW1Kg71mHUptiXxVBo"
        "4k5rBE63kILnvOK3zxth+6Q4/m9u94L91esI2RiB37fv/geZiIS0",
        {
            "model_state_dict/0.bias": ("float32", [-0.01501003373414278, 0.5616574883460999, -0.06175151839852333]),
            "optimizer/state/0/step": ("float32", 1.0),
            "optimizer/state/0/exp_avg": (
                "float32",
                [
                    [0.015277412720024586, 0.015277412720024586],
                    [-0.01744828000664711, -0.01744828000664711],
                    [-0.011348708532750607, -0.011348708532750607],
                ],
            ),
            "optimizer/state/0/exp_avg_sq": (
                "float32",
                [
                    [2.333993325009942e-05, 2.333993325009942e-05],
                    [3.0444247386185452e-05, 3.0444247386185452e-05],
                    [1.2879318092018366e-05, 1.2879318092018366e-05],
                ],
            ),
        },
    ),
    "dtypes": (
        "eNqtlstvEkEAxgcoD2mlDx99WOtbUStl2WULtVpdzcYEExE1IcYEF9jCxpXtLEONJkYT00MTT5r06MWY+B/4J3jx4tHEmye96MGDiR7c"
        "2VmWndG2Ql1CtpD5ft83szNfyecCfQBEIuCPawiMAMWs1LVldaaqICWxdEeXpRi4SV2P/Q8hiBfDlmBRNxQkCtBXQYalS5RaSNOb0ZKp"
        "lluaXi0htdE0zNJyKgr9cSJpWiOVmgoDRBK9aLTKunqNfBuFfUWfNSgJg8WAda8stWAoF0AwfDUHcoEVGMn5VuC21UrF0HW1gjSj0Yxe"
        "MauqqVYvahUUhdHjBdiP4EABbu8k5EQYq1sB6m3TS4q+6FoO2pYcHKrbVsOO1Qi22rFax8SdCO4qwN1FvGblNnKUQkoy+drFjtnYFBwn"
        "2AkHuwdjJwl2L4JTBbivGLQGag28kPsp5mWjUXN5B2weDw8S3iGHdxjzjhDeUQSPFWC82Ed4GXicwl2oK6aLO2HjBHiS4KYd3CmMSxDc"
        "DILJAuTseC2bl6KnfB91Hhxv89JQILy0wxMxb5bwMghmC3CulcjnwpEvL3+sSX4A8Du/7o4cBVl3RyYWDfOugkrLqtm0HrwspZmN+Y8X"
        "h+3ffP34BAfG7/XtJ8Bsx97ZuSVF12qNu2oDyRLfSwJRwAEW7sHP1tSBf8MAw2DBDVC2ltvAe12WTvc2c3LpGkK6ijOsnPk0HrJcQhtm"
        "iIGzVCvMJGVpbgsBaPq3BeePczjRicgHYcz6MLZJomk6ESdLcdCF/zxxe/vL+NLD/FNbnf/jBeL/6vtSsAd//v+sv8+5+507TvTu1tMr"
        "Pay/0NX6+/zY6tHq9Qju+MAmVudpq7QsndnK7u/SfxCcc/3d4pnfUgA+iu3fv6jd2Pz8T4FUp4Ds+TdVU7Ma6IGC//mVtKosJbpMw6XE"
        "TFqc5bNiVhSsV0rkOC7DZZLpLCdkBZ5LZmYzXFLEKSdv3x+JWznidkqfvVXaOb0NPvRHcvZ3BKv2FvAopXzmB+t1PgvxlugEXZwBsEFz"
        "sxxvEQ7TYTwct4BZube1YpR8dx9gupPVejuI1r5mtRyr9fYH4xtktClW6z3ptHaN1fKs1nt0aG08xGiFf9c+Z7VpVus9M4OUdkcYsMeU"
        "FXu38hT9jD3ivx+yfC4Umm4fycApVznA3H86XZqJtCs1hH+EAr6/U7n5nP3MLM2APZ6M/Q0d24dO",
        {
            "float64": ("float64", [0.0, 1.0, 2.0]),
            "float16": ("float16", [0.0, 1.0, 2.0]),
            "bfloat16": ("bfloat16", [0.0, 1.0, 2.0]),
            "int64": ("int64", [0, 1, 2]),
            "int8": ("int8", [0, 1, 2]),
            "uint8": ("uint8", [0, 1, 2]),
        },
    ),
    "more_dtypes": (
        "eNqllUtv00AUhSdx6wQX+uDVB1BeBQy0qV95FCgUC0UILxqCkCIEitLEbSycuDeZFIqEhARdILHhDyAh8R9YsoIVG0BCLNggVqzYs2LG"
        "dlN7Sgk0I0WOkjnfPWPfe5wzuB6E4nG0aQ2i3ajUKFetFXO6UsKlxPJdO6v3o1uh9Sj6EJBYIAy04Dg2RMrYIaJEsYUtuykUG+ZCy7Ir"
        "RWzWm06juKIIEBXFQozsb5KdpSUTOE8i6ER/w/tNgJ5ChGyRoLfAkWt5uQW8wWGIXTeQwa1B3IiswY6n5bJj22YZW069Kcw3KmbDrFyx"
        "ylgA4XQe+jDszMOuAk8ILauO5RT0d7CnCjAgilXfUsK3KNys49Vls9J2N+i6k2Goyhs8ht2+qz3U1d6nVVp8n38qr7AA+zEM52GkbSal"
        "wWjVrVX1aAqMEdoIhgM+7SClHfJo4wFaShPgMIYjeTha2EWEi7ZTwpmiqdXUxTocC0FVOF51b9yEDz1BoSc96CkfGgIIIGIgf54p9AXY"
        "yZoCZ0NkDSY98pRPTlDytEeWGDKRCyBjUPKgthI5Ixafezl7TYsSDPnktuzBYRRr92Bi0WnUSri4Yjaa5HlndY62okxhr39+fUw90c/W"
        "sDGU3oD5T7ZYsq2les2s46yuMq39TyulUQOX7sEPchAU/auBIXSpbWBhFZsObdisfn47ddeXbWFsm9TD2uz3Udpc/F899KOLoamelrL6"
        "uS4MoEiEFn/75c5zOqhch+KXw8XlrD7bzelJffLQo4hauPLq6vltnF/p8vz+ivjXqH+ljt7ffjY/Qr6PdHA0GXakZnXxnx2hzBwttToR"
        "fbGN+691f/8vuPUffqv/6lx/AM2167fH+EJXBlSBlv/wYulm5/kbR8pGALjnb5oNiyTAgxJ9gxStSlZP/KcbSUom5RlJziRVRVKTM1I6"
        "k5YUaUbWMlJK1VQ1mU6mZiQ3JeLv3tdE4kN0XUbcVln3GczDwU3O2fcwqw4G4HBI+SSKtkpQFhIMsbEQ5EMQsik5WU4wiIZCnDyHNgcg"
        "Kw9GSX9I/plDTHax2mAGhLU3ehitzGqD08rUZbUKqw2OX1hb7WW0KqsNjk5Y+4nVaqw22PcD4fPyiB01Vhxsx/GQ+GNA/OdByRk8P7k+"
        "VtxUW9nHXN/4eXg/th6LvPstLWzEZs7o5T1Nn7vf2/sbSo5X7g==",
        {
            "bool": ("bool", [False, True, True]),
            "uint16": ("uint16", [0, 1, 2]),
            "uint64": ("uint64", [0, 1, 2]),
            "float8_e4m3fn": ("float8_e4m3fn", [0.0, 1.0, 2.0]),
            "float8_e5m2": ("float8_e5m2", [0.0, 1.0, 2.0]),
        },
    ),
    "views": (
        "eNqlVktz21QUvn7GFWkepZA2QNrydKB1LMmJ7aaNE7eYgqC1FVpMoRhFurFV5MeRb0ySmcxkpuO03bJixbBhy5YFG/4CrFkww4oVv6AM"
        "90q2Yt0kpg13fOSHzved75x7z5GLSiiMUCyGDqwJdApptl4zO3jO0IiWaH1lFfJj6K5v7QZ3AMXLlAOtaW0MAZ00KShR2SCm1RYqNl7b"
        "MC2jQnCj3bQrHUmAYDxeHqH+beqpVTGEXIhQsJoaWXV/FCBcDlCfJETKIfqutzYgqowSGCkpSBntQkwJdOHEY11vWhbWidlstIVbtoFt"
        "bFw3dSKAMKvCcwRGVThZFigDsbVGu9VsYwPGalRCLVQL1yI1h3SckYaV0B5MKAElvAeTj2sMf4rA8yqcdrJraTaBF3jkiyUlqIS6MKUE"
        "u3DGRZ0lMK3CS+Uoy1HXLM2Gl3ncKyUlMjvr+s8QOKfC+TLbA7zZ0hoG1XiBR7xaotJopNcU1IXXXeQbBN5U4a1yhCHrLbIF8T7MqZ4I"
        "sxSMCLzNEkRKcA/eoXoDe3DRJbhEIKHCnJOg3mzch6SL7+3ItWa9ZeFN/8aIDrUEEqUOEJAZNd2LFLvMu7QLO5De58w8ahPIqnDZ2ckG"
        "rsKiT6UMVyhVkMBVliJlWWLFzLlUyzuw4uHyjOmaCtedjOmOaHV494gD59zFBNsCFPhavsc00xg3WLT33UAfEFBU+PCR8+Wjh3BThVtO"
        "DnWtsQXFe1CK8zRqL/VVdvnYpblN4I4Kn/Cu5V5qn7LLXdf1MwKfq3CvC1/gcpCdlW2o9Aq/am7TSn/JnLUurKmgOx4GAaPnsc72RKbd"
        "hJ3qGLgD671b9LOpU3jV65xaF0wV7m8kispI7MbDJzd/pHeYFY/s/il00uv+xHrTrmuk0sF2mzZaIX9ifwiIjPKnv39/wHaS2dGU0yi9"
        "T9lr/opmmdVGHTdIIS9zo+Wp1kKKCch9DX+xAgWHCphEOU/A2hbBTTYvCvnF48TtL8skxMJMQ/fqn2dZy0eHahhDS76pOpcs5C//DwEu"
        "626OXpbpi9oute+p/ULtD2pohc5yauepJVeY0s2d9aUkG66eUnSo0tN+pWIhP3FA6bBMObx0GL6vnenq/JBLxHpihvFe8fPKhXwGHb9+"
        "zxp/HC168b2OSB9XgCywyL9+V7393+d3Bkn7DeSk3sa2STtoW2MPwIppFPKJZxQiJtPpzIKUlrLpbDYznxIXpHlRkkVZXMjK4ryYyaZk"
        "UUxlmMrUhcUncaoj7qgMMLGezsGpMnFAOf8/gkcPDpApH/KfEDpqDvEkg0Ng2kdSCqMhk4fnGWzkSR/PbwM83gDh4YPdNeaD34kgrvf7"
        "2MP7z7eiHFbk4w6eXj92mcdKT4/9lsfKPHbw7I77sGdGEN8pPHjwSM34wN8MgA8/7EUlGr3Yb43QJQ8pcO8P3BKjTC8mxbG/n+jnnoP7"
        "1IpEXYzg+Lu+/wJmiYId",
        {
            "base": ("float32", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
            "transposed": ("float32", [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0], [2.0, 6.0, 10.0], [3.0, 7.0, 11.0]]),
            "part": ("float32", [2.0, 4.0, 6.0]),
            "scalar": ("float32", 5.0),
            "expanded": ("float32", [1.0, 1.0, 1.0]),
            "empty": ("float32", []),
            "conj": ("complex64", [(1 - 2j)]),
            "neg": ("float32", [-2.0]),
            "param": ("float32", [0.0, 1.0]),
            "many/0": ("float32", [0.0]),
            "many/1/0": ("float32", [1.0]),
        },
    ),
    "protocol5": (
        "eNqlVD1v00AYPufLgUZJG4aKDhWjkSB1HMdxi0haC3nxQCgwgIQsN7nGFm5cnEv4kJAioUggeYEejMCvgA3BL0AsTAxITEz8Bc52cO0L"
        "DVBOfnyy7573fe7187qtpTMA5PNgZiyCMjDcjmmN4FrXQEZl/7atKkVwMzHG2edvpoRbmPMKyCGUij5Elj3AXll34c7Qsrs6gv2B4+oj"
        "AR9gjvPYAdlo9CD2sgEDewXVdgx0dfr6AHsMj710Z3+ItQLCVzSgMRPs44m30HFsG3aQ5fRJjoXLbhe6sHvJ6iDCO7uNEd7GZprjzIzJ"
        "mnnzRBiAiQKYpemmCYaVtsbmrzVf3fhATuCjfWRBlsFGVJDKruPuGUgfQXdAZKiKRNXlb0fVz//2x5dHDMnAzM2/AhqH+af10w3b6vX3"
        "YB+pSu04EiTRF9C6e+d7iqRIzRWwBFqRgJ37CDp+4VXlwjGPHgzbQsiGvobJxW+ncyRLbq6GImgmXLnGq8rGfwgIo45b5LZJLoIxwWuC"
        "9wRfCcAW6QWCMwT8lq/03sPdJk8W+LlKS+BUpDSySYmWWjvpR/z0snf9z/VfBcKhAYLDD6BrEQc8MPxe0K2uqlT+sRbVekOQq+vr9WpV"
        "rouSWOMFiRfrcqMhCpIkS0JNkkVRlH2Vnx9b7ziigwtUMr7YSGe8hRZnlNP/EZodb4DlpOcYcFTT0UHiJl5JBHkaDzLTOXScuBGXEnHK"
        "KTDbADQ97o5igv4iBSjv0ty4D0oJ7mYa0G6iyfHPs5ogP4uRf2+ctpbLnftls/T5iMlS80cmnOVMOBNesMTmwufwD5bNhRw22B/u/Qna"
        "Pm5V",
        {"0": ("float32", [0.0]), "1/0": ("float32", [1.0])},
    ),
}
