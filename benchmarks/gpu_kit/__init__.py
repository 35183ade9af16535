"""One command that measures a GPU, on a machine that has little else.

::

    python3 -m benchmarks.gpu_kit --out RESULTS         # at most 8 minutes, on a CUDA device
    python3 -m benchmarks.gpu_kit --dry --out RESULTS   # the same code without one, to test it

From a checkout; nothing is installed. It needs Python 3.10, PyTorch with CUDA and its Triton,
numpy, OpenCV, rich, PyYAML, fsspec and aiohttp, and for the contract tests pytest and hypothesis.
With cmake, ninja, nanobind and a C++ compiler it builds the CPU engine, which pictures are
compared with and which levels of detail are made by; with gsplat and nvcc it measures gsplat.
What is missing is done without, and told. Wheels of what is missing may be carried along:
``--wheels FOLDER`` unpacks them into the kit's own temporary folder.

What it does, in the order of ``plan``: names the machine and measures what it does at best; draws
frames with the fused kernels at 1080p and 4K, compares pictures with the CPU engine's, draws the
same frames with gsplat; draws two eyes through levels of detail; runs the contract tests on the
device; draws while pages are uploaded, and with budgets below the scene's size; decodes neural
anchors; draws frames with each other variant of the kernels; records a trace.

Scenes, their levels, the CPU engine and gsplat's kernels are made before, by the CPU. What is
measured waits for them three minutes at most, and gsplat's turn comes later if its kernels do.

Every step runs in a process that is ended when its time is over, and failures cost only their own
step (``supervisor``). Results are on the disk after each row (``results``): ``gpu_kit.json`` with
everything, ``gpu_kit.md`` with the tables, ``gpu_kit.log`` with what processes printed,
``trace.json.gz`` for Perfetto, and pictures: at most eight files of less than 16 MiB.

A dry run draws a tiny town by Triton's interpreter. Its figures say nothing of any speed, and each
line of its tables says DRY.
"""
