"""An smp training loop, the same with another head, and then names that were never labelled.

``python docs/examples/swap_head.py`` runs as it is in a clone after ``pip install -e ".[demo]"``: two minutes on two
CPU cores, offline. The scenes are those of the demo: training shows 48 kinds of figures, validation 16 others, too.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

import mtaclip_plugin as mta
from trainers.data.kinds import UNSEEN, KindsDataset
from trainers.models import load_packaged_weights
from trainers.text.text_bank import load_text_bank

BATCH, SIZE = 8, 96
TEXT = Path(__file__).parents[2] / "trainers" / "data" / "kinds_text.safetensors"


def batches(dataset: KindsDataset, names: Sequence[str], colours: mta.Preprocessing) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, H, W) and labels (B, H, W): the place of a name in the list, 255 for all others."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (colours.mean, colours.std))
    ids = torch.tensor([names.index(name) if name in names else 255 for name in dataset.class_names] + [255] * 200)
    for start in range(0, len(dataset), BATCH):
        samples = [dataset[index] for index in range(start, min(start + BATCH, len(dataset)))]
        images = torch.stack([sample.image / 255 for sample in samples])
        yield (images - mean) / std, ids[torch.stack([sample.label for sample in samples])]


def train(model: nn.Module, names: Sequence[str], steps: int, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
    """An ordinary training loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    scenes = KindsDataset("train", size=SIZE, length=steps * BATCH)
    for step, (images, labels) in enumerate(batches(scenes, names, mta.preprocessing(model))):
        loss = loss_of(images, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step}: loss {loss.item():.2f}", flush=True)


@torch.no_grad()
def iou(model: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """IoU in % of each name that the validation scenes show."""
    model.eval()
    counts = torch.zeros(3, len(names))
    for images, labels in batches(KindsDataset("val", size=SIZE, length=40), names, mta.preprocessing(model)):
        kind = {"mode": "multiclass", "ignore_index": 255, "num_classes": len(names)}
        hit, wrong, missed, _ = smp.metrics.get_stats(model(images).argmax(1), labels, **kind)
        counts += torch.stack([each.sum(0) for each in (hit, wrong, missed)])
    shown = (counts[0] + counts[2]) > 0
    scores = 100 * counts[0] / counts.sum(0)
    return {name: scores[index].item() for index, name in enumerate(names) if shown[index]}


def average(scores: dict[str, float], of: Sequence[str]) -> float:
    """Mean over some of the names."""
    values = [score for name, score in scores.items() if name in of]
    return sum(values) / len(values)


def main() -> None:
    """Trains both heads, then asks for what neither was shown."""
    parser = ArgumentParser(description="Trains smp's FPN, then the mask-text head, and asks it for other names.")
    parser.add_argument("--steps", type=int, default=300, help="Steps of each training.")
    steps = parser.parse_args().steps

    every = KindsDataset("val", length=1).class_names
    text = load_text_bank(TEXT, every)  # (65, 384); of your own names: python -m trainers.text.text_bank
    names = [name for name in every if name not in UNSEEN]
    encoder = {"encoder_name": "tu-tf_efficientnet_lite0", "encoder_weights": None, "classes": len(names)}

    print("smp's FPN:")
    torch.manual_seed(0)
    fpn = smp.create_model("fpn", **encoder)
    load_packaged_weights(fpn)
    cross_entropy, dice = nn.CrossEntropyLoss(ignore_index=255), smp.losses.DiceLoss("multiclass", ignore_index=255)
    train(fpn, names, steps, lambda images, labels: cross_entropy(x := fpn(images), labels) + dice(x, labels))
    print(f"  mean IoU of the 49 classes: {average(iou(fpn, names), names):.1f} %")

    print("the mask-text head:")
    torch.manual_seed(0)
    head = smp.create_model(
        "mtaclip",
        **encoder,
        class_names=names,
        text_encoder="bank",
        text_embeddings=text[[every.index(name) for name in names]],
        center_text=True,
        classification="text",
        text_masks=1.0,
        pixel_scores=1.0,
        pixel_decoder="semantic_fpn",
        num_queries=30,
        decoder_channels=128,
        decoder_layers=3,
        decoder_ffn=512,
    )
    load_packaged_weights(head)
    criterion = mta.MTACLIPLoss(num_points=784, text_mask_weight=1.0, pixel_weight=10.0)
    train(head, names, steps, lambda images, labels: criterion(head(images, return_masks=True), labels))
    print(f"  mean IoU of the 49 classes: {average(iou(head, names), names):.1f} %")

    print("the same with 16 names more, which no label ever had:")
    head.set_text_embeddings(text, every)
    scores = iou(head, every)
    print(f"  mean IoU of the 49 classes: {average(scores, names):.1f} %, of the 16: {average(scores, UNSEEN):.1f} %")
    for name in UNSEEN[:3]:
        print(f"  {name}: {scores[name]:.1f} %")


if __name__ == "__main__":
    main()
