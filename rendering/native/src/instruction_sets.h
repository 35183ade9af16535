// The instruction sets that kernels are compiled for, and the choice among them at run time.
// Shared by all modules of kernels; each has a table of its own kind for each instruction set.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

// All that are compiled in, best first.
#if defined(BELVEDERE_WITH_X86)
#define BELVEDERE_FOR_EACH_ISA(X) X(avx512) X(avx2) X(scalar)
#elif defined(BELVEDERE_WITH_NEON)
#define BELVEDERE_FOR_EACH_ISA(X) X(neon) X(scalar)
#else
#define BELVEDERE_FOR_EACH_ISA(X) X(scalar)
#endif

namespace belvedere {

// Those of some tables that this processor runs.
template <typename Table>
std::vector<const Table*> supported_of(std::initializer_list<const Table*> tables) {
  std::vector<const Table*> found;
  for (const Table* table : tables) {
    if (table->supported()) found.push_back(table);
  }
  return found;
}

// The named one, or the first for an empty name; null if there is no such.
template <typename Table>
const Table* named_of(const std::vector<const Table*>& tables, const std::string& name) {
  for (const Table* table : tables) {
    if (name.empty() || name == table->name) return table;
  }
  return nullptr;
}

}  // namespace belvedere
