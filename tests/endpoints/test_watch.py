from pathlib import Path

import pytest
import yaml

from llmops.endpoints.files import read_directory
from llmops.endpoints.watch import News, Watch
from tests.server import demo


def _put(folder: Path, name: str, description: str = "x", endpoint: str | None = None) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**demo(endpoint or name), "description": description}))
    return path


def _settle(watch: Watch) -> News | None:
    """Look until two looks in a row have seen the same."""
    return watch.look() or watch.look()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    for name in ("a", "b"):
        _put(tmp_path, name)
    return Watch(tmp_path, read_directory(tmp_path))


def _descriptions(news: News | None) -> dict[str, str | None]:
    assert news is not None
    return {file.name: file.spec.description if file.spec else None for file in news.files}


def test_what_does_not_change_is_no_news(watch: Watch) -> None:
    assert [_settle(watch), _settle(watch)] == [None, None]


def test_a_change_between_the_start_and_the_first_look_is_news(watch: Watch, tmp_path: Path) -> None:
    _put(tmp_path, "a", "new")

    assert _descriptions(_settle(watch)) == {"a": "new", "b": "x"}


def test_files_that_are_changed_added_and_removed_are_read_together(watch: Watch, tmp_path: Path) -> None:
    _settle(watch)
    _put(tmp_path, "a", "new")
    _put(tmp_path, "c")
    (tmp_path / "b.yaml").unlink()

    news = _settle(watch)

    assert _descriptions(news) == {"a": "new", "c": "x"}
    assert news is not None
    assert news.lines == ()
    assert _settle(watch) is None


def test_a_file_that_is_being_written_is_read_when_it_has_settled(watch: Watch, tmp_path: Path) -> None:
    _settle(watch)
    _put(tmp_path, "a", "half")
    first = watch.look()
    _put(tmp_path, "a", "the whole of it")
    second = watch.look()

    assert (first, second) == (None, None)
    assert _descriptions(watch.look())["a"] == "the whole of it"


def test_a_file_that_became_wrong_is_told_once_and_what_it_said_goes_on(watch: Watch, tmp_path: Path) -> None:
    _settle(watch)
    (tmp_path / "a.yaml").write_text("name: [")
    _put(tmp_path, "b", "new")

    news = _settle(watch)

    assert _descriptions(news) == {"a": "x", "b": "new"}
    assert news is not None
    (line,) = news.lines
    assert line.startswith(f"{tmp_path}/a.yaml:1: not YAML: ")
    assert _settle(watch) is None
    _put(tmp_path, "a", "right again")
    assert _descriptions(_settle(watch)) == {"a": "right again", "b": "new"}


def test_a_new_file_does_not_take_the_name_of_one_that_is_served(watch: Watch, tmp_path: Path) -> None:
    _settle(watch)
    _put(tmp_path, "z", "taken", endpoint="a")

    news = _settle(watch)

    assert _descriptions(news) == {"a": "x", "b": "x"}
    assert news is not None
    assert any("endpoint 'a' is also in a.yaml; keep one" in line for line in news.lines)


def test_a_directory_that_is_taken_away_takes_nothing_down(watch: Watch, tmp_path: Path) -> None:
    _settle(watch)
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    gone = [_settle(watch), _settle(watch)]
    away.rename(tmp_path)

    assert gone == [None, None]
    assert _settle(watch) is None
