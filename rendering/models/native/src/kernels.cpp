// Compiled once for each instruction set, with BELVEDERE_ISA naming the namespace.
#include "decode.h"
#include "network.h"
#include "this_isa.h"

namespace belvedere::BELVEDERE_ISA {

extern const neural::Kernels kNeuralKernels{BELVEDERE_ISA_NAME, supported, mlp_block,
                                            multiply_limit, choose_visible, choose_levels,
                                            decode_anchors, encode_block, evaluate_block, contract, opacities};

}  // namespace belvedere::BELVEDERE_ISA
