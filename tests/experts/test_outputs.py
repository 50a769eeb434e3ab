"""Claims about outputs: no input is replaced, whatever its path, and an existing output only with `overwrite`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from experts.atomic_io import atomic_folder
from experts.errors import Fault
from experts.outputs import check_output_file, check_output_folder

Alias = Callable[[Path, Path], Path]


def symlink(path: Path, alias: Path) -> Path:
    alias.symlink_to(path)
    return alias


def hard_link(path: Path, alias: Path) -> Path:
    os.link(path, alias)
    return alias


def dotted(path: Path, alias: Path) -> Path:
    return path.parent / "." / ".." / path.parent.name / path.name


ALIASES: list[Alias] = [lambda path, _: path, symlink, hard_link, dotted]


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_output_file_that_is_an_input_is_refused(tmp_path: Path, alias: Alias, overwrite: bool) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("text\n")
    other = alias(path, tmp_path / "alias.csv")
    for out, source in ((other, path), (path, other)):
        with pytest.raises(Fault, match="replaces no input"):
            check_output_file(out, [source], overwrite)


def test_output_file_that_exists_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    check_output_file(path, [], overwrite=False)
    path.write_text("")
    check_output_file(path, [tmp_path / "posts.csv"], overwrite=True)
    with pytest.raises(Fault, match="--overwrite"):
        check_output_file(path, [], overwrite=False)


def test_output_file_inside_an_input_folder_is_refused_if_it_exists(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "rows.csv"
    check_output_file(path, [tmp_path / "model"], overwrite=False)
    path.write_text("")
    with pytest.raises(Fault, match="replaces no input"):
        check_output_file(path, [tmp_path / "model"], overwrite=True)


def test_output_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "nothing")
    for name in ("pipe.csv", "folder.csv"):
        with pytest.raises(Fault, match="of that name"):
            check_output_file(tmp_path / name, [], overwrite=True)
    with pytest.raises(Fault, match="--overwrite"):
        check_output_file(tmp_path / "link.csv", [], overwrite=False)


def test_output_folder_that_is_or_contains_an_input_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "run" / "moe-joint"
    with atomic_folder(model) as folder:
        (folder / "weights").write_text("")
    (tmp_path / "link").symlink_to(model)
    for out in (model, tmp_path / "run", tmp_path, tmp_path / "link", model / "." / ".."):
        with pytest.raises(Fault, match="replaces no input"):
            check_output_folder(out, [model], overwrite=True)
    (model / "experts").mkdir()
    with pytest.raises(Fault, match="replaces no input"):
        check_output_folder(model / "experts", [model], overwrite=True)
    check_output_folder(tmp_path / "run" / "export", [model], overwrite=False)


def test_output_folder_is_replaced_only_if_it_was_written_as_a_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "export") as folder:
        (folder / "weights").write_text("")
    check_output_folder(tmp_path / "export", [], overwrite=True)
    with pytest.raises(Fault, match="--overwrite"):
        check_output_folder(tmp_path / "export", [], overwrite=False)
    (tmp_path / "home").mkdir()
    check_output_folder(tmp_path / "home", [], overwrite=True)
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(Fault, match="other files"):
        check_output_folder(tmp_path / "home", [], overwrite=True)
