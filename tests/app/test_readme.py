"""What the pages say to type can be typed, and what they link to exists."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydae.app.parsing import parse, parse_with_config
from raydae.core.storage import Folder
from raydae.models.released import RELEASED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/*.md")),
        ROOT / "raydae" / "weights" / "README.md",
    )
}
# Each example in docs/extending.md is a module whose first line is its file name.
MODULES = {
    name: f"{code}\n"
    for name, code in re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```", PAGES["docs/extending.md"], flags=re.DOTALL
    )
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(raydae|python -m raydae|python jobs/\w+\.py) ")
README_LIMIT = 8000  # bytes


def commands(page: str) -> Iterator[str]:
    """Yield raydae's command lines in a page: of bash blocks, and of the text if with flags."""
    for kind, block in FENCE.findall(page):
        for line in block.replace("\\\n", "").splitlines() if kind == "bash" else []:
            command = line.partition("#")[0].strip().rpartition("&& ")[2].rpartition(" -- ")[2]
            if COMMAND.match(command):
                yield command
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", page)):
        command = " ".join(span.split())
        if COMMAND.match(command) and " --" in command:
            yield command


def links(page: str) -> Iterator[str]:
    """Yield the relative links of a page, without their anchors."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page)):
        if "://" not in target and not target.startswith("#"):
            yield target.partition("#")[0]


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


COMMANDS = dict.fromkeys(command for page in PAGES.values() for command in commands(page))


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that has the runs and the modules of the pages' examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for file in ("runs/mine/config.json", "runs/found/best.json"):
        Folder.of(tmp_path).write(file, b"{}")
    Folder.of(tmp_path).write("runs/mine/last.safetensors", RELEASED["photo"].read_bytes())
    for name, code in MODULES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_is_understood(command: str) -> None:
    program, *words = shlex.split(command.replace("python -m raydae", "raydae"))
    if program == "python":
        assert (ROOT / words[0]).is_file()
    if words[0] == "--help":  # of raydae itself
        return
    module = importlib.import_module(f"raydae.app.{Path(words[0]).stem}")
    if "--help" in words:
        return
    if hasattr(module, "Launch"):
        parse_with_config(module.Launch, "", words[1:])
    else:
        parse(module.Arguments, "", words[1:])


def test_commands_are_found_in_blocks_and_in_the_text() -> None:
    page = "```bash\ncd x && raydae tune  # y\nray job submit -- python jobs/train.py --a 1\n```\n"
    page += "`raydae\ntrain --b 2` and `raydae train`, `raydae.load()`\n"
    assert list(commands(page)) == [
        "raydae tune",
        "python jobs/train.py --a 1",
        "raydae train --b 2",
    ]


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_to_exists(name: str) -> None:
    folder = (ROOT / name).parent
    assert not [target for target in links(PAGES[name]) if not (folder / target).exists()]


@pytest.mark.parametrize("name", PAGES)
def test_a_link_to_a_heading_has_one(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s:]*\.md|)#([^)\s]+)\)", FENCE.sub("", PAGES[name])):
        page = (folder / target[0]).read_text(encoding="utf-8") if target[0] else PAGES[name]
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), flags=re.MULTILINE)
        assert target[1] in map(anchor, headings)


def test_the_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", PAGES["docs/architecture.md"])
    assert named
    folders = (ROOT, ROOT / "raydae")
    assert not [file for file in named if not any((folder / file).is_file() for folder in folders)]


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= README_LIMIT


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = [line for line in script.splitlines() if line.startswith("pytest")]
    for line in ('pip install -e ".[test]"', command):
        assert f"{line}\n" in README
    assert '-e ".[test]"' in script
