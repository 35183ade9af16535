"""The GPU kernels of ``rendering.fused_cuda``, in Triton: no compiler but the driver's is needed.

Each follows the image model of ``rendering.base`` and the structure of the CPU engine
(``rendering/native/src``); Triton's interpreter runs them on the CPU, which is how they are
tested where there is no GPU.
"""
