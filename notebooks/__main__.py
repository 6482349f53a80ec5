"""Run every notebook from top to bottom without a screen, and write each as HTML (`make
notebooks`).

    python -m notebooks --out runs/notebooks

They look at what `make demo` made, or at what the environment variables say that their first cells
read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from data.cli import UsageError, run
from data.io import write_text

FOLDER = Path(__file__).parents[1] / "notebooks"


@dataclass(frozen=True)
class Arguments:
    """Execute notebooks and write them as HTML."""

    out: str = "runs/notebooks"
    """Folder for the HTML files."""
    only: str = ""
    """Names of notebooks without .ipynb, separated by commas (default: all)."""
    timeout: int = 600
    """Seconds that a cell may take."""


def execute(file: Path, timeout: int = 600):
    """The notebook with its outputs (nbformat.NotebookNode), run in its own folder.

    Raises:
        UsageError: a cell fails; names the notebook and the error.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    notebook = nbformat.read(file, as_version=4)
    try:
        NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": os.fspath(file.parent)}},
        ).execute()
    except CellExecutionError as error:
        raise UsageError(f"{file}: {error.ename}: {error.evalue}") from error
    except CellTimeoutError as error:
        raise UsageError(f"{file}: a cell took more than {timeout} s; see --timeout") from error
    return notebook


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m notebooks", description=__doc__)
    files = sorted(FOLDER.glob("*.ipynb"))
    if args.only:
        chosen = args.only.split(",")
        unknown = sorted(set(chosen) - {file.stem for file in files})
        if unknown:
            raise UsageError(
                f"no notebook {unknown[0]}; there are: {', '.join(file.stem for file in files)}"
            )
        files = [file for file in files if file.stem in chosen]
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    page_of = HTMLExporter(embed_images=True)
    page_of.register_preprocessor(
        CoalesceStreamsPreprocessor, enabled=True
    )  # every step of a bar is an output
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, desc="notebooks", unit="notebook"):
        page, _ = page_of.from_notebook_node(execute(file, args.timeout))
        write_text(out / f"{file.stem}.html", page)
    print(f"written: {', '.join(str(out / (file.stem + '.html')) for file in files)}")


if __name__ == "__main__":
    run(main)
