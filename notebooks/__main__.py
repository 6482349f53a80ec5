"""Run every notebook from top to bottom without a screen, and write each as HTML (`make
notebooks`).

    python -m notebooks --out runs/notebooks

They look at what `make demo` made, or at what the environment variables say that their first cells
read.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import tyro
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from tqdm import tqdm

from data.cli import UsageError, run
from data.io import write_text

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Arguments:
    """Execute notebooks and write them as HTML."""

    out: str = "runs/notebooks"
    """Folder for the HTML files."""
    only: str = ""
    """Names of notebooks without .ipynb, separated by commas (default: all)."""
    timeout: int = 600
    """Seconds that a cell may take."""


def execute(file: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in its own folder.

    Raises:
        UsageError: a cell fails; names the notebook and the error.
    """
    notebook = nbformat.read(file, as_version=4)
    place = {"metadata": {"path": os.fspath(file.parent)}}
    try:
        NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=place).execute()
    except CellExecutionError as error:
        raise UsageError(f"{file}: {error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise UsageError(f"{file}: a cell took more than {timeout} s; see --timeout") from error
    return notebook


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m notebooks", description=__doc__)
    files = {file.stem: file for file in sorted(FOLDER.glob("*.ipynb"))}
    names = args.only.split(",") if args.only else list(files)
    for name in names:
        if name not in files:
            raise UsageError(f"no notebook {name}; there are: {', '.join(files)}")
    exporter = HTMLExporter(embed_images=True)
    # or every step of a progress bar is an output of its own
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    out = Path(args.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    # what the notebooks write; the project's folder need not be writable
    os.environ.setdefault("OUT", f"{out}/caches")
    os.environ.setdefault("EXCLUDE", f"{out}/exclude.txt")
    with tempfile.TemporaryDirectory() as scratch:  # for kernels, where there is no home
        os.environ.setdefault("JUPYTER_RUNTIME_DIR", scratch)
        for name in tqdm(names, desc="notebooks", unit="notebook"):
            page, _ = exporter.from_notebook_node(execute(files[name], args.timeout))
            write_text(out / f"{name}.html", page)
    print(f"written: {', '.join(str(out / f'{name}.html') for name in names)}")


if __name__ == "__main__":
    run(main)
