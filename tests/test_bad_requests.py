"""A bad request ends with one line and exit status 2, and writes no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

FLAGS = [
    ("--model resnet181", "unknown model 'resnet181'. Did you mean resnet18"),
    ("--model vgg", "--list-models shows all"),
    ("--model timm/resnet18x", "timm has no model 'resnet18x'. Did you mean"),
    ("--model keras/resnet", "a prefix is timm/ or torchvision/"),
    ("--model mobilenet_v3_small_075", "unknown model"),
    ("--dataset cifar11 --datapath .", "unknown data set 'cifar11'. Did you mean cifar10"),
    ("--optimizer adamv", "--optimizer adamv: unknown. Did you mean"),
    ("--modle resnet18", "unknown flag --modle. Did you mean --model"),
    ("--batchsize 3", "Did you mean --batch-size"),
    ("resnet18", "'resnet18' belongs to no flag"),
    ("--epochs", "--epochs: expected one argument"),
    ("--lr 0", "--lr: '0' is not a number above 0"),
    ("--lr nan", "--lr: 'nan'"),
    ("--lr inf", "--lr: 'inf'"),
    ("--lr fast", "--lr: 'fast'"),
    ("--epochs 0", "--epochs: '0' is not a whole number from 1"),
    ("--epochs 1.5", "--epochs: '1.5'"),
    ("--batch_size 0", "--batch-size: '0'"),
    ("--val-fraction 1", "--val-fraction: '1' is not a number from 0 to below 1"),
    ("--val_fraction -0.1", "--val-fraction"),
    ("--train-fraction 0", "--train-fraction: '0' is not a number above 0 to 1"),
    ("--mix-prob 1.1 --augmentation cutmix", "--mix-prob: '1.1'"),
    ("--label-smoothing 1", "--label-smoothing"),
    ("--ema 1", "--ema"),
    ("--weight-decay -1", "--weight-decay"),
    ("--in-chans 2", "--in-chans: '2' is neither 1 nor 3"),
    ("--augmentation cutout", "--augmentation: 'cutout' is none of none, cutmix, mixup, cutmix+mixup"),
    ("--loss MSE", "--loss: 'MSE' is none of CE, BCE"),
    ("--milestones 30,20 --schedule multistep", "is not a list of growing epochs"),
    ("--run-name ../elsewhere", "is not a name for a folder"),
    ("--run-name /tmp/elsewhere", "is not a name for a folder"),
    ("--device tpu", "--device tpu: is none of cpu, cuda, cuda:N, mps"),
    ("--precision fp16 --device cpu", "--precision fp16 needs a CUDA GPU"),
    ("--batch-size some", "--batch-size"),
    ("--batch-size auto --recipe deit", "--batch-size auto: the learning rate of --recipe deit follows"),
    ("--lr-base-size 256 --recipe rsb-a2", "--lr-base-size: the learning rate of --recipe rsb-a2 follows"),
    (
        "--lr-base-size 4096 --lr 0.1 --min-lr 0.01 --dataset digits",
        "--min-lr 0.01: must not be above the peak, 0.003125",
    ),
    ("--val-fold 6/5", "--val-fold: '6/5' is no fold such as 1/5"),
    ("--keep best", "--keep: 'best' is neither best:N, such as best:3, nor every:N"),
    ("--class-weights missing.csv", "--class-weights missing.csv: no such file"),
    ("--class-weights balanced --sampler balanced", "make up for the same imbalance"),
    ("--average-last 2 --early-stopping 1", "--early-stopping may not reach"),
    ("--repeated-aug 9 --batch-size 16", "--repeated-aug 9: a batch needs two different images; --batch-size is 16"),
    ("--schedule wsd --decay-epochs 9 --epochs 5", "--decay-epochs 9: must fit into --epochs 5"),
    ("--average-last 6 --epochs 5", "--average-last 6: training has --epochs 5"),
    ("--mixup-off-epoch 5 --epochs 5 --augmentation mixup", "--mixup-off-epoch 5 has no effect: training ends"),
    ("--train-size 8 --dataset digits", "--train-size 8 has no effect: it is the size of --img-size"),
    ("--eval-crop 0.9 --dataset digits", "--eval-crop has no effect: these images are evaluated whole"),
    ("--grad-checkpointing --model resnet9 --dataset digits", "--grad-checkpointing: resnet9 does not say"),
    # no effect
    ("--extend", "--extend has no effect: it needs --resume"),
    ("--val-fold 1/5 --val-fraction 0.1", "--val-fraction has no effect: --val-fold says which images are held out"),
    ("--val-fold 1/5 --select-by f1", "--select-by has no effect: no validation images select an epoch"),
    ("--decay-epochs 3", "--decay-epochs has no effect: it needs --schedule wsd"),
    ("--clip-mode value", "--clip-mode has no effect: it needs --clip-grad"),
    ("--auto-augment-ops 3 --auto-augment trivialaugment", "--auto-augment-ops has no effect"),
    ("--step-size 3", "--step-size has no effect: it needs --schedule step"),
    ("--gamma 0.5 --schedule cosine", "--gamma has no effect"),
    ("--milestones 3,4", "--milestones has no effect"),
    ("--min-lr 0.01 --schedule constant", "--min-lr has no effect"),
    ("--cutmix-alpha 1", "--cutmix-alpha has no effect: it needs --augmentation cutmix"),
    ("--cutmix-alpha 1 --augmentation mixup", "--cutmix-alpha has no effect"),
    ("--mixup-alpha 1 --augmentation cutmix", "--mixup-alpha has no effect"),
    ("--mix-prob 0.5", "--mix-prob has no effect"),
    ("--bce-target-threshold 0.2 --augmentation cutmix", "--bce-target-threshold has no effect: it needs --loss BCE"),
    ("--bce-target-threshold 0.2 --loss BCE", "--bce-target-threshold has no effect: without mixed images"),
    ("--momentum 0.9 --optimizer adamw", "--momentum has no effect"),
    ("--nesterov --optimizer adam", "--nesterov has no effect"),
    ("--crop-padding 2 --crop none", "--crop-padding has no effect"),
    ("--decay-all --weight-decay 0", "--decay-all has no effect"),
    (
        "--model timm/resnet18 --stem cifar",
        "--stem has no effect: it belongs to models of this suite; --model-arg reaches",
    ),
    ("--datapath . --dataset digits", "--datapath has no effect with --dataset digits"),
    ("--num-workers 2", "--num-workers has no effect: digits is no set of image files"),
    ("--evaluate x.pth --epochs 3", "--epochs has no effect with --evaluate"),
    ("--predict x.pth y.png --lr 1", "--lr has no effect with --predict"),
    ("--list-models --seed 1", "--seed has no effect with --list-models"),
    ("--model resnet20 --stem cifar", "--stem has no effect: resnet20 has no such argument; it belongs to"),
    ("--model resnet18 --se", "--se has no effect: resnet18 has no such argument; it belongs to mobilenet_v2"),
    ("--model mobilenet_v2 --patch-size 4", "--patch-size has no effect: mobilenet_v2 has no such argument"),
    ("--head-lr 0.1 --freeze backbone", "--head-lr has no effect"),
    ("--layer-decay 0.7 --freeze backbone", "--layer-decay has no effect"),
    ("--select-by map --val-fraction 0", "--select-by has no effect"),
    ("--evaluate x.pth --dropout 0.1", "x.pth: no such checkpoint file"),
    ("--list-models --model-arg a=1", "--model-arg has no effect with --list-models"),
    ("--summary --epochs 3", "--epochs has no effect with --summary"),
    ("--summary --list-models", "cannot be done at once"),
    # arguments of architectures
    ("--model mobilenet_v2 --activation sigmoid", "--activation: 'sigmoid' is none of relu, relu6"),
    ("--model mobilenet_v2 --expand-ratio 0", "--expand-ratio: '0' is not a whole number from 1"),
    ("--model mobilenet_v2 --width-mult 0", "--width-mult: '0' is not a number above 0"),
    ("--model mobilenet_v2 --dropout 1", "--dropout: '1' is not a number from 0 to below 1"),
    ("--model mobilenet_v2 --kernel-size 4", "odd"),
    ("--model resnet18 --model-arg stem", "--model-arg: 'stem' is not of the form name=value"),
    (
        "--model resnet18 --model-arg wings=2",
        "--model-arg wings: resnet18 has no such argument; it takes stem, depths",
    ),
    ("--model resnet20 --model-arg stem=cifar", "--model-arg stem: resnet20 has no such argument; it takes shortcut"),
    ("--model resnet18 --model-arg stem=tiny", "--model-arg stem: 'tiny' is none of auto, cifar, imagenet"),
    ("--model mobilenet_v2 --model-arg se=maybe", "--model-arg se: 'maybe' is neither true nor false"),
    ("--model mobilenet_v2 --se --model-arg se=true", "--model-arg se: given twice"),
    ("--model timm/resnet10t --model-arg pretrained=True", "--model-arg pretrained: cannot be set"),
    ("--model timm/resnet10t --model-arg name=foo", "--model-arg name: cannot be set"),
    ("--model torchvision/resnet18 --model-arg weights=foo", "--model-arg weights: cannot be set"),
    ("--model torchvision/googlenet --model-arg aux_logits=True", "--model-arg aux_logits: cannot be set"),
    ("--model torchvision/resnet18 --model-arg norm_layer=foo", "torchvision/resnet18 cannot be built"),
    ("--model resnet18 --widths=-8,8,8,8", "--widths"),
    ("--model resnet18 --widths a,b,c,d", "--widths: 'a,b,c,d' is no list of whole numbers from 1"),
    ("--model resnet18 --depths 0,1,1,1", "--depths: '0,1,1,1' is no list of whole numbers from 1"),
    ("--model resnet18 --depths 1,1", "both need a number from 1 for each stage"),
    ("--model mobilevit_xxs --dims 32,64", "dims has 2 numbers, a MobileViT takes 3"),
    ("--model mobilevit_xxs --tokens pixel --dims 30,64,80", "4 heads cannot share a width of 30 evenly"),
    ("--model resnet18 --model-arg num_classes=3", "--model-arg num_classes: the data set"),
    ("--model timm/resnet10t --model-arg wings=2", "timm/resnet10t cannot be built"),
    ("--model vit_tiny --img-size 30 --patch-size 4", "patch"),
    ("--model vit_tiny --embed-dim 100", "100"),
    ("--pretrained --model vit_tiny", "no published weights for vit_tiny"),
    ("--freeze head", "--freeze: 'head' is none of none, backbone"),
    ("--layer-decay 1.5", "--layer-decay: '1.5'"),
    ("--normalization 0.5", "--normalization: '0.5' is none of dataset, imagenet, half, pretrained"),
    ("--normalization pretrained", "--normalization has no effect: pretrained needs --pretrained"),
    ("--evaluate=", "--evaluate: is empty"),
    ("--weights=", "--weights: is empty"),
    ("--model=", "--model: is empty"),
    ("--summary --dataset nosuch", "unknown data set 'nosuch'"),
    ("--summary --dataset digits --datapath .", "--datapath has no effect with --dataset digits"),
    ("--summary --dataset cifar10 --datapath nowhere", "--datapath nowhere: no such folder"),
    ("--list-models timm/resnet10* --img-size 32", "--img-size has no effect"),
    # distillation
    ("--teacher resnet18x", "--teacher: unknown model 'resnet18x'. Did you mean resnet18"),
    ("--teacher resnet20", "--teacher resnet20: there are no published weights for it; --teacher-epochs"),
    ("--teacher resnet18", "ImageNet has no class 0, 1"),
    ("--teacher resnet18 --teacher-weights nowhere.pth", "--teacher-weights nowhere.pth: no such file"),
    ("--teacher-weights x.pth", "--teacher-weights has no effect: it needs --teacher"),
    ("--distill soft", "--distill has no effect: it needs --teacher"),
    ("--distill-alpha 0.1", "--distill-alpha has no effect: it needs --teacher"),
    ("--teacher resnet18 --distill-temp 2", "--distill-temp has no effect: it needs --distill soft"),
    # contradictions
    ("--warmup-epochs 5 --epochs 5", "--warmup-epochs 5: must be shorter than the training (--epochs 5)"),
    ("--schedule step --step-size 9 --epochs 9", "--step-size 9 has no effect"),
    ("--schedule multistep --milestones 3,9 --epochs 9", "--milestones 9 has no effect"),
    ("--min-lr 0.2 --lr 0.1", "--min-lr 0.2: must not be above --lr 0.1"),
    ("--nesterov --momentum 0", "--nesterov contradicts --momentum 0"),
    ("--pretrained --weights w.pth", "--pretrained and --weights contradict each other"),
    ("--pretrained --model resnet20", "no published weights for resnet20"),
    ("--pretrained --stem cifar", "fit --stem imagenet only"),
    ("--device cpu --gpu 0", "--device and --gpu contradict each other"),
    ("--resume --overwrite --run-name a", "--resume and --overwrite contradict each other"),
    ("--resume --run-name a", "--resume: there is no run in runs/a"),
    ("--momentum 0.9 --optimizer lamb", "--momentum has no effect: lamb has no momentum to set"),
    ("--optimizer adahessian", "--optimizer adahessian: it needs second-order gradients"),
    ("--optimizer bnbadam --epochs 1", "--optimizer bnbadam: it needs the package bitsandbytes"),
    ("--device cuda:01", "is none of cpu, cuda, cuda:N, mps"),
    ("--evaluate nowhere.pth --list-models", "--evaluate and --list-models cannot be done at once"),
    ("--batch-size 1", "batches of one image are too small"),
    (f"--run-name {'a' * 300}", "is not a name for a folder"),
    ("--resume", "--resume: there is no run in runs/digits-resnet18-seed0, the name that these flags give it"),
    ("--evaluate a.pth --predict a.pth b.png", "cannot be done at once"),
    ("--list-models nosuchmodel", "no model matches"),
    # files
    ("--weights nowhere.pth", "--weights nowhere.pth: no such file"),
    ("--evaluate nowhere.pth", "nowhere.pth: no such checkpoint file"),
    ("--predict nowhere.pth", "which images?"),
    ("--dataset cifar10", "--dataset cifar10 needs --datapath"),
    ("--datapath nowhere", "--datapath nowhere: no such folder"),
    ("--dataset folder --datapath nowhere", "--datapath nowhere: no such folder"),
    ("--dataset folder", "--dataset folder needs --datapath"),
    ("--dataset folder --datapath . --download", "--download has no effect"),
    ("--model vgg11 --img-size 16", "16 px is too small, use --img-size 32"),
    ("--model torchvision/vit_b_32 --img-size 40", "cannot be built for 40 px images"),
]


def contents(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def assert_refused(result, needle: str, workdir: Path, before: list[str]) -> None:
    assert result.status == 2, result.out + result.err
    assert needle in result.err
    assert len(result.err.splitlines()) == 1 and result.err.startswith("main.py: error: ")
    assert contents(workdir) == before


@pytest.mark.parametrize(("flags", "needle"), FLAGS)
def test_bad_flags(cli, workdir, flags, needle):
    assert_refused(cli(flags), needle, workdir, [])


def test_no_flags_at_all(workdir, monkeypatch, capsys):
    import main
    from settings import terminal

    monkeypatch.setattr("sys.argv", ["main.py"])
    assert terminal.run_script(main.main) == 2
    assert "--help" in capsys.readouterr().err


def break_data(root: Path, how: str) -> None:
    if how == "no train":
        (root / "train").rename(root / "images")
    elif how == "no classes":
        (root / "train").rename(root / "old")
        (root / "train").mkdir()
    elif how == "empty class":
        for file in (root / "train/class1").iterdir():
            file.unlink()
    elif how == "unknown class in val":
        (root / "val/class9").mkdir(parents=True)
        (root / "train/class0/0.png").rename(root / "val/class9/0.png")
    elif how == "corrupt":
        file = root / "train/class2/5.png"
        file.write_bytes(file.read_bytes()[:100])
    elif how == "one image":
        for file in sorted((root / "train/class1").iterdir())[1:]:
            file.unlink()


@pytest.mark.parametrize(
    ("how", "needle"),
    [
        ("no train", "has no folder train/"),
        ("no classes", "train: has no class folders"),
        ("empty class", "train/class1: a class folder without images"),
        ("unknown class in val", "val: has classes that train/ lacks: class9"),
        ("corrupt", "train/class2/5.png: cannot be read as an image"),
        ("one image", "too few training images"),
    ],
)
def test_bad_image_folders(cli, workdir, image_folder, how, needle):
    root = image_folder(side=32)
    break_data(root, how)
    result = cli(f"--dataset folder --datapath {root} --model resnet20 --epochs 1")
    assert_refused(result, needle, workdir, [])


def test_a_val_fraction_beside_a_validation_split_is_refused(cli, workdir, image_folder):
    root = image_folder(parts={"train": 3, "val": 2, "test": 2})
    result = cli(f"--dataset folder --datapath {root} --val-fraction 0.2")
    assert_refused(result, "--val-fraction has no effect", workdir, [])


@pytest.mark.slow
def test_changed_cifar_files_are_refused_unless_checksums_are_off(cli, workdir, cifar100_folder):
    file = cifar100_folder / "cifar-100-python/test"
    file.write_bytes(file.read_bytes() + b" ")
    line = f"--datapath {cifar100_folder} --model resnet20 --epochs 1 --batch-size 8"
    assert_refused(cli(line), "--no-verify-checksum", workdir, [])
    assert cli(line, "--no-verify-checksum").status == 0


@pytest.fixture
def trained(cli, workdir) -> Path:
    line = "--dataset digits --model resnet20 --batch-size 64 --train-fraction 0.1 --epochs 1 --run-name a"
    assert cli(line).status == 0
    return workdir / "runs/a"


def test_bad_checkpoints(cli, workdir, trained):
    good = (trained / "best.pth").read_bytes()
    content = torch.load(trained / "best.pth", weights_only=True)
    cases = {
        "truncated.pth": good[: len(good) // 2],
        "empty.pth": b"",
        "text.pth": b"not a checkpoint",
    }
    for name, data in cases.items():
        (workdir / name).write_bytes(data)
    torch.save([1, 2], workdir / "list.pth")
    torch.save(content["model"], workdir / "weights.pth")
    other = {**content, "settings": {**content["settings"], "model": "resnet56"}}
    torch.save(other, workdir / "other.pth")
    torch.save({**content, "class_names": content["class_names"][:9]}, workdir / "classes.pth")
    before = contents(workdir)
    needles = {
        "truncated.pth": "damaged, or not a checkpoint",
        "empty.pth": "damaged, or not a checkpoint",
        "text.pth": "damaged, or not a checkpoint",
        "list.pth": "holds a list, not a dict",
        "weights.pth": "not a checkpoint of this suite",
        "other.pth": "its weights are not those of a resnet56",
        "classes.pth": "its weights are not those of",
    }
    for name, needle in needles.items():
        assert_refused(cli(f"--evaluate {name}"), needle, workdir, before)
    for name in ("truncated.pth", "empty.pth", "text.pth", "list.pth"):
        line = f"--dataset digits --model resnet20 --run-name new --weights {name}"
        assert_refused(cli(line), name, workdir, before)
    line = "--dataset digits --model resnet56 --run-name new --weights weights.pth"
    assert_refused(cli(line), "weights of another model; keys", workdir, before)
    assert_refused(cli("--evaluate runs/a/best.pth --model resnet18"), "is a checkpoint of resnet20", workdir, before)


def test_resuming_from_a_bad_checkpoint(cli, workdir, trained):
    (trained / "summary.json").unlink()
    good = (trained / "last.pth").read_bytes()
    content = torch.load(trained / "last.pth", weights_only=True)
    before = contents(workdir)
    (trained / "last.pth").write_bytes(good[:1000])
    assert_refused(cli("--resume --run-name a"), "last.pth: damaged", workdir, before)
    content["model"] = {key + "x": value for key, value in content["model"].items()}
    torch.save(content, trained / "last.pth")
    assert_refused(cli("--resume --run-name a"), "does not fit the settings of this run", workdir, before)
    (trained / "settings.json").write_text("{")
    assert_refused(cli("--resume --run-name a"), "settings.json: cannot be read as JSON", workdir, before)


@pytest.mark.parametrize("mode", ["--evaluate", "--predict"])
def test_a_pickle_that_would_run_code_is_not_run(cli, workdir, mode):
    class Payload:
        def __reduce__(self):
            return (os.system, (f"touch {workdir}/pwned",))

    torch.save({"model": Payload()}, workdir / "evil.pth")
    (workdir / "image.png").write_bytes(b"")
    before = contents(workdir)
    more = ["image.png"] if mode == "--predict" else []
    assert_refused(
        cli(f"{mode} evil.pth", *more), "evil.pth: not a checkpoint of tensors and plain values alone", workdir, before
    )


def test_unwritable_run_directories(cli, workdir):
    (workdir / "occupied").write_text("a file")
    before = contents(workdir)
    line = "--dataset digits --model resnet20 --epochs 1"
    assert_refused(cli(f"{line} --runs-dir occupied"), "occupied is a file", workdir, before)
    assert_refused(cli(f"{line} --runs-dir . --run-name occupied"), "is a file, not a run directory", workdir, before)
    assert_refused(cli(f"{line} --runs-dir /proc/self"), "cannot be written", workdir, before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(cli, workdir):
    (workdir / "locked").mkdir(mode=0o500)
    result = cli("--dataset digits --model resnet20 --epochs 1 --runs-dir locked")
    assert_refused(result, "locked is not writable", workdir, contents(workdir))


def test_overwrite_deletes_neither_what_the_run_reads_nor_another_run(cli, workdir, trained):
    before = contents(workdir)
    line = "--run-name a --overwrite"
    assert_refused(cli(f"--evaluate runs/a/best.pth {line}"), "which is needed", workdir, before)
    line = f"--dataset digits --model resnet20 {line}"
    assert_refused(cli(f"{line} --weights runs/a/best.pth"), "which is needed", workdir, before)
    trained.rename(workdir / "b")
    (workdir / "runs/a").mkdir()
    (workdir / "runs/a/settings.json").write_text("{}")
    (workdir / "b").rename(workdir / "runs/a/b")
    assert_refused(cli(line), "would delete the run runs/a/b too", workdir, contents(workdir))


def test_crop_padding_of_large_images(cli, workdir, image_folder):
    root = image_folder(side=80, parts={"train": 3, "test": 1})
    result = cli(f"--dataset folder --datapath {root} --crop-padding 4")
    assert_refused(result, "--crop-padding has no effect: large images get --crop resized", workdir, [])


def test_an_evaluation_is_not_resumed(cli, workdir, trained):
    line = "--evaluate runs/a/best.pth --run-name b"
    assert cli(line).status == 0
    again = cli(line)
    assert again.status == 2 and "--overwrite deletes it" in again.err and "--resume" not in again.err
    result = cli("--resume --run-name b")
    assert result.status == 2 and "holds an evaluation" in result.err
