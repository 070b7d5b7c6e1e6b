"""Which columns of a Hugging Face set hold the images and their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils import BadRequest, shorten, suggestion

IMAGES = ("image", "img", "picture")
LABELS = ("label", "labels", "fine_label", "class", "target")
UNLABELLED = (None, -1, "")  # how a row says that its class is not published


def image_column(features: Mapping[str, Any], asked: str | None) -> tuple[str, list[str]]:
    """Returns (column of the images, notes).

    Args:
        features: `datasets.Features`.
        asked: --image-column.

    Raises BadRequest if there is none, or several and none has a usual name.
    """
    if asked is not None:
        _check_known(features, asked, "--image-column")
        if not _holds_images(features[asked]):
            raise BadRequest(f"--image-column {asked}: holds {_kind(features[asked])}, not encoded images")
        return asked, []
    found = [name for name, feature in features.items() if _is(feature, "Image")]
    found = found or [name for name, feature in features.items() if _holds_images(feature)]
    return _choose(found, IMAGES, features, "images", "--image-column")


def label_column(features: Mapping[str, Any], asked: str | None, image: str) -> tuple[str, list[str]]:
    """Returns (column of the classes, notes).

    Args:
        features: `datasets.Features`.
        asked: --label-column.
        image: column of the images.

    Raises BadRequest if there is none, or several and none has a usual name, or it holds several classes per image.
    """
    notes: list[str] = []
    if asked is not None:
        _check_known(features, asked, "--label-column")
        chosen = asked
    else:
        found = [name for name, feature in features.items() if _is(feature, "ClassLabel")]
        found = found or [name for name in features if name in LABELS and name != image]
        chosen, notes = _choose(found, LABELS, features, "classes", "--label-column")
    kind = _kind(features[chosen])
    if not (_is(features[chosen], "ClassLabel") or kind.startswith(("int", "uint", "string", "large_string"))):
        several = "; sets with several classes per image are not supported" if kind in ("List", "LargeList") else ""
        raise BadRequest(f"column {chosen} holds {kind}, neither a number nor a name of a class{several}")
    return chosen, notes


def _choose(
    found: list[str], names: tuple[str, ...], features: Mapping[str, Any], what: str, flag: str
) -> tuple[str, list[str]]:
    """The only one found, or else the one with the first of `names`."""
    if len(found) == 1:
        return found[0], []
    chosen = next((name for name in names if name in found), None)
    if chosen is None:
        raise BadRequest(f"which column holds the {what}? {flag} says; there are {shorten(found or features, 10)}")
    others = shorten(name for name in found if name != chosen)
    return chosen, [f"column {chosen} holds the {what}; others may too, and {flag} chooses them: {others}"]


def _check_known(features: Mapping[str, Any], asked: str, flag: str) -> None:
    if asked not in features:
        raise BadRequest(f"{flag} {asked}: no such column.{suggestion(asked, features)} There are"
                         f" {shorten(features, 10)}")  # fmt: skip


def _is(feature: Any, kind: str) -> bool:
    return type(feature).__name__ == kind


def _holds_images(feature: Any) -> bool:
    """Whether a column holds images, or bytes, or objects with bytes."""
    return (
        _is(feature, "Image")
        or _kind(feature) in ("binary", "large_binary")
        or (isinstance(feature, dict) and _kind(feature.get("bytes")) in ("binary", "large_binary"))
    )


def _kind(feature: Any) -> str:
    return feature.dtype if _is(feature, "Value") else type(feature).__name__
