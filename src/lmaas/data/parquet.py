"""Parquet files, row group by row group."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmaas.data import table
from lmaas.errors import InvalidInput


def convert(source: Path, target: Path, encoding: str | None = None) -> None:
    """Write `source` as an Arrow file. Raises InvalidInput for a damaged file or column.

    Parquet says itself what its texts are, so there is no `encoding`.
    """
    assert encoding is None
    with _opened(source) as (schema, batches):
        table.write(target, schema, batches)


def check(source: Path, encoding: str | None = None) -> None:
    """Read all of `source`. Raises InvalidInput for what `convert` would refuse."""
    assert encoding is None
    with _opened(source) as (_, batches):
        if not sum(batch.num_rows for batch in batches):
            raise InvalidInput(f"{source.name} holds no samples.", param="data")


@contextmanager
def _opened(source: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    try:
        with pq.ParquetFile(source) as file:
            given = file.schema_arrow.remove_metadata()
            table.check_columns(given.names, source.name)
            schema = pa.schema([_field(source, field) for field in given])
            yield schema, _batches(file, schema)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidInput(f"{source.name} is damaged Parquet: {error}.", param="data") from None


def _field(source: Path, field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        kind = pa.binary()
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        # As they are written: 2024-01-31, with the time after it.
        kind = pa.string()
    nested = pa.types.is_nested(kind)
    plain = (
        pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind)
        or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )  # fmt: skip
    if not (nested or plain) or pa.types.is_temporal(kind):
        raise InvalidInput(
            f"{source.name}: the column {field.name!r} holds {field.type}, which is not read.",
            hint="Store it as a number or a text.",
            param="data",
        )
    return pa.field(field.name, kind)


def _batches(file: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches(table.BATCH_ROWS):
        columns = [
            column if column.type == field.type else _cast(column, field.type)
            for column, field in zip(batch.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    return column.cast(kind)
