"""Write the table of settings into README.md, between its marks."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from service.settings import Settings  # noqa: E402 - the path comes first

readme = ROOT / "README.md"
text = readme.read_text()
table = f"<!-- settings -->\n{Settings.table()}\n<!-- /settings -->"
readme.write_text(re.sub(r"<!-- settings -->.*<!-- /settings -->", lambda _: table, text, flags=re.DOTALL))
