"""Label values as columns of a store: as they are, or as whole numbers with a scale per crop."""

from types import EllipsisType

import numpy as np

from fkd.errors import FormatError
from fkd.labels.quantization import (
    SCALED,
    dequantize,
    dequantize_rows,
    quantize,
    quantize_rows,
)

VALUE, SCALE = "label.value", "label.scale"


def stored_values(values: np.ndarray, value_dtype: str) -> dict[str, np.ndarray]:
    """The columns that keep values (..., V), by name: them, and of "i8" their scales (...)."""
    if value_dtype != SCALED:
        return {VALUE: quantize(values, value_dtype)}
    stored, scale = quantize_rows(values)
    return {VALUE: stored, SCALE: scale}


def read_values(
    columns: dict[str, np.ndarray] | np.ndarray,
    value_dtype: str,
    crops: tuple[np.ndarray, ...] | EllipsisType = ...,
) -> np.ndarray:
    """Values float32 (..., V) of what `stored_values` returned.

    Args:
        columns: by name, or as one structured array.
        value_dtype: of the values.
        crops: which of them, as an index; by default all.

    Raises:
        FormatError: a scale, or a number with a scale, is none that is ever written.
    """
    if value_dtype != SCALED:
        return dequantize(columns[VALUE][crops], value_dtype)
    try:
        return dequantize_rows(columns[VALUE][crops], columns[SCALE][crops])
    except ValueError as error:
        raise FormatError(str(error)) from error
