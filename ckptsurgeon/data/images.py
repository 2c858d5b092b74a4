"""Rows from a folder of images, `FOLDER/<class>/*.png`, read with Pillow (the extra `data`).

X is float32 [images, height, width, channels], from 0 to 1: one channel if all images are grey, three for colour, four
with transparency. All images must have the same size and channels; none is resized or skipped silently.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedError, RefusedError, UnsupportedError, files, one_line, shape_text
from .spool import Spool
from .table import Table
from .target import Target

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

# Pillow's names of these formats. It goes by the content of a file, and would run Ghostscript for PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

# Pillow's mode -> the mode to convert to, and the value that becomes 1.
_MODES = {
    "1": ("L", 255),
    "L": ("L", 255),
    "RGB": ("RGB", 255),
    "RGBA": ("RGBA", 255),
    "P": ("RGB", 255),
    "CMYK": ("RGB", 255),
    "YCbCr": ("RGB", 255),
    "I;16": ("I;16", 65535),
}


def read(folder: str, like: Table | None, spool: str | None) -> Table:
    """Read all images of a folder, class by class; the classes are the names of the subfolders.

    Args:
        folder: holds a subfolder for each class.
        like: a table whose classes the result must have.
        spool: for temporary files (see `Spool`).

    Raises:
        RefusedError: a file is no image, an image differs from the first one, or a subfolder has none; it is named.
        DamagedError: an image cannot be read.
        UnsupportedError: Pillow is not installed.
    """
    classes = _entries(folder, folders=True)
    hint = "put the images of each class into a subfolder with its name"
    stray = next((name for name in _entries(folder, folders=False) if name.lower().endswith(ENDINGS)), None)
    if stray is not None:
        raise RefusedError("is an image without a class", path=os.path.join(folder, stray), hint=hint)
    if not classes:
        raise RefusedError("contains no subfolders", expected=f"{folder}/<class>/*.png", hint=hint)
    X, y = Spool(np.float32, spool), Target("class", spool, like, classes=True)
    count, first, shape = 0, "", tuple[int, ...]()
    for name in classes:
        paths = _inside(subfolder := os.path.join(folder, name))
        if not paths:
            raise RefusedError("contains no images", path=subfolder, hint="put some there, or remove the folder")
        for path in paths:
            y.add([name], lambda number: f"subfolder {name}")  # noqa: B023  # it is called at once
            image = _load(path)
            if not count:
                first, shape = path, image.shape
            if image.shape != shape:
                raise _differs(path, image.shape, shape, first)
            X.append(image)
            count += 1
    found, names = y.finish()
    return Table(X.array().reshape(count, *shape), found, names)


def features(folder: str, shape: Sequence[int], at_once: int) -> Iterator[NDArray[np.float32]]:
    """Yield the images of a folder in the order of their names, and then those of its subfolders, for predictions.

    Raises:
        RefusedError: there are none, or one does not have the shape.
    """
    paths = [*images_in(folder)]
    for name in _entries(folder, folders=True):
        paths += _inside(os.path.join(folder, name))
    if not paths:
        raise RefusedError("contains no images")
    for start in range(0, len(paths), at_once):
        part = []
        for path in paths[start : start + at_once]:
            part.append(_load(path))
            if part[-1].shape != tuple(shape):
                raise _differs(path, part[-1].shape, shape, "the images that the models were trained on")
        yield np.stack(part)


def images_in(folder: str) -> list[str]:
    """Return the images of a folder, sorted by name.

    Raises:
        RefusedError: another file is there, unless it is hidden.
    """
    names = _entries(folder, folders=False)
    odd = next((name for name in names if not name.lower().endswith(ENDINGS)), None)
    if odd is not None:
        expected = f"only images ({', '.join(ENDINGS)})"
        raise RefusedError("is not an image", path=os.path.join(folder, odd), expected=expected, hint="move it away")
    return [os.path.join(folder, name) for name in names]


def _inside(folder: str) -> list[str]:
    """Return the images of a subfolder, which must not contain another folder."""
    nested = _entries(folder, folders=True)
    if nested:
        hint = "move its images up, or move it away"
        raise RefusedError("is a folder inside a subfolder", path=os.path.join(folder, nested[0]), hint=hint)
    return images_in(folder)


def _entries(folder: str, folders: bool) -> list[str]:
    """Return the names of the subfolders, or of everything else; hidden ones do not count."""
    with files(folder):
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return sorted(entry.name for entry in entries if entry.is_dir() == folders)


def _load(path: str) -> NDArray[np.float32]:
    """Return one image, float32 [height, width, channels], from 0 to 1."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError("reading images needs Pillow", hint="pip install 'ckptsurgeon[data]'") from error
    with files(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for its writer
            raise RefusedError("is not a regular file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=_FORMATS) as image:
                    if image.mode not in _MODES:
                        raise RefusedError("has unknown channels", expected=" or ".join(_MODES), found=image.mode)
                    mode, one = _MODES[image.mode]
                    if image.mode == "P" and "transparency" in image.info:
                        mode = "RGBA"
                    values: NDArray[Any] = np.asarray(image if image.mode == mode else image.convert(mode))
        except (RefusedError, UnsupportedError):
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            expected = f"at most {Image.MAX_IMAGE_PIXELS}"
            raise RefusedError("has too many pixels", expected=expected, hint="make it smaller") from error
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others for damaged files
            if isinstance(error, OSError) and error.errno is not None:  # of the operating system
                raise
            raise DamagedError(f"not a readable image: {one_line(error)}") from error
    scaled: NDArray[np.float32] = values.astype(np.float32) / np.float32(one)
    return scaled if scaled.ndim == 3 else scaled[:, :, None]


def _differs(path: str, found: Sequence[int], expected: Sequence[int], other: str) -> RefusedError:
    return RefusedError(
        f"differs in size or channels from {other}",
        path=path,
        expected=shape_text(*expected),
        found=shape_text(*found),
        hint="convert all images to one size and mode",
    )
