"""The code of a network of the user's own: found, read and looked through, but never run in the user's process."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from medimg.errors import ConfigError, did_you_mean
from medimg.models.registry import architecture

__all__ = ["MOST_BYTES", "MOST_FILES", "SourceCode", "source_of"]

MOST_FILES = 200
MOST_BYTES = 1_000_000
"""Of all that travels with a job: a network is described in far less."""

_LISTED = 5


@dataclass(frozen=True)
class SourceCode:
    """The Python files that a job needs to build a network.

    Attributes:
        files: Path relative to the folder that is to be on Python's path, with `/`, to content.
    """

    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Hash of the names and contents: other code is another job."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


def source_of(model: str) -> SourceCode:
    """Returns the code that travels for `module:function`: the module's file, or all `.py` files of its package.

    The module is looked for in the current folder, then where Python looks. Nothing of it is run.

    Raises:
        ConfigError: There is no such module or function, it is an installed package, it imports a file beside it that
            would not travel, it is too large, or Python cannot read it.
    """
    module, _, function = architecture(model).name.partition(":")
    top = module.partition(".")[0]
    spec = _found(model, top)
    if spec.submodule_search_locations is None:
        root, paths = Path(str(spec.origin)).parent, [Path(str(spec.origin))]
    else:
        package = Path(next(iter(spec.submodule_search_locations)))
        root, paths = package.parent, sorted(_python_files(package))
    code = SourceCode(_read(model, root, paths))
    inner = module.replace(".", "/")
    file = next((name for name in (f"{inner}.py", f"{inner}/__init__.py") if name in code.files), None)
    if file is None:
        raise ConfigError(f"model={model!r}: {root / top} has no {inner}.py. Name the file that the function is in")
    trees = {name: _parsed(name, content) for name, content in code.files.items()}
    _check_function(model, file, trees[file], function)
    for name, tree in trees.items():
        _check_imports(name, tree, top, root)
    return code


def _found(model: str, top: str) -> ModuleSpec:
    if top == "__main__":
        raise ConfigError(
            f"model={model!r}: a function written in a notebook or at the prompt has no file that could travel with "
            "the job. Begin its cell with the line %%writefile my_networks.py, run it, and set "
            f"model='my_networks:{model.partition(':')[2]}'"
        )
    if _installed(top):
        raise ConfigError(
            f"model={model!r}: {top} is a package that is installed here, and only a file or folder of your own "
            "travels with a job. If it is yours, rename it; else write my_networks.py with a function that uses it"
        )
    importlib.invalidate_caches()  # the file may have been written a moment ago
    spec = PathFinder.find_spec(top, [str(Path.cwd())]) or importlib.util.find_spec(top)
    if spec is None:
        raise ConfigError(
            f"model={model!r}: there is no {top}.py and no folder {top} in {Path.cwd()} nor elsewhere on Python's "
            "path. Go to the folder where it is, or add that to PYTHONPATH"
        )
    if spec.submodule_search_locations is None and not str(spec.origin).endswith(".py"):
        raise ConfigError(f"model={model!r}: {top} is not written in Python ({spec.origin}): only .py files travel")
    return spec


def _installed(top: str) -> bool:
    folders = [sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")]
    spec = PathFinder.find_spec(top, folders)
    return top == "medimg" or top in sys.stdlib_module_names or (spec is not None and spec.origin is not None)


def _python_files(package: Path) -> Iterator[Path]:
    """Yields the files of a package: none of a hidden folder, of an environment within, or of elsewhere by a link."""
    inside = package.resolve()
    environments = {found.parent for found in package.rglob("pyvenv.cfg")}
    for path in package.rglob("*.py"):
        hidden = any(part.startswith(".") for part in path.relative_to(package).parts)
        if path.is_file() and not hidden and environments.isdisjoint(path.parents):
            if not path.resolve().is_relative_to(inside):
                raise ConfigError(f"{path.relative_to(package.parent)} is a link to a file elsewhere. Copy it there")
            yield path


def _read(model: str, root: Path, paths: list[Path]) -> dict[str, bytes]:
    sizes = {path: path.stat().st_size for path in paths}
    if len(paths) > MOST_FILES or sum(sizes.values()) > MOST_BYTES:
        largest = sorted(paths, key=lambda path: -sizes[path])[:_LISTED]
        listed = "\n".join(f"  {path.relative_to(root)}: {sizes[path]:,} bytes" for path in largest)
        raise ConfigError(
            f"model={model!r}: its code is {len(paths):,} files of {sum(sizes.values()):,} bytes; at most {MOST_FILES} "
            f"files and {MOST_BYTES:,} bytes travel with a job. The largest:\n{listed}\n"
            "Put the network into a file or a folder of its own"
        )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _parsed(name: str, content: bytes) -> ast.Module:
    try:
        return ast.parse(content, filename=name)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{name} is not Python that can be read: {error}") from None


def _check_function(model: str, file: str, tree: ast.Module, function: str) -> None:
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    other: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            other.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            other.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            other |= {alias.asname or alias.name for alias in node.names}
    if function not in defined | other and "*" not in other:
        hint = did_you_mean(function, defined) or " It defines no function."
        raise ConfigError(f"model={model!r}: {file} has no function {function!r}.{hint}")


def _check_imports(name: str, tree: ast.Module, top: str, root: Path) -> None:
    """Refuses an import of a file that lies beside the module or package: it would be missed in the job."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted = [node.module]
        else:
            continue
        for head in (text.partition(".")[0] for text in wanted):
            if head != top and not _installed(head) and PathFinder.find_spec(head, [str(root)]) is not None:
                raise ConfigError(
                    f"{name}, line {node.lineno}: it imports {head}, which lies beside it and would not travel with "
                    f"the job. Put both into one folder, say networks/, import it there as networks.{head}, and set "
                    "model='networks.….:function'"
                )
