"""Put tables into README.md, each between marks of its name; as a program, the table of settings."""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def put(name: str, table: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    marked = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
    pattern = rf"<!-- {name} -->.*<!-- /{name} -->"
    README.write_text(re.sub(pattern, lambda _: marked, README.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    sys.path.insert(0, str(README.parent))

    from service.settings import Settings

    put("settings", Settings.table())
