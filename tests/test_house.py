"""The rules of the house: who may import whom, how large things grow, and where each heavy import lives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "llmops").rglob("*.py"), *(ROOT / "routes").rglob("*.py")])
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60

#: A room imports only lower ranks or itself; rooms of one rank are strangers.
RANKS = {
    "llmops.errors": 0,
    **dict.fromkeys(("llmops.protocol", "llmops.settings", "llmops.plugins", "llmops.leash"), 1),
    "llmops.endpoints": 2,
    **dict.fromkeys(("llmops.providers", "llmops.guardrails", "llmops.interactions", "llmops.registry"), 3),
    **dict.fromkeys(("llmops.gateway", "llmops.client", "llmops.secret_client", "llmops.deployments"), 4),
    **dict.fromkeys(("llmops.batch", "llmops.experiments"), 5),
    **dict.fromkeys(("routes", "llmops.supervisor", "llmops.supervised", "llmops.readiness"), 6),
    "llmops.cli": 7,
}
#: Files of one noun.
ROOMS = {
    "llmops.supervised": "llmops.supervisor",
    "llmops.readiness": "llmops.supervisor",
    "llmops.secret_client": "llmops.client",
}

#: Where an import is allowed, by path prefixes; anywhere else it is not.
PLACES = {
    "mlflow": (
        *("llmops/interactions/mlflow_", "llmops/providers/mlflow_model", "llmops/registry/", "llmops/deployments"),
        *("llmops/experiments/", "llmops/batch/"),
    ),
    "litellm": ("llmops/providers/litellm.py",),
    "fastapi": ("routes/",),
}
ENVIRONMENT_PLACES = ("llmops/settings.py", "llmops/endpoints/secrets.py")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _room(module: str) -> str:
    for name in (".".join(module.split(".")[:2]), module.split(".")[0]):
        if name in RANKS:
            return ROOMS.get(name, name)
    return module


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in FILES}


def test_a_room_imports_only_lower_ranks_and_itself(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        room = _room(_module(path))
        assert room in RANKS or _module(path).endswith("__init__"), f"{path}: no room of the house"
        for name in _imports(tree):
            other = _room(name)
            if other in RANKS and other != room and RANKS[other] >= RANKS.get(room, 0):
                wrong.append(f"{_module(path)} imports {name}")

    assert wrong == []


def test_no_import_goes_in_a_circle(trees: dict[Path, ast.Module]) -> None:
    modules = {_module(path): tree for path, tree in trees.items()}
    edges = {name: {other for other in _imports(tree) if other in modules} for name, tree in modules.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in edges[name]:
                walk(other, (*trail, name))
            done.add(name)

    for name in edges:
        walk(name, ())


def test_modules_and_functions_stay_small() -> None:
    large = []
    for path in [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        text = path.read_text("utf-8")
        if (length := text.count("\n")) > LONGEST_MODULE:
            large.append(f"{path}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    large.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")

    assert large == []


def test_heavy_imports_have_their_named_places(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        where = path.relative_to(ROOT).as_posix()
        for name in _imports(tree):
            allowed = PLACES.get(name.split(".")[0])
            if allowed is not None and not where.startswith(allowed):
                wrong.append(f"{where} imports {name}")

    assert wrong == []


def test_only_settings_and_secrets_read_the_environment(trees: dict[Path, ast.Module]) -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
        if path.relative_to(ROOT).as_posix() not in ENVIRONMENT_PLACES
    ]

    assert wrong == []


def test_imports_stand_at_the_top(trees: dict[Path, ast.Module]) -> None:
    wrong = [
        f"{path}:{inner.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]

    assert wrong == []


def test_packages_are_empty_doors() -> None:
    assert [str(path) for path in FILES if path.name == "__init__.py" and path.read_text().strip()] == []


def test_every_module_says_what_it_is_for(trees: dict[Path, ast.Module]) -> None:
    silent = [path for path, tree in trees.items() if path.name != "__init__.py" and not ast.get_docstring(tree)]

    assert silent == []
