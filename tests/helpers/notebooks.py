"""Runs the code of a notebook, cell after cell in one namespace and within a running event loop, as a kernel does.

It knows no magics:

python tests/helpers/notebooks.py NOTEBOOK
"""

import ast
import asyncio
import json
import sys
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def cells_of(path, kind="code"):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def execute(path):
    asyncio.run(_cells(path))


async def _cells(path):
    """Prints what the cells print, of what a last line shows the type and the size, and the processor's seconds."""
    path = Path(path)
    space = {"__name__": "__main__"}
    for number, text in enumerate(cells_of(path)):
        tree = ast.parse(text, f"{path.name}, code cell {number}")
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, code cell {number}", "exec"), space)
        if shown:
            value = eval(compile(ast.Expression(shown.value), f"{path.name}, code cell {number}", "eval"), space)
            if value is not None:
                print(f"shown: {type(value).__name__} {getattr(value, 'size', '')}")
        print(f"cell {number}: {time.process_time():.0f} s since the start", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(NOTEBOOKS.parent))
    execute(sys.argv[1])
