"""The house rules: where imports may point, what a start may load, what the shop window shows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import COLLECTED_TENSORFLOW, ROOT

from ckptsurgeon.formats import table

PACKAGE = ROOT / "ckptsurgeon"
MODULES = sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    """`formats.bundle` for ckptsurgeon/formats/bundle.py; '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {_module(path) for path in MODULES}


def _imports(path: Path, for_types: bool = False) -> set[str]:
    """The modules of the package that a module imports, wherever in it; those `for_types` alone only if asked for."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in (ast.walk(node) if not for_types else ())
    }
    here = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = here[: len(here) - node.level + 1]
            for alias in node.names:
                dotted = [*base, *(node.module or "").split("."), alias.name]
                candidates = [".".join(filter(None, dotted)), ".".join(filter(None, dotted[:-1]))]
                found.add(next(name for name in candidates if name in NAMES))
    return found


def _part(module: str) -> str:
    """The part of the house that a module belongs to."""
    return module.split(".")[0]


def _picture() -> dict[str, set[str]]:
    """The picture in the README: part -> parts that it imports."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"## The house.*?```\n(.*?)```", readme, re.DOTALL)
    assert block
    picture = {}
    for line in block[1].splitlines():
        part, _, others = line.partition("->")
        picture[part.strip()] = {name.strip() for name in others.split(",") if name.strip()}
    return picture


def test_imports_point_as_in_the_picture() -> None:
    """The README's picture is what the code does: no arrow more, none less."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        part = _part(_module(path))
        if part and part != "__main__":
            found.setdefault(part, set()).update({_part(name) for name in _imports(path)} - {part, ""})
    assert {part: sorted(names) for part, names in _picture().items()} == {
        part: sorted(names) for part, names in sorted(found.items())
    }


@pytest.mark.parametrize("level", ["parts", "modules", "types"])
def test_imports_have_no_cycle(level: str) -> None:
    """Neither the parts of the house nor the modules import each other in a circle, not even for their types."""
    if level == "parts":
        graph = _picture()
    else:
        graph = {_module(path): _imports(path, level == "types") - {_module(path), ""} for path in MODULES}
        graph.pop("")  # the shop window hands names on lazily
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


# The only parts that import a deep-learning framework; no other part imports them: trainers are processes.
FRAMEWORKS = ("skflow", "frameworks")


def test_only_two_parts_import_a_framework() -> None:
    """TensorFlow, Keras and PyTorch are imported in skflow/ and frameworks/, and these by nobody."""
    for path in MODULES:
        module = _module(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if _part(module) not in FRAMEWORKS:
                assert not {"tensorflow", "keras", "sklearn", "torch"} & {name.split(".")[0] for name in names}, module
        assert not {_part(name) for name in _imports(path)} & set(FRAMEWORKS) - {_part(module)}, module


def _formats_own(module: str) -> bool:
    """Whether a module belongs to one format, which may know what it is."""
    parts = module.split(".")
    return parts[0] == "formats" and len(parts) > 2


def test_code_outside_a_format_asks_its_contract() -> None:
    """No isinstance of a format's checkpoint class and no comparison with a format's name stand outside its folder."""
    names = {name for name, *_ in table.ROWS} | {to for _, to, *_ in table.ROWS if to}
    classes = {
        node.name
        for path in MODULES
        if _formats_own(_module(path)) and path.name in ("reading.py", "archive.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.bases
    }
    assert {"Bundle", "V1", "SafeTensors", "Npz", "Npy", "Hdf5", "KerasZip"} <= classes
    found = []
    for path in MODULES:
        if _formats_own(_module(path)):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)} & classes
                found += [f"{path}:{node.lineno}: {name}" for name in asked]
            elif isinstance(node, ast.Compare):
                compared = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)} & names
                found += [f"{path}:{node.lineno}: {name}" for name in compared]
    assert found == []


def test_every_format_keeps_its_contract() -> None:
    """Each row of the table names a format that has all members of the contract, and says its own name."""
    from ckptsurgeon.formats.format import Format

    members = {name for name in vars(Format) if not name.startswith("_")} | set(Format.__annotations__)
    for name, *_ in table.ROWS:
        format = table.of(name)
        assert format.name == name
        assert [member for member in members if not hasattr(format, member)] == [], name


def test_only_the_table_of_engines_knows_an_engine() -> None:
    """The driver and all else in a ring use ring.trainers.engines and the Trainer protocol."""
    importers = {_module(path) for path in MODULES if "ring.trainers.local" in _imports(path)}
    assert importers == {"ring.trainers.engines"}


def test_the_rooms_of_the_ring_import_each_other_in_one_direction() -> None:
    """Rooms form no circle; neither do the modules that stand beside them."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        module = _module(path)
        if module.startswith("ring."):
            needs = {name.split(".")[1] for name in _imports(path) if name.startswith("ring.")}
            room = module.split(".")[1]
            graph.setdefault(room, set()).update(needs - {room})
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


@pytest.mark.parametrize("command", [["ls", "a"], ["ls", "a", "--json", "-l"], ["layers", "a"], ["verify", "a"],
                                     ["graft", "a", "b", "--layers", "0"], ["graft", "a", "b", "--layers=0", "--link"],
                                     ["graft", "a", "b", "--match", "**/Bias", "-o", "c"], ["--help"],
                                     ["get", "a", "global_step"], ["get", "a", "dnn/layer0/Linear/Bias[1]", "--json"],
                                     ["set", "a", "global_step", "7"], ["set", "a", "dnn/layer0/Linear/Bias[1]", "-1"]],
)  # fmt: skip
def test_a_surgeons_command_loads_no_numpy(tmp_path: Path, command: list[str]) -> None:
    """ls, layers, verify, graft, get and set run in a fresh interpreter without NumPy, h5py, tempfile or asyncio."""
    import models

    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    banned = ["numpy", "h5py", "tensorflow", "sklearn", "ml_dtypes", "tempfile", "asyncio", "dataclasses", "typing",
              "pathlib", "importlib.metadata", "shutil", "subprocess", "difflib", "hashlib"]  # fmt: skip
    if "--json" not in command:  # the module json needs some of these
        banned += ["argparse", "gettext", "locale", "re", "enum", "functools", "collections", "contextlib", "signal"]
    code = (
        "import sys; before = set(sys.modules)\n"
        "from ckptsurgeon.cli import main\n"
        f"status = main({command!r})\n"
        f"loaded = [name for name in {banned!r} if name in sys.modules and name not in before]\n"
        "sys.exit(f'loaded {loaded}' if loaded else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_importing_the_package_imports_nothing_else() -> None:
    """The shop window hands names on lazily."""
    code = "import sys, ckptsurgeon; sys.exit(str([m for m in sys.modules if m.startswith('ckptsurgeon.')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_the_shop_window_shows_what_it_names() -> None:
    """Every public name is there; another one is an AttributeError."""
    import ckptsurgeon

    for name in set(ckptsurgeon.__all__) - {"skflow"}:
        assert getattr(ckptsurgeon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ckptsurgeon.nonsense


def test_modules_fit_in_one_sitting() -> None:
    """No module has more than 350 lines."""
    assert {_module(path): lines for path in MODULES if (lines := path.read_text().count("\n")) > 350} == {}


def test_folders_fit_on_one_screen() -> None:
    """No folder has more than 20 modules."""
    counts = Counter(path.parent for path in MODULES)
    assert {str(folder): count for folder, count in counts.items() if count > 20} == {}


def test_every_test_has_its_sentence() -> None:
    """Each test says in one docstring what must hold."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_two_commands_stand_in_the_readme() -> None:
    """scripts/demo and scripts/test are named there, exist and can be run."""
    readme = (ROOT / "README.md").read_text()
    for script in ("scripts/demo", "scripts/test"):
        assert script in readme
        assert (ROOT / script).stat().st_mode & 0o111


def test_nothing_is_left_open() -> None:
    """No stub and no note to ourselves is left in the code."""
    marks = re.compile(rf"\b({'|'.join(('NotImplemented' + 'Error', 'TO' + 'DO', 'FIX' + 'ME', 'X' * 3))})\b")
    for folder in ("ckptsurgeon", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and "corpus" not in path.parts:
                assert not marks.search(path.read_text()), path


def test_collecting_the_tests_imports_no_tensorflow(pytestconfig: pytest.Config) -> None:
    """Every process collects all tests, and one that is so large takes ten times as long to fork."""
    assert pytestconfig.stash[COLLECTED_TENSORFLOW] is False
