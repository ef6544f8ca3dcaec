"""The formats: how a network becomes the bytes of a file, and how that file runs.

Both are made of what `torch.export` captures. Nothing here touches the disk but to look at a file
that may be overwritten; so a file that is refused was never written.
"""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fkd.errors import ConfigError, ExportError, reason_of
from fkd.export.config import ExportFormat
from fkd.export.network import ExportedInterface

Run = Callable[[Tensor], Tensor]

MARK = "fkd"
"""Name of the metadata by which fkd knows its own files."""

_EXAMPLES = 2  # crops that capture sees; of one it would take the batch for a constant
_LARGEST_ONNX = 2 * 1024**3  # bytes: a limit of protobuf
_EXTRA_FILE = f"{MARK}.json"


@dataclass(frozen=True)
class Exported:
    """The bytes of a file.

    Attributes:
        data: all of them.
        runtime: what runs it here.
        open: gives the function from crops to outputs, both on the CPU; loads the bytes.
        versions: of the format.
    """

    data: bytes
    runtime: str
    open: Callable[[], Run]
    versions: dict[str, int]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        require: refuses where a package is missing.
        export: makes the bytes; the mapping is metadata, text by name.
        is_ours: whether a file is an export of fkd in this format.
    """

    require: Callable[[], None]
    export: Callable[[nn.Module, ExportedInterface, Mapping[str, str]], Exported]
    is_ours: Callable[[Path], bool]


def export_onnx(
    network: nn.Module, interface: ExportedInterface, metadata: Mapping[str, str]
) -> Exported:
    """The network as an ONNX file, by torch's exporter.

    Raises:
        ExportError: torch cannot capture the network, ONNX lacks an operator, or it is too large.
    """
    _refuse_large(network)
    with _capturing("onnx"), _attention_written_out(network):
        program = torch.onnx.export(
            network,
            (interface.noise(_EXAMPLES),),
            input_names=[interface.input_name],
            output_names=[interface.output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _remove_traces(model.graph)
    del model.metadata_props[:]
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    data = model.SerializeToString()
    opsets = {each.domain or "opset": int(each.version) for each in model.opset_import}
    return Exported(data, "onnxruntime", lambda: open_onnx(data, interface.input_name), opsets)


def open_onnx(data: bytes, input_name: str) -> Run:
    """The function of an ONNX file, on the CPU with as many threads as torch has.

    Raises:
        ExportError: onnxruntime does not take it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise ExportError(
            f"onnxruntime does not load the exported network ({reason_of(error)}); update "
            "onnxruntime, or use --format pt2"
        ) from error
    return lambda crops: torch.from_numpy(session.run(None, {input_name: crops.numpy()})[0])


def export_program(
    network: nn.Module, interface: ExportedInterface, metadata: Mapping[str, str]
) -> Exported:
    """The network as a program of `torch.export`.

    Raises:
        ExportError: torch cannot capture the network.
    """
    with _capturing("pt2"):
        program = torch.export.export(
            network,
            (interface.noise(_EXAMPLES),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
        file = io.BytesIO()
        parsed = {name: json.loads(text) for name, text in metadata.items()}
        torch.export.save(program, file, extra_files={_EXTRA_FILE: json.dumps(parsed)})
    data = file.getvalue()
    return Exported(data, "torch.export", lambda: open_program(data), {})


def open_program(data: bytes) -> Run:
    """The function of a program of `torch.export`."""
    run: Run = torch.export.load(io.BytesIO(data)).module()
    return run


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"fkd export needs {' and '.join(missing)}; install it with pip install 'fkd[export]', "
            "or use --format pt2, which needs torch alone"
        )


def _is_our_onnx(path: Path) -> bool:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # anything may lie there
        return False
    return any(each.key == MARK for each in model.metadata_props)


def _is_our_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == _EXTRA_FILE for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


FORMATS: dict[ExportFormat, Format] = {
    "onnx": Format(_require_onnx, export_onnx, _is_our_onnx),
    "pt2": Format(lambda: None, export_program, _is_our_program),
}


def _refuse_large(network: nn.Module) -> None:
    tensors = (*network.parameters(), *network.buffers())
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if num_bytes >= _LARGEST_ONNX:
        raise ExportError(
            f"the network has {num_bytes / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; "
            "use --format pt2"
        )


def _remove_traces(graph: Any) -> None:
    """Remove what torch writes of every node for debugging: files of this machine, code."""
    del graph.metadata_props[:]
    for group in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for member in group:
            del member.metadata_props[:]


@contextmanager
def _attention_written_out(network: nn.Module) -> Iterator[None]:
    """Attention of timm as products and a softmax: torch cannot always split the fused operator
    up, for example that of MaxViT."""
    fused = [module for module in network.modules() if getattr(module, "fused_attn", None) is True]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


@contextmanager
def _capturing(name: ExportFormat) -> Iterator[None]:
    """Around an exporter, which warns and logs of its own affairs, and fails in any way."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        _refuse(name, error)
    finally:
        logging.disable(before)


def _refuse(name: ExportFormat, error: BaseException) -> NoReturn:
    cause = error
    while cause.__cause__ is not None:  # the outer ones only say what to report to torch
        cause = cause.__cause__
    other = "pt2" if name == "onnx" else "onnx"
    raise ExportError(
        f"torch cannot export this network as {name} ({reason_of(cause)}); use --format {other}, "
        "or another architecture"
    ) from error
