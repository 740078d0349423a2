"""Print the requirements of an extra of pyproject.toml, for pip."""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    print(*project["optional-dependencies"][sys.argv[1]])
