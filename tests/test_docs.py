"""README.md, CONTRIBUTING.md, docs/ and results/ are right: links, pictures, names, flags, the table of models."""

import re
from pathlib import Path

import pytest

import models
from benchmarks import common
from comparison.request import Request as CompareRequest
from experiments.request import Request as StudyRequest
from settings import model_flags
from settings.flag import flags_of_group
from settings.groups import FLAGS
from settings.request import Request as MainRequest
from settings.two_models import TwoModels

REPO = Path(__file__).resolve().parent.parent
PAGES = {
    str(page.relative_to(REPO)): page.read_text(encoding="utf-8")
    for page in (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md")),
                 *sorted((REPO / "results").glob("*.md")))
}  # fmt: skip
MODELS = PAGES["docs/models.md"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes from a page's headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_read_in_five_minutes():
    assert len(PAGES["README.md"].splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (REPO / page).parent / name if name else REPO / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_reached_from_the_readme():
    for page in PAGES:
        if page.startswith("docs/"):
            assert f"({page})" in PAGES["README.md"], page


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGES["README.md"])
    assert pictures
    for picture in pictures:
        assert (REPO / picture).is_file()
    shown = "".join(PAGES.values())
    assert not [picture.name for picture in (REPO / "docs").glob("*.png") if picture.name not in shown]


@pytest.mark.slow
def test_the_table_of_models_is_right(cli):
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) / ([\d,]+) \| ([\d.]+ [MG]) / ([\d.]+ [MG]) \|", MODELS, re.MULTILINE)
    assert len(rows) >= 17
    for name, *numbers in rows:
        for size, params, flops in zip(("32", "224"), numbers[:2], numbers[2:], strict=True):
            shown = cli("--list-models", name, "--dataset", "cifar10", "--img-size", size).out
            line = next(line for line in shown.splitlines() if line.split()[0] == name)
            assert f" {params}  " in line and f" {flops}  " in line, line


def test_every_model_is_named():
    missing = [name for name in models.list_models() if f"`{name}`" not in MODELS]
    assert not missing


@pytest.mark.parametrize(
    "flag", sorted({flag for text in PAGES.values() for flag in re.findall(r"`(--[a-z-]+)", text)})
)
def test_every_flag_that_is_mentioned_exists(flag):
    flags = [
        *FLAGS.values(),
        *model_flags.flags_of(None).values(),
        *(flag for asked in (MainRequest, TwoModels, CompareRequest, StudyRequest) for flag in asked.flags().values()),
        *flags_of_group(common.How),
    ]
    names = {name for f in flags for name in (f.name, *f.aliases, *([f"no-{f.name}"] if f.negatable else []))}
    assert flag.removeprefix("--") in names | {"help"}


# Files and folders named in backticks and in the diagrams.
HOUSE = sorted({name.rstrip("/") for page in ("docs/architecture.md", "CONTRIBUTING.md", "results/reliability.md")
                for name in re.findall(r"[\w./-]*\w(?:\.py|/)(?![\w/])", PAGES[page])})  # fmt: skip


@pytest.mark.parametrize("name", HOUSE)
def test_every_file_and_folder_that_is_named_is_there(name):
    assert (REPO / name).exists()
