"""Convert the matrices of an ONNX graph to int8, by onnxruntime's own quantiser."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stratatune._compat import needs_extra
from stratatune.files import replacing, write_errors

_OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantise(path: Path) -> None:
    """Replace a graph by one whose matrices and table of words are int8.

    Raises:
        ResourceError: the extra ``onnx`` is not installed, or the file cannot be written.
    """
    with needs_extra("onnx", "export --to onnx --int8"):
        from onnxruntime.quantization import QuantType, quantize_dynamic, shape_inference
    beside = path.with_name(f"{path.name}.data")
    with tempfile.TemporaryDirectory() as folder, write_errors(path), _quiet():
        prepared = Path(folder) / "prepared.onnx"
        # Its symbolic shape inference does not know every operator of the exporter, and nothing here needs it.
        shape_inference.quant_pre_process(
            str(path), str(prepared), skip_symbolic_shape=True, save_as_external_data=beside.exists()
        )
        _forget_shapes_of_weights(prepared)
        with replacing(path) as partial:
            quantize_dynamic(
                str(prepared),
                str(partial),
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=_OPERATORS,
            )
    beside.unlink(missing_ok=True)


def _forget_shapes_of_weights(path: Path) -> None:
    """Remove the second shape that the exporter writes for every weight.

    Before onnxruntime 1.32 the quantiser transposes the weight of a Gemm, leaves the second shape as it was, and then
    refuses the graph.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    weights = {one.name for one in model.graph.initializer}
    rest = [one for one in model.graph.value_info if one.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(rest)
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which logs advice that has been followed."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
