import numpy as np
from numpy.typing import NDArray

# codec.cpp

# morton.cpp

# merge.cpp

# select.cpp
