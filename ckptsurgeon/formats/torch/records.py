"""The records that represent the objects of a PyTorch pickle, and the table of names that a pickle may refer to.

A pickle builds objects by naming functions and calling them. Here a name is looked up in `GLOBALS`, which holds only
inert entries, and a "call" runs one of the short functions below, which check their arguments and return a record.
Nothing from PyTorch or any other package is imported or called.
"""

from __future__ import annotations

import math

from ...checkpoint import ITEM_SIZE
from ...errors import DamagedError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[tuple[object, ...]], object]

MAX_RANK = 64  # PyTorch's limit on a tensor's dimensions
_MOST_MARKS = 16  # items in a tensor's metadata; PyTorch writes at most two
_BYTES = "bytes"  # stands for the dtype of an untyped storage


class Global:
    """A name that a pickle may refer to; an entry of `GLOBALS`.

    Attributes:
        name: as spelt in the pickle, such as `torch.FloatStorage`.
        dtype: of a storage class or a dtype; None for other names and for unsupported dtypes.
        make: function that makes the record for a call of this name; None if the name cannot be called.
    """

    __slots__ = ("dtype", "make", "name")

    def __init__(self, name: str, dtype: str | None = None, make: Make | None = None) -> None:
        self.name = name
        self.dtype = dtype
        self.make = make


class Dict:
    """A dictionary of the pickle, as ordered pairs; keys are never hashed, so hostile keys cannot make it slow."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[object, object]] = []


class Storage:
    """A reference to the bytes of one or more tensors.

    Attributes:
        key: of the archive's member `data/<key>`.
        dtype: of its elements; "bytes" for an untyped storage.
        count: number of elements.
    """

    __slots__ = ("count", "dtype", "key")

    def __init__(self, key: str, dtype: str, count: int) -> None:
        self.key = key
        self.dtype = dtype
        self.count = count

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self.count * (1 if self.dtype == _BYTES else ITEM_SIZE[self.dtype])


class Tensor:
    """A view of a storage.

    Attributes:
        storage: holds the values.
        dtype: as `Variable.dtype`.
        offset: of its first element, in elements.
        shape, strides: in elements.
        conjugate: whether the values are the conjugates of those stored.
        negative: whether the values are the stored ones with the opposite sign.
    """

    __slots__ = ("conjugate", "dtype", "negative", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.strides = strides
        self.conjugate = self.negative = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Number of storage elements from the tensor's first element to its last."""
        if not self.size:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != step:
                return not self.size
            step *= size
        return True


class Ignored:
    """An object that holds no tensor: a device, a layout."""

    __slots__ = ()


IGNORED = Ignored()


def storage_of(pid: object) -> Storage:
    """The storage that a persistent id refers to: ("storage", class, key, device, number of elements)."""
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise DamagedError("damaged: opcode BINPERSID refers to something other than a storage")
    _, kind, key, _, count = pid
    if not isinstance(kind, Global) or not kind.name.endswith("Storage"):
        raise DamagedError("damaged: opcode BINPERSID of a storage without a class")
    if kind.dtype is None:
        raise UnsupportedError(f"a storage of class {kind.name}, which cannot be read")
    if not isinstance(key, str) or not _is_count(count):
        raise DamagedError("damaged: opcode BINPERSID of a storage without a key or a length")
    return Storage(key, kind.dtype, count)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _numbers(value: object, what: str) -> tuple[int, ...]:
    """Check that a value is a tuple of at most MAX_RANK sizes or strides, and return it."""
    if not isinstance(value, tuple) or len(value) > MAX_RANK or not all(map(_is_count, value)):
        raise DamagedError(f"damaged: invalid {what} of a tensor")
    return value


def _tensor(arguments: tuple[object, ...], dtype: str | None) -> Tensor:
    """Make a tensor from (storage, offset, sizes, strides), checked against the storage's length."""
    if len(arguments) < 4:
        raise DamagedError("damaged: a tensor with too few arguments", expected="at least 4", found=len(arguments))
    storage, offset, sizes, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise DamagedError("damaged: a tensor without a storage")
    shape, steps = _numbers(sizes, "shape"), _numbers(strides, "strides")
    if not isinstance(offset, int) or not _is_count(offset) or len(shape) != len(steps):
        raise DamagedError("damaged: invalid offset or strides of a tensor")
    if dtype is None:
        dtype = "uint8" if storage.dtype == _BYTES else storage.dtype
    tensor, largest = Tensor(storage, dtype, offset, shape, steps), 1
    for dimension in shape:
        largest *= dimension or 1
        if largest >> 62:
            raise DamagedError("damaged: impossible shape of a tensor", found=str(list(shape))[:80])
    if tensor.size and (offset + tensor.span) * ITEM_SIZE[dtype] > storage.length:
        what = f"damaged: a tensor reaches beyond its storage {storage.key[:80]}"
        found = f"{(offset + tensor.span) * ITEM_SIZE[dtype]}"
        raise DamagedError(what, expected=f"at most {storage.length} bytes", found=found)
    return tensor


def _flag(tensor: Tensor, metadata: object) -> Tensor:
    """Set a tensor's `conjugate` and `negative` from its metadata, where PyTorch marks lazily computed tensors."""
    marks = metadata.items if isinstance(metadata, Dict) else []
    if len(marks) > _MOST_MARKS:
        raise DamagedError("damaged: a tensor with impossible metadata", found=f"{len(marks)} items")
    for key, value in marks:
        if value is True and key == "conj":
            tensor.conjugate = tensor.dtype.startswith("complex")
        elif value is True and key == "neg":
            tensor.negative = tensor.dtype != "bool"
    return tensor


def _tensor_v2(arguments: tuple[object, ...]) -> Tensor:
    """_rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks, metadata=None)."""
    return _flag(_tensor(arguments, None), arguments[6] if len(arguments) > 6 else None)


def _tensor_v3(arguments: tuple[object, ...]) -> Tensor:
    """_rebuild_tensor_v3(storage, offset, sizes, strides, requires_grad, hooks, dtype, metadata=None)."""
    kind = arguments[6] if len(arguments) > 6 else None
    if not isinstance(kind, Global) or kind.name[:6] != "torch." or kind.make is not None:
        raise DamagedError("damaged: a tensor without a dtype")
    if kind.dtype is None:
        raise UnsupportedError(f"a tensor of dtype {kind.name}, which cannot be read")
    return _flag(_tensor(arguments, kind.dtype), arguments[7] if len(arguments) > 7 else None)


def _parameter(arguments: tuple[object, ...]) -> Tensor:
    """_rebuild_parameter(tensor, requires_grad, hooks): the tensor."""
    if not arguments or not isinstance(arguments[0], Tensor):
        raise DamagedError("damaged: a parameter without a tensor")
    return arguments[0]


def _from_type(arguments: tuple[object, ...]) -> Tensor:
    """_rebuild_from_type_v2(function, class, arguments, state): a tensor with attributes, which are left out."""
    function, inner = (arguments[0], arguments[2]) if len(arguments) == 4 else (None, None)
    if not isinstance(function, Global) or function.make not in _TENSORS or not isinstance(inner, tuple):
        raise DamagedError("damaged: a tensor that is rebuilt by an unknown function")
    kind = arguments[1]
    if not isinstance(kind, Global) or kind.name not in _CLASSES:
        raise DamagedError("damaged: a tensor without a class")
    tensor = function.make(inner)
    assert isinstance(tensor, Tensor)
    return tensor


def _dict(arguments: tuple[object, ...]) -> Dict:
    """OrderedDict() or OrderedDict([(key, value), …])."""
    made = Dict()
    if not arguments:
        return made
    pairs = arguments[0]
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise DamagedError("damaged: a dictionary of invalid pairs")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DamagedError("damaged: a dictionary of invalid pairs")
        made.items.append((pair[0], pair[1]))
    return made


def _defaultdict(arguments: tuple[object, ...]) -> Dict:
    """defaultdict(class); the class is left out."""
    return _dict(arguments[1:])


def _size(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """torch.Size(numbers)."""
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise DamagedError("damaged: invalid torch.Size")
    return arguments[0]


def _ignored(_: tuple[object, ...]) -> Ignored:
    return IGNORED


_TENSORS: tuple[Make, ...] = (_tensor_v2, _tensor_v3, _parameter)
_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")

_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "QInt8": None, "QUInt8": None, "QInt32": None, "QUInt4x2": None, "QUInt2x4": None,
}  # fmt: skip
_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)  # fmt: skip
_UNREADABLE = ("complex32", "float4_e2m1fn_x2", "qint8", "quint8", "qint32", "quint4x2", "quint2x4")
_FUNCTIONS: dict[str, Make] = {
    "torch._utils._rebuild_tensor": lambda arguments: _tensor(arguments, None),
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _defaultdict,
    "torch.Size": _size,
    "torch.device": _ignored,
    "torch.serialization._get_layout": _ignored,
}
_NAMES = (*_CLASSES, "builtins.dict", "builtins.list", "builtins.int", "builtins.float",
          "__builtin__.dict", "__builtin__.list", "__builtin__.int", "__builtin__.float")  # fmt: skip

# Every name that a pickle may refer to. All others are refused.
GLOBALS = {
    each.name: each
    for each in (
        *(Global(f"torch.{name}Storage", dtype) for name, dtype in _STORAGES.items()),
        Global("torch.storage.UntypedStorage", _BYTES),
        Global("torch.UntypedStorage", _BYTES),
        *(Global(f"torch.{name}", name) for name in _DTYPES),
        *(Global(f"torch.{name}") for name in _UNREADABLE),
        *(Global(name, make=make) for name, make in _FUNCTIONS.items()),
        *(Global(name) for name in _NAMES),
    )
}
