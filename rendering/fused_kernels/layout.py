"""What lies where in the arrays that kernels read and write, and numbers of the image model."""

import triton
import triton.language as tl

# A page (``rendering.fused_pages``): bounds, rows of geometry, then of harmonics and their scales.
HEADER = tl.constexpr(16)  # words
MEAN = tl.constexpr(0)
QUAT = tl.constexpr(3)
SCALE = tl.constexpr(7)
LOG2_OPACITY = tl.constexpr(10)
DC = tl.constexpr(11)
GEOMETRY_ROWS = tl.constexpr(14)

# Columns of the camera's vector of doubles (``rendering.fused_camera.camera_vector``).
ROTATION = tl.constexpr(0)
TRANSLATION_Z = tl.constexpr(9)
ORIGIN = tl.constexpr(10)
ORIGIN_HI = tl.constexpr(13)
ORIGIN_LO = tl.constexpr(16)
FOCAL = tl.constexpr(19)
CENTRE = tl.constexpr(21)
LIMITS = tl.constexpr(23)  # right, left, bottom, top: of x/z and y/z inside J
NEAR_FAR = tl.constexpr(27)
SIZE = tl.constexpr(29)
REACHES = tl.constexpr(31)  # of the image's edges, for boxes: right, left, bottom, top
STRETCHES = tl.constexpr(35)  # how much wider than a scale a Gaussian may be in x and y
SLACK = tl.constexpr(37)
CAMERA_COLUMNS = tl.constexpr(38)

# Columns of a splat, a projected Gaussian: a row of 64 bytes, of which compositing reads half if
# colours are halves. A second eye differs in where it sees the splat, and in nothing else.
X = tl.constexpr(0)
Y = tl.constexpr(1)
WXX = tl.constexpr(2)
WXY = tl.constexpr(3)
WYY = tl.constexpr(4)
OPACITY = tl.constexpr(5)  # log2
RED = tl.constexpr(6)  # then green and blue; as halves, red and green are one word
DEPTH = tl.constexpr(9)
EXTENT = tl.constexpr(10)
COLUMNS = tl.constexpr(12)  # first and last column of tiles, 16 bits each
ROWS = tl.constexpr(13)
OTHER_X = tl.constexpr(14)
OTHER_COLUMNS = tl.constexpr(15)
SPLAT_COLUMNS = tl.constexpr(16)
NO_COLUMNS = tl.constexpr(1)  # the last one is before the first

PINHOLE = tl.constexpr(0)
ORTHO = tl.constexpr(1)
FISHEYE = tl.constexpr(2)

LARGEST_COLOR = tl.constexpr(1e30)
LARGEST_HALF = tl.constexpr(65504.0)
DILATION_PX2 = tl.constexpr(0.3)
LOG2_ALPHA_CUT = tl.constexpr(-7.994353436858858)
LOG2_E = tl.constexpr(1.4426950408889634)
FISHEYE_MAX_THETA = tl.constexpr(2.530727415391778)
LARGEST_DET = tl.constexpr(1e36)
SMALLEST_DET = tl.constexpr(1e-36)
LARGEST_PIXELS = tl.constexpr(1e37)
HUGE_PIXELS = tl.constexpr(1048576.0)


@triton.jit
def dot3(ax, ay, az, bx, by, bz):
    return ax * bx + ay * by + az * bz


@triton.jit
def at(camera, column):
    """A number of the camera in single precision."""
    return tl.load((camera + CAMERA_COLUMNS).to(tl.pointer_type(tl.float32)) + column)
