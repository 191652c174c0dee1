"""GPUs that programs are compiled for, and predicted on, with none at hand.

Figures are NVIDIA's: peaks of dense products with float32 sums (data sheets print those with sparsity, twice as
many), boost clocks, bytes of the whole device.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from jax.experimental import topologies

from cffm_jax.errors import InputError

ProductType = Literal["float32", "tf32", "bfloat16"]

MEASURABLE = {"bandwidth": 0.9, "products": 0.8, "elementwise": 0.9}
"""Share of a published peak that good kernels reach: an assumption, the same for all targets."""
LAUNCH_SECONDS = 2.5e-6
"""Least time from one kernel's start to the next one's: an assumption, too."""
COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False}
"""For want of a device nothing is tuned, and Triton's untuned tiles do not fit all products (openxla/xla 36792)."""

_GIB = 2**30
_RESERVED = 1024
"""Bytes of a block's shared memory that the driver keeps."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A GPU.

    Attributes:
      name: of the option ``--target``.
      title: NVIDIA's name.
      source: the data sheet.
      capability: compute capability, (major, minor).
      bandwidth: of its memory, bytes/s.
      float32: operations/s of float32 without tensor cores, a multiplication and an addition being two.
      tf32: of products of float32 in TF32, dense.
      bfloat16: of products of bfloat16 with sums in float32, dense.
      memory: bytes.
      l2: bytes of its second cache.
      cores: multiprocessors.
      lanes: float32 lanes of a multiprocessor.
      clock: boost, GHz.
      threads: of a multiprocessor at most.
      shared: bytes of shared memory of a multiprocessor.
    """

    name: str
    title: str
    source: str
    capability: tuple[int, int]
    bandwidth: float
    float32: float
    tf32: float
    bfloat16: float
    memory: int
    l2: int
    cores: int
    lanes: int
    clock: float
    threads: int
    shared: int

    def product_peak(self, kind: ProductType) -> float:
        """Operations/s of products that can be measured."""
        return MEASURABLE["products" if kind != "float32" else "elementwise"] * getattr(self, kind)

    @property
    def elementwise_peak(self) -> float:
        """Operations/s of elementwise work that can be measured; fused multiply-adds, which count twice, are rare."""
        return MEASURABLE["elementwise"] * self.float32

    @property
    def bandwidth_peak(self) -> float:
        """Bytes/s that can be measured."""
        return MEASURABLE["bandwidth"] * self.bandwidth

    @property
    def config(self) -> str:
        """The device as XLA's compiler is told of it. Without versions it makes no CUDA graphs."""
        major, minor = self.capability
        features = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
gpu_device_info {{
  name: "{self.title}"  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor}{features} }}
  driver_version: "13.0.0"  runtime_version: "12.9.0"  compile_time_toolkit_version: "12.9.0"  dnn_version: "9.10.0"
  core_count: {self.cores}  fpus_per_core: {self.lanes}  clock_rate_ghz: {self.clock}
  memory_bandwidth: {self.bandwidth:.0f}  l2_cache_size: {self.l2}  device_memory_size: {self.memory}
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: {self.threads}
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared - _RESERVED}  shared_memory_per_core: {self.shared}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{self.title}"
"""


_HOPPER = dict(
    capability=(9, 0), float32=67e12, tf32=494.7e12, bfloat16=989.4e12,
    l2=50 * 2**20, cores=132, lanes=128, clock=1.98, threads=2048, shared=228 * 1024,
)  # fmt: skip
_ADA = dict(capability=(8, 9), lanes=128, threads=1536, shared=100 * 1024)
TARGETS = {
    target.name: target
    for target in (
        Target("h200", "NVIDIA H200", "H200 Tensor Core GPU data sheet, SXM", bandwidth=4.8e12,
               memory=141 * _GIB, **_HOPPER),
        Target("h100", "NVIDIA H100 80GB HBM3", "H100 Tensor Core GPU data sheet, SXM", bandwidth=3.35e12,
               memory=80 * _GIB, **_HOPPER),
        Target("a100", "NVIDIA A100-SXM4-80GB", "A100 Tensor Core GPU data sheet, 80GB SXM", (8, 0), 2.039e12,
               float32=19.5e12, tf32=156e12, bfloat16=312e12, memory=80 * _GIB, l2=40 * 2**20,
               cores=108, lanes=64, clock=1.41, threads=2048, shared=164 * 1024),
        Target("l4", "NVIDIA L4", "L4 Tensor Core GPU data sheet", bandwidth=300e9,
               float32=30.3e12, tf32=60e12, bfloat16=121e12, memory=24 * _GIB, l2=48 * 2**20,
               cores=58, clock=2.04, **_ADA),
        Target("rtx4090", "NVIDIA GeForce RTX 4090", "Ada GPU architecture whitepaper", bandwidth=1.008e12,
               float32=82.6e12, tf32=82.6e12, bfloat16=165.2e12, memory=24 * _GIB, l2=72 * 2**20,
               cores=128, clock=2.52, **_ADA),
    )
}  # fmt: skip
"""By name."""


def topology(target: Target, devices: int = 1) -> topologies.TopologyDescription:
    """So many devices, to lower and compile programs for.

    Raises:
      InputError: JAX's plugin for CUDA is not there.
    """
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=target.config, topology=f"1x1x{devices}")
    except NotImplementedError as error:
        remedy = "run `make install-cuda-compile`, or put a folder that holds it on PYTHONPATH"
        raise InputError("jax-cuda12-pjrt", "JAX finds no compiler for CUDA", remedy) from error
