"""The Python that runs a command: how to call it, and whether it has the required packages. Import
this before anything that needs them."""
import importlib.metadata
import pathlib
import re
import sys

REQUIRED = {"torch": (2, 13), "numpy": (2,), "regex": ()}  # the least versions


def python_command():
    """Return what a user types to call this Python, for hints: ".venv/bin/python", or only "python"
    if it is not in the current folder."""
    path, folder = pathlib.Path(sys.executable), pathlib.Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else "python"


def is_missing(name, least):
    """Return True if a package is not installed, or is older than a version such as (2, 13)."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return tuple(map(int, re.findall(r"\d+", version)))[:len(least)] < least


def check_packages():
    """End the program with one line and exit code 2 if a package is missing or too old."""
    missing = [f"{name} {'.'.join(map(str, least))} or newer" if least else name
               for name, least in REQUIRED.items() if is_missing(name, least)]
    if missing:
        print(f"error: {sys.executable} has no {', '.join(missing)}: run `make install` in the "
              "project's folder, then use .venv/bin/python", file=sys.stderr)
        sys.exit(2)
