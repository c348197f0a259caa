"""The Python blocks of README.md and docs/*.md run, top to bottom, one namespace for each page."""

from __future__ import annotations

import re

import marks
import package
import pytest
import torch

PAGES = [package.ROOT / "README.md", *sorted((package.ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"onnx.md": ("onnxscript", "onnxruntime"), "privacy.md": ("opacus",)}  # beyond what the package itself needs
NEEDS_EXTENSION = ("compile.md", "onnx.md")
LINK = re.compile(r"\]\(([^)#:]+)\)")


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg", "ignore:# The axis name")  # of torch's exporter
@pytest.mark.filterwarnings("ignore:Secure RNG", "ignore:Optimal order", "ignore:Full backward hook")  # of Opacus
def test_blocks_run(page):
    for library in NEEDS.get(page.name, ()):
        pytest.importorskip(library)
    if page.name in NEEDS_EXTENSION and marks.deliberately_not_built:
        pytest.skip("the extension is deliberately not built")
    torch.manual_seed(0)
    text, namespace = page.read_text(), {}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", [*PAGES, package.ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        assert (page.parent / target).exists(), target


def test_the_page_of_cells_names_every_cell():
    from seqcuda.cells import CELLS

    text = (package.ROOT / "docs/cells.md").read_text()
    for cell in CELLS.values():
        row = rf"^\| `{cell.name}` \| {' '.join(cell.gate_names)} \| {' '.join(cell.state_names)} \|"
        assert re.search(row, text, re.MULTILINE), cell.name
