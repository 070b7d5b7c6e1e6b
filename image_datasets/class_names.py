"""Names of classes that a data set gives by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


def name_numbers(
    numbers: Collection[int], names: Sequence[str] | None, with_train: bool
) -> tuple[dict[int, str], list[str]]:
    """Returns (names of the classes in the order of their numbers, by number; notes).

    Classes without a training image are left out. Without names the numbers are the names. A name that two classes
    share is followed by the number.

    Args:
        numbers: those of the training images, or of all images of a set without training images.
        names: of the classes 0, 1, ...
        with_train: the set has training images; otherwise all names are kept.
    """
    count = max(numbers) + 1 if names is None else len(names)
    kept = range(count) if names and not with_train else sorted(numbers)
    left_out = count - len(kept)
    notes = [f"{left_out:,} of {count:,} classes have no training image, and are left out"] if left_out else []
    if names is None:
        return {number: str(number) for number in kept}, notes if with_train else []
    times = Counter(names)
    return {i: names[i] if times[names[i]] == 1 else f"{names[i]} ({i})" for i in kept}, notes
