"""The registry of ops: one line each."""

from gridstone.ir.ops.attention import Attention
from gridstone.ir.ops.fft_conv import FftConv
from gridstone.ir.ops.gemm import Gemm
from gridstone.ir.ops.spmm import Spmm
from gridstone.ir.spec import Op

OPS: dict[str, type[Op]] = {"gemm": Gemm, "attention": Attention, "fft_conv": FftConv, "spmm": Spmm}
