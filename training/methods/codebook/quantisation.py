"""Vector quantisation: which codevector a position takes, and how the codebook follows.

Notation as in scores.py. All features and codevectors are unit vectors; `assigned` holds indices
c * M + m. VQ-VAE: van den Oord et al. 2017 (appendix A.1 for the moving averages); balanced
assignment by Sinkhorn's scaling as in GMMSeg (Liang et al. 2022), after Caron et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed


def own_codes(similarity: Tensor, labels: Tensor) -> Tensor:
    """Index of the nearest codevector of the position's own class: argmax_m s[y, m].

    similarity: [P, C, M]; labels: int64 [P] in 0..C-1 -> int64 [P] of c * M + m.
    """
    codes = similarity.shape[2]
    own = similarity[torch.arange(len(labels), device=labels.device), labels]
    return labels * codes + own.argmax(dim=1)


def balanced_codes(
    similarity: Tensor, labels: Tensor, epsilon: float = 0.05, iterations: int = 3
) -> Tensor:
    """As `own_codes`, but the positions of each class spread evenly over its codevectors.

    Q = exp(s / epsilon) is scaled in turn to rows of 1 / M (codevectors) and columns of 1 / n
    (positions), `iterations` times; a position takes the codevector of its largest entry.
    """
    codes = similarity.shape[2]
    assigned = torch.zeros_like(labels)
    for label in labels.unique():
        where = labels == label
        own = similarity[where, label]  # [n, M]
        # The largest is taken off against overflow; it cancels in the scaling.
        plan = ((own - own.max()) / epsilon).double().exp()
        for _ in range(iterations):
            plan = plan / plan.sum(dim=0, keepdim=True).clamp(min=1e-30) / codes
            plan = plan / plan.sum(dim=1, keepdim=True).clamp(min=1e-30) / len(own)
        assigned[where] = label * codes + plan.argmax(dim=1)
    return assigned


def straight_through(features: Tensor, codebook: Tensor, assigned: Tensor) -> Tensor:
    """z_q = z + sg(e - z): the codevector going forward, the identity going back.

    features: [P, D]; codebook: [C, M, D]; assigned: [P] -> [P, D].
    """
    return features + (codebook.flatten(0, 1)[assigned] - features).detach()


def commitment(features: Tensor, codebook: Tensor, assigned: Tensor) -> Tensor:
    """Mean |z - sg(e)|^2 = 2 - 2 <z, e> over positions [P, D]; 0 where there are none."""
    if not len(features):
        return features.sum() * 0.0
    chosen = codebook.flatten(0, 1)[assigned].detach()
    return (features - chosen).square().sum(dim=1).mean()


class MovingCodebook(nn.Module):
    """Moving averages of the features that each codevector stands for.

    counts: N[k], float32 [C * M]; sums: S[k], float32 [C * M, D]. With n positions of sum s in a
    step, N <- g N + (1 - g) n and S <- g S + (1 - g) s; the codevector is S / N' on the sphere,
    where N' = (N + a) / (sum N + K a) sum N is smoothed after Laplace. On several processes n and
    s are summed over all of them first, so that every process holds the same codebook.
    """

    def __init__(self, codebook: Tensor, decay: float = 0.99, smoothing: float = 1e-5) -> None:
        """Begin with `codebook` [C, M, D] as if each codevector had been used once."""
        super().__init__()
        self.decay = decay
        self.smoothing = smoothing
        flat = F.normalize(codebook.detach().flatten(0, 1).float(), dim=-1)
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer('counts', torch.ones(len(flat)))
        self.register_buffer('sums', flat.clone())

    @torch.no_grad()
    def update(self, features: Tensor, assigned: Tensor) -> Tensor:
        """Take in features [P, D] and their codevectors [P]; return the codebook [C * M, D]."""
        counts = torch.zeros_like(self.counts)
        counts.index_add_(0, assigned, torch.ones_like(assigned, dtype=counts.dtype))
        sums = torch.zeros_like(self.sums)
        sums.index_add_(0, assigned, features.detach().to(sums.dtype))
        self.counts.mul_(self.decay).add_(distributed.total(counts), alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(distributed.total(sums), alpha=1 - self.decay)
        return self.codebook()

    def codebook(self) -> Tensor:
        """The codevectors on the unit sphere, [C * M, D]."""
        total = self.counts.sum()
        smoothed = (self.counts + self.smoothing) / (total + len(self.counts) * self.smoothing)
        return F.normalize(self.sums / (smoothed * total)[:, None], dim=-1)

    @torch.no_grad()
    def restart(self, features: Tensor, labels: Tensor, codes: int, below: float = 1.0) -> int:
        """Move codevectors with N < `below` onto random features of their class; return how many.

        features: [P, D]; labels: [P]; codes: M. Classes without positions keep theirs.
        """
        moved = 0
        for index in (self.counts < below).nonzero().flatten().tolist():
            own = features[labels == index // codes]
            if len(own):
                self.sums[index] = own[torch.randint(len(own), ())].to(self.sums.dtype)
                self.counts[index] = 1.0
                moved += 1
        distributed.from_first(self.sums)
        distributed.from_first(self.counts)
        return moved


class Decoder(nn.Module):
    """Three convolutions from quantised features back to the picture (and the labels).

    It makes the codebook a VQ-VAE: codevectors have to hold what the picture looked like. Not
    needed at run time, so the exported graph is without it.
    """

    def __init__(self, dimension: int, classes: int = 0, channels: int = 64) -> None:
        """`classes` > 0 adds an output for the label map."""
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Conv2d(dimension, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 3 + classes, 3, padding=1),
        )

    def forward(self, quantised: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, D, h, w] -> picture [B, 3, h, w], about 0..1; logits [B, classes, h, w] or None."""
        out = self.layers(quantised)
        return out[:, :3], out[:, 3:] if self.classes else None


def small_picture(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """What a decoder is to give: uint8 RGB [B, H, W, 3] -> float [B, 3, h, w] in 0..1."""
    return F.interpolate(pictures.permute(0, 3, 1, 2).float() / 255.0, tuple(size), mode='area')


def reconstruction(
    decoded: tuple[Tensor, Tensor | None], picture: Tensor, labels: Tensor, void: int
) -> Tensor:
    """Mean |x' - x| of the picture, plus the cross-entropy of the labels where they are decoded.

    picture: float [B, 3, h, w] in 0..1, at the size of the map; labels: int64 [B, h, w], everything
    from `void` down to the number of classes is ignored.
    """
    image, logits = decoded
    loss = (image - picture).abs().mean()
    if logits is None:
        return loss
    known = torch.where(labels < logits.shape[1], labels, void)
    if not (known < logits.shape[1]).any():
        return loss + logits.sum() * 0.0
    return loss + F.cross_entropy(logits, known, ignore_index=void)


def reconstruction_error(decoded: Tensor, picture: Tensor) -> Tensor:
    """Anomaly cue: mean over channels of |x' - x|, [B, 3, h, w] -> [B, h, w]."""
    return (decoded - picture).abs().mean(dim=1)
