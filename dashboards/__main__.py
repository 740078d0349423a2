"""``python -m dashboards build`` writes the JSON and the PrometheusRule, ``check`` compares, ``sheet`` draws."""

import sys

from dashboards.output import render


def main(arguments: list[str]) -> int:
    """Build, check or draw; returns the exit status."""
    if arguments[:1] == ["sheet"]:
        from dashboards import sheet

        return sheet.main(arguments[1:])
    if arguments not in (["build"], ["check"]):
        print("Usage: python -m dashboards build | check | sheet [--help]", file=sys.stderr)
        return 2
    stale = 0
    for path, text in render().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if arguments == ["build"]:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        else:
            print(f"{path} is not what the sources say: run `python -m dashboards build`.", file=sys.stderr)
    return 1 if stale and arguments == ["check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
