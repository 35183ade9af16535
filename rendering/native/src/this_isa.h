// What kernels have to say of the instruction set that they are compiled for, BELVEDERE_ISA.
#pragma once

#define BELVEDERE_STRING_(x) #x
#define BELVEDERE_STRING(x) BELVEDERE_STRING_(x)
#define BELVEDERE_ISA_NAME BELVEDERE_STRING(BELVEDERE_ISA)

namespace belvedere::BELVEDERE_ISA {
namespace {

// Whether this processor has all of what the compiler was told that it may use.
bool supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");
#else
  return true;
#endif
}

}  // namespace
}  // namespace belvedere::BELVEDERE_ISA
