"""`shoal export`: a network as one ONNX file, compared with torch before it is there."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.loading import open_example, open_model
from shoal.cli.options import ExampleOptions, ModelOptions, SampleOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.calling import Inputs
    from shoal.reports import Table
    from shoal.surgery import ExportCheck

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(ExampleOptions, ModelOptions):
    """What `shoal export` takes.

    Attributes:
        output: The file to write, such as model.onnx; it appears when it has been compared.
        opset: Version of ONNX's operators; torch's choice where it is not given.
        tolerance: Largest difference of outputs, relative to the largest output; 1e-4 in float32.
        fixed_batch: Let the file take as many samples as the example has, and not any number.
        overwrite: Replace a file of that name.
        device: Where torch computes what the file is compared with; cpu where it is not given.
        data: Data whose first sample the network is traced with. Hugging Face models need none, nor do
            folders that shoal wrote with an example.
        example_batch: Samples in the call that is traced.
    """

    output: Annotated[Path | None, Flag(short="-o", metavar="FILE.onnx")] = None
    opset: int | None = None
    tolerance: float | None = None
    fixed_batch: bool = False
    overwrite: bool = False


def run(options: Options) -> None:
    """Write a network as an ONNX file, and compare what onnxruntime answers with what torch does.

    Of the shapes only the number of samples is free. The file appears only when it has been compared;
    else the exit code is 1 and nothing is left.
    """
    if options.output is None:
        raise ConfigError("asked to export a network: say where to with --output.")
    from shoal.surgery import check_export, export_onnx

    check_export(
        options.output, opset=options.opset, tolerance=options.tolerance, overwrite=options.overwrite
    )
    loaded = open_model(replace(options, device=options.device or "cpu"))
    found = export_onnx(
        loaded.model,
        _example(options, loaded),
        options.output,
        dynamic_batch=not options.fixed_batch,
        opset=options.opset,
        tolerance=options.tolerance,
        overwrite=options.overwrite,
    )
    if options.json:
        show_json({"model": options.model, **found.as_json()})
    else:
        show_table(_table(found))
        note(f"written to {options.output}")


def _example(options: Options, loaded: LoadedModel) -> Inputs:
    """The example that the options ask for, or else the one that was saved with the network."""
    from torch.utils._pytree import tree_map

    from shoal.architectures.pretrained import dtype_of
    from shoal.surgery.onnx_files import with_samples
    from shoal.surgery.probe import read_probe
    from shoal.surgery.record import PROBE

    given = [options.data, *(getattr(options, each.name) for each in fields(SampleOptions))]
    probe = None if loaded.folder is None else read_probe(loaded.folder / PROBE)
    if probe is None or options.example_batch < 1 or any(each is not None for each in given):
        return open_example(options, loaded)
    dtype = dtype_of(loaded.model)
    example = with_samples(probe.example, options.example_batch)
    return tree_map(lambda leaf: leaf.to(dtype) if _is_floating(leaf) else leaf, example)


def _is_floating(leaf: Any) -> bool:
    from torch import Tensor

    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _table(found: ExportCheck) -> Table:
    from shoal.reports import Table
    from shoal.reports.numbers import bytes_text

    rows = [("opset", str(found.opset)), ("size", bytes_text(found.size))]
    for kind, shapes in (("input", found.inputs), ("output", found.outputs)):
        rows += [(f"{kind} {name}", " × ".join(map(str, shape))) for name, shape in shapes.items()]
    rows += [
        (f"onnxruntime, {samples} {'sample' if samples == 1 else 'samples'}", f"differs by {gap:.1e}")
        for samples, gap in found.differences.items()
    ]
    return Table(
        title=f"Exported: {found.path}",
        columns=(("of the file", False), ("found", False)),
        rows=tuple(rows),
        notes=(f"Differences are of the largest output; {found.tolerance:.0e} was allowed.",),
    )
