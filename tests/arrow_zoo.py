"""A column of every Arrow type, with values that Python cannot represent where a type has them."""

import decimal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FAR = 2**62
"""A number of days, seconds or microseconds far beyond the year 9999."""
ROWS = 3


class UnknownExtension(pa.ExtensionType):
    """An extension type that readers do not know."""

    def __init__(self) -> None:
        super().__init__(pa.int32(), "example.unknown")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "UnknownExtension":
        return cls()


def _column(kind: pa.DataType, *values: object) -> Callable[[], pa.Array]:
    return lambda: pa.array((*values, None, *values)[:ROWS], type=kind)


def _raw(kind: pa.DataType, storage: pa.DataType, value: int) -> Callable[[], pa.Array]:
    """Numbers that are taken for another type, without a check of their range."""
    return lambda: pa.array([value, None, value], type=storage).view(kind)


def _extension(kind: pa.ExtensionType, *values: object) -> Callable[[], pa.Array]:
    return lambda: pa.ExtensionArray.from_storage(kind, _column(kind.storage_type, *values)())


def _twins() -> pa.Array:
    return pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array([4, 5, 6])], names=["a", "a"])


def _union(sparse: bool) -> pa.Array:
    kinds, parts = pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]
    if sparse:
        return pa.UnionArray.from_sparse(kinds, parts)
    return pa.UnionArray.from_dense(kinds, pa.array([0, 0, 1], pa.int32()), parts)


ZOO: dict[str, Callable[[], pa.Array]] = {
    "null": lambda: pa.nulls(ROWS),
    **{str(kind): _column(kind, 1, 2) for kind in (pa.int8(), pa.int64(), pa.uint8(), pa.uint64())},
    "half": lambda: pa.array([1.5, None, float("nan")]).cast(pa.float16()),
    "float": _column(pa.float32(), float("nan"), float("inf")),
    "bool": _column(pa.bool_(), True, False),
    "decimal32": _column(pa.decimal32(5, 2), decimal.Decimal("1.25")),
    "decimal128": _column(pa.decimal128(38, 2), decimal.Decimal("1.25")),
    "decimal256": _column(pa.decimal256(70, 0), decimal.Decimal("9" * 60)),
    "date32 beyond 9999": _raw(pa.date32(), pa.int32(), 2**31 - 1),
    "date64 beyond 9999": _raw(pa.date64(), pa.int64(), 86_400_000 * 10**10),
    "time32": _column(pa.time32("s"), 5),
    "time64": _column(pa.time64("ns"), 5),
    **{f"timestamp {unit}": _raw(pa.timestamp(unit), pa.int64(), FAR) for unit in ("s", "ms", "us", "ns")},
    "timestamp in an unknown zone": _raw(pa.timestamp("us", tz="Mars/Olympus"), pa.int64(), 5),
    "timestamp in a zone, far": _raw(pa.timestamp("us", tz="Europe/Paris"), pa.int64(), FAR),
    "duration": _raw(pa.duration("s"), pa.int64(), FAR),
    "interval": _column(pa.month_day_nano_interval(), (1, 2, 3)),
    "binary": _column(pa.binary(), b"\xff\xfe"),
    "large binary": _column(pa.large_binary(), b"\xff"),
    "fixed binary": _column(pa.binary(2), b"\xff\xfe"),
    "binary view": _column(pa.binary_view(), b"\xff"),
    "string with other bytes": lambda: pa.array([b"\xff", None, b"fine"], pa.binary()).view(pa.string()),
    "large string": _column(pa.large_string(), "up"),
    "string view": _column(pa.string_view(), "up"),
    "dictionary": lambda: pa.array(["up", None, "down"]).dictionary_encode(),
    "dictionary of dates": lambda: _raw(pa.date32(), pa.int32(), 2**31 - 1)().dictionary_encode(),
    "run ends": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"])),
    "list": _column(pa.list_(pa.string()), ["a", None], []),
    "list of far times": lambda: pa.ListArray.from_arrays([0, 1, 1, 2], pa.array([FAR, FAR]).view(pa.timestamp("s"))),
    "large list": _column(pa.large_list(pa.int8()), [1]),
    "fixed list": _column(pa.list_(pa.int8(), 2), [1, 2]),
    "list view": _column(pa.list_view(pa.int8()), [1]),
    "struct": _column(pa.struct([("a", pa.int8()), ("b", pa.struct([("c", pa.string())]))]), {"a": 1, "b": {"c": "d"}}),
    "struct with one name twice": _twins,
    "map with one key twice": _column(pa.map_(pa.string(), pa.int8()), [("a", 1), ("a", 2)]),
    "sparse union": lambda: _union(sparse=True),
    "dense union": lambda: _union(sparse=False),
    "uuid": _extension(pa.uuid(), b"0123456789abcdef"),
    "json": _extension(pa.json_(), '{"a": 1}'),
    "bool8": _extension(pa.bool8(), 1),
    "opaque": _extension(pa.opaque(pa.int8(), "kind", "vendor"), 1),
    "tensor": _extension(pa.fixed_shape_tensor(pa.int8(), [2]), [1, 2]),
    "unknown extension": _extension(UnknownExtension(), 1),
}
"""A column of `ROWS` rows by the name of its type."""


def write_parquet(path: Path, columns: dict[str, pa.Array]) -> bool:
    """Write a Parquet file; return whether Parquet can hold these types."""
    try:
        pq.write_table(pa.table(columns), path)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def write_saved_dataset(folder: Path, columns: dict[str, pa.Array]) -> bool:
    """Write a folder as `Dataset.save_to_disk` does; return whether `datasets` can hold these types."""
    from datasets import Dataset

    try:
        Dataset(pa.table(columns)).save_to_disk(str(folder))
    except Exception:
        return False
    return True
