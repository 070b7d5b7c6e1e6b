"""The section "How it was computed"."""

from __future__ import annotations

from comparison.document import Points, Section

METHODS = [
    "Seeds and images are two sources of doubt. Over seeds: the mean of n trainings and its 95 % Student t interval."
    " Over images: the test images are drawn anew 1,000 times, with replacement, the trained networks as they are; the"
    " 2.5 and 97.5 percentiles are the interval. mAP has none where there are many images and classes.",
    "Two models are compared by seed, because a seed fixes the validation images and the order of the training images:"
    " the mean difference, its t interval, and the t test of paired values. Where they have fewer than two seeds in"
    " common, Welch's t test is used.",
    "McNemar's exact test compares two trained networks on the same images. It knows nothing of other seeds.",
    "p-values are corrected for the number of pairs by Holm's method, for each metric and share of the data by itself.",
    "The number of seeds that would show a difference is that with which the paired t test, at 5 % divided by the"
    " number of pairs, shows it with a probability of 80 %; the spread is that of the seeds at hand, so with few of"
    " them it is a rough figure.",
]  # fmt: skip
OF_FOLDS = (
    "The trainings of a cross-validation share most of their images, so that a plain t test over folds finds"
    " differences that are not there. Over folds, intervals and p-values are those of the corrected resampled t test"
    " (Nadeau and Bengio 2003, Machine Learning 52): with K folds the variance of the mean is that of the folds times"
    " 1/K + (images of a fold) / (images trained on), this ratio at most 1/(K - 1), with K - 1 degrees of"
    " freedom. The folds are the same for every seed, so a fold's value is the mean over seeds, and more seeds add no"
    " degrees of freedom. A metric is the mean over folds; McNemar's test takes the predictions of all folds of a seed"
    " together."
)


def section(of_folds: bool) -> Section:
    """The statistics in words.

    Args:
        of_folds: whether the report has a cross-validation.
    """
    return Section("How it was computed", [Points([*METHODS, OF_FOLDS] if of_folds else METHODS)])
