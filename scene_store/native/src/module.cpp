// The native helpers of the scene store. Arrays cross as buffers, without copies; the GIL is
// released while anything is computed. Results depend on neither threads nor the machine.
#include "bindings.h"

NB_MODULE(_store, m) {
  using namespace belvedere::store;
  m.doc() = "Native helpers of the scene store.";
  bind_codec(m);
  bind_morton(m);
  bind_merge(m);
  bind_select(m);
  bind_gather(m);
}
