"""The page at ``/ui`` as it is sent: whole, in the package, and legible."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from routes import ui
from tests.server import Server

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_told_from_its_ground(scheme: str) -> None:
    palettes = re.findall(r":root \{(.*?)\}", ui.PAGE.decode(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", palettes[scheme == "dark"]))

    for ink in ("ink", "soft", "accent", "ready", "waits", "failed"):
        for ground in ("paper", "sheet", "well"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, f"{scheme}: {ink} on {ground}"
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["failed"], colours["failed-well"]) >= 4.5


def test_the_page_is_whole_small_and_asks_nobody_else(server: Server) -> None:
    answer = server.get("/ui")
    policy = answer.headers["content-security-policy"]

    assert answer.content == ui.PAGE
    assert all(file.read_text("utf-8") in answer.text for file in page_files() if file.suffix != ".html")
    assert len(answer.content) < 100_000
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|href)="(?!#|data:)', answer.text) == []
    assert "innerHTML" not in answer.text


def test_the_page_is_in_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")

    assert {f"routes/page/{file.name}" for file in page_files()} <= set(zipfile.ZipFile(wheel).namelist())


def page_files() -> list[Path]:
    return [file for file in (ROOT / "routes" / "page").iterdir() if file.is_file()]


def contrast(one: str, other: str) -> float:
    """How far two colours are from each other; text wants 4.5.

    Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
