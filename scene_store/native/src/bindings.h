// What the extension module consists of: one function for each file, which adds its part.
#pragma once

#include <nanobind/nanobind.h>

namespace belvedere::store {

void bind_codec(nanobind::module_& m);   // codec.cpp: Gaussians <-> the bytes of a chunk
void bind_morton(nanobind::module_& m);  // morton.cpp: keys and sorting along the Z-curve
void bind_merge(nanobind::module_& m);   // merge.cpp: fewer Gaussians that stand in for many
void bind_select(nanobind::module_& m);  // select.cpp: the cut through the tree
void bind_gather(nanobind::module_& m);  // gather.cpp: records from all over a file

}  // namespace belvedere::store
