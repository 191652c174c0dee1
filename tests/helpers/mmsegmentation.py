"""MMSegmentation's SegFormer: its names and its arithmetic, written here from their description. Needs torch."""

import torch

from cffm_jax.models.encoders.mit import HEADS, REDUCTIONS, SIZES


class Attention(torch.nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        if reduction > 1:
            self.sr = torch.nn.Conv2d(width, width, reduction, reduction)
            self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, x, h, w):
        memory = x
        if hasattr(self, "sr"):
            memory = self.sr(x.transpose(1, 2).unflatten(2, (h, w))).flatten(2).transpose(1, 2)
            memory = self.norm(memory)
        return self.attn(x, memory, memory, need_weights=False)[0]


class Block(torch.nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = torch.nn.LayerNorm(width, eps=1e-6)
        self.ffn = torch.nn.Module()
        self.ffn.layers = torch.nn.Sequential(
            torch.nn.Conv2d(width, 4 * width, 1),
            torch.nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width),
            torch.nn.GELU(),
            torch.nn.Identity(),
            torch.nn.Conv2d(4 * width, width, 1),
        )

    def forward(self, x, h, w):
        x = x + self.attn(self.norm1(x), h, w)
        y = self.ffn.layers(self.norm2(x).transpose(1, 2).unflatten(2, (h, w)))
        return x + y.flatten(2).transpose(1, 2)


class Embedding(torch.nn.Module):
    def __init__(self, before, width, kernel, stride):
        super().__init__()
        self.projection = torch.nn.Conv2d(before, width, kernel, stride, kernel // 2)
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        x = self.projection(x)
        return self.norm(x.flatten(2).transpose(1, 2)), *x.shape[2:]


class Encoder(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        widths = (3, *SIZES[size].channels)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(
                [
                    Embedding(widths[i], widths[i + 1], *((7, 4) if i == 0 else (3, 2))),
                    torch.nn.ModuleList(Block(widths[i + 1], HEADS[i], REDUCTIONS[i]) for _ in range(depth)),
                    torch.nn.LayerNorm(widths[i + 1], eps=1e-6),
                ]
            )
            for i, depth in enumerate(SIZES[size].depths)
        )

    def forward(self, x):
        found = []
        for embedding, blocks, norm in self.layers:
            x, h, w = embedding(x)
            for block in blocks:
                x = block(x, h, w)
            x = norm(x).transpose(1, 2).unflatten(2, (h, w))
            found.append(x)
        return found


class ConvModule(torch.nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(before, width, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Head(torch.nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.conv_seg = torch.nn.Conv2d(256, classes, 1)
        self.convs = torch.nn.ModuleList(ConvModule(channels, 256) for channels in SIZES[size].channels)
        self.fusion_conv = ConvModule(4 * 256, 256)

    def forward(self, found):
        size = found[0].shape[2:]
        enlarged = [
            torch.nn.functional.interpolate(conv(x), size=size, mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, found, strict=True)
        ]
        return self.conv_seg(self.fusion_conv(torch.cat(enlarged, dim=1)))


class Segmentor(torch.nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.backbone, self.decode_head = Encoder(size), Head(size, classes)

    def forward(self, x):
        return self.decode_head(self.backbone(x))
