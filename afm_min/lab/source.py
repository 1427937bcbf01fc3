"""A hash of the source code of a stage, so that a stage whose code was edited runs again."""
import ast
import functools
import hashlib
import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]  # the folder that contains afm_min


def path_of(module, root):
    """'afm_min.data.corpus' -> root/afm_min/data/corpus.py"""
    return root.joinpath(*module.split(".")).with_suffix(".py")


def imported(tree, root):
    """Return the modules of this package that a syntax tree imports, a set of names.

    progress.py is left out: it only prints."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from afm_min import lora` names a module, `from afm_min.lora import attach` does not.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names - {"afm_min.progress"}
            if name.startswith("afm_min.") and path_of(name, root).is_file()}


@functools.cache
def source_hash(module, root=ROOT):
    """Return a hash, 8 hex digits, of a module and all modules of this package that it imports,
    directly or not.

    Comments and docstrings do not count."""
    pending, code = [module], {}  # code: {module: its code}
    while pending:
        name = pending.pop()
        if name not in code:
            tree = ast.parse(path_of(name, root).read_text("utf-8"))
            pending += imported(tree, root)
            code[name] = ast.unparse(without_docstrings(tree))
    return hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()[:8]


def without_docstrings(tree):
    """Remove the docstrings of a syntax tree, in place. Returns the tree."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
                node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
