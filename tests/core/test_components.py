"""Components by name and by import path, with options of their own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydae.core.components import Builtin, Table, load, module_of
from raydae.core.errors import UserError
from raydae.training.config import Config

TABLE = Table(
    "shape", "drawing.shape", {"square": Builtin("raydae.core.storage:Folder")}, ("canvas",)
)
SHAPES = '''
import dataclasses
from typing import Literal



class Circle:
    """A circle.

    Args:
        radius: in pixels,
            of the outer edge.
    """

    def __init__(self, radius: float = 3.0, style: Literal["thin", "bold"] = "thin"):
        if radius < 0:
            raise ValueError("radius must not be negative")
        self.radius, self.style = radius, style


@dataclasses.dataclass(frozen=True, kw_only=True)
class Star:
    """A star."""

    points: int = 5
    """How many points."""


def line(canvas, start, *, width: int = 1, label: str | None = None):
    return start + width


def needs(*, width: int):
    return width


def odd(*, width: list = ()):
    return width


NOT_CALLABLE = 3
'''


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's own in the working directory."""
    name = f"shapes_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHAPES)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


def test_a_class_and_a_function_get_their_options(shapes: str) -> None:
    options = TABLE.check(f"{shapes}:Circle", {"radius": 4}, "drawing.options")
    assert options == {"radius": 4.0, "style": "thin"}
    assert TABLE.bind(f"{shapes}:Circle", options).radius == 4.0
    assert TABLE.check(f"{shapes}:Star", {}, "x") == {"points": 5}
    options = TABLE.check(f"{shapes}:line", {"width": 2}, "drawing.options")
    assert options == {"width": 2, "label": None}
    assert TABLE.bind(f"{shapes}:line", {"width": 2})("canvas", 3) == 5


def test_options_are_documented_where_their_class_documents_them(shapes: str) -> None:
    circle = TABLE.options_class(f"{shapes}:Circle")
    assert "radius: in pixels, of the outer edge." in (circle.__doc__ or "")
    assert "points: How many points" in (TABLE.options_class(f"{shapes}:Star").__doc__ or "")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("squar", {}, "did you mean square"),
        ("circle", {}, "MODULE:NAME"),
        ("{}:Circl", {}, "did you mean Circle"),
        ("no_such_module:Circle", {}, "there is no module 'no_such_module'"),
        ("{}:Circle", {"radios": 1}, "did you mean drawing.options.radius"),
        ("{}:Circle", {"radius": "wide"}, "drawing.options.radius must be float"),
        ("{}:Circle", {"style": "fat"}, "must be one of thin, bold"),
        ("{}:needs", {}, "'width' needs a default value"),
        ("{}:odd", {}, "'width' needs a type"),
        ("{}:NOT_CALLABLE", {}, "neither a class nor a function"),
        ("square", {"side": 1}, "square has no options"),
    ],
)
def test_what_is_wrong_is_said(
    shapes: str, name: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        TABLE.check(name.format(shapes), options, "drawing.options")
    assert "\n" not in str(caught.value)


def test_a_component_that_refuses_its_options(shapes: str) -> None:
    with pytest.raises(UserError, match="radius must not be negative"):
        TABLE.bind(f"{shapes}:Circle", {"radius": -1.0})


def test_a_module_that_fails_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_at_once.py").write_text("1 / 0")
    (tmp_path / "lacks_a_package.py").write_text("import no_such_package_at_all")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="division by zero"):
        load("fails_at_once:Net")
    with pytest.raises(UserError, match=r"lacks_a_package cannot be imported.*no_such_package"):
        load("lacks_a_package:Net")


def test_the_module_of_a_name() -> None:
    assert module_of("nets:Wide") == "nets"
    assert module_of("a.b:Wide") == "a.b"
    assert module_of("unet") == ""


def test_a_configuration_holds_all_options_and_survives_json() -> None:
    config = Config().override({"model.name": "unet", "model.options.width": 8})
    assert config.model.options == {"width": 8, "levels": 3, "blocks": 2}
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_another_component_starts_from_its_own_defaults() -> None:
    unet = Config().override({"model.name": "unet", "model.options.width": 8})
    assert unet.override({"model.name": "dae"}).model.options == {}
    assert unet.override({"optim.lr": 0.1}).model.options["width"] == 8
    with pytest.raises(UserError, match=r"did you mean model\.options\.width"):
        unet.override({"model.options.widht": 8})


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("model.name", "network"),
        ("noise.kind", "noise kind"),
        ("optim.loss", "loss"),
        ("optim.optimizer", "optimizer"),
    ],
)
def test_an_unknown_name_is_refused(setting: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"{setting}: there is no {kind} 'nothing'"):
        Config().override({setting: "nothing"})


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is no metric 'psrn'; did you mean psnr"):
        Config().override({"validation.metrics": ["psnr", "psrn"]})
