"""Check that the required packages are installed. Call this before importing anything that needs
them."""
import importlib.util
import sys


def check_packages():
    """End the program with one line and exit code 2 if a package is missing."""
    missing = [name for name in ("torch", "numpy", "regex")
               if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {sys.executable} has no {', '.join(missing)}: run `make install` in "
              "the project's folder, then use .venv/bin/python", file=sys.stderr)
        sys.exit(2)
