"""Metrics as functions of sums over images, so that thousands of resampled splits cost little more than one.

The values equal those of training/metrics.py.
"""

from __future__ import annotations

import numpy as np

ECE_BINS = 15  # of equal width, as in Guo et al., arXiv:1706.04599
MAP_LIMIT = 250_000  # largest images x classes for which resampled splits get a mean average precision


class ScoredSplit:
    """A model's predictions on the images of a split.

    Args:
        logits: float (N, K).
        targets: class indices (N,).
    """

    def __init__(self, logits: np.ndarray, targets: np.ndarray):
        from scipy import sparse, special

        n, self.num_classes = logits.shape
        self.targets = targets
        self.predictions = logits.argmax(1)
        self.right = self.predictions == targets
        self.probabilities = special.softmax(logits.astype(np.float32), axis=1)
        self.confidence = self.probabilities.max(1)
        rows = np.arange(n)
        self.has_top5 = self.num_classes > 5
        self.top5 = np.ones(n, dtype=bool)
        if self.has_top5:
            self.top5 = (np.argpartition(-logits, 5, axis=1)[:, :5] == targets[:, None]).any(1)
        self.loss = -special.log_softmax(logits.astype(np.float64), axis=1)[rows, targets]
        # A bin includes its lower edge; a confidence of exactly 1 has a bin of its own, as in torchmetrics.
        self.bins = np.minimum((self.confidence * ECE_BINS).astype(int), ECE_BINS)
        k, ones = self.num_classes, np.ones(n)
        blocks = [
            (ones, 0, 1), (self.right, 0, 1), (self.top5, 0, 1), (self.loss, 0, 1),
            (ones, targets, k), (ones, self.predictions, k), (self.right, targets, k),
            (self.confidence, self.bins, ECE_BINS + 1), (self.right, self.bins, ECE_BINS + 1),
        ]  # fmt: skip
        # (N, columns): all metrics except average precision are functions of this matrix's column sums.
        self.columns = sparse.hstack(
            [sparse.csr_matrix((values, (rows, np.broadcast_to(column, n))), (n, width))
             for values, column, width in blocks], format="csr"
        )  # fmt: skip
        self.edges = np.cumsum([width for _, _, width in blocks])[:-1]
        self._ranked: list[tuple[np.ndarray, ...]] | None = None

    def values(self, counts: np.ndarray | None = None, with_map: bool = True) -> dict[str, np.ndarray]:
        """Each metric of B resampled splits, (B,). NaN if it is not defined, such as top-5 of five classes.

        Args:
            counts: (B, N), how often each split contains each image. None: the split itself, B = 1.
            with_map: if False, "map" is NaN.
        """
        counts = np.ones((1, len(self.targets))) if counts is None else counts
        by_image = np.ascontiguousarray(counts.T)  # (N, B): gathering and summing rows is several times faster
        sums = np.asarray(self.columns.T @ by_image).T
        n, right, top5, loss, support, predicted, hits, confidence, right_in_bin = np.split(sums, self.edges, axis=1)
        n = n[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            present = np.where(support > 0, 1.0, np.nan)  # the means leave out classes without images
            recall = hits / support
            precision = np.where(predicted > 0, hits / predicted, 0.0) * present
            f1 = 2 * hits / (support + predicted) * present
        return {
            "top1": right[:, 0] / n,
            "top5": top5[:, 0] / n if self.has_top5 else np.full(len(n), np.nan),
            "loss": loss[:, 0] / n,
            "precision": np.nanmean(precision, axis=1),
            "recall": np.nanmean(recall, axis=1),
            "f1": np.nanmean(f1, axis=1),
            "map": self._mean_average_precision(by_image) if with_map else np.full(len(n), np.nan),
            "ece": np.abs(right_in_bin - confidence).sum(1) / n,
        }

    def _mean_average_precision(self, by_image: np.ndarray) -> np.ndarray:
        """(N, B) -> (B,): the sum over thresholds of (gain in recall) x precision. Equal scores are one threshold."""
        if self._ranked is None:
            self._ranked = [self._rank(label) for label in range(self.num_classes)]
        found = []
        for order, positives, ends, last_positive in self._ranked:
            if not len(positives):
                continue
            ranked = by_image[order]
            predicted = ranked.cumsum(0)[ends]
            weights = ranked[positives]
            hits = weights.cumsum(0)[last_positive]
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(weights > 0, weights * hits / predicted, 0).sum(0) / weights.sum(0))
        return np.nanmean(found, axis=0)

    def _rank(self, label: int) -> tuple[np.ndarray, ...]:
        """What the average precision of one class needs.

        Returns (images by falling score; ranks of the class's images, the positives; for each positive the last rank
        with its score; and the last positive up to that rank).
        """
        scores = self.probabilities[:, label]
        order = np.argsort(-scores, kind="stable")
        positives = np.flatnonzero(self.targets[order] == label)
        ends = np.searchsorted(-scores[order], -scores[order][positives], side="right") - 1
        return order, positives, ends, np.searchsorted(positives, ends, side="right") - 1

    def confusion(self) -> np.ndarray:
        """(K, K) counts of images: row = true class, column = predicted class."""
        k = self.num_classes
        return np.bincount(self.targets * k + self.predictions, minlength=k * k).reshape(k, k)

    def per_class(self) -> np.ndarray:
        """(K,): the accuracy of each class; NaN for a class without images."""
        confusion = self.confusion()
        with np.errstate(invalid="ignore"):
            return confusion.diagonal() / confusion.sum(1)
