"""`nn.Linear` that reads its weights once for a few rows, on the CPU too.

Decoding is bound by reading weights. For 2 rows or more the CPU's matrix product first copies the weights into another order,
which costs two to three readings of them; cut into blocks of 16 outputs, it takes its path for small matrices and copies
nothing. For 1 row it copies nothing either, but reads with one thread, where blocks share themselves out among all. Measured for
64,000 x 1,024 in fp32, plain and in blocks: AVX2, 2 threads: 1 row 20 and 15 ms, 8 rows 90 and 29; AVX512: 8 rows 55 and 24.
Same numbers up to rounding.
"""

import torch
from torch import Tensor, nn

BLOCK = 16  # outputs of a block
FEW = range(1, 13)  # rows for which blocks are the fastest
SOME = range(13, 49)  # rows for which the transposed product is
LARGE = 2**18  # weights below this stay in the caches of a CPU, and plain products are as good


class Linear(nn.Linear):
    """y = x W^T. Only in inference, in float32, without a bias and on the CPU it is anything but nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        """float [..., in] -> float [..., out]."""
        weight_OI, rows = self.weight, x.shape[:-1].numel()
        apt = weight_OI.is_cpu and x.dtype == weight_OI.dtype == torch.float32 and self.bias is None and not torch.is_grad_enabled()
        if not apt or weight_OI.numel() < LARGE or self.out_features % BLOCK or not (rows in FEW or rows in SOME):
            return super().forward(x)
        x_RI = x.reshape(rows, self.in_features)
        if rows in SOME:
            return (weight_OI @ x_RI.T).T.contiguous().view(*x.shape[:-1], self.out_features)
        blocks = self.out_features // BLOCK
        parts = torch.bmm(x_RI.expand(blocks, -1, -1), weight_OI.view(blocks, BLOCK, -1).mT)  # [blocks, rows, BLOCK]
        return parts.transpose(0, 1).reshape(*x.shape[:-1], self.out_features)
