"""The notebooks of docs/notebooks are short, hold no outputs, and run."""

import shutil
import warnings
from pathlib import Path

import headstart
import nbformat
import pytest
from headstart.pipeline.demo.drawing import draw_demo

NOTEBOOKS = sorted((Path(headstart.__file__).resolve().parent / "docs" / "notebooks").glob("*.ipynb"))
MOST_LINES = 15  # of code


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_is_short_and_stripped(file: Path) -> None:
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert len(lines) < MOST_LINES
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_runs(file: Path, tmp_path: Path) -> None:
    draw_demo(tmp_path / "photos", images=60)
    shutil.copy(next((tmp_path / "photos").glob("cat/cat*.jpg")), tmp_path / "my-photo.jpg")
    notebook = nbformat.read(file, as_version=4)
    with warnings.catch_warnings(action="ignore"):  # of Jupyter's own packages
        from nbclient import NotebookClient

        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    *_, score, _, last = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert float(score.outputs[-1]["data"]["text/plain"]) > 0.5
    assert last.outputs[-1]["data"]["text/plain"] in (
        "('cat', 'cat')",
        "('cat', 'dog')",
    )
    assert (tmp_path / "runs" / "own" / "head.keras").is_file()
