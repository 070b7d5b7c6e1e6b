"""Weights of classes against scikit-learn's."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from assembly.imbalance import class_weights, differ_much
from utils import BadRequest

NAMES = ["cat", "dog", "eel"]
TARGETS = np.array([0] * 12 + [1] * 3 + [2] * 5)


def test_balanced_weights_are_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=TARGETS)
    assert class_weights("balanced", TARGETS, NAMES) == pytest.approx(expected)


def test_weights_of_a_file_keep_their_ratios_and_have_a_mean_of_1_over_the_images(tmp_path):
    file = tmp_path / "weights.csv"
    file.write_text("class,weight\neel, 4\ncat,1\ndog,2\n")
    weights = class_weights(str(file), TARGETS, NAMES)
    assert weights / weights[0] == pytest.approx([1, 2, 4])
    assert weights[TARGETS].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,1\ndog,2\neel,4\n", "its first line is not class,weight"),
        ("class,weight\ncat,1\ndog,2\n", "no weight for eel"),
        ("class,weight\ncat,1\ndog,0\neel,4\n", "row 3 is no class with a weight above 0: dog,0"),
        ("class,weight\ncat,1\ncats,1\neel,4\n", "there is no class 'cats'. Did you mean cat"),
        ("class,weight\ncat,1\ncat,1\n", "cat has two weights"),
        ("", "its first line is not class,weight"),
    ],
)
def test_a_file_without_one_weight_for_each_class_is_refused(tmp_path, text, message):
    file = tmp_path / "weights.csv"
    file.write_text(text)
    with pytest.raises(BadRequest, match=r"--class-weights .*weights\.csv: ") as error:
        class_weights(str(file), TARGETS, NAMES)
    assert message in str(error.value)


def test_classes_differ_much_from_twice_as_many_images_on():
    assert differ_much(np.array([0, 0, 1])) and not differ_much(np.array([0, 0, 0, 1, 1]))
    assert not differ_much(np.array([5, 5, 5]))  # classes without images do not count
