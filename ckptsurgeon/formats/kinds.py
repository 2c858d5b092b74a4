"""The kinds of files that other programs write, as a table: their first bytes, and what a user can do with them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Help: TypeAlias = "tuple[str, str] | str | None"  # a program: where it runs, and its text; or words

HDF5 = b"\x89HDF\r\n\x1a\n"
UNPACK = "unpack it first"
_COMPILED = "its weights are compiled in; use the checkpoint that it was exported from"
# Programs that write the arrays of argv[1] to argv[2].
_GGUF = ("gguf", "import sys, numpy, gguf; numpy.savez(sys.argv[2], **{t.name: gguf.dequantize(t.data, t.tensor_type) "
         "for t in gguf.GGUFReader(sys.argv[1]).tensors})")  # fmt: skip
_FLAX = ("Flax", "import sys; from flax.serialization import msgpack_restore; "
         "from flax.traverse_util import flatten_dict; from safetensors.flax import save_file; "
         "save_file(flatten_dict(msgpack_restore(open(sys.argv[1], 'rb').read()), sep='/'), sys.argv[2])")  # fmt: skip
_MXNET = ("MXNet", "import sys, numpy, mxnet; "
          "numpy.savez(sys.argv[2], **{k: v.asnumpy() for k, v in mxnet.nd.load(sys.argv[1]).items()})")  # fmt: skip
_MATLAB = ("SciPy", "import sys, numpy, scipy.io; m = scipy.io.loadmat(sys.argv[1]); "
           "numpy.savez(sys.argv[2], **{k: v for k, v in m.items() if k[:2] != '__'})")  # fmt: skip
_PADDLE = ("Paddle", "import sys, numpy, paddle; m = paddle.jit.load(sys.argv[1].rpartition('.')[0]); "
           "numpy.savez(sys.argv[2], **{k: v.numpy() for k, v in m.state_dict().items()})")  # fmt: skip
PADDLE_STATE: Help = ("Paddle", "import sys, numpy, paddle; s = paddle.load(sys.argv[1]); "
                 "numpy.savez(sys.argv[2], **{k: v.numpy() for k, v in s.items() if paddle.is_tensor(v)})")  # fmt: skip
_ONNX = ("ONNX", "import sys, numpy, onnx; from onnx.numpy_helper import to_array; m = onnx.load(sys.argv[1]); "
         "numpy.savez(sys.argv[2], **{t.name: to_array(t) for t in m.graph.initializer})")  # fmt: skip
_GRAPH = ("TensorFlow", "import sys, numpy, tensorflow as tf; "
          "g = tf.compat.v1.GraphDef.FromString(open(sys.argv[1], 'rb').read()); "
          "numpy.savez(sys.argv[2], **{n.name: tf.make_ndarray(n.attr['value'].tensor) "
          "for n in g.node if n.op == 'Const'})")  # fmt: skip
_CAFFE = "OpenCV's cv2.dnn.readNetFromCaffe reads it, with its .prototxt"

# Where bytes stand in a file, the bytes, the kind of file that they identify, and what the user can do with it.
MAGIC: tuple[tuple[int, bytes, str, Help], ...] = (
    (0, HDF5, "an HDF5 file", None),
    (0, b"\x93NUMPY", "a NumPy array", None),
    (0, b"GGUF", "a GGUF file", _GGUF),
    (0, b"FUGG", "a big-endian GGUF file", None),
    (0, b"lmgg", "a GGML file", "llama.cpp converts it to GGUF"),
    (0, b"tjgg", "a GGML file", "llama.cpp converts it to GGUF"),
    (0, b"\x12\x01\0\0\0\0\0\0", "a file of MXNet's parameters", _MXNET),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB 5 file", _MATLAB),
    (0, b"7767517\n", "an ncnn model", "use the checkpoint that it was converted from"),
    (0, b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", "a Torch7 file", "the Python package torchfile reads it"),
    (0, b"ptrt", "a TensorRT engine", _COMPILED),
    (0, b"ftrt", "a TensorRT engine", _COMPILED),
    (24, b"ptrt", "a TensorRT engine", _COMPILED),
    (24, b"ftrt", "a TensorRT engine", _COMPILED),
    (4, b"ET12", "an ExecuTorch program", _COMPILED),
    (4, b"ORTM", "an ONNX Runtime model", "use the ONNX model that it was converted from"),
    (4, b"TFL3", "a TFLite model", "tf.lite.Interpreter's get_tensor reads its constants"),
    (0, b"\x1f\x8b", "a gzip-compressed file", UNPACK),
    (0, b"BZh", "a bzip2-compressed file", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz-compressed file", UNPACK),
    (0, b"]\0\0\x80\0", "an lzma-compressed file", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd-compressed file", UNPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4-compressed file", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"SQLite format 3\0", "an SQLite database", None),
    (0, b"\x89PNG", "a picture", None),
    (0, b"%PDF", "a PDF document", None),
)


def _piece(head: bytes, at: int, tag: int) -> tuple[int, int]:
    """The start and length of the protobuf field at an offset, if it has this one-byte tag; else (0, 0)."""
    length = shift = 0
    for number in head[at + 1 : at + 6] if head[at : at + 1] == bytes((tag,)) else b"":
        length |= (number & 127) << shift
        shift += 7
        if number < 128:
            return at + 1 + shift // 7, length
    return 0, 0


def _text_piece(head: bytes, at: int, tag: int) -> int:
    """Where the field of printable ASCII with this tag ends; 0 if the field at the offset is something else."""
    start, length = _piece(head, at, tag)
    text = head[start : start + length]
    return start + length if 0 < length == len(text) < 200 and text.isascii() and text.decode().isprintable() else 0


def _is_onnx(head: bytes, path: str) -> bool:
    """A ModelProto: ir_version, then the producer's name. ONNX files have no magic bytes."""
    if len(head) < 8 or head[0] != 8 or not 1 <= head[1] <= 32:
        return False
    end = _text_piece(head, 2, 0x12)
    return path.endswith(".onnx") or (end > 0 and head[end : end + 1] in (b"\x1a", b'"', b"(", b"2", b":", b"B"))


def _is_coreml(head: bytes, path: str) -> bool:
    """A Core ML Model: specificationVersion, then a description whose first input has a name."""
    start, length = _piece(head, 2, 0x12) if head[:1] == b"\x08" else (0, 0)
    inner, _ = _piece(head, start, 0x0A) if length else (0, 0)
    return inner > 0 and _text_piece(head, inner, 0x0A) > 0


def _is_graph(head: bytes, path: str) -> bool:
    """A GraphDef: a node with a name and an operation."""
    start, _ = _piece(head, 0, 0x0A)
    end = _text_piece(head, start, 0x0A) if start else 0
    return end > 0 and _text_piece(head, end, 0x12) > 0


def _is_meta(head: bytes, path: str) -> bool:
    """A MetaGraphDef, by its name: it begins with a MetaInfoDef."""
    return path.endswith(".meta") and _piece(head, 0, 0x0A)[1] > 0


def _is_caffe(head: bytes, path: str) -> bool:
    """A NetParameter: a name, then a layer."""
    end = _text_piece(head, 0, 0x0A)
    return end > 0 and (head.startswith(b"\xa2\x06", end) or path.endswith(".caffemodel"))


def _is_msgpack(head: bytes, path: str) -> bool:
    """A map with at least one member, whose first key is printable text."""
    at = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    mark = head[at] if 0 < at < len(head) else 0
    start, length = (at + 2, head[at + 1]) if mark == 0xD9 and at + 1 < len(head) else (at + 1, mark - 0xA0)
    key = head[start : start + length] if mark == 0xD9 or 0xA1 <= mark <= 0xBF else b""
    return 0 < len(key) == length < len(head) - start and key.isascii() and key.decode().isprintable()


def _is_paddle(head: bytes, path: str) -> bool:
    """A LoDTensor without levels: versions of zero, then a small TensorDesc that begins with a dtype."""
    return not any(head[:16]) and len(head) > 24 and 2 < int.from_bytes(head[16:20], "little") < 200 and head[20] == 8


def _is_darknet(head: bytes, path: str) -> bool:
    """The version, 0.1 or 0.2, and a revision. There is nothing else to know these files by but their ending."""
    numbers = [int.from_bytes(head[at : at + 4], "little") for at in (0, 4, 8)]
    return path.endswith(".weights") and len(head) > 16 and numbers[0] == 0 and numbers[1] in (1, 2) and numbers[2] < 10


# Files without magic bytes: a test of their first bytes and their path, the kind, and what the user can do.
SHAPES: tuple[tuple[Callable[[bytes, str], bool], str, Help], ...] = (
    (_is_meta, "the graph (.meta) of a TensorFlow checkpoint, without its values", None),
    (_is_onnx, "an ONNX model", _ONNX),
    (_is_coreml, "a Core ML model", "coremltools reads its weights"),
    (_is_graph, "a TensorFlow graph (GraphDef), as a frozen graph", _GRAPH),
    (_is_caffe, "a Caffe model", _CAFFE),
    (_is_msgpack, "a msgpack file, as Flax saves models", _FLAX),
    (_is_paddle, "a file of Paddle's parameters", _PADDLE),
    (_is_darknet, "a file of Darknet's weights", "OpenCV's cv2.dnn.readNetFromDarknet reads it, with its .cfg"),
)
