"""Arrays as Inseq files hold them; every size is checked before the bytes are looked at.

since 0.6      text: base64 of a safetensors file with one tensor, "attribution", float32, float16 or float8 (e4m3)
up to 0.5      {"__ndarray__": "b64.gz:…" | "b64:…" | nested lists, "dtype", "shape", "Corder"} as json-tricks writes it
use_primitives the text of 0.6, or nested lists
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Floats
from attnviz.plugins.formats._attribution import MAX_BYTES
from attnviz.plugins.formats._files import Field, kind, shown

_TENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "F8_E4M3": "u1"}
_DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4"}
_MAX_AXES = 6


def read_array(field: Field) -> Floats:
    """An array in any of the three ways.

    Raises:
        BadInput: anything that does not fit together.
    """
    if isinstance(field.value, str):
        return _from_safetensors(_decoded(field, field.text()), field)
    if isinstance(field.value, dict):
        return _from_ndarray(field)
    return _from_lists(field, None)


def write_array(scores: NDArray[Any]) -> str:
    """Base64 of a safetensors file, float32, as Inseq writes it."""
    from safetensors.numpy import save

    return base64.b64encode(save({"attribution": np.ascontiguousarray(scores, "<f4")})).decode("ascii")


def _decoded(field: Field, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise field.refuse("whole base64", f"{len(text):,} characters that are not; the file may be cut off") from None


def _from_safetensors(data: bytes, field: Field) -> Floats:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, OverflowError) as error:
        raise field.refuse("a safetensors file in base64", shown(str(error))) from None
    if list(tensors) != ["attribution"]:
        raise field.refuse("one tensor of the name attribution", shown(", ".join(sorted(tensors))) or "none")
    tensor = tensors["attribution"]
    if tensor["dtype"] not in _TENSORS:
        raise field.refuse(f"a tensor of type {', '.join(_TENSORS)}", str(tensor["dtype"]))
    flat = np.frombuffer(bytes(tensor["data"]), _TENSORS[tensor["dtype"]])
    if tensor["dtype"] == "F8_E4M3":
        flat = _float8(flat)
    return _floats(flat).reshape([int(length) for length in tensor["shape"]])


def _float8(data: NDArray[np.uint8]) -> Floats:
    """float8 e4m3fn (Micikevicius et al. 2022): sign, 4 bits of exponent with bias 7, 3 of fraction; no infinity."""
    codes = np.arange(256)
    sign = np.where(codes >> 7, -1.0, 1.0)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    value = np.where(exponent == 0, np.ldexp(fraction / 8, -6), np.ldexp(1 + fraction / 8, exponent - 7))
    value[(exponent == 15) & (fraction == 7)] = np.nan
    table = (sign * value).astype(np.float32)
    return np.asarray(table[data])


def _from_ndarray(field: Field) -> Floats:
    content = field["__ndarray__"]
    dtype = field["dtype"].text()
    if dtype not in _DTYPES:
        raise field["dtype"].refuse(f"one of {', '.join(_DTYPES)}", repr(dtype[:40]))
    order = field.optional("Corder")
    if order is not None and not order.yes_or_no():
        raise order.refuse("true (rows one after the other)", "false")
    shape = [length.whole(0, MAX_BYTES) for length in field["shape"]]
    if len(shape) > _MAX_AXES:
        raise field["shape"].refuse(f"at most {_MAX_AXES} axes", str(len(shape)))
    if isinstance(content.value, list):
        return _from_lists(content, shape)
    way, _, text = content.text().partition(":")
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if way not in ("b64", "b64.gz"):
        raise content.refuse("b64: or b64.gz: and base64", repr(way[:20]))
    if size > MAX_BYTES:
        raise field["shape"].refuse(f"an array of at most {MAX_BYTES:,} bytes", f"shape {shape}")
    data = _decoded(content, text)
    if way == "b64.gz":
        data = _unpacked(data, size, content)
    if len(data) != size:
        got = f"{len(data):,}" if len(data) < size else "more"
        raise content.refuse(f"{size:,} bytes for shape {shape} of {dtype}", got)
    return _floats(np.frombuffer(data, _DTYPES[dtype])).reshape(shape)


def _unpacked(data: bytes, size: int, field: Field) -> bytes:
    """What gzip packed; one byte more than `size` at most."""
    unpack = zlib.decompressobj(wbits=31)  # a gzip header
    try:
        return unpack.decompress(data, size + 1)
    except zlib.error as error:
        raise field.refuse("gzip in base64", str(error)) from None


def _from_lists(field: Field, shape: Sequence[int] | None) -> Floats:
    """Nested lists of numbers; NaN is a number here. Every list of a level has the same length."""
    flat: list[float] = []
    found = _collect(field.value, flat, 0, field)
    if shape is not None and list(shape) != found and 0 not in shape:
        raise field.refuse(f"lists of shape {list(shape)}", f"shape {found}")
    return _floats(np.array(flat)).reshape(shape if shape is not None else found)


def _collect(value: Any, flat: list[float], depth: int, field: Field) -> list[int]:
    """Append all numbers of nested lists; the shape."""
    if not isinstance(value, list):
        if type(value) not in (int, float):
            raise field.refuse("an array, or lists of numbers", kind(value))
        try:
            flat.append(float(value))
        except OverflowError:
            raise field.refuse("numbers that float32 holds", "a larger one") from None
        return []
    if depth == _MAX_AXES:
        raise field.refuse(f"at most {_MAX_AXES} axes", "more")
    shapes = [_collect(item, flat, depth + 1, field) for item in value]
    if any(shape != shapes[0] for shape in shapes):
        raise field.refuse("lists of one length", "lists of several")
    return [len(value), *(shapes[0] if shapes else [])]


def _floats(array: NDArray[Any]) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        found: Floats = array.astype(np.float32)
    return found
