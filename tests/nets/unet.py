"""U-Net: skips, transposed convolutions of two geometries, dense outputs at the size of the input."""

import torch
from torch import nn


class Double(nn.Sequential):
    def __init__(self, inputs, outputs):
        layers = []
        for channels in (inputs, outputs):
            norm = nn.BatchNorm2d(outputs)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inc, self.down1, self.down2 = Double(3, 16), Double(16, 32), Double(32, 48)
        self.pool = nn.MaxPool2d(2)
        self.up1, self.conv1 = nn.ConvTranspose2d(48, 32, 2, 2), Double(64, 32)
        self.up2, self.conv2 = nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), Double(32, 16)
        self.outc = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        a = self.inc(x)
        b = self.down1(self.pool(a))
        y = self.up1(self.down2(self.pool(b)))
        y = self.conv1(torch.cat([b, y], dim=1))
        return self.outc(self.conv2(torch.cat([a, self.up2(y)], dim=1)))


def build():
    torch.manual_seed(0)
    return UNet()


def example_inputs():
    return (torch.randn(1, 3, 24, 16, generator=torch.Generator().manual_seed(1)),)
