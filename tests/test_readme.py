"""What the README says of Python."""

import re

from helpers.runs import ROOT


def test_every_import_of_the_readme_works():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    imports = [line for block in blocks for line in block.splitlines() if line.startswith(("import ", "from "))]
    assert len(imports) >= 3
    exec("\n".join(imports), {})
