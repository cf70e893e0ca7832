# SPDX-License-Identifier: Apache-2.0
"""python -m fastreid_ops.export WEIGHTS OUT: write a trained network as an ONNX file, checked with onnxruntime.

    python -m fastreid_ops.export runs/mine model.onnx
    python -m fastreid_ops.export runs/mine/weights.safetensors model.onnx --batch 1 --opset 18
    python -m fastreid_ops.export runs/vi infrared.onnx --mode 2

The file's metadata holds what a user of it must know: architecture, image size, mean and deviation of the channels
(of RGB values from 0 to 1), distance. Needs the extra: pip install 'fastreid-ops[export]'.

Exit status: 0 done, 1 with one sentence on what failed.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastreid_ops.engine.onnx import Exported

WEIGHTS = "weights.safetensors"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m fastreid_ops.export", description=__doc__.split("\n")[0])
    made.add_argument("weights", type=Path, help=f"run folder, or the {WEIGHTS} of one")
    made.add_argument("out", type=Path, help="the ONNX file; an existing one is never overwritten")
    made.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the images (default: as trained)"
    )
    made.add_argument("--mode", type=int, choices=(1, 2), help="of two modalities: 1 visible, 2 infrared")
    made.add_argument("--batch", type=int, metavar="B", help="a fixed batch size (default: any)")
    made.add_argument("--opset", type=int, default=20, help="version of ONNX's operators (default: 20)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the verb; returns the exit status."""
    asked = parser().parse_args(argv)
    from fastreid_ops.engine.onnx import ExportError

    try:
        written = export(asked)
    except (ValueError, TypeError, OSError, ImportError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {written.path} (sha256 {written.sha256}); onnxruntime's features differ from torch's by at most "
        f"{written.difference:.1e} of their largest value"
    )
    return 0


def export(asked: argparse.Namespace) -> "Exported":
    """Write as asked. Errors: those of `export_onnx`, ValueError for a file that training did not write."""
    from fastreid_ops.engine.export import trained_model
    from fastreid_ops.engine.onnx import export_onnx

    path = asked.weights / WEIGHTS if asked.weights.is_dir() else asked.weights
    model, known = trained_model(path)
    size = tuple(asked.size or (int(known["height"]), int(known["width"])))
    metadata = {key: value for key, value in known.items() if key != "format"}
    metadata |= {"height": str(size[0]), "width": str(size[1]), "channels": "RGB"}
    if asked.mode is not None:
        metadata["mode"] = str(asked.mode)
    return export_onnx(
        model, asked.out, size, mode=asked.mode, batch_size=asked.batch, opset=asked.opset, metadata=metadata
    )


if __name__ == "__main__":
    sys.exit(main())
