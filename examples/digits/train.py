"""Train the digits network and save its state dict.

    python train.py [digits.pt]

Takes a few seconds on one CPU core. The seed and the thread count are fixed, so two runs on one machine give the
same weights, bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from evaluate import accuracy, digits
from model import build

EPOCHS = 20
BATCH = 64
PEAK_LR = 3e-3


def main(path: Path) -> None:
    """Train from scratch and write ``path``."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, test_images, labels, test_labels = digits()
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1:2d}: test accuracy {accuracy(model.eval(), test_images, test_labels):.4f}")
    torch.save(model.state_dict(), path)
    print(f"saved {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "digits.pt"))
