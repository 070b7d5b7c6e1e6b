"""bf16 trains as well as fp32, within the noise of three seeds."""

import json
import statistics

LINE = "--dataset digits --model resnet20 --lr 0.05 --epochs 3 --batch-size 64 --overwrite"


def test_bf16_reaches_the_accuracy_of_fp32_over_three_seeds(learns, workdir):
    differences = []
    for seed in range(3):
        scores = {}
        for precision in ("fp32", "bf16"):
            learns(f"{LINE} --seed {seed} --precision {precision} --run-name {precision}")
            scores[precision] = json.loads((workdir / f"runs/{precision}/summary.json").read_text())["top1"]
        assert min(scores.values()) > 0.7, scores  # chance is 0.1
        differences.append(scores["bf16"] - scores["fp32"])
    noise = statistics.stdev(differences) / 3**0.5
    assert abs(statistics.mean(differences)) <= max(3 * noise, 0.02), differences
