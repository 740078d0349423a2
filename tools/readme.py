"""Put tables into the pages that show them, each between marks of its name; as a program, the table of settings."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"


def put(name: str, table: str, page: Path = README) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in ``page``."""
    marked = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
    pattern = rf"<!-- {name} -->.*<!-- /{name} -->"
    page.write_text(re.sub(pattern, lambda _: marked, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

    from service.settings import Settings

    put("settings", Settings.table(), SETTINGS)
